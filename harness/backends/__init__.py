"""Have a model answer prompts. Each module is one entry point; `ServedBackend` and `ModelServer` are shared."""
