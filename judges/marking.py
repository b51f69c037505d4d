"""Mark an answer against a gold answer, from 1 (nothing in common) to 10 (identical). Pure.

1. Leading and trailing spaces are dropped, runs of spaces become one, and one final full stop is dropped if the gold
   answer has none. If the result equals the gold answer, letter case included, the mark is 10.
2. An empty answer gets 1.
3. An answer that contains the gold answer as a separate word, with other text around it, gets 7, minus one mark per 20
   characters of other text, but at least 2.
4. Any other answer gets 1 + 4 s, rounded down to a half, where s in [0, 1] is the similarity of the two texts
   (difflib's ratio: twice the matching characters divided by the characters of both). So at most 5.
"""

from __future__ import annotations

import difflib
import math
import re

BEST, WORST = 10.0, 1.0


def mark(answer: str, gold: str) -> float:
    """Return the mark of an answer, 1..10, by the rules above."""
    text, wanted = _tidy(answer, gold), " ".join(gold.split())
    if text == wanted:
        return BEST
    if not text or not wanted:
        return WORST
    if re.search(rf"(?<!\w){re.escape(wanted)}(?!\w)", text):
        return float(max(2, 7 - (len(text) - len(wanted)) // 20))
    # autojunk would ignore frequent characters in texts of 200 characters or more
    similarity = difflib.SequenceMatcher(None, text[:2000], wanted, autojunk=False).ratio()
    return 1 + math.floor(2 * 4 * similarity) / 2


def _tidy(answer: str, gold: str) -> str:
    text = " ".join(answer.split())
    return text[:-1].rstrip() if text.endswith(".") and not gold.rstrip().endswith(".") else text
