"""One run's answers judged directly against another's: recorded answers, the suite's own words, the normal pipeline.

The result is a run of its own (`results/runs/MODEL/head_to_head_SUITE@VERSION/ID`): it resumes, is counted and costs
what any run does.
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
from .inputs import Found, Loaded, run_rows, suite_of


class Recorded:
    """A backend that gives the answers of a run that is there already."""

    def __init__(self, model: str, answers: Sequence[Answer]) -> None:
        self._model = model
        self._answers = {one.key: one for one in answers}

    def identity(self) -> dict[str, JsonValue]:
        return {"backend": "recorded", "answers": digest(sorted([one.key, one.sha] for one in self._answers.values()))}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        found = self._answers.get(f"{prompt.id}#{index}")
        if found is not None:
            return found
        failure = Failure(reason="missing", message="the run has no answer to this question")
        return Answer(prompt_id=prompt.id, model=self._model, index=index, error=failure)


def head_to_head_plan(
    first: Found,
    other: Found,
    judge: str | None,
    results: Path,
    *,
    config: Path | None = None,
    mirror: str | None = None,
) -> Plan:
    """What judging `other`'s answers against `first`'s will be. Raises ConfigError without answers, suite data or words
    for it; asks and writes nothing."""
    if first.card.protocol.get("data") != other.card.protocol.get("data"):
        raise ConfigError(f"{first.card.model} and {other.card.model} answered other editions of {first.card.suite}")
    suite = suite_of(first.card, mirror)
    rows = [run_rows(one) for one in (first, other)]
    for one in rows:
        if not any(answer.error is None for answer in one.answers):
            raise ConfigError(f"{one.name} has no answers to {one.card.suite} in its folder, so none can be compared")
    games = _games(suite, first, rows[0])
    file = read_file_spec(config)
    edition = "pocket" if first.card.suite_version.startswith("pocket") else "official"
    judges = choose_judges((games.name,), judge, edition=edition, own_judges=file.judges)
    spec = RunSpec(
        model=ModelRef(scheme="endpoint", name=other.card.model),
        suites=(games.name,),
        edition=edition,
        backend="recorded",
        judges=judges,
        results=results,
        mirror=mirror,
    )
    loaded, calls = load_judges(spec, [games], results / "runs" / spec.model.slug / "logs")
    backend = Recorded(other.card.model, rows[1].answers)
    prompts = {games.name: suite.prompts or ()}
    return Plan(spec, (games,), loaded, prompts, backend, backend.identity(), (), calls)


def _games(loaded: Loaded, first: Found, rows: RunRows) -> HeadToHead:
    if not isinstance(loaded.suite, PlaysGames):
        raise ConfigError(
            f"{first.card.suite} has no words for comparing two answers, or its data are not here (harness data pull)"
        )
    games = HeadToHead(loaded.suite, first.card.model, rows.answers)
    games.protocol()  # raises ConfigError where this edition has no words for it
    return games
