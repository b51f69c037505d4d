"""The trainer of the WRPO family: rows, packing, losses, runs and launch."""
