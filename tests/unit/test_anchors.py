"""Anchors: what is compared, when a shift is a drift, and when nothing can be said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from pydantic import JsonValue

from harness.judging.anchors import Anchor, AnchorSet, anchor_set, check_anchors, read_anchors
from harness.records import AnchorCheck, Answer, Judgment, Rating, Score, ScoreCard
from harness.records.errors import ConfigError
from harness.stats.variance import shift
from tests.fakes.toys import ToySuite

JUDGE: dict[str, JsonValue] = {"name": "j", "kind": "llm", "model": "m", "params": {}}


def answer(number: int) -> Answer:
    return Answer(prompt_id=f"q{number}", model="then", turns=(f"text {number}",), finish=("stop",))


def row(number: int, value: float | None, *, repeat: int = 0, template: str = "t") -> Judgment:
    return Judgment.model_validate(
        {
            "prompt_id": f"q{number}",
            "model": "then",
            "judge": "j",
            "template_sha": template,
            "answer_sha": answer(number).sha,
            "repeat": repeat,
            "verdict": None if value is None else {"kind": "rating", "value": value},
            "error": {"reason": "parse", "message": "none"} if value is None else None,
        }
    )


def anchors(*values: float, repeats: int = 1) -> AnchorSet:
    rows = [
        Anchor(answer=answer(at), judgments=tuple(row(at, value, repeat=repeat) for repeat in range(repeats)))
        for at, value in enumerate(values)
    ]
    return AnchorSet(suite="s", suite_version="v", judges={"j": JUDGE}, model="then", run_id="r", anchors=tuple(rows))


def checked(before: Sequence[float], now: Sequence[float | None], **changes: JsonValue) -> AnchorCheck:
    return check_anchors(anchors(*before), {**JUDGE, **changes}, [row(at, value) for at, value in enumerate(now)])


def test_the_shift_and_its_test_are_those_of_a_paired_t_test() -> None:
    """Differences 1, 1, 0, 2, 1: mean 1, sd sqrt(0.5), SE sqrt(0.1); t = 3.16 with 4 degrees, p = 0.034."""
    found = checked([5, 5, 5, 5, 5], [6, 6, 5, 7, 6])

    assert found.shift.value == 1.0
    assert found.shift.se == pytest.approx(0.1**0.5)
    assert found.p == pytest.approx(0.0341, abs=1e-4)
    assert found.detectable == pytest.approx((2.5758 + 0.8416) * 0.1**0.5, rel=1e-3)
    assert found.changed == pytest.approx(80.0)
    assert found.drifted is False  # not under 0.01
    assert found.unit == "points"


def test_the_same_shift_on_more_anchors_is_a_drift() -> None:
    assert checked([5.0] * 10, [6, 6, 5, 7, 6] * 2).drifted is True


def test_a_shift_that_is_the_same_everywhere_is_certain() -> None:
    found = checked([5.0] * 6, [4.0] * 6)

    assert (found.shift.value, found.p, found.drifted) == (-1.0, 0.0, True)


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (checked([5.0] * 10, [5.0] * 8 + [None] * 2), "8 of 10 anchors were judged again"),
        (checked([5.0] * 3, [5.0] * 3), "3 anchors are too few"),
        (checked([5.0] * 6, [5.0] * 6, model="m2"), "the anchors were judged with another model"),
        (checked([5.0] * 6, [5.0] * 6, name="k"), "the anchors contain verdicts of j only"),
    ],
)
def test_where_a_check_can_say_nothing_it_says_why(found: AnchorCheck, reason: str) -> None:
    assert (found.drifted, found.reason) == (None, reason)


def test_verdicts_in_other_words_are_not_compared() -> None:
    rows = [row(at, 5.0, template="other") for at in range(6)]

    found = check_anchors(anchors(*[5.0] * 6), JUDGE, rows)

    assert (found.n, found.drifted) == (0, None)
    assert found.reason is not None
    assert "other words" in found.reason


def test_recorded_repeats_count_as_their_mean() -> None:
    file = anchors(*[5.0] * 6, repeats=1)
    kept = [
        one.model_copy(update={"judgments": (*one.judgments, row(at, 7, repeat=1))})
        for at, one in enumerate(file.anchors)
    ]

    found = check_anchors(file.model_copy(update={"anchors": tuple(kept)}), JUDGE, [row(at, 6.0) for at in range(6)])

    assert found.shift.value == 0.0
    assert isinstance(kept[0].judgments[0].verdict, Rating)


def test_a_judge_that_did_not_move_is_seldom_said_to_have() -> None:
    """2,000 checks of 40 anchors with two noisy verdicts: 1 % false alarms; a shift of `detectable`: 80 % found."""
    rng = np.random.default_rng(3)
    questions = list(np.repeat(np.arange(40), 2))
    false = found = 0
    for _ in range(2000):
        noise = np.repeat(rng.normal(0, 1, 40), 2) + rng.normal(0, 1, 80)
        still = shift(noise, questions)
        moved = shift(noise + (2.5758 + 0.8416) * (1.5 / 40) ** 0.5, questions)
        assert still is not None
        assert moved is not None
        false += (still.p or 0) < 0.01
        found += (moved.p or 0) < 0.01

    assert false / 2000 == pytest.approx(0.01, abs=0.007)
    assert found / 2000 == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize(
    ("text", "said"),
    [("{}", "is not an anchor file"), ("[", "is not an anchor file"), (None, "cannot read the anchors")],
)
def test_a_file_that_is_no_anchor_set_is_one_sentence(tmp_path: Path, text: str | None, said: str) -> None:
    if text is not None:
        (tmp_path / "bad.json").write_text(text)

    with pytest.raises(ConfigError, match=said):
        read_anchors(tmp_path / "bad.json")


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = anchors(5, 6, 7)
    (tmp_path / "anchors.json").write_text(file.model_dump_json())

    assert read_anchors(tmp_path / "anchors.json") == file


def test_a_run_without_known_judge_settings_gives_no_anchors() -> None:
    protocol: dict[str, JsonValue] = {"judge": {"name": "x", "params": "unknown"}}
    card = ScoreCard(
        suite="toy",
        suite_version="toy-1",
        model="m",
        judge="x",
        headline="mean",
        complete=True,
        protocol=protocol,
        sampling={},
        scores={"mean": Score(value=1.0, n=1)},
        provenance={},
    )

    with pytest.raises(ConfigError, match="judge settings are unknown"):
        anchor_set(card, ToySuite(), [], [], lambda prompts: prompts)


def test_a_few_anchors_that_stayed_as_they_were_do_not_notice_every_move() -> None:
    """Five equal ratings, with one lost and one won besides: an error of 9 sqrt(2 / (6 * 7)) = 1.96."""
    drift = checked([5.0] * 5, [5.0] * 5)

    assert drift.drifted is False
    assert drift.detectable == pytest.approx((2.5758 + 0.8416) * 9 * (2 / 42) ** 0.5, rel=1e-3)
