"""What asking and judging costs in our process, beside the original tools, against a server that only waits."""
