"""The embedded checkpoint of the pocket edition: tokenizer, lessons, training."""
