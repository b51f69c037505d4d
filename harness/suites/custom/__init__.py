"""Read suites that users write as data: prompts and judging in a YAML or JSONL file, without Python."""
