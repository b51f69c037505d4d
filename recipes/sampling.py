"""Sample one model's answers to many prompts into JSONL files, resume, or import existing answers.

The stages `sources`, `target` and `evaluate` share this module. A draw is one (prompt, index). The next run of the same
command retries draws that failed or gave an empty text. The server starts only if answers are missing, and it stops
before another one starts.

Existing answers are imported from our own format or from that of released preference data sets: SimPO's (`prompt`,
`all_generated_responses`; princeton-nlp/llama3-ultrafeedback-armorm) and WRPO's (`prompt` as a message, `chosen` =
[y_ws, y_wt]; AALF/ultrafeedback_wrpo), whose first chosen answer is the sources'.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from harness.backends.devices import assigned_devices, devices_of
from harness.records import Answer, Failure, ModelRef, Prompt, Sampling
from harness.records.errors import (
    CheckpointError,
    ConfigError,
    HarnessError,
    IncompleteError,
    MissingPackageError,
    first_error,
)
from harness.records.protocols import (
    Backend,
    BulkBackend,
    Draw,
    GroupBackend,
    Preparing,
    ServeOptions,
    installed,
    load_plugin,
)
from harness.records.reasoning import Thoughts, split_reasoning
from harness.records.settings import ServeSpec
from harness.running.pipeline import DONE_FAILURES
from harness.running.same_model import ask_foreign, check_served, record_served
from harness.store import JsonlRows, dump_json, write_atomic
from harness.store.checkpoint import resolve, weights_digest

from .estimate import DeviceTime, Estimator, Gpus, Mean, PlanItem, number, replica_devices, replicas
from .layout import Counts, Part, PromptRow, prompt_text, rows_in
from .prompts import PromptError, Row, prompt_in

log = logging.getLogger(__name__)

IDENTITY, MADE_FROM = "identity.json", "made_from.json"
BULK = 4096
"""Number of draws passed to a bulk backend at once: enough to find prompts of similar length for every batch."""
ABSENT = ModelRef(scheme="path", name="a model that is not on this machine")
REPORT = 60.0
"""Seconds between two progress lines."""
CHOOSING = ("ray", "moa", "route", "best_of", "best_source")
"""Backends that choose their GPUs themselves: those of a cluster, or of several models."""
UNREPLICATED = ("in_process", "scripted", *CHOOSING)
"""Backends of which a step runs only one: in this process, or with workers of its own."""
REPLICA_CONCURRENCY = 256
"""Requests in flight per server of ours, unless `concurrency` is set: vLLM's default batch, max_num_seqs on GPUs."""
DECIDING = (
    "chat_template",
    "dtype",
    "quantization",
    "reasoning",
    "reasoning_effort",
    "reasoning_room",
    "chat_template_kwargs",
    "max_model_len",
    "engine_args",
    "trust_remote_code",
)
"""Fields of `serve:` that can change an answer; the others only change where and how fast it is generated."""


KNOWN = "`prompt_id` and `turns` (our format), or `prompt` with `all_generated_responses` or `chosen`"
CUT = "the answer ends in its reasoning: raise max_tokens, or give `serve: {reasoning_room: TOKENS}`"
SPACE = re.compile(r"\s+")


Missing = tuple[Draw, JsonlRows[Answer]]
Keep = Callable[[Answer, JsonlRows[Answer]], None]


@dataclass(frozen=True)
class Sampler:
    """Which model answers, and how it is served."""

    name: str
    """Value of `model` in the answers."""
    model: ModelRef
    backend: str
    serve: ServeSpec = field(default_factory=ServeSpec)
    seed: int = 0
    max_failed: float = 0.05
    """Tolerated share of failed draws, see `SamplingSpec.max_failed`."""

    def settings(self) -> dict[str, JsonValue]:
        """Return the settings that decide the answers. Digests of the weights are stored beside the answers."""
        serve = self.serve.model_dump(mode="json", include=set(DECIDING), exclude_defaults=True)
        if "chat_template" in serve:
            serve["chat_template"] = Path(serve["chat_template"]).name
        return {"model": model_name(self.model), "backend": self.backend, "serve": serve, "max_failed": self.max_failed}


@dataclass(frozen=True)
class AnswerFile:
    """One file of answers: the prompts it must answer, and how to sample them."""

    path: Path
    prompts: Sequence[Prompt]
    sampling: Sampling

    def draws(self) -> Iterator[Draw]:
        """Yield every draw that the file must answer."""
        for prompt in self.prompts:
            for index in range(self.sampling.n):
                yield Draw(prompt, self.sampling, index)

    @property
    def count(self) -> int:
        return len(self.prompts) * self.sampling.n


