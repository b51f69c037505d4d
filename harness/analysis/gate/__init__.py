"""The gate: is a candidate no worse than its baseline, by a policy of margins?"""
