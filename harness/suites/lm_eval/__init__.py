"""Tasks of lm-eval, asked against the served model."""
