"""Kind `judge`: use any of the harness's judges as a reward. It rates each answer, or compares it with a baseline.

`reward: {kind: judge, model: JUDGE}`, where JUDGE is anything that `harness run --judge` accepts: a name, FILE.yaml,
local:PATH, … The prompts are those of a suite (`params: {suite: mt_bench, edition: official}`), and the reward is its
rating of one answer, 1 to 10. With `params: {baseline: COLUMN}` the answer is compared with the text in that column of
the data set, in both orders, and the reward is the mean preference, 0 to 1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pydantic import Field, JsonValue

from harness.judging.cache import ReplyCache, cache_path
from harness.judging.calls import Calling, CallOptions
from harness.records import Answer, Failure, JudgeTask, Judgment, Prompt, Record
from harness.records.errors import ConfigError
from harness.records.facts import all_facts
from harness.records.judge_choice import usable_judge
from harness.records.protocols import Checking, Identified, Judge, LoadedJudge, RewardOptions, SuiteOptions, load_plugin
from harness.records.settings import checked
from harness.suites.head_to_head import PlaysGames

from .function import QUEUE, RunsCoroutines, refuse


def _first_that_rates() -> str:
    return next(facts.name for facts in all_facts() if facts.neutral is None)


class JudgeParams(Record):
    """`params:` of the reward kind `judge`."""

    suite: str = Field(default_factory=_first_that_rates)
    """Default: the first suite that rates single answers."""
    edition: str = "official"
    baseline: str | None = None
    """Column of the data set with the texts to compare answers with."""


class JudgeReward(RunsCoroutines):
    """`fusion_harness.rewards` entry point "judge".

    `batch_size` is the number of calls in flight. Replies go into the same cache as those of `harness run`. Raise
    ConfigError if the judge does not exist, DataError if the suite's prompts are not available.
    """

    def __init__(self, options: RewardOptions) -> None:
        if not options.model:
            raise ConfigError("reward kind judge needs `model`: a judge, as for `harness run --judge`")
        refuse(options, "url", "key_env", "serve")
        self._params = checked(JudgeParams, options.params, "reward: params")
        spec = usable_judge(options.model, {})
        self._judge: Judge = load_plugin("judges", spec.kind)(spec)
        if isinstance(self._judge, LoadedJudge) and options.log_dir is not None:
            self._judge.logs_to(options.log_dir)
        self._suite = load_plugin("suites", self._params.suite)(SuiteOptions(edition=self._params.edition))
        self._slots = asyncio.Semaphore(options.batch_size)
        self.at_once = QUEUE * options.batch_size
        self._cache = ReplyCache(cache_path())

    def identity(self) -> dict[str, JsonValue]:
        """Return what the rewards depend on: the judge, its parameters and the suite's prompts."""
        spec = self._judge.spec
        judge_identity = self._judge.identity() if isinstance(self._judge, Identified) else {}
        words = {"suite": self._suite.name, "version": self._suite.version, "baseline": self._params.baseline}
        return {"judge": spec.name, "model": spec.model, "params": spec.params, **judge_identity, **words}

    async def _open(self) -> None:
        await self._cache.__aenter__()
        if isinstance(self._judge, Calling):
            self._judge.use(CallOptions(cache=self._cache))
        await self._judge.__aenter__()

    async def _close(self) -> None:
        await self._judge.__aexit__(None, None, None)
        await self._cache.__aexit__(None, None, None)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[str]
    ) -> list[float | Failure]:
        """Return the mean of each answer's verdicts, or a Failure if any of them has none."""
        assert self._runner is not None, "use `with`"
        tasks = [
            self._tasks(prompts[index], completions[index], {name: values[index] for name, values in columns.items()})
            for index in range(len(prompts))
        ]
        return self._runner.run(self._judge_all(tasks))

    def _tasks(self, prompt: str, completion: str, columns: dict[str, str]) -> Sequence[JudgeTask]:
        gold = columns.get("reference")
        question = Prompt(
            id=columns["prompt_id"],
            turns=(prompt,),
            category="general",  # other categories make MT-Bench ask for reference answers
            reference=() if gold is None else (gold,),
            system=columns.get("system") or None,
        )
        answer = _answer(question, "candidate", completion)
        tasks = (
            self._rating(question, answer) if self._params.baseline is None else self._games(question, answer, columns)
        )
        for task in tasks:
            if isinstance(self._judge, Checking):
                self._judge.check(task)
        return [task.model_copy(update={"judge": self._judge.spec.name}) for task in tasks]

    def _rating(self, question: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        tasks: Sequence[JudgeTask] = self._suite.tasks(question, answer)
        if not tasks or any(task.baseline is not None for task in tasks):
            raise ConfigError(
                f"suite {self._params.suite!r} does not rate single answers; use {JudgeParams().suite}, or compare "
                "with a column of the data set: `params: {baseline: COLUMN}`"
            )
        return tasks

    def _games(self, question: Prompt, answer: Answer, columns: dict[str, str]) -> Sequence[JudgeTask]:
        name = self._params.baseline or ""
        if not columns.get(name):
            raise ConfigError(
                f"prompt {question.id!r} has no column {name!r} to compare with; it has {sorted(columns)}"
            )
        if not isinstance(self._suite, PlaysGames):
            raise ConfigError(f"suite {self._params.suite!r} has no prompt for comparing two answers")
        return self._suite.games(question, answer, _answer(question, "baseline", columns[name]))

    async def _judge_all(self, tasks: Sequence[Sequence[JudgeTask]]) -> list[float | Failure]:
        # gather instead of a TaskGroup, so that an error is raised as it is, outside an ExceptionGroup
        judgments = await asyncio.gather(*(self._verdict(task) for group in tasks for task in group))
        rows = iter(judgments)
        return [_mean([next(rows) for _ in group]) for group in tasks]

    async def _verdict(self, task: JudgeTask) -> Judgment:
        async with self._slots:
            return await self._judge.judge(task)


def _answer(prompt: Prompt, model: str, text: str) -> Answer:
    return Answer(prompt_id=prompt.id, model=model, turns=(text,), finish=("stop",))


def _mean(judgments: Sequence[Judgment]) -> float | Failure:
    values: list[float] = []
    for row in judgments:
        if row.verdict is None:
            return row.error or Failure(reason="missing", message="no verdict")
        values.append(row.verdict.value)
    return sum(values) / len(values)
