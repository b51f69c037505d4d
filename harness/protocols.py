"""What a backend, a suite and a judge must do: the only types the pipeline knows of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, Self, runtime_checkable

from pydantic import JsonValue

from .records import (
    Answer,
    JudgeSpec,
    JudgeTask,
    JudgeTemplate,
    Judging,
    Judgment,
    Prompt,
    Sampling,
    SuiteScores,
)


@dataclass(frozen=True)
class ServeOptions:
    """How a checkpoint is served; each backend uses what it understands and refuses what it cannot honour."""

    log_dir: Path
    """Existing folder for the server's log."""
    chat_template: str | None = None
    """`FILE.jinja` or `fastchat:NAME`, for a checkpoint without a template of its own."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    data_parallel: int = 1
    devices: str | None = None
    """Numbers of the GPUs it may use, e.g. `2,3`; None: all."""
    dtype: str | None = None
    quantization: str | None = None
    reasoning_parser: str | None = None
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    """Any further server arguments, passed on as they are."""
    allow_pickle: bool = False
    trust_remote_code: bool = False
    start_timeout: float = 1800.0
    """Seconds until the server must answer."""
    concurrency: int = 64
    """Requests in flight."""
    rpm: float | None = None
    """Requests a minute, at most; for a server that others run."""
    tpm: float | None = None
    """Tokens a minute, prompts and answers together, at most."""
    timeout: float = 3600.0
    """Seconds one request may take."""
    seed: int = 0


class Backend(Protocol):
    """Serves one model for the time of an `async with`, and answers prompts meanwhile.

    `fusion_harness.backends` entry points are called as `factory(ModelRef, ServeOptions) -> Backend`; checks that
    need no server (a missing chat template, pickled weights) raise CheckpointError there, before anything is written.
    """

    def identity(self) -> dict[str, JsonValue]:
        """What is served, known before the server starts: backend, weights, chat_template digests, engine arguments.

        Goes into the run's id: another identity is another run. A key `generation_config` holds the checkpoint's own
        sampling defaults, if it has any.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        """All turns of one prompt. A request that fails becomes `Answer.error`; a server that cannot be brought
        back raises ServerError."""
        ...


@dataclass(frozen=True)
class Draw:
    """One answer that is wanted."""

    prompt: Prompt
    sampling: Sampling
    index: int = 0
    """Which of `sampling.n` draws."""


@runtime_checkable
class BulkBackend(Protocol):
    """A backend that is faster when it is given everything at once."""

    def answer_many(self, draws: Sequence[Draw]) -> AsyncIterator[Answer]:
        """One answer a draw, in any order, as `Backend.answer` gives them."""
        ...


class Suite(Protocol):
    """A benchmark: what is asked, what the judge is asked about an answer, and what the verdicts come to.

    `fusion_harness.suites` entry points are called as `factory(SuiteOptions) -> Suite`.
    """

    name: str
    version: str
    headline: str

    def protocol(self) -> dict[str, JsonValue]:
        """The suite's part of the card's protocol: data digests, reference set, baseline, answer settings."""
        ...

    def prompts(self) -> Sequence[Prompt]: ...

    def sampling(self, prompt: Prompt) -> Sampling:
        """The benchmark's own answer settings for this prompt."""
        ...

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """What the judge is asked about this answer. Pure: the same answer gives the same tasks."""
        ...

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Pure. `prompts` are those that were asked; what has no judgment among them is unscored.

        A slot (prompt, draw, turn, order) may have several judgments, of repeats and of a jury's members: they count as
        their mean (`scoring.verdicts_by_slot`).
        """
        ...


class Judge(Protocol):
    """Turns a task into a judgment.

    `fusion_harness.judges` entry points are called as `factory(JudgeSpec) -> Judge`.
    """

    spec: JudgeSpec

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def judge(self, task: JudgeTask) -> Judgment:
        """A reply that cannot be read becomes `Judgment.error`; an endpoint that stays down raises
        JudgeUnavailableError."""
        ...


@runtime_checkable
class Identified(Protocol):
    """A judge whose verdicts depend on more than its spec says."""

    def identity(self) -> dict[str, JsonValue]:
        """For the card's protocol, known before anything starts: digests and settings, no places of this machine."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A judge that cannot take every kind of task."""

    def check(self, task: JudgeTask) -> None:
        """Raises ConfigError, before the run asks anything."""
        ...


