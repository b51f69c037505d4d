"""Answers and rewards -> preference pairs, and what is said of them."""
