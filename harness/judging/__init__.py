"""Everything between a judge and a score: cost, cache, juries, consistency, calibration."""
