"""Train a recipe's models: settings, rows, jobs in one or several processes, checkpoint folders."""
