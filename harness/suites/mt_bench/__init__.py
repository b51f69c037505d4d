"""Run and score MT-Bench (FastChat llm_judge), as single answers and as pairs."""
