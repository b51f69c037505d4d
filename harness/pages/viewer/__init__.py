"""Show runs, questions, answers and verdicts in the browser: `harness view`."""
