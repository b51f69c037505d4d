"""Decide on finished runs: compare, gate and rank them, calibrate their judges, watch a training folder."""
