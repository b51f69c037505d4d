"""Keep track of an ensemble's members: who they are, what they were asked before, and what that cost.

>>> spec = TeamSpec.model_validate({"members": {"a": {"model": "models/a"}, "b": {"model": "hf:org/b"}}})
>>> list(spec.members), spec.layers
(['a', 'b'], 2)

A team is a YAML file that the user names. Every reply of a member is stored beside the logs before it is used, so that
nothing is asked or paid twice if a run is stopped. A member is opened when it has something to answer: servers of
others all at once, models of this machine one after another.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import Field, JsonValue

from ..records import Answer, Failure, ModelRef, Record, digest
from ..records.asking import Work, is_empty, slug_of
from ..records.documents import read_yaml
from ..records.errors import BudgetReachedError, ConfigError, HarnessError, ReplyError, first_error
from ..records.protocols import Backend, BulkBackend, Draw, Foreign, Preparing, ReadsPrompts, ServeOptions, load_plugin
from ..records.providers import api_key, belongs, providers
from ..records.settings import ServeSpec, checked
from ..store import JsonlRows, make_folder
from ..store.checkpoint import resolve
from ..store.weights import active_parameters
from .endpoint import EndpointBackend

IN_BULK = 512
"""Requests in flight to a backend that forms its own batches: as many rows as its largest batch has."""
FINAL = frozenset({"context"})
"""Failures that asking again cannot fix."""


class MemberSpec(Record):
    """One entry of `members:`."""

    model: str
    """Folder, hf:ORG/NAME[@REVISION] or endpoint:NAME@URL."""
    backend: str = "vllm"
    serve: ServeSpec = ServeSpec()
    key_env: str | None = None
    """Variable with the key of an endpoint. Without it no key is sent."""
    price_in: float | None = Field(default=None, ge=0)
    price_out: float | None = Field(default=None, ge=0)
    """US dollars per million tokens."""
    active_parameters: float | None = Field(default=None, gt=0)
    """Parameters used per token, e.g. 13e9. None: counted in the folder's weights, unknown for an endpoint."""

    def dollars(self, prompt_tokens: float, completion_tokens: float) -> float | None:
        """Return the list price of this many tokens, or None without prices."""
        if self.price_in is None or self.price_out is None:
            return None
        return (prompt_tokens * self.price_in + completion_tokens * self.price_out) / 1e6


class TeamSpec(Record):
    """A team's file."""

    members: dict[str, MemberSpec] = Field(min_length=1)
    aggregator: str | None = None
    """moa: the member that writes the answers, or a model that is none of the others, see `others`."""
    others: dict[str, MemberSpec] = Field(default={}, exclude_if=is_empty)
    """Models that answer no question themselves; an aggregator may be one."""
    layers: int = Field(default=2, ge=2)
    """moa: layers of answers, that of the aggregator included. 2: MoA-Lite of arXiv 2406.04692; its default is 3."""
    template: str | None = None
    """moa: the aggregator's instructions with `{answers}` once, or a text file of them. None: our own wording."""
    reward: dict[str, JsonValue] | None = None
    """best_of: as `reward:` of a recipe."""
    samples: int = Field(default=1, ge=1)
    """best_of: answers per member."""
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    """Of the members' answers, but not of the aggregator's. None: as the benchmark has them."""
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """US dollars that all members may cost, over all sessions with the same logs."""


def read_team(model: ModelRef, understood: Sequence[str]) -> TeamSpec:
    """Return the team in the file that a model names. Raise ConfigError for a key that its scheme has no use for."""
    path = Path(model.name).expanduser()
    spec = checked(TeamSpec, read_yaml(path), str(path))
    for key in sorted(spec.model_fields_set - {"members", "max_cost", *understood}):
        raise ConfigError(f"{path}: `{key}` has no meaning for {model.scheme}:; leave it out")
    unpriced = [name for name, member in (spec.members | spec.others).items() if member.dollars(0, 0) is None]
    if spec.max_cost is not None and unpriced:
        raise ConfigError(
            f"{path}: max_cost cannot be kept without the prices of {unpriced[0]!r}: give price_in and price_out, 0 "
            "for a model of your own"
        )
    return spec


