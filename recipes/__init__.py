"""Make a checkpoint, then hand it to the harness by the same door as any other model."""
