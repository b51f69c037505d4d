"""Make a fused checkpoint with a recipe, and evaluate it with the harness like any other model."""
