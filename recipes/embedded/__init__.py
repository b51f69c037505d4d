"""The embedded checkpoint, a tiny model that answers the pocket edition: its tokenizer, lessons and training."""
