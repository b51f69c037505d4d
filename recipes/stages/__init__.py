"""The stages of a recipe, a file each: what its steps are made from, and what they do."""
