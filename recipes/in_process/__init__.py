"""The backend `in_process`, which runs a checkpoint in this process."""
