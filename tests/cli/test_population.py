"""`--population these`: whether a difference is more than the noise of answers and verdicts on these very questions."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.analysis.comparison import compare
from harness.analysis.gate.evidence import GateOptions, gate_runs
from harness.analysis.gate.policy import GateCheck, GatePolicy
from harness.analysis.population import POPULATION_LINES, on_these
from harness.pages.comparison_text import markdown
from harness.pages.gate_text import gate_markdown
from harness.records.errors import ConfigError
from harness.records.protocols import RunRows
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, TIE, WIN, prompts_of, toy_run, write_run

Values = Sequence[tuple[float, float]]


def several(model: str, *draws: Values, repeats: bool = False, equal: bool = False) -> RunRows:
    """A run with several answers per question, or with one that was judged repeatedly; `equal`: the answers are."""
    runs = [toy_run(model, values) for values in draws]
    answers = [
        row.model_copy(update={"index": index, "turns": (row.turns[0] if equal else f"draw {index}",)})
        for index, run in enumerate(runs[:1] if repeats else runs)
        for row in run.answers
    ]
    shas = {(row.prompt_id, row.index): row.sha for row in answers}
    judgments = []
    for number, run in enumerate(runs):
        place = {"repeat": number} if repeats else {"index": number}
        index = 0 if repeats else number
        judgments += [
            row.model_copy(update={**place, "answer_sha": shas[row.prompt_id, index]}) for row in run.judgments
        ]
    return replace(runs[0], answers=tuple(answers), judgments=tuple(judgments))


# per question of two draws, in percent: 100, 0 | 100, 100 | 50, 50 and 0, 0 | 100, 0 | 50, 50
FIRST = [WIN, WIN, TIE], [LOSS, WIN, TIE]
OTHER = [LOSS, WIN, TIE], [LOSS, LOSS, TIE]


@pytest.mark.parametrize("repeats", [False, True])
def test_only_draws_of_one_question_are_the_noise(*, repeats: bool) -> None:
    """Variances 5000, 0, 0 and 0, 5000, 0 of two draws each: se^2 = (5000/2 + 5000/2) / 9; value 100/3 - 200/3."""
    first, other = several("a", *FIRST, repeats=repeats), several("b", *OTHER, repeats=repeats)

    comparison = on_these(compare(first, other), first, other)
    row = comparison.difference("arena_hard")

    assert row is not None
    assert row.ci_low is not None
    assert row.value == pytest.approx(-100 / 3)
    assert row.se == pytest.approx((5000 / 9) ** 0.5)
    # degrees of freedom: (2 v)^2 / (2 v^2 / 3) - 2 = 4; t(4) at 97.5 % is 2.776
    assert (row.df, row.n, row.method, row.needed) == (4, 3, "within", None)
    assert row.ci_low == pytest.approx(row.value - 2.77645 * row.se, abs=1e-3)
    assert any("generation noise is not included" in note for note in comparison.notes) is repeats


def test_equal_answers_with_one_verdict_show_no_noise() -> None:
    """Of b, only q0 has two verdicts, 0 and 100: their variance, 5000, stands for the others'."""
    first, other = several("a", *FIRST), several("b", [LOSS, WIN, TIE], [WIN, WIN, TIE], equal=True)

    comparison = on_these(compare(first, other), first, other)
    assert any(note.startswith("2 of 3 questions of b have the same answer in every draw") for note in comparison.notes)
    row = comparison.difference("arena_hard")
    assert row is not None
    assert row.se > (5000 / 9) ** 0.5

    silent = several("b", [WIN, WIN, TIE], [WIN, WIN, TIE], equal=True)
    with pytest.raises(ConfigError, match="b gave the same answer in every draw"):
        on_these(compare(first, silent), first, silent)


def test_categories_have_their_own_noise() -> None:
    """Even: q0 and q2, se^2 = (5000/2) / 4 of the first run alone. Odd: one question, of which draws suffice."""
    first, other = several("a", *FIRST), several("b", *OTHER)

    comparison = on_these(compare(first, other, prompts=prompts_of(3)), first, other, prompts_of(3))
    even = comparison.difference("arena_hard", "even")

    assert even is not None
    assert even.se == pytest.approx((2500 / 4) ** 0.5)


