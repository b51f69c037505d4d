"""State what the product knows about one benchmark, as data: the `Facts` record that each suite's folder has.

Leaderboard, compare, gate, viewer, import, export, planning and `harness data` read it, so that a suite of a
third-party package is treated like ours. A package names its record under `fusion_harness.facts`:

>>> from harness import Facts, Metric, QuestionRule
>>> facts = Facts("shout", headline="mean_rating", metrics=(Metric("mean_rating", "points"), Metric("loud", "percent")),
...               columns=("loud",), rules=(QuestionRule("mean_rating", 1.0),))
>>> facts.metric("loud").unit
'percent'

A module of facts is imported to print a help text: it must import nothing heavy. Functions are therefore named as
"module:function" and imported on use.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote

from .errors import PluginError
from .protocols import installed, load_plugin

if TYPE_CHECKING:
    from .results import ScoreCard

Unit = Literal["points", "percent", "share", "characters", "tokens", "count"]
Tier = Literal["critical", "supporting", "advisory"]
"""critical: must be shown safe; supporting: must not be shown worse; advisory: reported, decides nothing."""


@dataclass(frozen=True)
class Metric:
    """One number of a suite's cards."""

    name: str
    unit: Unit = "percent"
    title: str = ""
    """For readers; empty: the name."""
    higher_is_better: bool | None = True
    """None: neither, as for a length."""
    slope: float | None = None
    """Points by which this metric moves, from model to model, when AlpacaEval's length-controlled win rate moves by
    one: the unit in which the gate pools benchmarks. None: unknown."""

    @property
    def decimals(self) -> int:
        """Return how many decimals tables show: none for counts and lengths, four for shares of 1."""
        return {"points": 2, "percent": 2, "share": 4}.get(self.unit, 0)


@dataclass(frozen=True)
class QuestionRule:
    """How a metric is computed from verdicts, as a ratio of sums over questions."""

    metric: str
    scale: float
    """100 for rates, 1 for ratings."""
    turn: int | None = None
    """Only verdicts on this turn count."""
    ordered: bool = True
    """False: both presentation orders are one slot, for questions with a single game."""
    whole_pairs: bool = False
    """Leave out an answer that has a verdict in only one order."""
    category: str | None = None
    """Only this category's questions count."""
    weighted: bool = True
    """False: a strong preference counts once, like any other."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest value of one verdict, before scaling; None: as the verdicts state, 0 and 1 for preferences."""


@dataclass(frozen=True)
class DefaultCheck:
    """A check of the gate that applies if the policy names none."""

    margin: float
    """The largest tolerated drop, in the metric's unit, above 0."""
    metric: str | None = None
    """None: the headline."""
    tier: Tier = "critical"


@dataclass(frozen=True)
class FileFormat:
    """Files in which another tool stores answers, judgments or results of this benchmark. Suites may share a format.

    Each function is "module:function", or nothing if the product cannot do that with these files.
    """

    name: str
    score: str = ""
    """`(files, ScoreOptions) -> list[ScoreCard]`: score the judgments of every model in the files."""
    score_flags: Mapping[str, str] = field(default_factory=dict)
    """The flags of `harness score` that not every format reads: field of `ScoreOptions` -> help, for those it reads."""
    read: str = ""
    """`(files, ImportRequest) -> Imported`: read the rows of one model."""
    judged: str = ""
    """`(files) -> set[str]`: the models with verdicts of this suite; tells suites of one file format apart."""
    numbers: str = ""
    """`(paths) -> list[Numbers]`: read results that have no rows."""
    export: str = ""
    """`(FinishedRun) -> dict[str, str]`: return path below the output folder -> text."""
    names: str = ""
    """`(row) -> str`: what a row of these files is, in the plural; empty if it is not of this format."""
    needs: str = ""
    """The keys by which `names` knows a judgment, for the error about a file without one."""
    first_draw_only: bool = False
    """The files have room for one answer per prompt."""


@dataclass(frozen=True)
class RecordedJudgments:
    """Judgments by people or a retired judge, which `harness judge calibrate` replays."""

    name: str
    """For `--suite`, and the folder's name under the data folder."""
    load: str
    """`(DataFolder, SuiteOptions) -> CalibrationSet`, as "module:function"."""
    published: bool = True
    """False: the user's own comparisons, which have no retired judge and must be named."""


