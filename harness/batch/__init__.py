"""Judging through the OpenAI Batch API: half the price, up to a day's wait. `wire.BatchWire` is what a judge calls."""
