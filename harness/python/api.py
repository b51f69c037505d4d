"""Evaluate, read, compare, rank and gate from Python, as the commands of the same names do.

>>> import harness
>>> harness.run("./ckpt", "mt_bench", judge="gpt-4.1", limits=20)
Traceback (most recent call last):
harness.records.errors.ConfigError: run() has no setting 'limits'; settings are the keys of harness.yaml

Nothing is printed; a notebook shows the results as tables. Errors are `harness.HarnessError`s, never an exit.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ..analysis.comparison import Comparison, Population
from ..analysis.finished_runs import PairOptions, compare_models, find_runs, run_rows
from ..analysis.gate.evidence import GateOptions, gate_runs, read_policy
from ..analysis.gate.policy import CheckResult, GatePolicy, GateReport
from ..analysis.leaderboard import Table
from ..analysis.read_board import Board, BoardOptions, read_board
from ..pages.comparison_text import markdown as comparison_markdown
from ..pages.gate_text import gate_markdown
from ..pages.progress import progress
from ..pages.tables import card_markdown
from ..pages.tables import markdown as board_markdown
from ..pages.text import notebook_html
from ..records import Answer, Judgment, ScoreCard
from ..records.errors import ConfigError
from ..records.settings import FileSpec, checked
from ..running.baselines import ask
from ..running.estimate import estimate, totals_of
from ..running.execute import execute, opened
from ..running.pipeline import Progress, rare_collections
from ..running.plan import plan
from ..running.resolve import overlaid, resolve
from ..store.trusted import read_config

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

Row = TypeVar("Row")
T = TypeVar("T")
ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True)
class Shown(Sequence[Row], Generic[Row], ABC):
    """An immutable sequence of records that a notebook shows as tables."""

    rows: tuple[Row, ...]

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    @abstractmethod
    def markdown(self) -> str:
        """Return the tables as Markdown."""

    def _repr_html_(self) -> str:
        return notebook_html(self.markdown())


@dataclass(frozen=True)
class Cards(Shown[ScoreCard]):
    """The score cards of a run, one per suite."""

    def markdown(self) -> str:
        return card_markdown(self.rows)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per score: model, suite, metric, category (None: all questions), value, interval, n."""
        return _frame(
            {"model": card.model, "suite": card.suite, "judge": card.judge, "category": category, "metric": metric}
            | score.model_dump(include={"value", "ci_low", "ci_high", "se", "n", "unscored"})
            for card in self.rows
            for category, scores in ((None, card.scores), *card.by_category.items())
            for metric, score in scores.items()
        )


@dataclass(frozen=True)
class LoadedRun:
    """One finished or unfinished run: its card, answers and judgments."""

    card: ScoreCard
    answers: tuple[Answer, ...]
    judgments: tuple[Judgment, ...]

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per judgment: question, turn, judge, verdict, and the answer's text."""
        texts = {(answer.prompt_id, answer.index): answer for answer in self.answers}
        rows = []
        for judgment in self.judgments:
            answer = texts.get((judgment.prompt_id, judgment.index))
            values = judgment.model_dump(mode="json", exclude={"reply"})
            rows.append(values | {"answer": None if answer is None else "\n\n".join(answer.turns)})
        return _frame(rows)


@dataclass(frozen=True)
class Runs(Shown[LoadedRun]):
    """The runs of a model, or of one folder."""

    @property
    def cards(self) -> Cards:
        return Cards(tuple(run.card for run in self.rows))

    def markdown(self) -> str:
        return self.cards.markdown()

    def to_pandas(self) -> pd.DataFrame:
        """Return the scores of all runs, as `Cards.to_pandas`."""
        return self.cards.to_pandas()


@dataclass(frozen=True)
class Comparisons(Shown[Comparison]):
    """Comparisons with the first model, one per suite and other model."""

    def markdown(self) -> str:
        return comparison_markdown(self.rows, flips=0)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per difference: suite, the two models, metric, category, difference, interval, p."""
        return _frame(
            {"suite": pair.suite, "model": pair.other, "against": pair.first} | row.model_dump(mode="json")
            for pair in self.rows
            for row in pair.differences
        )


@dataclass(frozen=True)
class GateVerdict(Shown[CheckResult]):
    """A gate's verdict and its checks. It has no truth value of its own: ask `passed`, or read `report.outcome`."""

    report: GateReport

    @property
    def passed(self) -> bool:
        return self.report.outcome == "pass"

    def markdown(self) -> str:
        return gate_markdown(self.report)

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per check."""
        return _frame(
            check.model_dump(mode="json", exclude={"difference", "plain"})
            | ({} if check.difference is None else {"difference": check.difference.value})
            for check in self.rows
        )


@dataclass(frozen=True)
class Leaderboard(Shown[Table]):
    """The tables of a results folder, one per protocol."""

    board: Board

    def markdown(self) -> str:
        return board_markdown(list(self.rows))

    def to_pandas(self) -> pd.DataFrame:
        """Return a row per card: suite, table's protocol, rank, model, headline with its interval."""
        return _frame(
            {"suite": table.suite, "protocol": table.protocol_sha, "judge": table.judge, "rank": row.rank}
            | {"model": row.model, "metric": table.headline, "run": row.run_id}
            | row.score.model_dump(include={"value", "ci_low", "ci_high", "se", "n", "unscored"})
            for table in self.rows
            for row in table.rows
        )