@dataclass(frozen=True)
class OfficialFile:
    """One upstream file at one revision."""

    name: str
    """`SUITE/FILE`, the name for `ensure`."""
    suite: str
    path: str
    """Path under the cache's `data` folder and under a mirror: owner/repository/revision/path."""
    sha256: str | None
    """None: not known in advance. The file is then never fetched from a network; the sha256 of the first copy from a
    folder is recorded beside it and required later."""
    size: int | None
    """Bytes; None if sha256 is None, or if only the hash is known."""
    licence: str
    source: str | None = None
    """Upstream address, if it is not `path` on raw.githubusercontent.com."""
    optional: bool = False
    """Whether only features that need this file by name fail without it."""

    @property
    def url(self) -> str:
        return self.source or f"https://raw.githubusercontent.com/{quote(self.path)}"


@dataclass(frozen=True)
class Facts:
    """One benchmark. Only name and headline are required; the defaults suit a suite that the product knows nothing of.

    Raise ValueError if a part names a metric that `metrics` lacks, or if the headline is not one to be raised.
    """

    name: str
    """The suite's name, as in `fusion_harness.suites`."""
    headline: str
    title: str = ""
    """The benchmark's name for readers; empty: the name."""
    metrics: tuple[Metric, ...] = ()
    columns: tuple[str, ...] = ()
    """Secondary metrics that a leaderboard shows; CSV and JSON contain all."""
    rules: tuple[QuestionRule, ...] = ()
    """The metrics that are ratios over questions, the main one first; empty: the headline, a mean or a rate."""
    rules_by_headline: Mapping[str, tuple[QuestionRule, ...]] = field(default_factory=dict)
    """The same, of a suite whose runs may have different headlines."""
    neutral: float | None = 50.0
    """A question's score at which neither side is better; None: answers are rated one by one."""
    gate: tuple[DefaultCheck, ...] = ()
    order: int | None = None
    """Position in `--suite all`; None: only by name."""
    decontaminates: bool = False
    """Whether recipes remove its questions from their prompts by default."""
    questions: int | None = None
    """Number of questions of the official edition, so that a plan downloads nothing; None: build the suite."""
    turns: int = 1
    """Turns per question."""
    judge_calls: int = 1
    """Judge calls per question."""
    judge_tokens: tuple[int, int] | None = None
    """Tokens sent and received to judge one model, as a dry run without a token table counts them: 4 characters each,
    400 per verdict in words. So a price needs no data. Those of a judge's reasoning come on top."""
    official_judges: tuple[str, ...] = ()
    """Models that made the published numbers."""
    recorded: tuple[RecordedJudgments, ...] = ()
    calibrated_by: str | None = None
    """The suite whose recorded judgments use the same judge prompts; None: its own."""
    unit: Unit | None = None
    """Of metrics that `metrics` does not list; None: by their names, else points."""
    formats: tuple[FileFormat, ...] = ()
    files: tuple[OfficialFile, ...] = ()
    references: tuple[str, ...] = ()
    """Names of its sets of reference answers, for `--references`."""
    argument: str = ""
    """What `NAME:ARGUMENT` takes, for suggested commands."""
    by_argument: bool = False
    """Whether each argument is a suite of its own, so that one run may have several. The run's folder then has all that
    rebuilds it (`protocols.Definable`)."""
    aliases: tuple[str, ...] = ()
    """Names for NAME in `NAME:ARGUMENT`."""
    suffixes: tuple[str, ...] = ()
    """Ends of files that may be named as the suite without `NAME:`."""
    judge_of: str = ""
    """`(argument) -> str | None` as "module:function": the only judge that can judge the suite; None: any."""
    pairing: str = ""
    """How to get per-question scores of a benchmark that scores by itself, for runs that lack them."""
    build_for_rows: str = ""
    """`(SuiteOptions) -> Suite` as "module:function": a suite that scores finished rows but has no judge tasks, if its
    rows do not say what the judge was asked; empty: the suite itself."""

    def __post_init__(self) -> None:
        metric_names = {metric.name for metric in self.metrics} or {self.headline}
        rules = (*self.rules, *(rule for rules in self.rules_by_headline.values() for rule in rules))
        named = {self.headline, *self.columns, *self.rules_by_headline, *(rule.metric for rule in rules)}
        named |= {check.metric for check in self.gate if check.metric is not None}
        # a misspelt metric would silently lose its column, rule or check
        if named - metric_names:
            raise ValueError(
                f"facts of {self.name!r} name metrics that are not in `metrics`: {sorted(named - metric_names)}"
            )
        # tables and gates rank by the headline and take more for better without asking
        if not self.metric(self.headline).higher_is_better:
            raise ValueError(f"facts of {self.name!r}: more must be better of the headline, {self.headline!r}")

    @property
    def all_judge_calls(self) -> int | None:
        """Return the calls that judge one model on the official edition, or None if its size is not stated."""
        return None if self.questions is None else self.questions * self.judge_calls

    def metric(self, name: str) -> Metric:
        """Return the metric. If the record lacks it, its unit is `unit`, or else follows from its name."""
        return next((metric for metric in self.metrics if metric.name == name), Metric(name, self.unit or _unit(name)))

    def length_of(self, scores: Collection[str]) -> Metric | None:
        """Return the metric among these that is the length of an answer."""
        metrics = map(self.metric, scores)
        return next((metric for metric in metrics if metric.unit in ("characters", "tokens")), None)

    def rules_of(self, headline: str) -> tuple[QuestionRule, ...]:
        """Return the rules of a run with this headline."""
        return self.rules_by_headline.get(headline, self.rules)

    @property
    def counted(self) -> str:
        """Return what a score's `n` counts, if not questions: `games, 2 per question`; empty if unknown, too."""
        if self.questions is None or self.judge_calls == 1:
            return ""
        # of two orders of a turn MT-Bench makes one result, Arena-Hard two
        return f"turns, {self.turns} per question" if self.turns > 1 else f"games, {self.judge_calls} per question"

    def format(self, name: str) -> FileFormat | None:
        return next((file_format for file_format in self.formats if file_format.name == name), None)


