"""Judge configurations: one JudgeSpec per YAML file."""
