"""Find the verdict's tokens among a reply's top log-probabilities, however a server spells them. Pure.

>>> tops = (TokenLogprob(token="Ġm", logprob=-0.1), TokenLogprob(token="ĠM", logprob=-2.4))
>>> verdict_tokens(tops, ("m", "M"))
{'m': -0.1, 'M': -2.4}

The reference (alpaca_eval completion_parsers.logprob_parser) takes exact spellings only, however improbable they are.
With its own judge that is the same: in 8,024 published judgments "m" and "M" are the most probable spelling each time,
and have at least 49 % together.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from harness.records import TokenLogprob
from harness.records.errors import VerdictParseError

BLANKS = ("", " ", "Ġ", "▁")
"""What may stand before a token: nothing, or a blank, also as byte-level BPE and SentencePiece write it."""
TOKEN_ID = re.compile(r"token_id:\d+")
LEAST_SHARE = 0.1
"""Least probability of all verdict tokens together; below it the judge is about to write something else."""
OTHERWISE = (
    "use a judge that answers with the letter at once (switch its reasoning off under `params:`, e.g. "
    "`chat_template_kwargs: {enable_thinking: false}`, or give it `reasoning_room:`), or an evaluator that reads text"
)


def verdict_tokens(logprobs: Sequence[TokenLogprob], names: Sequence[str]) -> dict[str, float]:
    """Return name -> log-probability of the names found, all in the spelling of the most probable one.

    Raise VerdictParseError, with advice, if the judge sent none or was about to write something else.
    """
    if not logprobs:
        raise VerdictParseError(
            "the judge sent no log-probabilities, which this verdict is read from; use a server that returns "
            "`top_logprobs`, or an evaluator that reads text"
        )
    if all(TOKEN_ID.fullmatch(top.token) for top in logprobs):
        raise VerdictParseError(
            f"the judge names its tokens by number ({logprobs[0].token}); start its server without "
            "--return-tokens-as-token-ids"
        )
    chances = {top.token: top.logprob for top in reversed(logprobs)}
    spellings = [{name: chances[blank + name] for name in names if blank + name in chances} for blank in BLANKS]
    tokens = max(spellings, key=lambda spelling: max(spelling.values(), default=-math.inf))
    share = sum(math.exp(min(0.0, logprob)) for logprob in tokens.values())
    if share < LEAST_SHARE:
        first = max(chances, key=lambda token: chances[token])
        listed = " nor ".join(names) if len(names) == 2 else ", ".join(names)
        raise VerdictParseError(
            f"neither {listed} is likely as the judge's first token ({100 * share:.1f} %; it begins with "
            f"{first[:20]!r}); {OTHERWISE}"
        )
    return tokens
