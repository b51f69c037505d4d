"""Answers of one model to many prompts -> JSONL, resumed where it stopped: what sources, target and held-out share.

A draw is a (prompt, index). One that failed, or gave an empty text, is asked again by the next run of the same
command. The server is started only when something is missing, and stopped before anything else is.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import JsonValue

from harness.config import ServeSpec
from harness.errors import ConfigError, HarnessError, IncompleteError
from harness.pipeline import DONE_FAILURES, first_error
from harness.plugins import load_plugin
from harness.protocols import Backend, BulkBackend, Draw, ServeOptions
from harness.records import Answer, Failure, ModelRef, Prompt, Sampling
from harness.store import JsonlRows, dump_json, write_atomic

from .records import Part, PromptRow
from .steps import Counts

log = logging.getLogger(__name__)

IDENTITY = "identity.json"
BULK = 4096
"""Draws handed to a bulk backend at once."""
REPORT = 60.0
"""Seconds between two lines of progress."""
DECIDING = (
    "chat_template",
    "dtype",
    "quantization",
    "reasoning_parser",
    "max_model_len",
    "engine_args",
    "trust_remote_code",
)
"""Fields of `serve:` that can change an answer; the others say where and how fast."""


@dataclass(frozen=True)
class Sampler:
    """Who is asked, and how it is served."""

    name: str
    """Stands in the answers as `model`."""
    model: ModelRef
    backend: str
    serve: ServeSpec = field(default_factory=ServeSpec)
    seed: int = 0
    max_failed: float = 0.05
    """Share of the draws, see `SamplingSpec.max_failed`."""

    def settings(self) -> dict[str, JsonValue]:
        """What of it decides the answers, for a step's settings; digests of the weights are kept beside the answers."""
        serve = self.serve.model_dump(mode="json", include=set(DECIDING), exclude_defaults=True)
        if "chat_template" in serve:
            serve["chat_template"] = Path(serve["chat_template"]).name
        return {"model": named(self.model), "backend": self.backend, "serve": serve, "max_failed": self.max_failed}


@dataclass(frozen=True)
class AnswerFile:
    """Answers that are to be in one file."""

    path: Path
    prompts: Sequence[Prompt]
    sampling: Sampling

    def draws(self) -> Iterator[Draw]:
        for prompt in self.prompts:
            for index in range(self.sampling.n):
                yield Draw(prompt, self.sampling, index)

    @property
    def count(self) -> int:
        return len(self.prompts) * self.sampling.n


@dataclass
class Session:
    """What this process took."""

    answers: int = 0
    completion_tokens: int = 0
    start_seconds: float = 0.0
    """Until the model could be asked."""
    seconds: float = 0.0
    """Asking."""
    _reported: float = field(default_factory=time.monotonic)

    def note(self, answer: Answer, name: str, wanted: int) -> None:
        self.answers += 1
        self.completion_tokens += sum(answer.completion_tokens)
        if time.monotonic() - self._reported > REPORT:
            self._reported = time.monotonic()
            log.info("%s: %d of %d answers", name, self.answers, wanted)


def prompts_of(path: Path, *parts: Part) -> list[Prompt]:
    """The prompts of these parts in a `prompts.jsonl`, in its order."""
    with path.open("rb") as file:
        rows = [PromptRow.model_validate_json(line) for line in file]
    return [row.prompt for row in rows if row.part in parts]


def named(model: ModelRef) -> str:
    """The model without the place it lies at: a folder's last part, `hf:ORG/NAME@REVISION`, `endpoint:NAME`."""
    return {"path": model.label, "hf": str(model), "endpoint": f"endpoint:{model.name}"}[model.scheme]


def sample(sampler: Sampler, wanted: Sequence[AnswerFile], folder: Path) -> Counts:
    """Brings every file up to date; logs and the model's identity go into `folder`. Counts are over all files.

    Raises IncompleteError where the model's server died, or more than `max_failed` of the draws have no answer; what
    there is stays. Raises ConfigError for a folder whose answers another model gave.
    """
    files = [(file, JsonlRows(file.path, Answer)) for file in wanted]
    try:
        for _, rows in files:
            rows.open()
        missing = [(draw, rows) for file, rows in files for draw in file.draws() if not _done(rows, draw)]
        session = asyncio.run(_ask(sampler, missing, folder)) if missing else Session()
        counts = _counts([rows for _, rows in files], session)
    except IncompleteError as error:
        answered = sum(rows.count_succeeded for _, rows in files)
        total = sum(file.count for file in wanted)
        raise IncompleteError(
            f"{sampler.name}: {error}; {answered} of {total} answers are kept, and the same command goes on"
        ) from error
    finally:
        for _, rows in files:
            rows.close()
    _check_failures(sampler, counts)
    return counts


def check_identity(folder: Path, identity: dict[str, JsonValue], name: str) -> None:
    """Raises ConfigError where the answers in the folder were given by something else."""
    try:
        recorded = json.loads((folder / IDENTITY).read_text("utf-8"))
    except FileNotFoundError:
        return
    changed = sorted(key for key in recorded | identity if recorded.get(key) != identity.get(key))
    if changed:
        before, now = (str(facts.get(changed[0]))[:80] for facts in (recorded, identity))
        raise ConfigError(
            f"{folder} holds answers of {name!r} with {changed[0]} {before!r}, now {now!r}; restore that, or move the "
            "folder away"
        )


