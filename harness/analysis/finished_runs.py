"""Find finished runs by name, read their rows and suite, compare them, or judge their answers head to head.

>>> def card(protocol): return ScoreCard.model_construct(suite="s", suite_version="1", protocol=protocol)
>>> same_but_limit(card({"judge": "j"}), card({"judge": "j", "limit": {"n": 20, "seed": 0}}))
True

A name is a run's folder, a card file or a model's name. If several runs have the name, those measured like the other
models' runs are preferred; what remains ambiguous is an error that lists the folders.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import JsonValue

from ..judging.jury import CardProtocol, audit_rows, scored
from ..records import Answer, Failure, ModelRef, Prompt, Sampling, ScoreCard, digest
from ..records.errors import ConfigError, DataError, did_you_mean, first_names
from ..records.judge_choice import choose_judges
from ..records.protocols import NothingToOpen, OwnRunner, RunRows, Suite
from ..records.settings import RunSpec
from ..running.pipeline import current_judgments
from ..running.plan import JudgePool, Plan, SuiteInputs, limited, load_suite, options_of, suite_plan, with_baseline_of
from ..store import find_cards, read_card
from ..store.runs import read_question_scores, read_rows
from ..store.trusted import read_config
from ..suites.head_to_head import HeadToHead, PlaysGames
from .comparison import Comparison, Population, adjusted, are_parts, compare, differing, is_part
from .leaderboard import told_apart, weights_of
from .population import on_these

log = logging.getLogger(__name__)
MOST_COVARIATES = 20
HEAD_TO_HEAD = "head_to_head"
"""Name prefix of suites of direct games between two models: results of comparisons, not runs to compare."""


@dataclass(frozen=True)
class StoredRun:
    """A card and the folder of its rows."""

    card: ScoreCard
    folder: Path | None
    """None: the card is a single file without rows."""

    @property
    def key(self) -> tuple[str, str]:
        return self.card.suite, self.card.suite_version

    @property
    def described(self) -> str:
        """Return the folder with what tells runs of one suite apart: `FOLDER (judge gpt-5.4, limit 20)`."""
        limit = self.card.protocol.get("limit")
        questions = (
            "all questions" if limit is None else f"limit {limit.get('n') if isinstance(limit, dict) else limit}"
        )
        return f"{self.folder} (judge {self.card.judge}, {questions})"


@dataclass(frozen=True)
class Loaded:
    """A suite with its data and the prompts of a run. Both are None if the data are missing."""

    suite: Suite | None
    prompts: tuple[Prompt, ...] | None


@dataclass(frozen=True)
class PairOptions:
    """How finished runs are compared."""

    suites: Collection[str] = ()
    """Only these; empty: every suite that all models have."""
    force: bool = False
    """Compare runs even if their protocols differ."""
    mirror: str | None = None
    """Folder or address of upstream's files; None: the pinned ones."""
    seed: int = 0
    """Of bootstrap and permutations."""


USUAL_OPTIONS = PairOptions()


def compare_models(
    names: Sequence[str], results: Path, options: PairOptions = USUAL_OPTIONS, *, population: Population = "all"
) -> list[Comparison]:
    """Compare every model after the first with the first, per suite, with Holm's correction over the models.

    Raise ConfigError with all differences if two runs are not comparable, unless `options.force`, and for the
    population "these" if a question has one answer and one judgment.
    """
    comparisons = []
    for runs in matched(names, results, options.suites):
        labels = shown_names(runs)
        rows = [run_rows(run, name) for run, name in zip(runs, labels, strict=True)]
        for run in rows[1:]:
            refuse_different(rows[0], run, (rows[0].name, run.name), force=options.force)
        loaded = suite_of(runs[0].card, options.mirror, folder=runs[0].folder)
        pairs = [
            compare(
                rows[0],
                run,
                prompts=loaded.prompts,
                suite=loaded.suite,
                # on these very questions, predictions for the others say nothing
                covariates=() if population == "these" else covariate_runs(rows[0], run, results),
                seed=options.seed,
            )
            for run in rows[1:]
        ]
        if population == "these":
            pairs = [on_these(pair, rows[0], run, loaded.prompts) for pair, run in zip(pairs, rows[1:], strict=True)]
        comparisons += pairs
    return adjusted(comparisons)


def refuse_different(first: RunRows, second: RunRows, names: tuple[str, str], *, force: bool) -> None:
    """Raise ConfigError with all differences if two runs are not comparable, unless `force`.

    A run with a limit is comparable with one that has all of its questions and more, and with another limited one.
    """
    differences = differing(first.card, second.card)
    limited_only = is_part(first, second) or (are_parts(first, second) and first.audit is None and second.audit is None)
    if differences and not force and not (limited_only and same_but_limit(first.card, second.card)):
        raise ConfigError(
            f"{first.card.suite}: {names[0]} and {names[1]} were not measured the same way: {'; '.join(differences)}. "
            "So a difference would not be due to the models alone. --force compares them anyway"
        )


