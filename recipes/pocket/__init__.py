"""The pocket fusion world: prompts and reward (`world`), and the models that take part in it (`models`)."""
