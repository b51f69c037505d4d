"""AlpacaEval's letters are found however a server spells tokens; otherwise the failure says what to do."""

from __future__ import annotations

import math

import pytest

from harness.records import TokenLogprob
from harness.records.errors import VerdictParseError
from judges.completions import chain_name, read_completion
from judges.parsing import letter_logprob

SHARE = 1 / (1 + math.exp(-2.3))
"""p(m) of two letters 2.3 apart."""
CHAIN = chain_name(
    (("logprob_parser", {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}),)
)


def tops(*pairs: tuple[str, float]) -> tuple[TokenLogprob, ...]:
    return tuple(TokenLogprob(token=token, logprob=value) for token, value in pairs)


@pytest.mark.parametrize("blank", ["", " ", "Ġ", "▁"])
def test_a_blank_before_the_letter_changes_nothing(blank: str) -> None:
    logprobs = tops((f"{blank}m", -0.1), (f"{blank}M", -2.4))

    assert letter_logprob("m", logprobs).value == pytest.approx(SHARE)
    assert read_completion(CHAIN, "m", logprobs).value == pytest.approx(SHARE)


def test_letters_of_another_spelling_do_not_count_as_in_the_reference() -> None:
    assert letter_logprob("m", tops(("m", -0.1), ("M", -2.4), (" M", -9.0))).value == pytest.approx(SHARE)
    assert letter_logprob(" m", tops((" m", -0.1), (" M", -2.4), ("M", -9.0))).value == pytest.approx(SHARE)


def test_a_letter_that_is_missing_counts_as_0() -> None:
    assert letter_logprob("M", tops(("M", -0.1), ("The", -4.0))).value == 0.0


@pytest.mark.parametrize(
    ("logprobs", "advice"),
    [
        ((), "sent no log-probabilities.*top_logprobs"),
        (tops(("token_id:76", -0.1), ("token_id:44", -2.4)), "without --return-tokens-as-token-ids"),
        (tops(("<think>", 0.0)), "begins with '<think>'.*reasoning off"),
        (tops(("**", -0.01), ("m", -6.0), ("M", -9.0)), "0.3 %; it begins with"),
        (tops(("The", -0.1), ("m", -9999.0)), "0.0 %; it begins with 'The'"),
    ],
)
def test_what_is_no_verdict_is_unscored_with_advice(logprobs: tuple[TokenLogprob, ...], advice: str) -> None:
    with pytest.raises(VerdictParseError, match=advice):
        letter_logprob("m", logprobs)
    with pytest.raises(VerdictParseError, match=advice):
        read_completion(CHAIN, "m", logprobs)
