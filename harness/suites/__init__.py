"""Define the benchmarks: their prompts, their judge tasks, and the scores of verdicts."""
