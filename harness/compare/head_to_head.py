"""Judge one run's answers directly against another's: recorded answers, the suite's own prompts, the normal pipeline.

The result is a run of its own (`results/runs/MODEL/head_to_head_SUITE@VERSION/ID`), which resumes, counts and costs
like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from ..config import RunSpec, choose_judges, read_file_spec
from ..errors import ConfigError
from ..plan import Plan, load_judges
from ..protocols import RunRows
from ..records import Answer, Failure, ModelRef, Prompt, Sampling, digest
from ..suites.head_to_head import HeadToHead, PlaysGames
from .inputs import Loaded, StoredRun, run_rows, suite_of


class Recorded:
    """A backend that returns the answers of an existing run."""

    def __init__(self, model: str, answers: Sequence[Answer]) -> None:
        self._model = model
        self._answers = {answer.key: answer for answer in answers}

    def identity(self) -> dict[str, JsonValue]:
        return {
            "backend": "recorded",
            "answers": digest(sorted([answer.key, answer.sha] for answer in self._answers.values())),
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        recorded = self._answers.get(f"{prompt.id}#{index}")
        if recorded is not None:
            return recorded
        failure = Failure(reason="missing", message="the run has no answer to this question")
        return Answer(prompt_id=prompt.id, model=self._model, index=index, error=failure)


def head_to_head_plan(
    first: StoredRun,
    second: StoredRun,
    judge: str | None,
    results: Path,
    *,
    config: Path | None = None,
    mirror: str | None = None,
) -> Plan:
    """Return the plan for judging `second`'s answers against `first`'s. Calls no judge and writes nothing.

    Raise ConfigError if answers, the suite's data or its pairwise prompts are missing.
    """
    if first.card.protocol.get("data") != second.card.protocol.get("data"):
        raise ConfigError(f"{first.card.model} and {second.card.model} used different editions of {first.card.suite}")
    suite = suite_of(first.card, mirror)
    rows = [run_rows(run) for run in (first, second)]
    for run in rows:
        if not any(answer.error is None for answer in run.answers):
            raise ConfigError(
                f"{run.name} has no answers to {run.card.suite} in its folder, so there is nothing to compare"
            )
    games = _games(suite, first, rows[0])
    file = read_file_spec(config)
    edition = "pocket" if first.card.suite_version.startswith("pocket") else "official"
    judges = choose_judges((games.name,), judge, edition=edition, own_judges=file.judges)
    spec = RunSpec(
        model=ModelRef(scheme="endpoint", name=second.card.model),
        suites=(games.name,),
        edition=edition,
        backend="recorded",
        judges=judges,
        results=results,
        mirror=mirror,
    )
    loaded, calls = load_judges(spec, [games], results / "runs" / spec.model.slug / "logs")
    backend = Recorded(second.card.model, rows[1].answers)
    prompts = {games.name: suite.prompts or ()}
    return Plan(spec, (games,), loaded, prompts, backend, backend.identity(), (), calls)


def _games(loaded: Loaded, first: StoredRun, rows: RunRows) -> HeadToHead:
    if not isinstance(loaded.suite, PlaysGames):
        raise ConfigError(
            f"{first.card.suite} has no prompts for comparing two answers, or its data are missing (harness data pull)"
        )
    games = HeadToHead(loaded.suite, first.card.model, rows.answers)
    games.protocol()  # raises ConfigError if this edition has no pairwise prompts
    return games
