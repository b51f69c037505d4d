"""Answers stream to the judge, nothing is asked twice, failures are rows, memory stays bounded."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Answer, JudgeTask, Judgment
from harness.records.errors import JudgeUnavailableError
from harness.running.pipeline import Progress, SuiteRun, evaluate
from harness.running.plan import SuitePlan
from harness.store import RunStore
from tests.fakes.toys import ToyBackend, ToyJudge, ToySuite


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "run").open({})
    yield store
    store.close()


def run_of(store: RunStore, judge: ToyJudge, count: int = 20) -> SuiteRun:
    suite = ToySuite(count)
    return SuiteRun(SuitePlan(suite, (judge,), tuple(suite.prompts()), suite.sampling, store.folder), store)


def go(run: SuiteRun, backend: ToyBackend, concurrency: int = 4) -> list[Progress]:
    steps: list[Progress] = []
    asyncio.run(evaluate([run], lambda: backend, concurrency=concurrency, on_progress=steps.append))
    return steps


def test_every_prompt_is_answered_and_judged_once(store: RunStore) -> None:
    judge, backend = ToyJudge(), ToyBackend()

    go(run_of(store, judge), backend)

    assert sorted(backend.asked) == sorted(judge.judged) == [f"p{number:03}" for number in range(20)]
    assert len(store.answers) == len(store.judgments) == 20


def test_pythons_collector_is_as_before_after_a_run(store: RunStore) -> None:
    thresholds, frozen = gc.get_threshold(), gc.get_freeze_count()

    go(run_of(store, ToyJudge()), ToyBackend())

    assert (gc.get_threshold(), gc.get_freeze_count()) == (thresholds, frozen)


def test_a_jury_with_repeats_is_asked_every_question_and_each_row_is_found_again(store: RunStore) -> None:
    strict, mild = ToyJudge(name="strict", rating=3), ToyJudge(name="mild", rating=8, fails=["p001"])
    suite = ToySuite(4)
    plan = SuitePlan(suite, (mild, strict), tuple(suite.prompts()), suite.sampling, store.folder, repeats=3)
    run = SuiteRun(plan, store)

    go(run, ToyBackend())

    assert len(store.judgments) == 4 * 2 * 3
    asked = {(row.judge, row.repeat, row.prompt_id) for row in store.judgments.all()}
    assert len(asked) == 24
    again = ToyJudge(name="strict"), ToyJudge(name="mild")
    go(replace(run, plan=replace(plan, judges=again)), ToyBackend())
    assert (again[0].judged, again[1].judged) == ([], ["p001"] * 3)  # what failed is asked again, of that judge alone


def test_rows_of_one_judge_made_before_juries_are_found_again(store: RunStore) -> None:
    run = run_of(store, ToyJudge(), count=1)
    (prompt,) = run.plan.prompts
    answer = Answer(prompt_id=prompt.id, model="toy", turns=("a",), finish=("stop",))
    row = '{"prompt_id": "p000", "index": 0, "model": "toy", "judge": "toy", "template_sha": "x", "turn": 1, '
    row += f'"answer_sha": "{answer.sha}", "verdict": {{"kind": "rating", "value": 7}}}}'
    store.judgments.append(Judgment.model_validate_json(row))

    assert run.open_tasks(prompt, answer) == []


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


def test_a_judge_that_waits_keeps_no_other_judge_from_its_tasks(store: RunStore) -> None:

    class Held(ToyJudge):
        async def judge(self, task: JudgeTask) -> Judgment:
            await got_on.wait()  # its places stay taken until the other judge got on
            return await super().judge(task)

    got_on = asyncio.Event()
    held = Held(name="held")
    quick = ToyJudge(name="quick", before=lambda _: got_on.set() if len(quick.judged) >= 3 else None)
    suite = ToySuite(8)
    run = SuiteRun(SuitePlan(suite, (held, quick), tuple(suite.prompts()), suite.sampling, store.folder), store)

    go(run, ToyBackend())

    assert len(held.judged) == len(quick.judged) == 8


def test_a_judge_is_asked_with_as_many_calls_at_once_as_it_allows(store: RunStore) -> None:
    judge = Slow()
    judge.spec = judge.spec.model_copy(update={"concurrency": 400})

    go(run_of(store, judge, count=400), ToyBackend(), concurrency=400)

    assert judge.peak == 400


class Slow(ToyJudge):
    """Returns nothing before 400 tasks are there."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._all_there = asyncio.Event()

    async def judge(self, task: JudgeTask) -> Judgment:
        self.peak += 1
        if self.peak == 400:
            self._all_there.set()
        await asyncio.wait_for(self._all_there.wait(), 30)
        return await super().judge(task)
