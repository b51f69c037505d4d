"""Score answers with the kinds of `reward:`, each of which is a `fusion_harness.rewards` entry point."""
