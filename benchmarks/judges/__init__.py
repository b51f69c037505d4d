"""What recorded judgments say of judges: the figures of docs/judges.md."""
