"""Plan one run, estimate it, answer and judge in a pipeline, and sum it up on score cards."""
