"""Differences of models on the same questions."""
