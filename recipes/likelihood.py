"""Compute how likely source models find the answers of preference pairs, InfiFPO's input: one row per pair and source.

A source reads the conversation with its own tokenizer and chat template, so vocabularies may differ. Its server returns
the log-probability of every token of the prompt (vLLM's `prompt_logprobs`), or the model is loaded in this process.
Rows are appended as they arrive: the same command resumes, and retries rows that failed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue, model_validator

from harness.records import Failure, Prompt, Record, digest
from harness.records.errors import ConfigError, HarnessError, IncompleteError, ReplyError, first_error
from harness.records.protocols import ServeOptions, load_plugin
from harness.store import JsonlRows, dump_json, write_atomic
from harness.store.checkpoint import Checkpoint

from .layout import Counts, PreferencePair, messages
from .sampling import IDENTITY, Sampler, check_identity
from .spec import SCORED_BY

log = logging.getLogger(__name__)
LOGPS = "logps.jsonl"
BATCH = 16
"""Pairs per forward pass in this process. A memory limit, not a setting: it changes no result."""
IN_PROCESS = ("in_process", "transformers")
"""Backends whose models are loaded in this process to be scored; their servers return no log-probabilities."""
Triple = tuple[float, float, float]
Lengths = tuple[int, int, int]


class PairLogps(Record):
    """One line of `logps.jsonl`: one source's log-probabilities of a pair's answers, or why there are none.

    The order is source, target, rejected. The end token of an answer counts.
    """

    prompt_id: str
    texts_sha: str
    """Digest of the three texts."""
    sums: Triple | None = None
    """Natural logarithms, summed over the tokens of each answer."""
    tokens: Lengths | None = None
    """Tokens of each answer in the source's vocabulary."""
    error: Failure | None = None

    @model_validator(mode="after")
    def _sums_or_error(self) -> Self:
        if (self.sums is None) != (self.tokens is None) or (self.sums is None) == (self.error is None):
            raise ValueError("a row has sums and tokens, or an error")
        return self

    @property
    def key(self) -> str:
        return f"{self.prompt_id}|{self.texts_sha}"

    @property
    def per_token(self) -> Triple | None:
        """Log-probability per token of each answer."""
        if self.sums is None or self.tokens is None:
            return None
        source, target, rejected = (total / count for total, count in zip(self.sums, self.tokens, strict=True))
        return source, target, rejected


@dataclass(frozen=True)
class Texts:
    """A pair's prompt and answers, as trained on."""

    prompt: Prompt
    answers: tuple[str, str, str]

    @classmethod
    def of(cls, pair: PreferencePair, *, keep_reasoning: bool) -> Texts:
        source, target, rejected = (
            chosen.trained(keep_reasoning=keep_reasoning) for chosen in (pair.source, pair.target, pair.rejected)
        )
        return cls(pair.prompt, (source, target, rejected))

    @property
    def sha(self) -> str:
        return digest(list(self.answers))[:16]

    @property
    def key(self) -> str:
        return f"{self.prompt.id}|{self.sha}"


@dataclass(frozen=True)
class Ids:
    """A pair as token ids of one source."""

    texts: Texts
    prompt_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]

    def row(self, sums: Sequence[float]) -> PairLogps:
        source, target, rejected = sums
        lengths = (len(self.answers[0]), len(self.answers[1]), len(self.answers[2]))
        return PairLogps(
            prompt_id=self.texts.prompt.id,
            texts_sha=self.texts.sha,
            sums=(source, target, rejected),
            tokens=lengths,
        )


def failed(texts: Texts, failure: Failure) -> PairLogps:
    """Return the row of a pair that this source cannot score."""
    return PairLogps(prompt_id=texts.prompt.id, texts_sha=texts.sha, error=failure)


