"""Training of a recipe's models: settings, rows, one job, several processes, what a checkpoint folder holds."""
