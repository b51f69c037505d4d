"""Decisions on finished runs: compare, gate, leaderboard, calibration of judges, watching a training folder."""