def score_pairs(sampler: Sampler, pairs: Sequence[Texts], folder: Path) -> Counts:
    """Write one row per pair to `logps.jsonl`, keeping earlier ones, and return counts.

    Raise IncompleteError if the server died or more than `max_failed` of the pairs have no log-probabilities, and
    ConfigError if the backend cannot score or the folder has rows of another model.
    """
    file = JsonlRows(folder / LOGPS, PairLogps)
    file.open()
    started = time.monotonic()
    with closing(file):
        missing = [texts for texts in pairs if not _done(file, texts)]
        if missing:
            asyncio.run(_score(sampler, missing, folder, file.append))
        rows = [row for texts in pairs if (row := file.get(texts.key)) is not None]
    return _counted(sampler, rows, new=len(missing), seconds=time.monotonic() - started)


def _done(file: JsonlRows[PairLogps], texts: Texts) -> bool:
    row = file.get(texts.key)
    return row is not None and (row.error is None or row.error.reason in ("context", "answer"))


def _counted(sampler: Sampler, rows: Sequence[PairLogps], *, new: int, seconds: float) -> Counts:
    why = Counter(row.error.reason for row in rows if row.error is not None)
    if why.total() > sampler.max_failed * len(rows) or why.total() == len(rows):
        raise IncompleteError(
            f"{sampler.name}: {why.total()} of {len(rows)} pairs have no log-probabilities ("
            + ", ".join(f"{reason} {count}" for reason, count in why.most_common())
            + f"), more than `sampling.max_failed` = {sampler.max_failed:g} allows; the same command retries them, or "
            "raise it to do without them"
        )
    counts: Counts = {
        "pairs": len(rows) - why.total(),
        "failed": why.total(),
        "tokens": sum(sum(row.tokens) for row in rows if row.tokens is not None),
        "session_pairs": new,
        "session_seconds": round(seconds, 3),
    }
    return counts | {f"failed_{reason}": count for reason, count in sorted(why.items())}


async def _score(sampler: Sampler, missing: Sequence[Texts], folder: Path, keep: Callable[[PairLogps], None]) -> None:
    assert sampler.backend in SCORED_BY  # the specification was checked
    options = ServeOptions(log_dir=folder, seed=sampler.seed, **sampler.serve.model_dump())
    # `transformers` starts a server; its models are loaded in this process to be scored
    name = "in_process" if sampler.backend in IN_PROCESS else sampler.backend
    backend: Any = load_plugin("backends", name)(sampler.model, options)
    identity: dict[str, JsonValue] = json.loads(json.dumps(backend.identity()))
    check_identity(folder, identity, sampler.name)
    write_atomic(folder / IDENTITY, dump_json(identity))
    rendered: list[Ids] = []
    for outcome in _rendered(missing, backend.checkpoint, sampler, room=0 if name == "in_process" else 1):
        if isinstance(outcome, PairLogps):
            keep(outcome)
        else:
            rendered.append(outcome)
    if not rendered:
        return
    log.info("%s: log-probabilities of %d pairs", sampler.name, len(rendered))
    if name == "in_process":
        for row in _in_process(backend.checkpoint, options, rendered):
            keep(row)
        return
    try:
        async with backend as server, aclosing(_served(server, rendered, sampler.serve.concurrency)) as rows:
            async for row in rows:
                keep(row)
    except* HarnessError as errors:
        raise first_error(errors) from None


def _rendered(
    pairs: Sequence[Texts], checkpoint: Checkpoint, sampler: Sampler, *, room: int
) -> Iterator[Ids | PairLogps]:
    """Yield each pair as the source's token ids, or its failure. `room`: tokens to leave free in the context.

    Raise ConfigError if the chat template cannot be used. Pairs that it rejects come last, because a template that
    rejects all must leave no rows: it may be another one when the command runs again.
    """
    from transformers import AutoTokenizer

    from .training.templates import Attempts, Rendering, render_answers, with_defaults

    folder = checkpoint.path if (checkpoint.path / "tokenizer_config.json").is_file() else checkpoint.base
    tokenizer = AutoTokenizer.from_pretrained(folder or checkpoint.path, local_files_only=True)
    if checkpoint.template is None:
        raise ConfigError(f"source {sampler.name!r} has no Jinja chat template to score answers with; give it one")
    tokenizer.chat_template = with_defaults(checkpoint.template, sampler.serve.chat_template_kwargs or {})
    limit = sampler.serve.max_model_len or checkpoint.max_position
    longest = (10**9 if limit is None else limit) - room
    how = Rendering(max_length=longest, max_prompt_length=longest, overlong="drop")
    attempts, rendered = Attempts(), 0
    for index, texts in enumerate(pairs):
        ids = attempts.row(index, partial(render_answers, messages(texts.prompt), texts.answers, tokenizer, how))
        if ids is not None:
            rendered += 1
            yield Ids(texts, ids.prompt_ids, ids.answers)
        elif attempts.dropped[index] == "too_long":
            yield failed(texts, Failure(reason="context", message=f"longer than {longest} tokens of this model"))
    attempts.check(range(rendered))
    for index, reason in attempts.dropped.items():
        if reason != "too_long":
            yield failed(pairs[index], Failure(reason="answer", message=f"the pair cannot be rendered: {reason}"))