def same_but_limit(first: ScoreCard, second: ScoreCard) -> bool:
    """Return whether two cards were measured the same way, apart from the number of questions."""
    unlimited = [
        card.model_copy(update={"protocol": {key: value for key, value in card.protocol.items() if key != "limit"}})
        for card in (first, second)
    ]
    return not differing(*unlimited)


def covariate_runs(first: RunRows, second: RunRows, results: Path) -> list[RunRows]:
    """Return complete runs of other models by the same protocol, if one of the two or both have some of the questions.

    At most `MOST_COVARIATES`, by name: their mean hardly changes with more.
    """
    if not is_part(first, second) and not are_parts(first, second):
        return []
    whole = max(first, second, key=lambda run: len(run.answers)).card
    limits = {None} if are_parts(first, second) else {None, str(whole.protocol.get("limit"))}
    runs: dict[str, StoredRun] = {}
    for file in find_cards(results):
        card = read_card(file)
        limit = card.protocol.get("limit")
        if (
            card.complete
            and card.model not in (first.card.model, second.card.model)
            and (None if limit is None else str(limit)) in limits
            and same_but_limit(card, whole)
        ):
            runs.setdefault(card.model, StoredRun(card, file.parent))
    return [run_rows(runs[model]) for model in sorted(runs)[:MOST_COVARIATES]]


def matched(names: Sequence[str], results: Path, suites: Collection[str] = ()) -> list[list[StoredRun]]:
    """Return, per suite that all models have, their runs in the order of the names.

    If a model has several runs, those whose protocol another model has too are preferred. Raise ConfigError if several
    remain, if two names are one run, or if there is no common suite.
    """
    runs_by_name = [find_runs(name, results, suites) for name in names]
    keys = [
        key
        for key in dict.fromkeys(run.key for run in runs_by_name[0])
        if all(any(run.key == key for run in runs) for runs in runs_by_name)
    ]
    if not keys:
        listed = "; ".join(
            f"{name}: {', '.join(sorted({'@'.join(run.key) for run in runs}))}"
            for name, runs in zip(names, runs_by_name, strict=True)
        )
        raise ConfigError(f"these runs have no suite (and edition) in common: {listed}")
    return [_run_per_name(names, [[run for run in runs if run.key == key] for runs in runs_by_name]) for key in keys]


def _run_per_name(names: Sequence[str], runs_by_name: list[list[StoredRun]]) -> list[StoredRun]:
    """Return one run per name, preferring a protocol that another name has too."""
    chosen: list[StoredRun] = []
    for position, (name, runs) in enumerate(zip(names, runs_by_name, strict=True)):
        other_runs = runs_by_name[:position] + runs_by_name[position + 1 :]
        protocols = {run.card.protocol_sha for rest_runs in other_runs for run in rest_runs}
        alike = [run for run in runs if run.card.protocol_sha in protocols] or runs
        if len(alike) > 1:
            folders = ", ".join(run.described for run in alike[:8])
            raise ConfigError(f"{name!r} has {len(alike)} runs of {alike[0].card.suite}; name one folder of: {folders}")
        if alike[0].folder is not None and any(run.folder == alike[0].folder for run in chosen):
            # it would count as two models
            raise ConfigError(f"{name!r} names a run of {alike[0].card.suite} a second time: name each run once")
        chosen.append(alike[0])
    return chosen


def find_runs(name: str, results: Path, suites: Collection[str] = ()) -> list[StoredRun]:
    """Return the run of a folder or a card file, or all runs of a model. Raise ConfigError for any other name."""
    path = Path(name)
    if (path / "card.json").is_file():
        path = path / "card.json"
    if path.suffix == ".json" and path.is_file():
        folder = path.parent if path.name == "card.json" else None
        return [StoredRun(read_card(path), folder)]
    runs = [StoredRun(read_card(file), file.parent) for file in find_cards(results)]
    matches = [
        run
        for run in runs
        if run.folder is not None
        and name in (run.card.model, run.folder.parents[1].name)
        and not run.card.suite.startswith(HEAD_TO_HEAD)
        and (not suites or run.card.suite in suites)
    ]
    if not matches:
        models = {run.card.model for run in runs}
        kind = f" of {' or '.join(sorted(suites))}" if suites else ""
        if name in models:
            has = sorted({run.card.suite for run in runs if run.card.model == name})
            near = "".join(did_you_mean(suite, has) for suite in sorted(suites))
            raise ConfigError(f"{name!r} has no run{kind}{near}; its runs under {results} are of {', '.join(has)}")
        raise ConfigError(
            f"no run{kind} named {name!r}{did_you_mean(name, models)}: pass its folder, its card, or a model under "
            f"{results}; models there: {first_names(models)}"
        )
    refuse_two_models(name, matches)
    return matches