def _unit(name: str) -> Unit:
    if name.startswith("avg_"):
        return "tokens" if name.endswith("tokens") else "characters"
    return "count" if name.startswith("n_") else "points"


@cache
def all_facts() -> tuple[Facts, ...]:
    """Return the facts of every installed suite that states some: those of `--suite all` in order, then by name.

    Raise PluginError if a package's facts are not a `Facts` of that suite.
    """
    # cached: help texts and tables ask often, and entry points do not change while a process runs
    stated = [_load(name) for name in installed("facts")]
    return tuple(sorted(stated, key=lambda facts: (facts.order is None, facts.order or 0, facts.name)))


def facts_of(suite: str) -> Facts:
    """Return the facts of `NAME` or `NAME:ARGUMENT`. A suite without facts gets defaults without a headline."""
    # `NAME:ARGUMENT` is one of many suites that share the facts of NAME
    name = suite.partition(":")[0]
    return next((facts for facts in all_facts() if facts.name == name), Facts(name, headline=""))


def higher_is_better(card: ScoreCard, metric: str) -> bool | None:
    """Return whether more of a card's metric is better, or None if neither is or nobody states it.

    The card's own statement comes first, because facts cannot list the metrics of every task.
    """
    if metric in card.higher_is_better:
        return card.higher_is_better[metric]
    return facts_of(card.suite).metric(metric).higher_is_better


def suites_of_all() -> tuple[str, ...]:
    """Return the suites that `--suite all` runs, in order."""
    return tuple(facts.name for facts in all_facts() if facts.order is not None)


def reference_sets() -> tuple[str, ...]:
    """Return the names of all suites' sets of reference answers."""
    return tuple(dict.fromkeys(name for facts in all_facts() for name in facts.references))


def load_function(path: str) -> Callable[..., Any]:
    """Import and return the function of "module:function". Raise PluginError if there is none."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] | None = getattr(import_module(module), name, None)
    if function is None:
        raise PluginError(f"facts name {path!r}, but {module} has no {name!r}")
    return function


def _load(name: str) -> Facts:
    try:
        facts = load_plugin("facts", name)
    except ValueError as error:
        raise PluginError(f"entry point {name!r} in fusion_harness.facts: {error}") from None
    # a record under another suite's name would describe the wrong benchmark
    if not isinstance(facts, Facts) or facts.name != name:
        raise PluginError(f"entry point {name!r} in fusion_harness.facts is not the Facts of suite {name!r}: {facts!r}")
    return facts
