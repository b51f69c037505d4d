"""Define what a plug-in implements, and load plug-ins: backends, suites, judges, rewards.

>>> sorted(installed("judges"))[:2]
['alpaca_eval', 'checks']

The pipeline and the recipes know no other types of them. Entry points are the only dynamic import: a new suite, backend
or judge is one file and one line in its package.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self, runtime_checkable

from pydantic import JsonValue

from .asking import Answer, Failure, Prompt, Sampling
from .errors import PluginError, did_you_mean
from .judging import JudgeSpec, JudgeTask, JudgeTemplate, Judgment
from .results import Judging, QuestionScores, ScoreCard, SuiteScores

if TYPE_CHECKING:
    from numpy import float64
    from numpy.typing import NDArray


@dataclass(frozen=True)
class ServeOptions:
    """How a checkpoint is served. Each backend uses the options it understands and rejects those it cannot honour."""

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
    reasoning: str = "auto"
    """vLLM's parser that separates reasoning from answers: `auto` (by the checkpoint), `off`, or its name."""
    reasoning_effort: str | None = None
    reasoning_room: int | None = None
    """Tokens for reasoning, besides the benchmark's own limit."""
    chat_template_kwargs: Mapping[str, JsonValue] | None = None
    """Variables of the chat template, sent with every request."""
    max_model_len: int | None = None
    engine_args: tuple[str, ...] = ()
    """Further server arguments, passed on unchanged."""
    allow_pickle: bool = False
    trust_remote_code: bool = False
    start_timeout: float = 1800.0
    """Seconds until the server must answer."""
    concurrency: int = 64
    """Requests in flight."""
    rpm: float | None = None
    """Most requests per minute; for a server that others run."""
    tpm: float | None = None
    """Most tokens per minute, prompts and answers together."""
    patience: float | None = None
    """Seconds that a server of others may stay down or load its model; None: the client's defaults."""
    timeout: float = 3600.0
    """Seconds one request may take."""
    seed: int = 0


class NothingToOpen:
    """Base of a backend or judge that starts nothing: `async with` only returns it."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None


class Backend(Protocol):
    """Serves one model and answers prompts for the duration of an `async with`.

    `fusion_harness.backends` entry points are called as `factory(ModelRef, ServeOptions) -> Backend`; checks that
    need no server (a missing chat template, pickled weights) raise CheckpointError there, before anything is written.
    """

    def identity(self) -> dict[str, JsonValue]:
        """Return backend, digests of weights and chat template, and engine arguments, before the server starts.

        It is part of the run's id: another identity is another run. A key `generation_config` has the checkpoint's own
        sampling defaults, if there are any.
        """
        ...

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        """Answer all turns of one prompt.

        A failed request becomes `Answer.error`. Raise ServerError if the server cannot be restarted.
        """
        ...


@dataclass(frozen=True)
class Presented:
    """What a server shows of the model behind a name."""

    metadata: dict[str, JsonValue]
    """What it states about the model and does not change while it serves it, e.g. `root` and `max_model_len`."""
    canary: dict[str, JsonValue] | None = None
    """Its greedy answer to one short fixed prompt: `text`, and `logprobs` where offered. None: it gave none."""


@runtime_checkable
class Foreign(Protocol):
    """A backend whose server somebody else runs, so that another model may come to stand behind its name."""

    async def presented(self) -> Presented:
        """Ask the server, outside `async with`, at the cost of one short answer.

        Raise ConfigError if it does not have the model, ServerError if there is no server.
        """
        ...


@dataclass(frozen=True)
class Draw:
    """A request for one answer."""

    prompt: Prompt
    sampling: Sampling
    index: int = 0
    """Which of `sampling.n` draws."""


@runtime_checkable
class BulkBackend(Protocol):
    """A backend that is faster if it gets all draws at once."""

    def answer_many(self, draws: Sequence[Draw]) -> AsyncIterator[Answer]:
        """Yield one answer per draw, in any order, as `Backend.answer` returns them."""
        ...


@runtime_checkable
class GroupBackend(Protocol):
    """A backend that is faster if it gets all draws of a prompt in one request."""

    async def answer_group(self, prompt: Prompt, sampling: Sampling, indices: Sequence[int]) -> list[Answer]:
        """Return one answer per index, drawn without a seed."""
        ...


@runtime_checkable
class Preparing(Protocol):
    """A backend that has to know all draws before it answers the first one, e.g. to load one model after another."""

    async def prepare_draws(self, draws: Sequence[Draw]) -> None:
        """Do what these draws need, inside `async with`. `answer` works for other draws too, but slower."""
        ...


@runtime_checkable
class InParts(Protocol):
    """A backend whose model may consist of several folders, as an adapter and its base."""

    def parts(self) -> dict[str, JsonValue]:
        """Return the digest of each part's weights by its role, or nothing for a model of one folder."""
        ...


