"""What stands between a judge and a score: cost, cache, juries, consistency, what judges are known for."""
