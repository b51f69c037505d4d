"""Tests, in folders by what they need; `fakes` holds what they share."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
