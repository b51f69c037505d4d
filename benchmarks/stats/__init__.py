"""How the intervals, tests and verdicts of harness.stats hold up on simulated benchmarks, and how quick they are."""