@dataclass
class Session:
    """What this process did, and how long it took."""

    answers: int = 0
    completion_tokens: int = 0
    replicas: int = 1
    """Number of servers that shared the draws."""
    start_seconds: float = 0.0
    """Time until the model was ready."""
    seconds: float = 0.0
    """Time spent sampling."""
    _reported: float = field(default_factory=time.monotonic)

    def note(self, answer: Answer, name: str, total: int) -> None:
        """Count an answer, and log the progress once per REPORT seconds."""
        self.answers += 1
        self.completion_tokens += sum(answer.completion_tokens)
        if time.monotonic() - self._reported > REPORT:
            self._reported = time.monotonic()
            log.info("%s: %d of %d answers", name, self.answers, total)


def prompts_of(path: Path, *parts: Part) -> list[Prompt]:
    """Return the prompts of these parts in a `prompts.jsonl`, in its order."""
    return [row.prompt for row in rows_in(path, PromptRow) if row.part in parts]


def model_name(model: ModelRef) -> str:
    """Return the model's name without local paths: a folder's name, `hf:ORG/NAME@REVISION` or `endpoint:NAME`."""
    return {"hf": str(model), "endpoint": f"endpoint:{model.name}"}.get(model.scheme, model.short)


def sample(sampler: Sampler, files: Sequence[AnswerFile], folder: Path) -> Counts:
    """Complete every file, write logs and the model's identity to `folder`, and return counts over all files.

    Raise IncompleteError if the model's server died or more than `max_failed` of the draws have no answer; existing
    answers are kept. Raise ConfigError if the folder has answers of another model.
    """
    opened = [(file, JsonlRows(file.path, Answer)) for file in files]
    try:
        for _, rows in opened:
            rows.open()
        missing = [(draw, rows) for file, rows in opened for draw in file.draws() if not _done(rows, draw)]
        session = asyncio.run(_ask(sampler, missing, folder)) if missing else Session()
        counts = _counts([rows for _, rows in opened], session)
    except IncompleteError as error:
        answered = sum(rows.count_succeeded for _, rows in opened)
        total = sum(file.count for file in files)
        raise IncompleteError(
            f"{sampler.name}: {error}; {answered} of {total} answers are kept, and the same command resumes"
        ) from error
    finally:
        for _, rows in opened:
            rows.close()
    _check_failures(sampler, counts)
    return counts


def check_identity(
    folder: Path, identity: dict[str, JsonValue], name: str, *, file: str = IDENTITY, contents: str = "answers"
) -> None:
    """Raise ConfigError if the answers, or whatever `contents` names, come from another model or other settings."""
    try:
        recorded = json.loads((folder / file).read_text("utf-8"))
    except FileNotFoundError:
        return
    changed = sorted(key for key in recorded | identity if recorded.get(key) != identity.get(key))
    if changed:
        before, now = (str(facts.get(changed[0]))[:80] for facts in (recorded, identity))
        raise ConfigError(
            f"{folder} has {contents} of {name!r} with {changed[0]} {before!r}, which is now {now!r}; restore the old "
            "value, or move the folder away"
        )


def record_weights(folder: Path, models: Mapping[str, Path], name: str) -> None:
    """Write the digests of the models that a checkpoint is made from, by name, into its folder.

    Raise ConfigError if it was begun with other weights under the same names.
    """
    weights: dict[str, JsonValue] = {model: weights_digest(path, None) for model, path in models.items()}
    check_identity(folder, weights, name, file=MADE_FROM, contents="a checkpoint")
    write_atomic(folder / MADE_FROM, dump_json(weights))


