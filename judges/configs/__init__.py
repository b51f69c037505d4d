"""Judge configurations: one JudgeSpec a YAML file."""
