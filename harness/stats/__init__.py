"""Statistics as pure functions of arrays: no files, no clock, no global random state."""