async def _ask(sampler: Sampler, missing: Sequence[Missing], folder: Path) -> Session:
    session = Session()
    backends = _replicas(sampler, folder, math.ceil(len(missing) / max(1, missing[0][0].sampling.n)))
    # as its JSON file gives it back, in which tuples are lists
    identity: dict[str, JsonValue] = json.loads(json.dumps(backends[0].identity()))
    check_identity(folder, identity, sampler.name)
    presented = await ask_foreign(backends[0], needed=True)
    if presented is not None:
        check_served(folder, presented, advice="serve the earlier model, or move the folder away")
        record_served(folder, presented)
    session.replicas = len(backends)
    begun = time.monotonic()
    try:
        async with AsyncExitStack() as stack:
            servers = await _entered(stack, backends)
            session.start_seconds = time.monotonic() - begun
            # only now: a folder whose model could not be loaded is still free for another one
            write_atomic(folder / IDENTITY, dump_json(identity))
            begun = time.monotonic()

            def keep(answer: Answer, rows: JsonlRows[Answer]) -> None:
                rows.append(_as_ours(answer, sampler.name))
                session.note(answer, sampler.name, len(missing))

            for server in servers:
                if isinstance(server, Preparing):
                    await server.prepare_draws([draw for draw, _ in missing])
            if isinstance(servers[0], BulkBackend):
                await _ask_in_bulk(servers[0], missing, keep)
            else:
                await _ask_by_workers(servers, missing, keep, _concurrency(sampler))
            session.seconds = time.monotonic() - begun
    except* HarnessError as errors:
        raise first_error(errors) from None
    return session


def _replicas(sampler: Sampler, folder: Path, prompts: int) -> list[Backend]:
    """Return the backends that share the prompts: one per unit of this process's GPUs. Nothing is started.

    The first one logs into the folder itself, as a single one does; the others into folders of their own.
    """
    serve, concurrency = sampler.serve, _concurrency(sampler)
    is_replicated = gpus_of(sampler.model, sampler.backend, serve).limit(len(assigned_devices())) > devices_of(serve)
    groups = replica_devices(devices_of(serve)) if is_replicated else [serve.devices]
    backends: list[Backend] = []
    for rank, devices in enumerate(groups[:prompts]):
        log_dir = folder if rank == 0 else folder / f"replica-{rank}"
        log_dir.mkdir(parents=True, exist_ok=True)
        settings = serve.model_dump() | {"devices": devices, "concurrency": concurrency}
        options = ServeOptions(log_dir=log_dir, seed=sampler.seed, **settings)
        backends.append(load_plugin("backends", sampler.backend)(sampler.model, options))
    return backends


def try_backend(section: str, text: str, name: str, serve: ServeSpec, lacks_package: Callable[[str], None]) -> None:
    """Make a model's backend without starting it. Raise ConfigError or CheckpointError if it refuses model or options.

    Of a model that is not on this machine only the options are checked. An unknown backend is not checked.
    """
    model = ModelRef.parse(text)
    backend = "endpoint" if model.scheme == "endpoint" else name
    if backend not in installed("backends"):
        return
    is_here = model.scheme == "endpoint" or (model.scheme == "path" and resolve(model).is_dir())
    template = serve.chat_template
    if template and not template.startswith("fastchat:") and not Path(template).expanduser().is_file():
        raise ConfigError(f"{section}: chat_template = {template!r} is not a file; give a Jinja file or fastchat:NAME")
    try:
        load_plugin("backends", backend)(
            model if is_here else ABSENT, ServeOptions(log_dir=Path(), **serve.model_dump())
        )
    except MissingPackageError as error:
        lacks_package(f"{section}: {error}")
    except ConfigError as error:
        raise ConfigError(f"{section}: {error}") from None
    except CheckpointError as error:
        if is_here:
            raise CheckpointError(f"{section}: {error}") from None


def _concurrency(sampler: Sampler) -> int:
    """Return the answers in flight per server: as set, else REPLICA_CONCURRENCY unless others run the server."""
    is_set = "concurrency" in sampler.serve.model_fields_set or sampler.model.scheme == "endpoint"
    return sampler.serve.concurrency if is_set else REPLICA_CONCURRENCY


async def _entered(stack: AsyncExitStack, backends: Sequence[Backend]) -> list[Backend]:
    """Start all servers at once. If one fails, those that started are stopped with the stack."""
    servers = await asyncio.gather(*map(stack.enter_async_context, backends), return_exceptions=True)
    for server in servers:
        if isinstance(server, BaseException):
            raise server
    return [server for server in servers if not isinstance(server, BaseException)]


async def _ask_in_bulk(server: BulkBackend, missing: Sequence[Missing], keep: Keep) -> None:
    for rows in {id(rows): rows for _, rows in missing}.values():
        draws = [draw for draw, owner in missing if owner is rows]
        for start in range(0, len(draws), BULK):
            async for answer in server.answer_many(draws[start : start + BULK]):
                keep(answer, rows)


