"""Measured beside other tools: `python -m benchmarks.NAME`."""
