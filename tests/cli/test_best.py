"""Which of several models may be the best: on the same questions, by their cards, and as a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.analysis.best import best_of, best_of_models
from harness.pages.comparison_text import best_lines, best_markdown, best_sentence
from harness.records.errors import ConfigError
from harness.records.protocols import RunRows
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, PROTOCOL, WIN, mixed, toy_run, write_run


def test_a_model_far_below_is_shown_to_be_worse_and_equal_ones_are_tied() -> None:
    best = best_of([toy_run("low", mixed(10, 90)), toy_run("a", mixed(60, 40)), toy_run("b", mixed(60, 40))])

    # 60 against 10 on 100 questions: 50 of them differ by 100, so the error is 100 * sqrt(0.25 / 99) = 5.03
    assert best.tied == ("a", "b")
    assert [row.value for row in best.models] == [60.0, 60.0, 10.0]
    low = best.models[-1]
    assert low.high == 0.0
    # a and b have the same verdicts, so there is one comparison: t of 99 degrees of freedom, 1.66
    assert low.low == pytest.approx(-50 - 1.66 * 5.03, abs=0.15)
    assert best_sentence(best) == "arena_hard: a and b are tied for the best by arena_hard; 1 of 3 is shown to be worse"
    assert best_lines(best)[-1].startswith("low: 10.00, worse than the best, by at most 58.")


def test_two_models_decide_by_the_paired_error() -> None:
    # 12 lost and 6 won of 100: -6 with an error of 4.22 (as in the gate's tests): 6 < 1.66 * 4.22, so they are tied
    first = toy_run("a", mixed(50, 50))
    other = toy_run("b", [LOSS] * 12 + [WIN] * 38 + [WIN] * 6 + [LOSS] * 44)
    best = best_of([first, other])

    assert (best.method, best.n, best.tied) == ("paired", 100, ("a", "b"))
    assert best.models[0].high == pytest.approx(6 + 1.66 * 4.221, abs=0.3)
    assert best.models[0].low == pytest.approx(6 - 1.66 * 4.221, abs=0.3)


def test_no_model_is_further_from_the_best_than_the_scale_is_long() -> None:
    answer = best_of([toy_run("a", [WIN] * 3), toy_run("b", [LOSS] * 3)])

    assert (answer.models[0].high, answer.models[1].low) == (100.0, -100.0)


def test_cards_without_rows_are_compared_by_their_own_errors() -> None:
    runs = [toy_run(name, mixed(wins, 100 - wins)) for name, wins in (("a", 90), ("b", 10))]
    best = best_of([RunRows(run.name, run.card) for run in runs])

    assert (best.method, best.tied) == ("unpaired", ("a",))
    assert "as if the questions were different" in best.notes[0]
    assert best_sentence(best) == "arena_hard: a is the best of 2 by arena_hard; the other is shown to be worse"


def test_a_run_that_is_named_twice_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_run(tmp_path, toy_run(name, mixed(5, 5)))

    with pytest.raises(ConfigError, match="'b' names a run of arena_hard a second time: name each run once"):
        best_of_models(["a", "b", "b"], tmp_path)


def test_runs_of_other_protocols_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path, toy_run("a", mixed(5, 5)))
    write_run(tmp_path, toy_run("b", mixed(6, 4), protocol={**PROTOCOL, "judge": "another"}))

    with pytest.raises(ConfigError, match="judge: 'toy' and 'another'"):
        best_of_models(["a", "b"], tmp_path)


def test_hostile_names_stay_text_in_markdown() -> None:
    text = best_markdown([best_of([toy_run("<script>|`x`", mixed(20, 20)), toy_run("a", mixed(20, 20))])])

    assert "<script>" not in text


@pytest.mark.slow
def test_the_command_names_the_ties_last_and_has_json(harness: Callable[..., Done], tmp_path: Path) -> None:
    for name, wins in (("a", 60), ("b", 62), ("c", 10)):
        write_run(tmp_path / "results", toy_run(name, mixed(wins, 100 - wins)))

    shown = harness("compare", "--best", "a", "b", "c")
    assert shown.code == 0, shown.err
    assert shown.out.splitlines()[-1].startswith("arena_hard: b and a are tied for the best by arena_hard")

    (best,) = json.loads(harness("compare", "--best", "a", "b", "c", "--json").out)["best"]
    assert [row["may_be_best"] for row in best["models"]] == [True, True, False]
    assert harness("compare", "--best", "a", "b", "--population", "these").code == 2
    assert harness("compare", "--best", "a", "b", "--head-to-head").code == 2
