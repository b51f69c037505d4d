"""Verdict grammars: what is read, what is refused, and which side a preference is turned to."""

from __future__ import annotations

import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.records import Preference, Rating, TokenLogprob
from harness.records.errors import ConfigError, VerdictParseError
from judges.parsing import PARSERS, read_verdict


def rate(reply: str) -> float:
    return read_verdict("rating", reply, (), None).value


def label(reply: str, order: Literal["ab", "ba"] = "ab") -> Preference:
    verdict = read_verdict("arena_label", reply, (), order)
    assert isinstance(verdict, Preference)
    return verdict


def letters(order: Literal["ab", "ba"], **logprobs: float) -> float:
    tops = tuple(TokenLogprob(token=token, logprob=value) for token, value in logprobs.items())
    return read_verdict("letter_logprob", "", tops, order).value


@pytest.mark.parametrize(
    ("reply", "value"),
    [("[[7]]", 7), ("Rating: [[8.5]]", 8.5), ("[[7.]]", 7), ("[[10]] then [[3]]", 10), ("[[07]]", 7), ("[[1]]", 1)],
)
def test_the_first_double_bracketed_number_is_the_rating(reply: str, value: float) -> None:
    assert rate(reply) == value


@pytest.mark.parametrize(
    "reply",
    ["[5]", "x = arr[0]", "[[N/A]]", "[[ 7 ]]", "[[7/10]]", "[[-3]]", "$ERROR$", "", "[[100]]", "[[0]]", "[[٧]]"],
)
def test_what_is_no_rating_is_refused(reply: str) -> None:
    with pytest.raises(VerdictParseError) as caught:
        rate(reply)
    assert caught.value.reason == "parse"


def test_labels_are_turned_to_the_candidate() -> None:
    # "ab": A is the baseline, so A>B is the candidate's loss
    assert label("so [[A>B]]", "ab") == Preference(value=0, strength=1)
    assert label("so [[A>B]]", "ba") == Preference(value=1, strength=1)
    assert label("[[B>>A]]", "ab") == Preference(value=1, strength=2)
    assert label("[[A>>B]]", "ab") == Preference(value=0, strength=2)
    assert label("[[A=B]]", "ab") == label("[[A=B]]", "ba") == Preference(value=0.5)


def test_one_label_said_twice_is_a_verdict() -> None:
    assert label("[[B>A]] ... finally [[B>A]]").value == 1


def test_two_different_labels_are_a_conflict_and_not_asked_again() -> None:
    with pytest.raises(VerdictParseError, match=r"\[\[A=B\]\], \[\[B>A\]\]") as caught:
        label("[[B>A]] or rather [[A=B]]")
    assert (caught.value.reason, caught.value.reaskable) == ("conflict", False)


@pytest.mark.parametrize("reply", ["[[A>>A]]", "[[A<B]]", "[[B=A]]", "[[A]]"])
def test_a_label_outside_the_five_is_refused_and_not_asked_again(reply: str) -> None:
    with pytest.raises(VerdictParseError) as caught:
        label(reply)
    assert (caught.value.reason, caught.value.reaskable) == ("parse", False)


def test_no_label_may_be_asked_again() -> None:
    with pytest.raises(VerdictParseError) as caught:
        label("A>B, I would say [A>B]")
    assert (caught.value.reason, caught.value.reaskable) == ("parse", True)


def test_letter_preference_is_the_share_of_m() -> None:
    # m is shown first: p(m) = 0.3 / (0.3 + 0.1) = 0.75; the candidate is m under "ba"
    assert letters("ba", m=math.log(0.3), M=math.log(0.1)) == pytest.approx(0.75)
    assert letters("ab", m=math.log(0.3), M=math.log(0.1)) == pytest.approx(0.25)


def test_a_missing_letter_counts_nothing_and_others_are_ignored() -> None:
    assert letters("ba", m=-1.0, The=-0.5) == 1.0
    assert letters("ab", M=-1.0, **{" m": -1.5}) == 1.0


def test_neither_letter_is_refused() -> None:
    with pytest.raises(VerdictParseError, match="neither m nor M"):
        letters("ab", The=-0.1)
    with pytest.raises(VerdictParseError, match="sent no log-probabilities"):
        letters("ab")


def test_unknown_parser_lists_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="arena_label, arena_label_v2, letter_logprob, pair_letter, rating"):
        read_verdict("stars", "*****", (), None)


@given(st.text(alphabet="[]AB<>=0123456789. \nmM", max_size=60), st.sampled_from(["ab", "ba"]))
def test_any_reply_is_a_valid_verdict_or_refused(reply: str, order: Literal["ab", "ba"]) -> None:
    for parser in PARSERS:
        try:
            verdict = read_verdict(parser, reply, (), order)
        except VerdictParseError:
            continue
        assert isinstance(verdict, Rating | Preference)
