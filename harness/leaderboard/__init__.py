"""Score cards and reported figures, ranked in tables."""
