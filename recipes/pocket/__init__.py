"""The pocket fusion recipe's world: prompts and reward (`world`), and the target and source models (`models`)."""
