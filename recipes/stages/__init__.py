"""The stages of a recipe, one file each: the settings and inputs of its steps, and what they do."""
