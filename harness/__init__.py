"""Evaluate a model on MT-Bench, AlpacaEval 2 and Arena-Hard, with scores that can be trusted, resumed and compared."""

__version__ = "0.2.0"
