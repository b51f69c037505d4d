"""MT-Bench (FastChat llm_judge), single answers and pairs."""