@runtime_checkable
class Starting(Protocol):
    """A backend that starts a server."""

    def started(self) -> float | None:
        """Return the seconds that its server took to start: 0 if it was running already, None if none was needed."""
        ...


@runtime_checkable
class Placed(Protocol):
    """A backend whose server runs on GPUs that can be chosen."""

    def place(self, devices: str) -> None:
        """Serve on these GPUs, as in CUDA_VISIBLE_DEVICES. Only before the server starts."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """A backend that can tell how likely a text is to its model."""

    async def perplexity(self, text: str) -> float:
        """Return exp of the mean negative log-probability per token of the text, without a chat template.

        Raise ReplyError if the server gives no log-probabilities.
        """
        ...


class Suite(Protocol):
    """A benchmark: its prompts, the judge's tasks about an answer, and the scores from the verdicts.

    `fusion_harness.suites` entry points are called as `factory(SuiteOptions) -> Suite`.
    """

    name: str
    version: str
    headline: str

    def protocol(self) -> dict[str, JsonValue]:
        """Return the suite's part of the card's protocol: data digests, reference set, baseline, answer settings."""
        ...

    def prompts(self) -> Sequence[Prompt]: ...

    def sampling(self, prompt: Prompt) -> Sampling:
        """Return the benchmark's own answer settings for this prompt."""
        ...

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return the judge's tasks about this answer. Pure: the same answer gives the same tasks."""
        ...

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return the scores. Pure. `prompts` are those that were asked; those without a judgment are unscored.

        A slot (prompt, draw, turn, order) may have several judgments, from repeats and a jury's members, which count as
        their mean (`scoring.verdicts_by_slot`).
        """
        ...


@runtime_checkable
class TakesBaseline(Protocol):
    """A suite whose answers are compared with a baseline's, which finished rows may have replaced by another's."""

    def against(self, answers: Mapping[str, Answer]) -> Self:
        """Return the suite with these answers, by prompt id, as the baseline's; itself if it has the same ones."""
        ...


@runtime_checkable
class Definable(Protocol):
    """A suite whose content comes from the user, so that each run's folder keeps it (`SuiteOptions.definition`)."""

    def definition(self) -> dict[str, JsonValue]: ...


class Judge(Protocol):
    """Turns a task into a judgment.

    `fusion_harness.judges` entry points are called as `factory(JudgeSpec) -> Judge`.
    """

    spec: JudgeSpec

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def judge(self, task: JudgeTask) -> Judgment:
        """Judge one task.

        An unreadable reply becomes `Judgment.error`. Raise JudgeUnavailableError if the endpoint stays down.
        """
        ...


@runtime_checkable
class Identified(Protocol):
    """A judge whose verdicts depend on more than its spec."""

    def identity(self) -> dict[str, JsonValue]:
        """Return digests and settings for the card's protocol, before anything starts, without local paths."""
        ...


@runtime_checkable
class Checking(Protocol):
    """A judge that cannot take every kind of task."""

    def check(self, task: JudgeTask) -> None:
        """Raise ConfigError if the judge cannot handle the task, before the run asks anything."""
        ...


@runtime_checkable
class LoadedJudge(Protocol):
    """A judge whose model is loaded on this machine. Its class sets `local = True`."""

    beside: bool
    """Whether it has devices of its own, so that it runs while the candidate is served. If not, it is entered after all
    answers exist and the candidate's server has stopped."""

    def logs_to(self, folder: Path) -> None:
        """Set the folder for its server's log; called before it is entered."""
        ...