def refuse_two_models(name: str, runs: Sequence[StoredRun]) -> None:
    """Raise ConfigError if runs found under one name are of different weights, as one run per suite would mix them."""
    folders = {weights: run.folder for run in reversed(runs) if (weights := weights_of(run.card)) is not None}
    if len(folders) > 1:
        listed = ", ".join(sorted(map(str, folders.values())))
        raise ConfigError(
            f"{name!r} is the name of {len(folders)} models with different weights: name a run of {listed}"
        )


def shown_names(runs: Sequence[StoredRun]) -> list[str]:
    """Return the models' names, with run ids if several runs have the same name."""
    return told_apart([(run.card.model, str(run.card.provenance.get("run_id", ""))) for run in runs])


def run_rows(run: StoredRun, name: str | None = None) -> RunRows:
    """Return the run with the rows that exist, and a jury's verdicts as scored."""
    if run.folder is None:
        return RunRows(name or run.card.model, run.card)
    answers, rows = read_rows(run.folder)
    current = current_judgments(answers, iter(rows))
    judgments, audit = scored(current, run.card.protocol), audit_rows(current, run.card.protocol)
    questions = tuple(read_question_scores(run.folder))
    return RunRows(name or run.card.model, run.card, tuple(answers), judgments, questions, audit)


def suite_of(card: ScoreCard, mirror: str | None = None, *, folder: Path | None = None) -> Loaded:
    """Return the suite of a card, in the card's edition, with the baseline that its run's folder states."""
    protocol = CardProtocol.read(card.protocol)
    try:
        suite = load_suite(card.suite, options_of(card, mirror=mirror), folder)
    except (DataError, ConfigError) as error:
        log.info("%s: compared without the suite's data: %s", card.suite, error)
        return Loaded(None, None)
    # a newer edition has other questions: categories from it would be wrong
    if isinstance(suite, OwnRunner) or suite.version != card.suite_version:
        return Loaded(None, None)
    suite = with_baseline_of(suite, folder)
    # a limited run asked a seeded sample, which must be drawn again in the same way
    return Loaded(suite, limited(suite.prompts(), *(protocol.limit or (None, 0))))


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

    The result is a run of its own (`results/runs/MODEL/head_to_head_SUITE@VERSION/ID`), which resumes, counts and costs
    like any other. Raise ConfigError if answers, the suite's data or its pairwise prompts are missing.
    """
    # the same question ids may stand for other texts in another edition
    if first.card.protocol.get("data") != second.card.protocol.get("data"):
        raise ConfigError(f"{first.card.model} and {second.card.model} used different editions of {first.card.suite}")
    suite = suite_of(first.card, mirror, folder=first.folder)
    rows = [run_rows(run) for run in (first, second)]
    for run in rows:
        if not any(answer.error is None for answer in run.answers):
            raise ConfigError(f"{run.name} has no answers to {run.card.suite} in its folder, so nothing to compare")
    labels = shown_names([first, second])
    games = _games(suite, first, rows[0], labels[0])
    file = read_config(config)
    edition = first.card.edition
    judges = choose_judges((games.name,), judge, edition=edition, own_judges=file.judges)
    spec = RunSpec(
        model=ModelRef(scheme="endpoint", name=labels[1]),
        suites=(games.name,),
        edition=edition,
        backend="recorded",
        judges=judges,
        results=results,
        mirror=mirror,
    )
    pool = JudgePool(spec)
    backend = Recorded(labels[1], rows[1].answers)
    identity = backend.identity()
    inputs = SuiteInputs(prompts=suite.prompts or ())
    planned = suite_plan(spec, games, pool.judges(judges[games.name]), identity, inputs)
    return Plan(spec, (planned,), backend, identity, calls=pool.calls)


def _games(loaded: Loaded, first: StoredRun, rows: RunRows, name: str) -> HeadToHead:
    if not isinstance(loaded.suite, PlaysGames):
        raise ConfigError(
            f"{first.card.suite} has no prompts for comparing two answers, or its data are missing (harness data pull)"
        )
    games = HeadToHead(loaded.suite, name, rows.answers)
    # fail now rather than after the first judge call
    games.protocol()  # raises ConfigError if this edition has no pairwise prompts
    return games


class Recorded(NothingToOpen):
    """A backend that returns the answers of an existing run."""

    def __init__(self, model: str, answers: Sequence[Answer]) -> None:
        self._model = model
        self._answers = {answer.key: answer for answer in answers}

    def identity(self) -> dict[str, JsonValue]:
        return {
            "backend": "recorded",
            "answers": digest(sorted([answer.key, answer.sha] for answer in self._answers.values())),
        }

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        recorded = self._answers.get(f"{prompt.id}#{index}")
        if recorded is not None:
            return recorded
        failure = Failure(reason="missing", message="the run has no answer to this question")
        return Answer(prompt_id=prompt.id, model=self._model, index=index, error=failure)