def run(
    model: str,
    suite: str = "all",
    *,
    results: str | Path = "results",
    config: str | Path | None = None,
    fresh: bool = False,
    on_progress: ProgressCallback | None = None,
    **settings: Any,
) -> Cards:
    """Serve a model, ask, judge and score, as `harness run`, and return the cards. Called again, it resumes.

    `settings` are keys of harness.yaml, e.g. `judge="gpt-4.1"`, `limit=20`, `serve={"tensor_parallel": 2}`; a
    harness.yaml is read only if `config` names it. `on_progress` is called per row; None shows bars on a terminal.
    Incomplete cards are returned, too: see `card.complete`. Raise HarnessError; the work done is kept.
    """
    job = run_async(model, suite, results=results, config=config, fresh=fresh, on_progress=on_progress, **settings)
    return _finished(job)


async def run_async(
    model: str,
    suite: str = "all",
    *,
    results: str | Path = "results",
    config: str | Path | None = None,
    fresh: bool = False,
    on_progress: ProgressCallback | None = None,
    **settings: Any,
) -> Cards:
    """Do what `run` does, in a running event loop. Cancelling it keeps what is finished."""
    unknown = settings.keys() - FileSpec.model_fields.keys()
    if unknown:
        raise ConfigError(f"run() has no setting {min(unknown)!r}; settings are the keys of harness.yaml")
    file = FileSpec() if config is None else read_config(Path(config))
    flags = {"model": str(model), "suite": suite, "results": str(results)}
    spec = resolve(overlaid(file, settings | flags))
    run_plan = plan(spec)
    # a baseline's answers are part of the protocol, so they must exist before the plan is final
    for job in run_plan.baselines_to_ask:
        await ask(job)
    if run_plan.baselines_to_ask:
        run_plan = plan(spec)
    with rare_collections(), opened(run_plan, fresh=fresh) as runs:
        bars = _bars(totals_of(estimate(run_plan, runs), runs)) if on_progress is None else nullcontext(on_progress)
        with bars as step:
            cards = await execute(run_plan, runs, fresh=fresh, on_progress=step)
    return Cards(tuple(cards))


def load(name: str | Path, *, results: str | Path = "results") -> Runs:
    """Return the run of a folder, or all runs of a model in a results folder. Raise ConfigError for any other name."""
    loaded = []
    for stored in find_runs(str(name), Path(results)):
        rows = run_rows(stored)
        loaded.append(LoadedRun(rows.card, tuple(rows.answers), tuple(rows.judgments)))
    return Runs(tuple(loaded))


def compare(
    first: str | Path,
    *others: str | Path,
    results: str | Path = "results",
    suites: Iterable[str] = (),
    population: Population = "all",
    force: bool = False,
) -> Comparisons:
    """Compare models with the first on the same questions, as `harness compare`. Raise ConfigError as it does."""
    names = [str(first), *map(str, others)]
    if not others:
        raise ConfigError(f"compare needs two runs or more, got {names[0]!r} alone")
    pairs = compare_models(names, Path(results), PairOptions(list(suites), force=force), population=population)
    return Comparisons(tuple(pairs))


def gate(
    candidate: str | Path,
    baseline: str | Path | None = None,
    *,
    policy: str | Path | Mapping[str, Any] | GatePolicy | None = None,
    results: str | Path = "results",
    force: bool = False,
    seed: int = 0,
) -> GateVerdict:
    """Return whether a judged candidate is no worse than the baseline, as `harness gate`.

    `policy` is a gate.yaml, its content, or None for the default margins; `baseline` None is the promoted one.
    """
    if isinstance(policy, Mapping):
        policy = checked(GatePolicy, dict(policy), "policy")
    elif not isinstance(policy, GatePolicy):
        policy = read_policy(None if policy is None else Path(policy))
    name = None if baseline is None else str(baseline)
    report = gate_runs(str(candidate), name, policy, GateOptions(results=Path(results), force=force, seed=seed))
    return GateVerdict(report.checks, report)


def leaderboard(results: str | Path = "results", *, joint_ranks: bool = False) -> Leaderboard:
    """Return the ranked tables of a results folder, as `harness leaderboard`."""
    board = read_board(Path(results), BoardOptions(joint_ranks=joint_ranks))
    return Leaderboard(tuple(board.tables), board)


def _finished(job: Coroutine[Any, Any, T]) -> T:
    """Run the job to its end, also from a notebook, whose event loop runs already."""
    # a notebook has a running loop, in which asyncio.run is not allowed: a thread has none
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(job)
    with ThreadPoolExecutor(max_workers=1) as pool:
        return pool.submit(asyncio.run, job).result()


def _bars(totals: Mapping[tuple[str, str], int]) -> Any:
    from rich.console import Console

    return progress(Console(stderr=True), totals)


def _frame(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    try:
        import pandas as pd
    except ImportError:
        raise ConfigError("to_pandas() needs pandas: pip install pandas") from None
    return pd.DataFrame([dict(row) for row in rows])
