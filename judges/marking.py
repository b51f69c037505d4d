"""How an answer is marked against a gold answer: one pure rule, from 1 (nothing of it) to 10 (exactly it).

1. Spaces at the ends are dropped, runs of spaces become one, and one full stop at the end is dropped if the gold
   answer has none. What is then equal to the gold answer, letter case included, gets 10.
2. An empty answer gets 1.
3. An answer that holds the gold answer as a word of its own, with other text around it, gets 7, and one mark less for
   every 20 characters of other text, but never less than 2.
4. Any other answer gets 1 + 4 s, rounded down to a half, where s in [0, 1] is the similarity of the two texts
   (difflib's ratio: twice the matching characters over the characters of both). Never more than 5.
"""

from __future__ import annotations

import difflib
import math
import re

BEST, WORST = 10.0, 1.0


def mark(answer: str, gold: str) -> float:
    """The mark of an answer, 1..10, by the rules above."""
    said, wanted = _tidy(answer, gold), " ".join(gold.split())
    if said == wanted:
        return BEST
    if not said or not wanted:
        return WORST
    if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", said):
        return float(max(2, 7 - (len(said) - len(wanted)) // 20))
    # autojunk would ignore frequent characters of texts of 200 characters and more
    similarity = difflib.SequenceMatcher(None, said[:2000], wanted, autojunk=False).ratio()
    return 1 + math.floor(2 * 4 * similarity) / 2


def _tidy(answer: str, gold: str) -> str:
    said = " ".join(answer.split())
    return said[:-1].rstrip() if said.endswith(".") and not gold.rstrip().endswith(".") else said
