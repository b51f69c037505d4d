"""What a recipe will take before it runs: `harness train --dry-run`. No torch, no model, nothing written."""
