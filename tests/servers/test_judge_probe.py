"""`harness judge probe`: a good judge passes, and each kind of bad judge fails the probe that is about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.analysis.judge_probe import PADDING, ProbeSuite, probe_results
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Request, serving

RIGHT = {row["right"] for row in ProbeSuite()._rows.values()}


def shown(request: Request) -> tuple[str, str]:
    """The answers of A and B."""
    words = request.last
    for first, second in (("Answer of assistant A:\n", "Answer of assistant B:\n"), ("[Reply A]\n", "[Reply B]\n")):
        if first in words:
            answer_a, _, answer_b = words.partition(first)[2].partition(f"\n\n{second}")
            return answer_a, answer_b
    raise AssertionError(words)


def is_right(answer: str) -> bool:
    return answer.removesuffix(PADDING) in RIGHT


def good(request: Request) -> str:
    answer_a, answer_b = shown(request)
    if is_right(answer_a) == is_right(answer_b):
        return "[[C]]"
    return "[[A]]" if is_right(answer_a) else "[[B]]"


def first(request: Request) -> str:
    return "[[A]]"


def longest(request: Request) -> str:
    answer_a, answer_b = shown(request)
    same = is_right(answer_a) == is_right(answer_b)
    return good(request) if not same else "[[A]]" if len(answer_a) > len(answer_b) else "[[B]]"


def word_bound(request: Request) -> str:
    return good(request) if "assistant A" in request.last else "[[C]]"


def silent(request: Request) -> str:
    return "I cannot say."


@pytest.mark.parametrize(
    ("reply", "failing"),
    [
        (good, []),
        (first, ["planted winner", "swapped order"]),
        (longest, ["padded answer"]),
        (word_bound, ["paraphrased template"]),
        (silent, ["planted winner", "swapped order", "padded answer", "paraphrased template"]),
    ],
)
def test_each_bad_habit_fails_its_probe(
    reply: Callable[[Request], str], failing: list[str], harness: Callable[..., Done], tmp_path: Path
) -> None:
    with serving(FakeOpenAI(reply=reply)) as fake:
        words = ("judge", "probe", "--judge", f"endpoint:j@{fake.url}", "--results", tmp_path, "--json", "--no-cache")
        done = harness(*words)

    probes = json.loads(done.out)["probes"]
    assert [row["probe"] for row in probes if not row["passed"]] == failing
    assert done.code == (1 if failing else 0)
    if reply is good:
        assert [(row["right"], row["judged"], row["unscored"]) for row in probes] == [(16, 16, 0)] * 4


def test_without_verdicts_nothing_passes() -> None:
    assert [(result.judged, result.unscored, result.passed) for result in probe_results([])] == [(0, 16, False)] * 4


@pytest.mark.slow
def test_the_probe_is_a_table_and_resumes_without_asking_again(harness: Callable[..., Done], tmp_path: Path) -> None:
    with serving(FakeOpenAI(reply=good)) as fake:
        words = ("judge", "probe", "--judge", f"endpoint:j@{fake.url}", "--results", tmp_path, "--no-cache")
        table = harness(*words)
        asked = len(fake.requests)
        again = harness(*words)
        assert asked == len(fake.requests) == 96

    assert "16 of 16" in table.out
    assert again.out == table.out


def test_calls_without_a_verdict_are_explained(harness: Callable[..., Done]) -> None:
    with serving(FakeOpenAI(reply=silent)) as fake:
        done = harness("judge", "probe", "--judge", f"endpoint:j@{fake.url}", "--no-cache")

    assert done.code == 1
    assert "96 of 96 calls gave no verdict (parse 96), e.g. no [[A]], [[B]] or [[C]] in the judge's reply" in done.out
    assert "'I cannot say.'" in done.out


def test_a_jury_is_refused_in_a_sentence(harness: Callable[..., Done]) -> None:
    done = harness("judge", "probe", "--judge", "endpoint:a@http://127.0.0.1:1/v1+endpoint:b@http://127.0.0.1:1/v1")

    assert done.code == 2
    assert "is a jury; one judge is wanted here" in done.err
