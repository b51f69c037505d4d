"""Ask lm-eval's tasks of the served model."""
