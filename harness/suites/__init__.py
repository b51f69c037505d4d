"""Benchmarks: what is asked, what the judge is asked about an answer, and what the verdicts come to."""
