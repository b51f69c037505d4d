"""What a run is, what it would cost, and what its card says."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.records import JudgeSpec, ModelRef, Score, ScoreCard
from harness.records.results import what_is_missing
from harness.records.settings import RunSpec, SamplingOverride
from harness.running.estimate import dry_run
from harness.running.execute import execute, opened
from harness.running.plan import Plan, limited, suite_plan
from harness.store import find_cards, read_card
from tests.fakes.toys import ToyBackend, ToyJudge, ToySuite, toy_prompts


def made(results: Path, *, backend: ToyBackend | None = None, judge: ToyJudge | None = None, **changes: object) -> Plan:
    suite = ToySuite()
    spec = RunSpec(
        model=ModelRef.parse("./toy-model"),
        suites=("toy",),
        judges={"toy": (JudgeSpec(name="toy", kind="toy", price_in=1.0, price_out=2.0),)},
        results=results,
    ).model_copy(update=changes)
    backend = backend or ToyBackend()
    judge = judge or ToyJudge()
    judge.spec = spec.judges["toy"][0]
    return Plan(spec, (suite_plan(spec, suite, (judge,), backend.identity()),), backend, backend.identity())


def run(plan: Plan, *, fresh: bool = False) -> ScoreCard:
    with opened(plan, fresh=fresh) as runs:
        (card,) = asyncio.run(execute(plan, runs))
    return card


def test_a_limit_is_drawn_by_category_in_proportion_and_seeded() -> None:
    prompts = toy_prompts(40)

    chosen = limited(prompts, 10, seed=0)

    assert Counter(prompt.category for prompt in chosen) == {"even": 5, "odd": 5}
    assert chosen == limited(prompts, 10, seed=0) != limited(prompts, 10, seed=1)
    assert [prompt.id for prompt in chosen] == sorted(prompt.id for prompt in chosen)
    assert len(limited(prompts, 7, seed=0)) == 7
    assert limited(prompts, 99, seed=0) == prompts


def test_seed_and_weights_make_another_run_of_the_same_protocol(tmp_path: Path) -> None:
    first, second = made(tmp_path), made(tmp_path, seed=1)

    assert first.suites[0].protocol == second.suites[0].protocol
    assert first.suites[0].folder != second.suites[0].folder


def test_limit_and_changed_answer_settings_are_part_of_the_protocol(tmp_path: Path) -> None:
    plain = made(tmp_path)
    short = made(tmp_path, limit=4)
    hot = made(tmp_path, sampling=SamplingOverride(temperature=1.0))

    assert short.suites[0].protocol["limit"] == {"n": 4, "seed": 0}
    assert hot.suites[0].protocol["sampling_deviation"] == {"temperature": 1.0}
    assert "limit" not in plain.suites[0].protocol
    assert hot.suites[0].sampling(hot.suites[0].prompts[0]).temperature == 1.0


def test_one_judge_asked_once_has_the_protocol_it_had_before_juries(tmp_path: Path) -> None:
    plain = made(tmp_path)
    often = made(tmp_path, repeats=3)
    found = plain.suites[0].protocol

    assert found["judge"] == {"name": "toy", "kind": "toy", "model": None, "params": {}}
    assert "judge_repeats" not in found
    assert often.suites[0].protocol == found | {"judge_repeats": 3}
    assert plain.suites[0].manifest["judge_url"] is None


def test_the_manifest_holds_no_path_of_the_machine(tmp_path: Path) -> None:
    plan = made(tmp_path, model=ModelRef.parse("/some/where/toy-model"))

    assert plan.suites[0].manifest["model"] == "toy-model"


def test_the_estimate_counts_calls_and_prices_them(tmp_path: Path) -> None:
    (found,) = dry_run(made(tmp_path))

    assert (found.prompts, found.generation_calls, found.judge_calls) == (20, 20, 20)
    # 1,501 answer + 14 template characters at 4 a token, 4 tokens round each of the three texts, at $1/M; and 400 reply
    # tokens at $2/M; twenty times
    assert found.judge_cost == pytest.approx(20 * (1515 / 4 + 12 + 800) / 1e6)
    assert found.judge_cost_open == found.judge_cost
    assert "4 characters per token" in found.tokens_by


def test_a_card_counts_failures_by_reason_and_is_not_ranked_under_nine_tenths(tmp_path: Path) -> None:
    backend, judge = ToyBackend(fails=["p001", "p002"]), ToyJudge(fails=["p003"])

    card = run(made(tmp_path, backend=backend, judge=judge))

    assert card.counts["unanswered"] == {"timeout": 2}
    assert card.counts["unjudged"] == {"parse": 1}
    assert (card.scores["mean"].n, card.scores["mean"].unscored, card.scores["mean"].value) == (17, 3, 7.0)
    assert not card.complete
    assert any("never ranked" in note for note in card.notes)


def test_a_second_run_mends_the_first_and_its_card_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    run(made(tmp_path / "a", backend=ToyBackend(fails=["p001"]), judge=ToyJudge(fails=["p003"])))
    mended = run(made(tmp_path / "a"))
    undisturbed = run(made(tmp_path / "b"))

    assert mended.complete
    left_out = {"usage", "provenance"}
    assert mended.model_dump(exclude=left_out) == undisturbed.model_dump(exclude=left_out)
    assert mended.provenance["run_id"] == undisturbed.provenance["run_id"]
    assert mended.usage["sessions"] == 2


def test_the_card_on_disk_is_the_card_returned(tmp_path: Path) -> None:
    card = run(made(tmp_path))

    (path,) = find_cards(tmp_path)
    assert read_card(path) == card


def test_fresh_asks_everything_again_and_keeps_the_old_rows_aside(tmp_path: Path) -> None:
    run(made(tmp_path))
    backend = ToyBackend()

    run(made(tmp_path, backend=backend), fresh=True)

    assert len(backend.asked) == 20
    assert len(find_cards(tmp_path)) == 1
    assert len(list((tmp_path / "runs/toy-model/toy@toy-1").iterdir())) == 2


def test_a_failure_that_would_repeat_is_not_promised_another_try() -> None:
    def card(suite: str, unanswered: dict[str, JsonValue], unjudged: dict[str, JsonValue]) -> ScoreCard:
        counts: dict[str, JsonValue] = {"unanswered": unanswered, "unjudged": unjudged}
        return ScoreCard(
            suite=suite,
            suite_version="1",
            model="m",
            judge="j",
            headline="x",
            complete=False,
            protocol={},
            sampling={},
            scores={"x": Score(value=None, n=0, unscored=9)},
            counts=counts,
            provenance={},
        )

    both = [card("a", {"context": 2}, {"timeout": 3}), card("b", {}, {"content_filter": 4, "context": 1, "http": 1})]

    assert what_is_missing(both) == (
        "too much unscored in a, b (see the notes); the same command asks 4 failed calls again (http 1, timeout 3); "
        "7 would most likely fail again (content_filter 4, context 3), so change the judge or the settings first"
    )
    assert what_is_missing([card("a", {}, {})]) == "too much unscored in a (see the notes)"