class MemberRow(Record):
    """A line of a member's file: a request's digest, and the answer."""

    key: str
    answer: Answer

    @property
    def prompt_id(self) -> str:
        return self.answer.prompt_id

    @property
    def error(self) -> Failure | None:
        return self.answer.error


class PerplexityRow(Record):
    """A line of a member's file of perplexities."""

    prompt_id: str
    """Digest of the text: prompts of one text share a row."""
    value: float | None = None
    error: Failure | None = None

    @property
    def key(self) -> str:
        return self.prompt_id


class _Keyed(Protocol):
    @property
    def key(self) -> str: ...
    @property
    def error(self) -> Failure | None: ...


Kept = TypeVar("Kept", MemberRow, PerplexityRow)
Wanted = TypeVar("Wanted")


class Purse:
    """The money of one team. A call whose worst case does not fit waits for those in flight."""

    def __init__(self, limit: float | None) -> None:
        self.limit = limit
        self.spent = 0.0
        self._reserved = 0.0
        self._in_flight = 0
        self._ended = asyncio.Condition()

    @asynccontextmanager
    async def call(self, most: float) -> AsyncIterator[None]:
        """Reserve `most` US dollars during a call. Raise BudgetReachedError if it cannot fit any more."""
        if self.limit is None:
            yield
            return
        async with self._ended:
            # what a call cost is known only afterwards, so its worst case is reserved until then
            while self.spent + self._reserved + most > self.limit:
                if not self._in_flight:
                    raise BudgetReachedError(
                        f"stopped before crossing the team's max_cost {self.limit:g}: its members cost "
                        f"{self.spent:.4g} US dollars so far, and the next call up to {most:.2g}; nothing is lost: the "
                        "same command with a higher max_cost resumes"
                    )
                await self._ended.wait()
            self._reserved += most
            self._in_flight += 1
        try:
            yield
        finally:
            async with self._ended:
                self._reserved -= most
                self._in_flight -= 1
                self._ended.notify_all()


