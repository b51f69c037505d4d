"""Load a recipe's prompts, remove duplicates and benchmark questions, and split them."""