@dataclass(frozen=True)
class Served:
    """A model that is being served now, for a suite that asks it in its own way."""

    name: str
    """Its name in requests."""
    url: str
    """OpenAI-compatible base URL, ending in /v1."""
    key: str | None = None
    """API key, for requests only."""
    tokenizer: Path | None = None
    """Folder of the tokenizer; None if only the server has it."""
    max_model_len: int | None = None
    """Tokens, prompt and answer together; None: unknown."""
    concurrency: int = 64
    """Requests in flight."""


@runtime_checkable
class Serving(Protocol):
    """A backend that other clients can also ask while it serves."""

    def served(self) -> Served: ...

    async def revive(self) -> bool:
        """Return True if the server had died and serves again, maybe at another address, or False if it is healthy.

        Raise ServerError if it cannot be restarted.
        """
        ...


@dataclass(frozen=True)
class OwnRun:
    """This run's settings for a suite that runs by itself."""

    work_dir: Path
    """Existing folder for its log and raw output."""
    limit: int | None = None
    """Most prompts to ask."""
    seed: int = 0
    sampling: Mapping[str, JsonValue] = field(default_factory=dict)
    """Answer settings that replace the suite's own: temperature, top_p, max_tokens."""


@dataclass(frozen=True)
class Numbers:
    """One model's results on one suite from any source, without the model's name and the results' origin."""

    suite: str
    suite_version: str
    judge: str
    headline: str
    scores: SuiteScores
    protocol: dict[str, JsonValue]
    counts: dict[str, JsonValue]
    judging: Judging | None = None
    model: str | None = None
    """The model's name in the source; None: the source has none."""
    higher_is_better: Mapping[str, bool | None] = field(default_factory=dict)
    """As on the card: only metrics of which less is better (False), or of which that is unknown (None)."""
    questions: tuple[QuestionScores, ...] = ()
    """Each question's own values, if the source has them."""


@runtime_checkable
class OwnRunner(Protocol):
    """A benchmark that asks and scores by itself: it needs a served model, but neither judge nor pipeline.

    A `fusion_harness.suites` entry point with `judged = False`, called as `factory(SuiteOptions)` like any suite.
    """

    name: str
    version: str

    def protocol(self) -> dict[str, JsonValue]:
        """Return what is known before it runs; it decides which run is resumed."""
        ...

    async def run(self, server: Served, settings: OwnRun) -> Numbers:
        """Run the benchmark and return its results. Raise IncompleteError if it fails."""
        ...


@dataclass(frozen=True)
class SuiteOptions:
    """The command line's options for a suite's data."""

    edition: str = "official"
    references: str = "official"
    """Reference answers for the judge: a name of the suite's `Facts.references`, or a file."""
    cache_dir: Path | None = None
    """Folder of `harness data`; None: the default cache."""
    mirror: str | None = None
    """Folder or URL that is tried before upstream; None: `HARNESS_MIRROR`, then upstream."""
    generation_config: Mapping[str, JsonValue] = field(default_factory=dict)
    """The checkpoint's own sampling defaults, for a suite that prescribes none."""
    argument: str = ""
    """The text after `NAME:` on the command line, e.g. the name of a task."""
    definition: JsonValue = None
    """Of a `Definable` suite: its definition in the folder of a run; None: there is none."""


@dataclass(frozen=True)
class SuiteData:
    """A suite's contents in one edition. Official data come from pinned files, pocket data from the package."""

    version: str
    """`official-1` or `pocket-1`."""
    prompts: tuple[Prompt, ...]
    templates: dict[str, JudgeTemplate]
    baseline_name: str | None = None
    baseline: dict[str, Answer] = field(default_factory=dict)
    """Prompt id -> the baseline's answer."""
    difficulty: dict[str, float] = field(default_factory=dict)
    """For length control: prompt id -> instruction difficulty, logit scale (about -3..6)."""
    gamed: tuple[tuple[float, float, float], ...] = ()
    """For length control: regularisation rows (preference 0..1, standardised length difference, difficulty)."""
    files: dict[str, str] = field(default_factory=dict)
    """File name -> sha256 of every file with the data."""