def _in_process(checkpoint: Checkpoint, options: ServeOptions, pairs: Sequence[Ids]) -> Iterator[PairLogps]:
    """Yield the rows of a model loaded in this process, longest pairs first, so that little is padded."""

    from .in_process.model import LocalModel, free_device_memory
    from .training.head import add_scoring
    from .training.packing import RowIds, default_layout
    from .training.trainer import pair_logps

    model = LocalModel.load(checkpoint, options).model
    add_scoring(model)
    layout = default_layout(model)
    ordered = sorted(pairs, key=lambda ids: -len(ids.prompt_ids) - sum(map(len, ids.answers)))
    for batch in _batches(ordered):
        rows: list[RowIds] = [
            {
                "prompt_ids": list(ids.prompt_ids),
                "source_ids": list(ids.answers[0]),
                "target_ids": list(ids.answers[1]),
                "rejected_ids": list(ids.answers[2]),
            }
            for ids in batch
        ]
        for ids, sums in zip(batch, pair_logps(model, rows, layout, BATCH), strict=True):
            yield ids.row(sums)
    del model
    free_device_memory()


def _batches(pairs: Sequence[Ids]) -> Iterator[Sequence[Ids]]:
    for start in range(0, len(pairs), BATCH):
        yield pairs[start : start + BATCH]


async def _served(server: Any, pairs: Sequence[Ids], concurrency: int) -> AsyncGenerator[PairLogps]:
    """Yield the rows of a vLLM server as they arrive."""
    slots = asyncio.Semaphore(max(1, concurrency // 3))  # a pair is three requests

    async def one_row(ids: Ids) -> PairLogps:
        async with slots:
            try:
                sums = await asyncio.gather(*(_answer_logp(server, ids.prompt_ids, answer) for answer in ids.answers))
            except ReplyError as error:
                return failed(ids.texts, Failure(reason=error.reason, message=str(error)))
        return ids.row(sums)

    tasks = [asyncio.create_task(one_row(ids)) for ids in pairs]
    try:
        for finished in asyncio.as_completed(tasks):
            yield await finished
    finally:
        for task in tasks:
            task.cancel()


async def _answer_logp(server: Any, prompt_ids: Sequence[int], answer: Sequence[int]) -> float:
    """Return the sum of an answer's log-probabilities after its prompt."""
    ids = [*prompt_ids, *answer]
    # a completion generates at least one token, which is ignored; 0 asks for the chosen token's value only
    body: dict[str, JsonValue] = {
        "model": server.served_name,
        "prompt": list(ids),
        "max_tokens": 1,
        "temperature": 0.0,
        "prompt_logprobs": 0,
    }
    reply = await server.post("/v1/completions", body)
    return summed(reply, ids, len(answer))


def summed(reply: dict[str, Any], ids: Sequence[int], count: int) -> float:
    """Return the sum of the log-probabilities of the last `count` tokens in a vLLM completion.

    Raise ReplyError if one of them is missing.
    """
    try:
        values = reply["choices"][0]["prompt_logprobs"]
        if len(values) != len(ids):
            raise ValueError
        return sum(float(values[index][str(ids[index])]["logprob"]) for index in range(len(ids) - count, len(ids)))
    except (KeyError, IndexError, TypeError, ValueError):
        message = f"the reply has no prompt_logprobs of all {count} tokens; is the server vLLM?"
        raise ReplyError(message, reason="http", status=200) from None
