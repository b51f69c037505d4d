"""Compute statistics by pure functions of arrays: no files, no clock, no global random state."""
