"""Checks that see more: direct games, pooled suites, the plain win rate, questions that were not judged; anchors."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from harness.analysis.comparison import compare
from harness.analysis.differences import Difference, unpaired
from harness.analysis.finished_runs import compare_models
from harness.analysis.games import games_difference
from harness.analysis.gate.decision import judge_gate, pooled_difference, slopes_of
from harness.analysis.gate.evidence import GateOptions, gate_runs
from harness.analysis.gate.policy import Evidence, GateCheck, GatePolicy, refuse_unknown_metrics
from harness.records import AnchorCheck, Judging, Score, ScoreCard
from harness.records.asking import answers_digest
from harness.records.errors import ConfigError
from harness.records.protocols import RunRows
from tests.fakes.commands import Done
from tests.fakes.deciding import LOSS, PROTOCOL, WIN, answer_of, games, mixed, toy_run, write_run

GAMES = GateCheck(suite="head_to_head_arena_hard", metric="win_rate", margin=3)


def policy_file(folder: Path, **check: object) -> Path:
    path = folder / "gate.yaml"
    path.write_text(yaml.safe_dump({"checks": [check]}))
    return path


@pytest.mark.parametrize("metric", ["arena_hrd", "win_rat"])
def test_a_misspelt_metric_is_a_usage_error(harness: Callable[..., Done], tmp_path: Path, metric: str) -> None:
    for run in (toy_run("base", mixed(50, 50)), toy_run("cand", mixed(50, 50))):
        write_run(tmp_path, run)
    policy = policy_file(tmp_path, suite="arena_hard", metric=metric, margin=3)

    done = harness(
        *("gate", "--candidate", "cand", "--baseline", "base", "--results", str(tmp_path)),
        *("--policy", str(policy), "--json-file", str(tmp_path / "gate.json")),
    )

    assert done.code == 2
    assert f"checks metric {metric!r} of arena_hard, which has none of that name (did you mean 'arena_hard'" in (
        done.err.replace("win_rate", "arena_hard")
    )
    assert not (tmp_path / "gate.json").exists()


def test_a_metric_of_a_users_own_suite_is_known_from_the_runs() -> None:
    card = toy_run("base", mixed(5, 5)).card
    card = card.model_copy(update={"suite": "custom:mine", "scores": {"rubric": card.scores["arena_hard"]}})
    check = GateCheck(suite="custom:mine", metric="rubrik", margin=3)

    with pytest.raises(ConfigError, match=r"'rubrik' of custom:mine, .*did you mean 'rubric'.*it has: rubric$"):
        refuse_unknown_metrics(GatePolicy(checks=(check,)), [card])
    refuse_unknown_metrics(GatePolicy(checks=(check.model_copy(update={"metric": "rubric"}),)), [card])


def test_a_misspelt_category_is_a_usage_error_too() -> None:
    card = toy_run("base", mixed(5, 5)).card
    card = card.model_copy(update={"by_category": {"writing": card.scores, "math": card.scores}})

    check = GateCheck(suite="arena_hard", category="writting", margin=3)
    with pytest.raises(
        ConfigError, match=r"category 'writting' of arena_hard, .*did you mean 'writing'.*: math, writi"
    ):
        refuse_unknown_metrics(GatePolicy(checks=(check,)), [card])


@pytest.mark.parametrize(
    ("checks", "why"),
    [
        (({"margin": 3}, {"margin": 9, "metric": "arena_hard"}), r"checks 'arena_hard' of arena_hard twice"),
        (({"margin": 3, "higher_is_better": False},), r"of arena_hard, of which more is better: drop it"),
    ],
)
def test_a_policy_that_contradicts_itself_or_the_metric_is_refused(
    checks: tuple[dict[str, object], ...], why: str
) -> None:
    card = toy_run("base", mixed(5, 5)).card
    policy = GatePolicy(checks=tuple(GateCheck.model_validate({"suite": "arena_hard", **check}) for check in checks))

    with pytest.raises(ConfigError, match=why):
        refuse_unknown_metrics(policy, [card])


def test_a_copy_of_the_baselines_run_is_no_candidate(tmp_path: Path) -> None:
    folder = write_run(tmp_path, toy_run("base", mixed(50, 50)))
    copy = shutil.copytree(folder, tmp_path / "copy")

    with pytest.raises(ConfigError, match="candidate and baseline are copies of one run, id-base"):
        gate_runs(str(copy), str(folder), GatePolicy(), GateOptions(results=tmp_path))


def test_a_metric_may_be_named_without_its_filter() -> None:
    card = toy_run("base", mixed(5, 5)).card
    card = card.model_copy(update={"suite": "lm_eval:x", "scores": {"acc,none": card.scores["arena_hard"]}})

    refuse_unknown_metrics(GatePolicy(checks=(GateCheck(suite="lm_eval:x", metric="acc", margin=3),)), [card])
    with pytest.raises(ConfigError, match=r"did you mean 'acc'\?\); it has: acc,none$"):
        refuse_unknown_metrics(GatePolicy(checks=(GateCheck(suite="lm_eval:x", metric="ac", margin=3),)), [card])


# ------------------------------------------------------------------------------------------------------- direct games


def games_run(baseline: RunRows, candidate: RunRows, values: list[tuple[float, float]], strength: int = 1) -> RunRows:
    """The candidate's answers judged against the baseline's."""
    judgments = games(values, candidate.card.model, strength)
    points = 50 * sum(map(sum, values)) / len(values)
    card = candidate.card.model_copy(
        update={
            "suite": "head_to_head_arena_hard",
            "headline": "win_rate",
            "protocol": {
                "suite": "head_to_head_arena_hard",
                "baseline": baseline.card.model,
                "baseline_answers": answers_digest(baseline.answers),
            },
            "scores": {"win_rate": Score(value=points, n=2 * len(values))},
        }
    )
    return RunRows(candidate.name, card, candidate.answers, judgments)


BASE, CANDIDATE = toy_run("base", mixed(50, 50)), toy_run("cand", mixed(50, 50))


def test_games_are_a_difference_from_fifty() -> None:
    # 60 questions won, 40 lost: 60 % of the points; per question +-50, so sd 50 * sqrt(4 * 0.24 * 100 / 99) = 49.24
    row = games_difference(games_run(BASE, CANDIDATE, mixed(60, 40)))

    assert row is not None
    assert [row.first, row.other, row.value] == pytest.approx([50.0, 60.0, 10.0])
    assert row.se == pytest.approx(4.924, abs=1e-3)
    # exact: P(60 or more, or 40 or fewer, of 100 coins) = 0.0569
    assert row.p == pytest.approx(0.0569, abs=0.01)
    assert row.detectable == pytest.approx(2.8016 * row.se, rel=1e-3)


def test_a_game_counts_once_however_clear_it_was() -> None:
    values = [WIN, WIN, LOSS, LOSS]
    clear, close = games_run(BASE, CANDIDATE, values, strength=2), games_run(BASE, CANDIDATE, values)
    clear_wins = replace(clear, judgments=clear.judgments[:4] + close.judgments[4:])

    row = games_difference(clear_wins)

    assert row is not None
    assert row.other == 50.0  # threefold weights would make it 75


@pytest.mark.parametrize(("won", "outcome"), [(250, "inconclusive"), (275, "pass"), (200, "fail")])
def test_a_gate_on_stored_games(tmp_path: Path, won: int, outcome: str) -> None:
    # 500 questions: se 2.2, so an equal score leaves -3 possible; 55 % excludes it, and 40 % is worse
    base, candidate = toy_run("base", mixed(250, 250)), toy_run("cand", mixed(250, 250))
    for run in (base, candidate):
        write_run(tmp_path, run)
    write_run(tmp_path, games_run(base, candidate, mixed(won, 500 - won)))

    report = gate_runs("cand", "base", GatePolicy(checks=(GAMES,)), GateOptions(tmp_path))

    assert report.outcome == outcome
    (check,) = report.checks
    assert check.difference is not None
    assert check.difference.method == "direct"
    assert check.resolvable == pytest.approx(2.4865 * check.difference.se, rel=1e-3)


def test_without_stored_games_the_gate_names_the_command(tmp_path: Path) -> None:
    for run in (BASE, CANDIDATE):
        write_run(tmp_path, run)

    report = gate_runs("cand", "base", GatePolicy(checks=(GAMES,)), GateOptions(tmp_path))

    assert report.outcome == "invalid"
    assert "`harness compare base cand --suite arena_hard --head-to-head --judge JUDGE`" in report.reasons[0]


def test_games_of_other_answers_do_not_count(tmp_path: Path) -> None:
    for run in (BASE, CANDIDATE):
        write_run(tmp_path, run)
    changed = replace(
        CANDIDATE, answers=tuple(answer_of(row.prompt_id, "cand", long=True) for row in CANDIDATE.answers)
    )
    write_run(tmp_path, games_run(BASE, changed, mixed(50, 50)))

    assert gate_runs("cand", "base", GatePolicy(checks=(GAMES,)), GateOptions(tmp_path)).outcome == "invalid"


def test_two_judges_games_are_told_apart_by_their_folder(tmp_path: Path) -> None:
    for run in (BASE, CANDIDATE):
        write_run(tmp_path, run)
    folders = [write_run(tmp_path, games_run(BASE, CANDIDATE, mixed(50, 50)), name) for name in ("one", "two")]
    policy, options = GatePolicy(checks=(GAMES,)), GateOptions(tmp_path)

    with pytest.raises(ConfigError, match="2 runs of these games"):
        gate_runs("cand", "base", policy, options)

    assert gate_runs(str(folders[0]), "base", policy, options).outcome == "inconclusive"


def test_games_cannot_be_gated_live(harness: Callable[..., Done], tmp_path: Path) -> None:
    path = policy_file(tmp_path, suite="head_to_head_arena_hard", margin=3)

    done = harness("gate", "--candidate", "m", "--baseline", "b", "--live", "--policy", str(path))

    assert done.code == 2
    assert "gate it without --live" in done.err


# ------------------------------------------------------------------------------------------------------ pooled suites


def row_of(metric: str, value: float, se: float, n: int) -> Difference:
    def card(model: str, score: float) -> ScoreCard:
        scores = {metric: Score(value=score, se=se / 2**0.5, n=n)}
        return BASE.card.model_copy(update={"model": model, "scores": scores, "headline": metric})

    row = unpaired(card("a", 50.0), card("b", 50.0 + value), metric)
    assert row is not None
    return row


POOLED = GateCheck(pooled=("alpaca_eval", "arena_hard"), margin=2.5)


def test_arena_hard_points_are_converted_into_lc_points() -> None:
    # -1 with se 1, and -3.58 / 1.79 = -2 with se 1.79 / 1.79 = 1: the mean is -1.5 with se 1 / sqrt(2)
    row, note = pooled_difference(POOLED, [row_of("lc_win_rate", -1, 1, 805), row_of("arena_hard", -3.58, 1.79, 500)])

    assert note is None
    assert row is not None
    assert [row.value, row.se, row.n] == pytest.approx([-1.5, 0.5**0.5, 1305])
    assert (row.metric, row.method) == ("lc_win_rate", "pooled")


def test_the_policy_may_state_its_own_slope_and_disagreement_is_said() -> None:
    check = GateCheck(pooled=("alpaca_eval", "arena_hard"), margin=2.5, slopes={"arena_hard": 1.0})

    row, note = pooled_difference(check, [row_of("lc_win_rate", 0, 1, 805), row_of("arena_hard", -4, 1, 500)])

    assert row is not None
    assert row.value == pytest.approx(-2.0)
    # Q = 2^2 + 2^2 = 8, p 0.0047
    assert note == "its suites disagree, so look at each: +0.00, -4.00 in points of lc_win_rate (p 0.0047)"


def test_suites_without_a_slope_cannot_be_pooled() -> None:
    check = GateCheck(pooled=("alpaca_eval", "mt_bench"), margin=2.5)

    row, note = pooled_difference(check, [row_of("lc_win_rate", 0, 1, 805), row_of("mt_bench", 0, 0.2, 80)])

    assert row is None
    assert note == "no slope of mt_bench is known; state it in the check (`harness gate slopes`)"


def test_a_pooled_check_passes_where_each_suite_alone_is_undecided() -> None:
    def evidence(metric: str, se: float) -> Evidence:
        row = row_of(metric, 0.0, se, 500)
        pair = compare(BASE, CANDIDATE).model_copy(update={"headline": metric, "differences": (row,)})
        return Evidence(comparison=pair, baseline=None, candidate=None)

    both = {"alpaca_eval": evidence("lc_win_rate", 1.8), "arena_hard": evidence("arena_hard", 3.2)}
    alone = tuple(
        GateCheck(suite=suite, margin=2.5 * slope) for suite, slope in (("alpaca_eval", 1), ("arena_hard", 1.79))
    )

    # se 1 / sqrt(1 / 1.8^2 + 1 / 1.788^2) = 1.27, and 1.645 * 1.27 = 2.09 < 2.5; alone 1.645 * 1.8 = 2.96
    assert judge_gate("cand", "base", GatePolicy(checks=(POOLED,)), both).outcome == "pass"
    assert judge_gate("cand", "base", GatePolicy(checks=alone), both).outcome == "inconclusive"


def test_suites_of_opposite_directions_cannot_be_pooled() -> None:
    rate, errors = row_of("lc_win_rate", -1, 1, 805), row_of("arena_hard", -1, 1, 500)

    row, note = pooled_difference(POOLED, [rate, errors.model_copy(update={"higher_is_better": False})])

    assert row is None
    assert note is not None
    assert note.startswith("more is better of one suite's metric and less of another's")


def pooled_report(*rows: Difference) -> str:
    both = {
        suite: Evidence(
            comparison=compare(BASE, CANDIDATE).model_copy(update={"headline": row.metric, "differences": (row,)}),
            baseline=None,
            candidate=None,
        )
        for suite, row in zip(POOLED.pooled, rows, strict=True)
    }
    return judge_gate("cand", "base", GatePolicy(checks=(POOLED,)), both).reasons[0]


def test_each_pooled_suite_needs_the_least_questions() -> None:
    reason = pooled_report(row_of("lc_win_rate", 0.0, 0.1, 19), row_of("arena_hard", 0.0, 0.1, 500))

    assert reason.endswith("on 519 questions; under 20 of each suite (min_questions of the check) decide nothing")


def test_more_questions_are_promised_only_where_the_error_falls_with_them() -> None:
    rows = row_of("lc_win_rate", 0.0, 4.0, 500), row_of("arena_hard", 0.0, 7.16, 500)  # se 4 / sqrt(2) = 2.83

    assert "and at 2.5 with about" in pooled_report(*rows)
    reason = pooled_report(rows[0], rows[1].model_copy(update={"method": "adjusted"}))
    assert reason.endswith("an equal model passes with this design at a margin of 7.03")  # (1.645 + 0.842) * 2.83


def test_what_is_no_sum_over_questions_cannot_be_pooled_for_these_questions() -> None:
    pair = compare(BASE, CANDIDATE).model_copy(update={"population": "these"})
    both = {
        suite: Evidence(comparison=pair, baseline=BASE.card, candidate=CANDIDATE.card)
        for suite in ("alpaca_eval", "arena_hard")
    }
    check = GateCheck(pooled=("alpaca_eval", "arena_hard"), metric="lc_win_rate", margin=2.5)

    report = judge_gate("cand", "base", GatePolicy(checks=(check,), population="these"), both)

    assert report.outcome == "invalid"
    assert "alpaca_eval lc_win_rate, both runs have arena_hard" in report.reasons[0]


@pytest.mark.parametrize(
    "check",
    [
        {},
        {"suite": "arena_hard", "pooled": ["alpaca_eval", "arena_hard"]},
        {"pooled": ["arena_hard"]},
        {"pooled": ["arena_hard", "arena_hard"]},
        {"pooled": ["alpaca_eval", "arena_hard"], "floor": 30},
        {"pooled": ["alpaca_eval", "arena_hard"], "slopes": {"mt_bench": 1}},
        {"pooled": ["alpaca_eval", "arena_hard"], "slopes": {"arena_hard": 0}},
        {"pooled": ["alpaca_eval", "arena_hard"], "slopes": {"arena_hard": float("nan")}},
        {"pooled": ["arena_hard", "head_to_head_arena_hard"], "slopes": {"head_to_head_arena_hard": 1}},
        {"suite": "arena_hard", "margin": float("inf")},
        {"suite": "arena_hard", "floor": float("nan")},
    ],
)
def test_checks_that_make_no_sense_are_rejected(check: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        GateCheck.model_validate({"margin": 2.5, **check})


def test_slopes_come_from_the_users_own_cards() -> None:
    def card(suite: str, metric: str, model: int, value: float) -> ScoreCard:
        update = {"suite": suite, "headline": metric, "model": f"m{model}", "scores": {metric: Score(value=value, n=9)}}
        return BASE.card.model_copy(update={**update, "protocol": {"suite": suite}})

    cards = [card("alpaca_eval", "lc_win_rate", at, 10.0 + 5 * at) for at in range(5)]
    cards += [card("arena_hard", "arena_hard", at, 20.0 + 10 * at) for at in range(5)]

    (row,) = slopes_of(cards)

    assert (row.first, row.second, row.models, row.slope, row.stated) == ("alpaca_eval", "arena_hard", 5, 2.0, 1.79)
    assert slopes_of(cards[1:]) == []  # four models


# --------------------------------------------------------------------------------------------------- plain win rate


def test_the_win_rate_counts_a_clear_win_once() -> None:
    first, second = toy_run("a", [WIN, WIN, LOSS, LOSS]), toy_run("b", [WIN, WIN, WIN, LOSS], strength_of={2: 2})

    pair = compare(first, second)
    weighted, plain = pair.difference("arena_hard"), pair.difference("win_rate")

    assert weighted is not None
    assert plain is not None
    # 3 wins, of which one counts threefold, of 6: 83 %; plain: 3 of 4
    assert [weighted.other, plain.other] == pytest.approx([500 / 6, 75.0])


# ------------------------------------------------------------------------------------- questions that were not judged


def limited(run: RunRows, count: int, seed: int = 0) -> RunRows:
    """The run as `--limit COUNT` would have left it."""
    step = len(run.answers) // count
    prompt_ids = {answer.prompt_id for answer in run.answers[::step]}
    card = run.card.model_copy(update={"protocol": {**PROTOCOL, "limit": {"n": count, "seed": seed}}})
    return RunRows(
        run.name,
        card,
        tuple(answer for answer in run.answers if answer.prompt_id in prompt_ids),
        tuple(row for row in run.judgments if row.prompt_id in prompt_ids),
    )


def alike(model: str, shift: int) -> RunRows:
    """400 questions of which two thirds go as in every other such run."""
    return toy_run(model, [WIN if (at * 7 + (shift if at % 3 == 0 else 0)) % 11 < 5 else LOSS for at in range(400)])


def test_a_limited_candidate_is_adjusted_by_the_complete_runs(tmp_path: Path) -> None:
    base, candidate = alike("base", 0), alike("cand", 4)
    for run in (base, limited(candidate, 100), alike("other", 8), alike("third", 2)):
        write_run(tmp_path, run)

    report = gate_runs(
        "cand", "base", GatePolicy(checks=(GateCheck(suite="arena_hard", margin=9),)), GateOptions(tmp_path)
    )

    (check,) = report.checks
    assert check.difference is not None
    assert check.plain is not None
    assert (check.difference.method, check.plain.method, check.difference.n) == ("adjusted", "paired", 100)
    assert check.difference.se < check.plain.se
    assert report.notes[0].startswith(
        "arena_hard arena_hard (adjusted): 100 of 400 questions judged, the rest predicted from those of the other run "
        "and 2 more"
    )


def test_the_sign_does_not_depend_on_which_run_is_limited() -> None:
    base, candidate = alike("base", 0), alike("cand", 4)

    forward = compare(base, limited(candidate, 100)).adjustment("arena_hard")
    backward = compare(limited(candidate, 100), base).adjustment("arena_hard")

    assert forward is not None
    assert backward is not None
    assert forward.difference.value == pytest.approx(-backward.difference.value)
    assert [forward.set_low, forward.set_high] == pytest.approx([-backward.set_high, -backward.set_low])


@pytest.mark.slow
def test_only_the_limit_may_differ(tmp_path: Path, harness: Callable[..., Done]) -> None:
    base = alike("base", 0)
    other_judge = limited(alike("judged", 4), 100)
    other_judge = replace(
        other_judge,
        card=other_judge.card.model_copy(update={"protocol": {**other_judge.card.protocol, "judge": "another"}}),
    )
    for run in (base, other_judge, limited(alike("cand", 4), 100), limited(alike("less", 2), 80, seed=1)):
        write_run(tmp_path, run)

    def code(*names: str) -> int:
        done = harness("compare", *names, "--results", str(tmp_path))
        return int(done.code)

    assert code("base", "cand") == 0
    assert code("base", "judged") == 2
    assert code("cand", "less") == 0  # 100 and 80 questions, neither a part of the other
    assert code("judged", "less") == 2


def sampled(run: RunRows, count: int, seed: int) -> RunRows:
    """The run as `--limit COUNT --seed SEED` would have left it: a random part."""
    prompt_ids = {answer.prompt_id for answer in random.Random(seed).sample(run.answers, count)}
    card = run.card.model_copy(update={"protocol": {**run.card.protocol, "limit": {"n": count, "seed": seed}}})
    return replace(
        run,
        card=card,
        answers=tuple(answer for answer in run.answers if answer.prompt_id in prompt_ids),
        judgments=tuple(row for row in run.judgments if row.prompt_id in prompt_ids),
    )


@pytest.mark.parametrize(
    ("seed", "judged"), [(1, "100 of 400"), (2, "100 and 100 (28 for both) of 400")], ids=["same part", "own parts"]
)
def test_two_limited_runs_are_adjusted_by_the_complete_runs(tmp_path: Path, seed: int, judged: str) -> None:
    base, candidate = sampled(alike("base", 0), 100, 1), sampled(alike("cand", 4), 100, seed)
    for run in (base, candidate, alike("other", 8), alike("third", 2), sampled(alike("part", 3), 50, 1)):
        write_run(tmp_path, run)

    report = gate_runs(
        "cand", "base", GatePolicy(checks=(GateCheck(suite="arena_hard", margin=9),)), GateOptions(tmp_path)
    )

    (check,) = report.checks
    assert check.difference is not None
    assert check.plain is not None
    assert (check.difference.method, check.difference.n) == ("adjusted", 100)
    assert report.notes[0].startswith(
        f"arena_hard arena_hard (adjusted): {judged} questions judged, the rest predicted from those of 2 complete runs"
    )
    assert check.difference.se < (1.05 if seed == 1 else 0.7) * check.plain.se


def test_without_complete_runs_two_limited_runs_are_compared_on_common_questions(tmp_path: Path) -> None:
    for run in (sampled(alike("base", 0), 100, 1), sampled(alike("cand", 4), 100, 2)):
        write_run(tmp_path, run)

    (pair,) = compare_models(["base", "cand"], tmp_path)

    row = pair.difference("arena_hard")
    assert row is not None
    assert (row.method, row.n, pair.adjusted) == ("paired", 28, ())
    assert (pair.only_first, pair.only_other) == (72, 72)


def test_complete_runs_are_not_adjusted() -> None:
    assert compare(alike("base", 0), alike("cand", 4)).adjusted == ()


# ------------------------------------------------------------------------------------------------------------ anchors


@pytest.mark.parametrize(("detectable", "said"), [(12.0, True), (4.0, False)])
def test_anchors_that_notice_less_than_the_margin_are_named(detectable: float, said: bool) -> None:
    anchors = AnchorCheck(
        anchors="a",
        n=40,
        unscored=0,
        unit="percent",
        shift=Score(value=1.0, n=40),
        detectable=detectable,
        drifted=False,
    )
    candidate = toy_run("cand", mixed(50, 50), judging=Judging(anchors={"toy": anchors}))
    shown = Evidence(comparison=compare(BASE, candidate), baseline=BASE.card, candidate=candidate.card)

    report = judge_gate(
        "cand", "base", GatePolicy(checks=(GateCheck(suite="arena_hard", margin=6),)), {"arena_hard": shown}
    )

    # (12 / 6)^2 * 40 = 160
    expected = (
        "arena_hard: 40 anchors notice a move of the judge from 12 points on, more than the margin of 6, so a smaller "
        "move could pass for a difference between the models; about 160 anchors notice one of 6"
    )
    assert report.notes == ((expected,) if said else ())
