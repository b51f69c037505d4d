"""Report a recipe's results: leaderboard of variants, data report, training curves and model cards."""
