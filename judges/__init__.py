"""Judges turn a prompt and its answers into a verdict. They know `harness`, but no suite's rules and no recipes."""
