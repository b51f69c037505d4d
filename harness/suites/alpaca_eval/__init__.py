"""Run and score AlpacaEval 2, with length-controlled win rates."""
