"""Style control of a suite of one's own: counts, recovery of a known preference for style, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.records import Answer, Judgment, Preference, Prompt, Score, ScoreCard
from harness.records.errors import ConfigError
from harness.records.protocols import RunRows
from harness.suites.custom.definition import Definition, OwnJudging, read_definition
from harness.suites.custom.style import style, style_refits, style_score, styled_run
from harness.suites.custom.suite import CustomSuite

PLAIN, LISTED = "An answer in prose, of some length.", "- a list\n- of four\n- short\n- items ...."


def test_style_counts_are_those_of_arena_hard() -> None:
    assert style("# A\n## B\n\n1. one\n2. two\n* three\n**bold** and __bold__") == (53.0, 2.0, 3.0, 2.0)
    assert style("```python\n# no header\n- no item\n```")[1:] == (0.0, 0.0, 0.0)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(id=f"q{number}", turns=(f"Question {number}?",), category="all") for number in range(count)]


def games(
    count: int, *, lists: float, quality: float, taste: float, seed: int
) -> tuple[list[Prompt], list[Answer], list[Judgment], dict[str, Answer]]:
    """A candidate that writes lists with probability `lists`, against a baseline that does so in half of its answers.

    It wins with log-odds `quality`, plus `taste` if it alone has a list, minus `taste` if the baseline alone has one.
    """
    rng = np.random.default_rng(seed)
    answers, judgments, baseline = [], [], {}
    for prompt in prompts(count):
        mine, theirs = rng.random() < lists, rng.random() < 0.5
        texts = [(LISTED if listed else PLAIN) + "x" * int(rng.integers(30)) for listed in (mine, theirs)]
        answer, opponent = (
            Answer(prompt_id=prompt.id, model=name, turns=(text,), finish=("stop",))
            for name, text in zip(("new", "old"), texts, strict=True)
        )
        answers.append(answer)
        baseline[prompt.id] = opponent
        chance = 1 / (1 + np.exp(-quality - taste * (float(mine) - float(theirs))))
        judgments += [
            Judgment(
                prompt_id=prompt.id,
                model="new",
                baseline="old",
                judge="j",
                template_sha="t",
                answer_sha=answer.sha,
                order=order,
                verdict=Preference(value=float(rng.random() < chance)),
            )
            for order in ("ab", "ba")
        ]
    return prompts(count), answers, judgments, baseline


def plain_score(judgments: list[Judgment]) -> Score:
    values = [judgment.verdict.value for judgment in judgments if judgment.verdict is not None]
    return Score(value=100 * float(np.mean(values)), n=len(values))


@pytest.mark.slow
def test_a_win_by_lists_alone_is_half_a_win_at_equal_style() -> None:
    asked, answers, judgments, baseline = games(400, lists=1.0, quality=0.0, taste=1.5, seed=1)
    plain = plain_score(judgments)

    score, notes = style_score(styled_run(asked, answers, judgments, baseline), plain)

    assert plain.value is not None
    assert plain.value > 60  # half of the games are against prose, and won at log-odds 1.5
    assert score.value == pytest.approx(50, abs=7)
    assert score.ci_low is not None
    assert score.ci_high is not None
    assert score.ci_low < 50 < score.ci_high
    assert score.n == 800
    assert "lists +" in notes[0]


def test_equal_styles_leave_the_win_rate_as_it_is() -> None:
    """Each pair of answers alike: the fit has the strength alone, whose rate is the share of games won."""
    asked, answers, judgments, _ = games(60, lists=1.0, quality=0.7, taste=0.0, seed=2)
    same = {answer.prompt_id: answer for answer in answers}
    plain = plain_score(judgments)

    score, _ = style_score(styled_run(asked, answers, judgments, same), plain)

    assert score.value == pytest.approx(plain.value, abs=1e-4)


def test_few_questions_and_won_games_have_no_controlled_rate_and_say_why() -> None:
    asked, answers, judgments, baseline = games(39, lists=0.5, quality=0.0, taste=0.0, seed=3)
    score, notes = style_score(styled_run(asked, answers, judgments, baseline), plain_score(judgments))
    assert score.value is None
    assert notes == ("no style_win_rate: under 40 questions are scored, too few to tell style from strength",)


def test_two_runs_are_compared_by_refits_to_the_same_questions() -> None:
    asked, answers, judgments, baseline = games(200, lists=0.9, quality=0.0, taste=1.0, seed=4)
    _, better, won, _ = games(200, lists=0.5, quality=1.0, taste=1.0, seed=4)
    card = ScoreCard.model_construct()

    refits = style_refits(
        asked,
        baseline,
        RunRows("old", card, tuple(answers), tuple(judgments)),
        RunRows("new", card, tuple(better), tuple(won)),
    )

    assert refits is not None
    assert refits.n == 200
    apart = refits.replicates[1] - refits.replicates[0]
    assert 10 < refits.values[1] - refits.values[0] < 35  # log-odds of about 0 and of 1: 50 and 73 %
    assert np.percentile(apart, 2.5) > 0


def test_the_file_names_it_and_the_suite_ranks_by_it(tmp_path: Path) -> None:
    file = tmp_path / "duel.yaml"
    file.write_text("prompts: [{prompt: Hello}]\njudge: {kind: pairwise, style_control: true}\n")
    definition, _ = read_definition(str(file))

    assert CustomSuite(definition).headline == "style_win_rate"
    plain = Definition(**{**definition.model_dump(), "judge": OwnJudging(kind="pairwise")})
    assert "style_control" not in plain.model_dump_json()  # copies of earlier suites stay as they are
    file.write_text("prompts: [{prompt: Hello}]\njudge: {kind: pairwise, style_control: true, length_control: true}\n")
    with pytest.raises(ConfigError, match="style_control contains length: give it or length_control, not both"):
        read_definition(str(file))
    file.write_text("prompts: [{prompt: Hello}]\njudge: {kind: rating, style_control: true}\n")
    with pytest.raises(ConfigError, match="style_control is for kind pairwise, not rating"):
        read_definition(str(file))