@runtime_checkable
class LoadedJudge(Protocol):
    """A judge whose model is loaded on this machine. Its class says `local = True`."""

    beside: bool
    """Whether it has devices of its own, so that it runs while the candidate is served. Else it is entered when all
    answers exist and the candidate's server is gone."""

    def logs_to(self, folder: Path) -> None:
        """Where its server may write; called before it is entered."""
        ...


@dataclass(frozen=True)
class Served:
    """A model that answers now, for a suite that asks it in its own way."""

    name: str
    """What requests call it."""
    url: str
    """OpenAI-compatible, ending in /v1."""
    key: str | None = None
    """API key, for requests only."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; None where the server alone has it."""
    max_model_len: int | None = None
    """Tokens, prompt and answer together; None: unknown."""
    concurrency: int = 64
    """Requests in flight."""


@runtime_checkable
class Serving(Protocol):
    """A backend that others can ask as well, while it serves."""

    def served(self) -> Served: ...

    async def revive(self) -> bool:
        """True where the server had died and serves again, maybe elsewhere; False where it is well.

        Raises ServerError where it cannot be brought back.
        """
        ...


@dataclass(frozen=True)
class OwnRun:
    """What a suite that runs by itself is told of this run."""

    work_dir: Path
    """Existing folder for its log and raw output."""
    limit: int | None = None
    """At most so many prompts."""
    seed: int = 0
    sampling: Mapping[str, JsonValue] = field(default_factory=dict)
    """Answer settings that replace the suite's own: temperature, top_p, max_tokens."""


@dataclass(frozen=True)
class Numbers:
    """One model's results on one suite, whatever they were made from; model and origin are said elsewhere."""

    suite: str
    suite_version: str
    judge: str
    headline: str
    scores: SuiteScores
    protocol: dict[str, JsonValue]
    counts: dict[str, JsonValue]
    judging: Judging | None = None


@runtime_checkable
class OwnRunner(Protocol):
    """A benchmark that asks and scores by itself: it needs a served model, and neither judge nor pipeline.

    A `fusion_harness.suites` entry point with `judged = False`, called as `factory(SuiteOptions)` like any suite.
    """

    name: str
    version: str

    def protocol(self) -> dict[str, JsonValue]:
        """What is known before it runs; decides which run is resumed."""
        ...

    async def run(self, server: Served, settings: OwnRun) -> Numbers:
        """Raises IncompleteError where it fails."""
        ...


@dataclass(frozen=True)
class SuiteOptions:
    """What the command line says about a suite's data."""

    edition: str = "official"
    references: str = "official"
    """MT-Bench's reference answers: official, pr3158, or a file."""
    cache_dir: Path | None = None
    """Where `harness data` keeps files; None: the default cache."""
    mirror: str | None = None
    """Folder or URL that is tried before upstream; None: `HARNESS_MIRROR`, then upstream."""
    generation_config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The checkpoint's own sampling defaults, for a suite that prescribes none (AlpacaEval)."""
    argument: str = ""
    """What follows `NAME:` on the command line, e.g. lm-eval's task."""


@dataclass(frozen=True)
class SuiteData:
    """A suite's contents in one edition. Official data come from pinned files, pocket data from the package."""

    version: str
    """`official-1` or `pocket-1`."""
    prompts: tuple[Prompt, ...]
    templates: dict[str, JudgeTemplate]
    baseline_name: str | None = None
    baseline: dict[str, Answer] = field(default_factory=dict)
    """The baseline's answer by prompt id."""
    difficulty: dict[str, float] = field(default_factory=dict)
    """AlpacaEval only: instruction difficulty by prompt id, logit scale (about -3..6)."""
    gamed: tuple[tuple[float, float, float], ...] = ()
    """AlpacaEval only: regularisation rows (preference 0..1, standardised length difference, difficulty)."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of every file the data came from."""