def test_one_answer_and_one_judgment_are_refused_with_the_flags() -> None:
    first, other = several("a", *FIRST), toy_run("b", OTHER[0])

    with pytest.raises(ConfigError, match=r"b has one answer and one judgment per question.*--samples 3.*--repeats 3"):
        on_these(compare(first, other), first, other)


def test_the_two_populations_answer_differently() -> None:
    """20 questions won always and 20 lost always by one, the reverse by the other, but for two: certain here, open
    elsewhere, as another draw of questions could favour either."""
    first = several("a", *[[WIN] * 20 + [LOSS] * 20] * 2)
    other = several("b", *[[LOSS] * 20 + [WIN] * 18 + [LOSS] * 2] * 2)

    everywhere = compare(first, other)
    here = on_these(everywhere, first, other)

    rows = [pair.difference("arena_hard") for pair in (everywhere, here)]
    assert rows[0] is not None
    assert rows[1] is not None
    assert rows[0].value == rows[1].value == pytest.approx(-5.0)
    assert rows[0].p > 0.5
    assert rows[1].p < 0.001
    assert here.model_dump()["population"] == "these"
    assert "population" not in everywhere.model_dump()
    assert POPULATION_LINES["these"] in markdown([here], flips=0)


def test_the_gate_asks_either_question(tmp_path: Path) -> None:
    """-5 points with a margin of 2: not shown elsewhere, certain on these questions."""
    write_run(tmp_path, several("a", *[[WIN] * 20 + [LOSS] * 20] * 2))
    write_run(tmp_path, several("b", *[[LOSS] * 20 + [WIN] * 18 + [LOSS] * 2] * 2))
    checks = (GateCheck(suite="arena_hard", margin=2.0),)

    everywhere = gate_runs("b", "a", GatePolicy(checks=checks), GateOptions(tmp_path))
    here = gate_runs("b", "a", GatePolicy(checks=checks, population="these"), GateOptions(tmp_path))

    assert (everywhere.outcome, here.outcome) == ("inconclusive", "fail")
    assert here.checks[0].needed is None
    assert POPULATION_LINES["these"] in gate_markdown(here)


def test_an_undecided_check_states_how_many_more_draws_decide(tmp_path: Path) -> None:
    write_run(tmp_path, several("a", *FIRST))
    write_run(tmp_path, several("b", *FIRST))
    check = GateCheck(suite="arena_hard", margin=10.0, min_questions=2)
    policy = GatePolicy(checks=(check,), population="these")

    report = gate_runs("b", "a", policy, GateOptions(tmp_path))

    # resolvable 2.486 * sqrt(5000 / 9) = 58.6, and (58.6 / 10)^2 = 34.3
    assert report.checks[0].more_draws == pytest.approx(34.35, abs=0.01)
    assert "at a margin of 58.6, and at 10 with about 34.3 times as many per question" in report.reasons[0]


@pytest.mark.slow
def test_the_commands_print_the_question_above_the_table(harness: Callable[..., Done], tmp_path: Path) -> None:
    results = tmp_path / "results"
    for run in (several("a", *FIRST), several("b", *OTHER), toy_run("single", OTHER[0])):
        write_run(results, run)
    (tmp_path / "gate.yaml").write_text("population: these\nchecks: [{suite: arena_hard, margin: 5}]\n")
    gate = ("gate", "--candidate", "b", "--baseline", "a")

    assert harness("compare", "a", "b").out.startswith("population all: ")
    assert harness("compare", "a", "b", "--population", "these").out.startswith("population these: ")
    listed = harness("compare", "a", "b", "--population", "these", "--json")
    assert json.loads(listed.out)["comparisons"][0]["population"] == "these"
    undecided = harness(*gate, "--policy", "gate.yaml")
    assert (undecided.code, undecided.out.startswith("population these: ")) == (3, True)
    refused = harness("compare", "a", "single", "--population", "these")
    assert (refused.code, "--samples 3" in refused.err) == (2, True)
    sequential = harness(*gate, "--population", "these", "--sequential")
    assert (sequential.code, "decides about all" in sequential.err) == (2, True)