@dataclass
class Member:
    """One model of a team. Its file is opened by `open` and closed by `close`."""

    name: str
    spec: MemberSpec
    options: ServeOptions
    """Those of the ensemble; the member's own are in `spec.serve`."""
    purse: Purse
    backend: Backend = field(init=False)
    """For checks and the identity; each opening makes a new one."""
    parameters: float | None = field(init=False)
    _rows: JsonlRows[MemberRow] | None = None
    _perplexities: JsonlRows[PerplexityRow] | None = None

    def __post_init__(self) -> None:
        self.ref = ModelRef.parse(self.spec.model)
        self._check_key()
        self.backend = self._make()
        self.parameters = self.spec.active_parameters
        if self.parameters is None and self.ref.scheme in ("path", "hf"):
            self.parameters = active_parameters(resolve(self.ref))

    @property
    def is_remote(self) -> bool:
        return self.ref.scheme == "endpoint"

    def identity(self) -> dict[str, JsonValue]:
        return self.backend.identity()

    def _check_key(self) -> None:
        """Raise ConfigError if a provider's key would go to somebody else."""
        variable, url = self.spec.key_env, self.ref.url
        if variable is None:
            return
        if url is None:
            raise ConfigError(f"member {self.name!r}: key_env is for endpoint:NAME@URL, not for {self.spec.model!r}")
        # a team's file may come from someone else: a key that it names must not reach a host of its choice
        hosts = [host for provider in providers().values() if variable in provider.keys for host in provider.hosts]
        if hosts and not belongs(variable, url):
            raise ConfigError(
                f"member {self.name!r}: the key in {variable} is for {' or '.join(hosts)}, not for "
                f"{url!r}; put the key of that server into a variable of its own"
            )

    def _make(self) -> Backend:
        folder = self.options.log_dir / "members" / slug_of(self.name)
        options = ServeOptions(log_dir=folder, seed=self.options.seed, **self.spec.serve.model_dump())
        # endpoint:, moa: and route: name their own backend; `backend:` is how a folder is served
        name = self.ref.scheme if self.is_remote or self.ref.is_ensemble else self.spec.backend
        backend: Backend = load_plugin("backends", name)(self.ref, options)
        if isinstance(backend, EndpointBackend):
            backend.use_key(api_key(self.spec.key_env))
        return backend

    async def open(self) -> None:
        """Open the files of this member's earlier replies.

        Their name has a digest of the model, for a server of others of what it states too, so that the replies of
        another model under the same name are not taken for its own.
        """
        facts: list[JsonValue] = [self.identity(), self.options.seed]
        if isinstance(self.backend, Foreign):
            facts.append((await self.backend.presented()).metadata)
        folder = self.options.log_dir / "members" / slug_of(self.name)
        make_folder(folder)
        stem = digest(facts)[:16]
        self._rows = JsonlRows(folder / f"answers-{stem}.jsonl", MemberRow)
        self._rows.open()
        self._perplexities = JsonlRows(folder / f"perplexities-{stem}.jsonl", PerplexityRow)
        # max_cost covers all sessions, so what earlier ones paid counts
        for row in self._rows.every():
            self.purse.spent += self._dollars(row.answer) or 0.0

    def close(self) -> None:
        for rows in (self._rows, self._perplexities):
            if rows is not None:
                rows.close()

    async def ask(self, draws: Sequence[Draw]) -> list[Answer]:
        """Return the answer to each draw, from the file where it is known."""
        assert self._rows is not None, "open it first"
        rows = self._rows

        async def request(server: Backend, draw: Draw) -> MemberRow:
            async with self.purse.call(self._worst_case(draw)):
                # counted before the reservation ends: in between, a waiting call would see room that does not exist
                answer = _checked(await server.answer(draw.prompt, draw.sampling, draw.index), draw, self.spec.backend)
                self.purse.spent += self._dollars(answer) or 0.0
            return MemberRow(key=request_key(draw), answer=answer)

        by_key = {request_key(draw): draw for draw in draws}
        known = await self._complete(rows, by_key, request, draws)
        return [known[request_key(draw)].answer for draw in draws]

    async def perplexities(self, texts: Sequence[str]) -> list[float | None]:
        """Return the perplexity of each text, or None if the model cannot read it."""
        assert self._perplexities is not None, "open it first"
        if not isinstance(self.backend, ReadsPrompts):
            raise ConfigError(f"member {self.name!r}: backend {self.spec.backend!r} cannot tell how likely a prompt is")
        if not self._perplexities.is_open:
            self._perplexities.open()

        async def request(server: Backend, text: str) -> PerplexityRow:
            assert isinstance(server, ReadsPrompts)
            try:
                return PerplexityRow(prompt_id=digest(text), value=await server.perplexity(text))
            except ReplyError as error:
                return PerplexityRow(prompt_id=digest(text), error=Failure(reason=error.reason, message=str(error)))

        known = await self._complete(self._perplexities, {digest(text): text for text in texts}, request, ())
        return [known[digest(text)].value for text in texts]

    async def _complete(
        self,
        rows: JsonlRows[Kept],
        wanted: Mapping[str, Wanted],
        request: Callable[[Backend, Wanted], Awaitable[Kept]],
        draws: Sequence[Draw],
    ) -> dict[str, Kept]:
        """Return a row per key: the stored ones, and those that are requested now and stored as they arrive."""
        missing = [item for key, item in wanted.items() if not _is_done(rows.get(key))]
        if missing:
            (self.options.log_dir / "members" / slug_of(self.name)).mkdir(parents=True, exist_ok=True)
            async with self._make() as server:
                if isinstance(server, Preparing) and draws:
                    await server.prepare_draws([draw for draw in draws if not _is_done(rows.get(request_key(draw)))])
                size = IN_BULK if isinstance(server, BulkBackend) else self.spec.serve.concurrency
                # one iterator for all workers: each takes the next request when it is free, and none waits for a batch
                todo = iter(missing)

                async def work() -> None:
                    for item in todo:
                        rows.append(await request(server, item))

                await together(*(work() for _ in range(min(size, len(missing)))))
        result = {key: rows.get(key) for key in wanted}
        return {key: row for key, row in result.items() if row is not None}

    def work(self, answers: Sequence[Answer]) -> Work:
        """Return what these answers cost."""
        prompt_tokens = sum(sum(answer.prompt_tokens) for answer in answers)
        completion_tokens = sum(sum(answer.completion_tokens) for answer in answers)
        return Work(
            member=self.name,
            calls=sum(max(1, len(answer.turns)) for answer in answers),
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            dollars=self.spec.dollars(prompt_tokens, completion_tokens),
            parameter_tokens=None if not self.parameters else self.parameters * (prompt_tokens + completion_tokens),
        )

    def _dollars(self, answer: Answer) -> float | None:
        return self.spec.dollars(sum(answer.prompt_tokens), sum(answer.completion_tokens))

    def _worst_case(self, draw: Draw) -> float:
        """Return the most that a request can cost: a token per byte, and answers of the full length."""
        prompt, length = draw.prompt, draw.sampling.max_tokens + (self.spec.serve.reasoning_room or 0)
        size = sum(len(text.encode()) for text in (prompt.system or "", *prompt.turns, *prompt.answered))
        # each further turn sends the earlier answers again, so they count as prompt, too
        turns = len(prompt.turns) - len(prompt.answered)
        return self.spec.dollars(turns * (size + turns * length), turns * length) or 0.0


