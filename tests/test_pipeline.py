"""Answers stream to the judge, nothing is asked twice, failures are rows, memory stays bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import ToyBackend, ToyJudge, ToySuite

from harness.errors import JudgeUnavailableError
from harness.pipeline import Progress, SuiteRun, evaluate
from harness.records import JudgeTask
from harness.store import RunStore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "run").open({})
    yield store
    store.close()


def run_of(store: RunStore, judge: ToyJudge, count: int = 20) -> SuiteRun:
    suite = ToySuite(count)
    return SuiteRun(suite=suite, judge=judge, store=store, prompts=tuple(suite.prompts()), sampling=suite.sampling)


def go(run: SuiteRun, backend: ToyBackend, concurrency: int = 4) -> list[Progress]:
    steps: list[Progress] = []
    asyncio.run(evaluate([run], lambda: backend, concurrency=concurrency, on_progress=steps.append))
    return steps


def test_every_prompt_is_answered_and_judged_once(store: RunStore) -> None:
    judge, backend = ToyJudge(), ToyBackend()

    go(run_of(store, judge), backend)

    assert sorted(backend.asked) == sorted(judge.judged) == [f"p{number:03}" for number in range(20)]
    assert len(store.answers) == len(store.judgments) == 20


def test_an_answer_is_judged_while_others_are_still_to_be_generated(store: RunStore) -> None:
    steps = go(run_of(store, ToyJudge()), ToyBackend(delay=0.005), concurrency=2)

    stages = [step.stage for step in steps]
    assert stages.index("judgments") < 6
    assert "answers" in stages[stages.index("judgments") :]


def test_slow_judges_hold_generation_back(store: RunStore) -> None:
    backend = ToyBackend()
    lead: list[int] = []
    judge = ToyJudge(before=lambda _: lead.append(len(backend.asked) - len(judge.judged)))

    go(run_of(store, judge, count=300), backend, concurrency=4)

    assert max(lead) <= 4 + 2 * judge.spec.concurrency + judge.spec.concurrency  # asking + queue + judging


def test_the_same_call_again_asks_nothing_and_starts_no_server(store: RunStore) -> None:
    go(run_of(store, ToyJudge()), ToyBackend())
    judge, backend = ToyJudge(), ToyBackend()

    go(run_of(store, judge), backend)

    assert backend.entered == 0
    assert backend.asked == judge.judged == []


def test_only_what_failed_is_asked_again(store: RunStore) -> None:
    go(run_of(store, ToyJudge(fails=["p004"])), ToyBackend(fails=["p003"]))
    assert not store.answers.succeeded("p003#0")
    judge, backend = ToyJudge(), ToyBackend()

    go(run_of(store, judge), backend)

    assert backend.asked == ["p003"]
    assert sorted(judge.judged) == ["p003", "p004"]
    assert store.judgments.count_succeeded == 20


def test_a_judge_that_goes_down_stops_the_run_and_keeps_what_arrived(store: RunStore) -> None:
    def die_at_ten(task: JudgeTask) -> None:
        if task.prompt.id == "p010":
            raise JudgeUnavailableError("the judge does not answer")

    with pytest.raises(JudgeUnavailableError, match="does not answer"):
        go(run_of(store, ToyJudge(before=die_at_ten)), ToyBackend(), concurrency=1)

    assert 0 < len(store.judgments) < 20
    judge, backend = ToyJudge(), ToyBackend()
    there = len(store.judgments)
    go(run_of(store, judge), backend)
    assert len(judge.judged) == 20 - there
    assert len(store.judgments) == 20


def test_a_judgment_of_another_text_is_not_taken_for_this_answers(store: RunStore) -> None:
    run = run_of(store, ToyJudge(), count=1)
    go(run, ToyBackend())
    answer = store.answers.get("p000#0")
    assert answer is not None
    store.answers.append(answer.model_copy(update={"turns": ("another text",)}))
    judge = ToyJudge()

    go(run_of(store, judge, count=1), ToyBackend())

    assert judge.judged == ["p000"]
