"""Candidate beside baseline, by a policy: pass, fail, inconclusive or invalid."""
