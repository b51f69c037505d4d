"""Estimate what a recipe will take: `harness train --dry-run`. It needs no torch and no model, and writes nothing."""