def request_key(draw: Draw) -> str:
    """Return the digest of everything that decides an answer besides the model."""
    # `n` is left out: it says how many draws there are, and more draws must not lose the stored ones
    facts = draw.prompt.model_dump(mode="json", include={"id", "system", "turns", "answered"})
    return digest([facts, draw.sampling.model_dump(mode="json", exclude={"n"}), draw.index])


def _is_done(row: _Keyed | None) -> bool:
    return row is not None and (row.error is None or row.error.reason in FINAL)


def _checked(answer: Answer, draw: Draw, backend: str) -> Answer:
    expected = len(draw.prompt.turns) - len(draw.prompt.answered)
    if answer.error is None and len(answer.turns) != expected:
        raise ConfigError(
            f"backend {backend!r} gave {len(answer.turns)} turns where {expected} were asked: it does not honour "
            "`Prompt.answered`, so it cannot be in a team for conversations of several turns"
        )
    return answer


async def together(*tasks: Awaitable[None]) -> None:
    """Await all of them at once. Raise the first HarnessError, after cancelling the others."""

    async def run(task: Awaitable[None]) -> None:
        await task

    try:
        async with asyncio.TaskGroup() as group:
            for task in tasks:
                group.create_task(run(task))
    except* HarnessError as errors:
        raise first_error(errors) from None


async def opened(members: Sequence[Member], stack: AsyncExitStack) -> None:
    """Open the members' files; the stack closes them."""
    for member in members:
        stack.callback(member.close)
        await member.open()


async def in_turn(members: Sequence[Member], work: Callable[[Member], Awaitable[None]]) -> None:
    """Do the work of each member: servers of others all at once, models of this machine one after another."""

    # two models of this machine at once would need the memory of both
    async def local() -> None:
        for member in members:
            if not member.is_remote:
                await work(member)

    await together(local(), *(work(member) for member in members if member.is_remote))