@dataclass(frozen=True)
class RunRows:
    """One run as stored in its folder; without rows if only its card exists."""

    name: str
    """Its name in tables."""
    card: ScoreCard
    answers: tuple[Answer, ...] = ()
    judgments: tuple[Judgment, ...] = ()
    questions: tuple[QuestionScores, ...] = ()
    """Of a benchmark that scored by itself."""
    audit: tuple[Judgment, ...] | None = None
    """An expensive judge's judgments of some questions; None if there was no audit."""


@dataclass(frozen=True)
class Refits:
    """A statistic that is fitted, not summed: its value for two models, and replicates drawn with shared questions."""

    metric: str
    values: tuple[float, float]
    """First, other; on the questions that both have."""
    replicates: tuple[NDArray[float64], NDArray[float64]]
    """Each of shape (refits,)."""
    n: int
    """Questions."""


@runtime_checkable
class RefitsPairs(Protocol):
    """A suite whose headline is fitted to all questions together, such as a length-controlled win rate."""

    def paired_refits(self, prompts: Sequence[Prompt], first: RunRows, other: RunRows) -> Refits | None:
        """Return the statistic of both runs, or None if one of them cannot be fitted."""
        ...


@dataclass(frozen=True)
class RewardOptions:
    """The settings in a recipe's `reward:`, as plain data, so that a reward can be made in another process.

    Each kind uses the settings it understands and rejects those it cannot honour.
    """

    kind: str
    model: str | None = None
    """Depends on the kind: a folder or hf:ORG/NAME@REVISION, a function, a judge's name."""
    url: str | None = None
    """Base URL of a server that is already running."""
    key_env: str | None = None
    """Environment variable with its API key."""
    batch_size: int = 8
    """Answers scored at once."""
    serve: Mapping[str, JsonValue] = field(default_factory=dict)
    """Options of a model loaded or served here, as `serve:` of harness.yaml has them."""
    params: Mapping[str, JsonValue] = field(default_factory=dict)
    """The kind's own settings."""
    log_dir: Path | None = None
    """Existing folder for the log of a server that the reward starts."""


class Reward(Protocol):
    """Scores completions, the higher the better: the signature TRL's trainers use for reward functions.

    `fusion_harness.rewards` entry points are called as `factory(RewardOptions) -> Reward`. Prompts and completions are
    strings, or messages if the reward sets `conversational = True`; `columns` has the data set's other fields and
    `prompt_id`, with one text per prompt. A Failure in place of a number ("context": the answer would have to be cut)
    means that the answer has no reward. None, NaN and infinities stop the recipe.

    A reward that loads something is also a context manager, entered before it is called. An `Identified` reward states
    what its numbers depend on; if it also sets `cacheable = True`, they are cached under that identity.
    """

    def __call__(
        self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[str]
    ) -> Sequence[float | Failure | None]: ...


Group = Literal["backends", "suites", "facts", "judges", "judge_configs", "rewards", "checks", "commands"]


def installed(group: Group) -> dict[str, EntryPoint]:
    """Return name -> entry point of `fusion_harness.<group>`, sorted by name, without importing any."""
    points = _selection(_package_folders())(group=f"fusion_harness.{group}")
    return {point.name: point for point in sorted(points, key=lambda point: point.name)}


def _package_folders() -> tuple[tuple[str, int], ...]:
    """Return the folders that Python imports from, each with the time of its last change in nanoseconds."""
    folders = (os.path.realpath(name) for name in sys.path)
    return tuple((folder, os.stat(folder).st_mtime_ns) for folder in folders if os.path.isdir(folder))


@lru_cache(maxsize=1)  # it reads a file of every installed package, and a run asks for plugins 30 times
def _selection(folders: tuple[tuple[str, int], ...]) -> Callable[..., Iterable[EntryPoint]]:
    """Return the `select` of all entry points. Installing a package changes `folders`, and so they are read again."""
    return entry_points().select


def load_plugin(group: Group, name: str) -> Any:
    """Import and return the named plugin. Raise PluginError for an unknown name; import errors propagate."""
    known = installed(group)
    if name not in known:
        near = did_you_mean(name, known)
        raise PluginError(f"no {group[:-1]} named {name!r}; installed: {', '.join(known) or 'none'}{near}")
    return known[name].load()
