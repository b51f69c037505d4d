"""What scores answers: the kinds of `reward:`. Each is a `fusion_harness.rewards` entry point."""