async def _ask_by_workers(servers: Sequence[Backend], missing: Sequence[Missing], keep: Keep, concurrency: int) -> None:
    """Let every server take the next prompt whenever it has room, up to `concurrency` answers in flight each."""
    groups = list(_grouped(missing))
    open_groups = iter(groups)
    widest = max(map(len, groups))

    async def work(server: Backend) -> None:
        for group in open_groups:
            first, rows = group[0]
            if first.sampling.seed is None and isinstance(server, GroupBackend):
                indices = [draw.index for draw, _ in group]
                for answer in await server.answer_group(first.prompt, first.sampling, indices):
                    keep(answer, rows)
            else:
                for draw, _ in group:
                    keep(await server.answer(draw.prompt, draw.sampling, draw.index), rows)

    workers = max(1, min(concurrency // widest, len(groups)))
    async with asyncio.TaskGroup() as tasks:
        for server in [*servers] * workers:  # in turn, so that the first prompts are spread over all servers
            tasks.create_task(work(server))


def _grouped(missing: Sequence[Missing]) -> Iterator[Sequence[Missing]]:
    """Yield the draws of one request: without a seed all of a prompt, else one by one."""
    together: list[Missing] = []
    for draw, rows in missing:
        first = together[0] if together else None
        fits = first is not None and draw.sampling.seed is None and first[1] is rows and first[0].prompt == draw.prompt
        if together and not fits:
            yield together
            together = []
        together.append((draw, rows))
    if together:
        yield together


def _done(rows: JsonlRows[Answer], draw: Draw) -> bool:
    key = f"{draw.prompt.id}#{draw.index}"
    if rows.succeeded(key):
        return True
    row = rows.get(key)
    return row is not None and row.error is not None and row.error.reason in DONE_FAILURES


def _as_ours(answer: Answer, name: str) -> Answer:
    """Return the answer under our name for the model; an empty text becomes a failure, as it teaches nothing."""
    if answer.error is None and not any(text.strip() for text in answer.turns):
        cut = answer.is_cut_in_reasoning
        failure = Failure(reason="empty", message=CUT if cut else "the model wrote nothing")
        return Answer(prompt_id=answer.prompt_id, model=name, index=answer.index, seconds=answer.seconds, error=failure)
    return answer.model_copy(update={"model": name})


def _counts(files: Sequence[JsonlRows[Answer]], session: Session) -> Counts:
    """Return counts of all answers and of this session, from which `generation_time` takes the rate."""
    return answer_counts([answer for rows in files for answer in rows.all()]) | {
        "session_answers": session.answers,
        "session_completion_tokens": session.completion_tokens,
        "session_seconds": round(session.seconds, 3),
        **({"session_replicas": session.replicas} if session.replicas > 1 else {}),
        "start_seconds": round(session.start_seconds, 3),
    }


def gpus_of(model: ModelRef, backend: str, serve: ServeSpec) -> Gpus:
    """Return how many GPUs sampling a model can use: one server per unit, except for backends without servers."""
    if model.scheme == "endpoint":
        return Gpus()
    return Gpus(devices_of(serve), replicas=1 if backend in UNREPLICATED or serve.devices else None)


def needs_machine(backend: str, serve: ServeSpec) -> bool:
    """Return whether sampling chooses its GPUs itself, so that no other step may run at the same time."""
    return backend in CHOOSING or serve.devices is not None


def left_to_sample(estimator: Estimator, item: PlanItem, path: Path, draws: int, length: Mean) -> PlanItem:
    """Return the item with the draws that are missing in a file of answers, and their tokens."""
    left = estimator.missing(item, path, draws)
    tokens = {"prompt_tokens": left * estimator.prompts.tokens.value, "answer_tokens": left * length.value}
    return item.model_copy(update={"calls": left, "calls_done": draws - left, **tokens})


def generation_time(
    estimator: Estimator, model: str, serve: ServeSpec, tokens: float, *, measured: Sequence[Path]
) -> DeviceTime:
    """Return the time to generate tokens with a source or `target`. `measured`: folders of steps that sampled it."""
    assumed, devices = estimator.recipe.spec.rates.of("generation", model), devices_of(serve)

    def rate(counts: Counts) -> float:
        seconds = number(counts, "session_seconds")
        return number(counts, "session_completion_tokens") / seconds / (devices * replicas(counts)) if seconds else 0.0

    return DeviceTime(tokens, estimator.rate("generation", assumed, measured, rate), devices, "generation")


def answer_counts(answers: Sequence[Answer]) -> Counts:
    """Return counts of answers, truncations, failures by reason, tokens, and prompts with only `identical` draws."""
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
            f"{sampler.max_failed:g} allows; the same command retries them, or raise it to do without them"
        )


def take_answers(rows: Iterable[Row], prompts: Sequence[Prompt], source: str, path: Path, *, origin: str) -> Counts:
    """Write the answers to these prompts under the source's name, and keep existing ones.

    Rows in our format match a prompt by id, others by text, ignoring white space. Raise ConfigError if a row has an
    unknown format or no row matches a prompt.
    """
    by_id = {prompt.id: prompt for prompt in prompts}
    by_text = {_one_spaced(prompt_text(prompt)): prompt for prompt in prompts}
    counted: dict[str, int] = {}
    unknown = 0
    file = JsonlRows(path, Answer)
    file.open()
    with closing(file):
        for number, row in enumerate(rows, start=1):
            texts = _texts(row, f"{origin}, row {number}")
            prompt = by_id.get(str(row.get("prompt_id"))) if "turns" in row else None
            prompt = prompt or by_text.get(_one_spaced(_question(row)))
            if prompt is None:
                unknown += len(texts)
                continue
            for thoughts in texts:
                index = counted.get(prompt.id, 0)
                counted[prompt.id] = index + 1
                if f"{prompt.id}#{index}" not in file:
                    file.append(_answer(prompt, source, index, thoughts))
        answers = list(file.all())
    if not answers:
        raise ConfigError(
            f"{origin}: none of its {unknown} answers matches one of this recipe's {len(prompts)} prompts"
        )
    return answer_counts(answers) | {
        "not_among_the_prompts": unknown,
        "prompts_without_answer": sum(prompt.id not in counted for prompt in prompts),
    }


def _question(row: Row) -> str:
    try:
        talk = prompt_in(row, "prompt")
    except PromptError:
        return ""
    return prompt_text(Prompt(id="", category="all", turns=talk.turns, answered=talk.answered))


def _texts(row: Row, origin: str) -> list[Thoughts]:
    """Return the answers in one row, their reasoning apart. Raise ConfigError if the format is unknown."""
    thoughts = row.get("reasoning") if "turns" in row else None
    if isinstance(thoughts, Sequence) and not isinstance(thoughts, str) and any(thoughts):  # our format
        return [Thoughts(text, str(thoughts[0])) for text in _plain_texts(row, origin)]
    # Lone surrogates become question marks, as in answers that are sampled: no file can store them.
    return [split_reasoning(text.encode("utf-8", "replace").decode("utf-8")) for text in _plain_texts(row, origin)]


def _plain_texts(row: Row, origin: str) -> list[str]:
    """Return the answers in one row; a failed one in our format is "". Raise ConfigError if the format is unknown."""
    responses: Any = row.get("all_generated_responses")
    if (
        isinstance(responses, Sequence)
        and not isinstance(responses, str)
        and all(isinstance(text, str) for text in responses)
    ):
        return list(responses)
    turns = row.get("turns")
    if "prompt_id" in row and isinstance(turns, Sequence) and not isinstance(turns, str):
        return [str(turns[0])] if turns else [""]
    chosen = row.get("chosen")
    if isinstance(chosen, str):
        return [chosen]
    if isinstance(chosen, Sequence):
        answers = list(_assistants(chosen))
        if answers:
            return answers[:1]
    raise ConfigError(
        f"{origin} has no answers; expected {KNOWN}, but its fields are: {', '.join(sorted(row)) or 'none'}"
    )


def _assistants(messages: Sequence[Any]) -> Iterator[str]:
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            yield str(message.get("content") or "")


def _answer(prompt: Prompt, source: str, index: int, thoughts: Thoughts) -> Answer:
    if not thoughts.visible.strip():
        failure = Failure(reason="empty", message="the answer is empty" if thoughts.closed else CUT)
        return Answer(prompt_id=prompt.id, model=source, index=index, error=failure)
    reasoning = (thoughts.reasoning,) if thoughts.reasoning else ()
    turns, is_split = (thoughts.visible,), bool(reasoning)
    return Answer(
        prompt_id=prompt.id,
        model=source,
        index=index,
        turns=turns,
        reasoning=reasoning,
        finish=("stop",),
        is_split=is_split,
    )


def _one_spaced(text: str) -> str:
    return SPACE.sub(" ", text).strip()
