"""Surround a judge's call: cache, budget, batches, juries, anchors, injection. The judges are in `judges`."""
