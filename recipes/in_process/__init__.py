"""A checkpoint that answers in this process: the backend `in_process`."""
