"""Tiny models and tasks of the two demos."""
