"""Turn (prompt, answers) into a verdict. Knows records and protocols of `harness`, nothing of suites or recipes."""
