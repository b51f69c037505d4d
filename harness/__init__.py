"""Evaluate a model on MT-Bench, AlpacaEval 2 and Arena-Hard, with scores that can be trusted, resumed and compared."""

from .provenance import VERSION

__version__ = VERSION
