"""One run: planned, estimated, answered and judged in a pipeline, and summed up on score cards."""
