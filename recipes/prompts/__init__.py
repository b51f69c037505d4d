"""Prompts of a recipe: loaded, deduplicated, cleared of the suites' questions, split."""
