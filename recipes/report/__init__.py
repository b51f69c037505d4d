"""What a recipe came to: leaderboard of variants, data report, training curves, model cards. Reads stages' files."""
