"""Official files in and out: one module a format, which turns rows into score cards.

Modules are named here and imported on use, so that one format never pays for another's imports.
"""

from __future__ import annotations

FORMATS = {
    "fastchat": "harness.formats.fastchat",
    "alpaca_eval": "harness.formats.alpaca_eval",
    "arena_hard": "harness.formats.arena_hard",
}
"""Format name -> module that offers `cards(files, options) -> list[ScoreCard]`."""