Missing = tuple[Draw, JsonlRows[Answer]]


async def _ask(sampler: Sampler, missing: Sequence[Missing], folder: Path) -> Session:
    session = Session()
    options = ServeOptions(log_dir=folder, seed=sampler.seed, **sampler.serve.model_dump())
    backend: Backend = load_plugin("backends", sampler.backend)(sampler.model, options)
    identity: dict[str, JsonValue] = json.loads(json.dumps(backend.identity()))
    check_identity(folder, identity, sampler.name)
    begun = time.monotonic()
    try:
        async with backend as server:
            session.start_seconds = time.monotonic() - begun
            write_atomic(folder / IDENTITY, dump_json(identity))
            begun = time.monotonic()

            def keep(answer: Answer, rows: JsonlRows[Answer]) -> None:
                rows.append(_kept(answer, sampler.name))
                session.note(answer, sampler.name, len(missing))

            if isinstance(server, BulkBackend):
                await _ask_in_bulk(server, missing, keep)
            else:
                await _ask_by_workers(server, missing, keep, sampler.serve.concurrency)
            session.seconds = time.monotonic() - begun
    except* HarnessError as errors:
        raise first_error(errors) from None
    return session


Keep = Callable[[Answer, JsonlRows[Answer]], None]


async def _ask_in_bulk(server: BulkBackend, missing: Sequence[Missing], keep: Keep) -> None:
    for rows in {id(rows): rows for _, rows in missing}.values():
        draws = [draw for draw, owner in missing if owner is rows]
        for start in range(0, len(draws), BULK):
            async for answer in server.answer_many(draws[start : start + BULK]):
                keep(answer, rows)


async def _ask_by_workers(server: Backend, missing: Sequence[Missing], keep: Keep, concurrency: int) -> None:
    open_draws = iter(missing)

    async def work() -> None:
        for draw, rows in open_draws:
            keep(await server.answer(draw.prompt, draw.sampling, draw.index), rows)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(missing))):
            group.create_task(work())


def _done(rows: JsonlRows[Answer], draw: Draw) -> bool:
    key = f"{draw.prompt.id}#{draw.index}"
    if rows.succeeded(key):
        return True
    row = rows.get(key)
    return row is not None and row.error is not None and row.error.reason in DONE_FAILURES


def _kept(answer: Answer, name: str) -> Answer:
    """As it goes into the file: under our name for the model; an empty text is a failure, there is nothing to learn."""
    if answer.error is None and not any(text.strip() for text in answer.turns):
        failure = Failure(reason="empty", message="the model wrote nothing")
        return Answer(prompt_id=answer.prompt_id, model=name, index=answer.index, seconds=answer.seconds, error=failure)
    return answer.model_copy(update={"model": name})


def _counts(files: Sequence[JsonlRows[Answer]], session: Session) -> Counts:
    """Of all answers that are there, and of this session's time: `session_completion_tokens / session_seconds` is a
    rate for --dry-run."""
    answers = [answer for rows in files for answer in rows.all()]
    counts = answer_counts(answers)
    return counts | {
        "session_answers": session.answers,
        "session_completion_tokens": session.completion_tokens,
        "session_seconds": round(session.seconds, 3),
        "start_seconds": round(session.start_seconds, 3),
    }


def answer_counts(answers: Sequence[Answer]) -> Counts:
    """answers, truncated, failed (and why), tokens, and `identical`: prompts whose draws are several and all alike."""
    good = [answer for answer in answers if answer.error is None]
    texts: dict[str, list[tuple[str, ...]]] = {}
    for answer in good:
        texts.setdefault(answer.prompt_id, []).append(answer.turns)
    why = Counter(answer.error.reason for answer in answers if answer.error is not None)
    counts: Counts = {
        "answers": len(good),
        "truncated": sum(answer.truncated for answer in good),
        "identical": sum(len(draws) > 1 and len(set(draws)) == 1 for draws in texts.values()),
        "failed": sum(why.values()),
        "prompt_tokens": sum(sum(answer.prompt_tokens) for answer in good),
        "completion_tokens": sum(sum(answer.completion_tokens) for answer in good),
    }
    return counts | {f"failed_{reason}": count for reason, count in sorted(why.items())}


def _check_failures(sampler: Sampler, counts: Counts) -> None:
    failed, good = counts["failed"], counts["answers"]
    assert isinstance(failed, int)
    assert isinstance(good, int)
    if failed > sampler.max_failed * (failed + good) or (failed and not good):
        why = ", ".join(f"{key[7:]} {value}" for key, value in counts.items() if key.startswith("failed_"))
        raise IncompleteError(
            f"{sampler.name}: {failed} of {failed + good} answers failed ({why}), more than `sampling.max_failed` = "
            f"{sampler.max_failed:g} allows; the same command asks for them again"
        )
