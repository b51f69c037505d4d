"""Judge through the OpenAI Batch API: half the price, up to a day's wait. A judge calls `wire.BatchWire`."""
