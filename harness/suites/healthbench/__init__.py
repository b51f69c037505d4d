"""Run and score HealthBench: conversations about health, each with physicians' own rubric."""
