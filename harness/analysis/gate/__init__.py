"""Decide whether a candidate is no worse than its baseline, by a policy of margins (the gate)."""
