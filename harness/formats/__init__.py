"""Read and write official files: one module per format, which turns rows into score cards.

Modules are named here and imported on use, so that no format loads another's imports.
"""

from __future__ import annotations

FORMATS = {
    "fastchat": "harness.formats.fastchat",
    "alpaca_eval": "harness.formats.alpaca_eval",
    "arena_hard": "harness.formats.arena_hard",
}
"""Format name -> module with `cards(files, options) -> list[ScoreCard]`."""
