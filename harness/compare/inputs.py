"""From names on a command line to comparisons: finds runs, reads their rows, loads the suite's data where it can."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from ..judging.jury import scored
from ..pipeline import current_judgments
from ..plan import limited, load_suite
from ..protocols import OwnRunner, RunRows, Suite, SuiteOptions
from ..records import Prompt, ScoreCard
from ..runs import read_rows
from ..store import find_cards, read_card
from .comparison import Comparison, adjusted, compare, differing

log = logging.getLogger(__name__)
HEAD_TO_HEAD = "head_to_head"
"""How suites of direct games between two models begin; they are results of a comparison, not what is compared."""


@dataclass(frozen=True)
class Found:
    """A card and where its rows are."""

    card: ScoreCard
    folder: Path | None
    """None: the card is a file on its own."""

    @property
    def key(self) -> tuple[str, str]:
        return self.card.suite, self.card.suite_version


def found_runs(name: str, results: Path, suites: Collection[str] = ()) -> list[Found]:
    """A run's folder, a card file, or all runs of a model. Raises ConfigError for a name that is none of them."""
    path = Path(name)
    if (path / "card.json").is_file():
        path = path / "card.json"
    if path.suffix == ".json" and path.is_file():
        own = path.parent if path.name == "card.json" else None
        return [Found(read_card(path), own)]
    found = [Found(read_card(file), file.parent) for file in find_cards(results)]
    mine = [
        one
        for one in found
        if one.folder is not None
        and name in (one.card.model, one.folder.parents[1].name)
        and not one.card.suite.startswith(HEAD_TO_HEAD)
        and (not suites or one.card.suite in suites)
    ]
    if not mine:
        models = ", ".join(sorted({one.card.model for one in found})[:12]) or "none"
        kind = f" of {' or '.join(sorted(suites))}" if suites else ""
        raise ConfigError(
            f"no run{kind} named {name!r}: give its folder, its card, or a model under {results}; there: {models}"
        )
    return mine


def matched(names: Sequence[str], results: Path, suites: Collection[str] = ()) -> list[list[Found]]:
    """For each suite that all models have: their runs, in the order of the names.

    Of several runs of one model those with a protocol that another of the models has are taken. Raises ConfigError
    where that leaves several, or where there is no common suite.
    """
    found = [found_runs(name, results, suites) for name in names]
    keys = [key for key in dict.fromkeys(one.key for one in found[0]) if all(key in _keys(runs) for runs in found)]
    if not keys:
        listed = "; ".join(f"{name}: {_listed(runs)}" for name, runs in zip(names, found, strict=True))
        raise ConfigError(f"these runs have no suite (and edition) in common: {listed}")
    return [_one_each(names, [[one for one in runs if one.key == key] for runs in found]) for key in keys]


def _keys(runs: Sequence[Found]) -> set[tuple[str, str]]:
    return {one.key for one in runs}


def _listed(runs: Sequence[Found]) -> str:
    return ", ".join(sorted({"@".join(one.key) for one in runs}))


def _one_each(names: Sequence[str], found: list[list[Found]]) -> list[Found]:
    chosen = []
    for at, runs in enumerate(found):
        others = {one.card.protocol_sha for place, part in enumerate(found) if place != at for one in part}
        alike = [one for one in runs if one.card.protocol_sha in others] or runs
        if len(alike) > 1:
            folders = ", ".join(str(one.folder) for one in alike[:8])
            raise ConfigError(
                f"{names[at]!r} has {len(alike)} runs of {alike[0].card.suite}; name one folder of: {folders}"
            )
        chosen.append(alike[0])
    return chosen


def run_rows(found: Found, name: str | None = None) -> RunRows:
    """The run with its rows, as far as they are there; a jury's verdicts as they were scored."""
    if found.folder is None:
        return RunRows(name or found.card.model, found.card)
    answers, rows = read_rows(found.folder)
    judgments = scored(current_judgments(answers, iter(rows)), found.card.protocol)
    return RunRows(name or found.card.model, found.card, tuple(answers), judgments)


def shown_names(found: Sequence[Found]) -> list[str]:
    """The models' names; runs of one name are told apart by their ids."""
    names = [one.card.model for one in found]
    return [
        f"{name} ({one.card.provenance.get('run_id', '')})" if names.count(name) > 1 else name
        for name, one in zip(names, found, strict=True)
    ]


@dataclass(frozen=True)
class Loaded:
    """A suite with its data, and the prompts that a run asked; None where the data are not here."""

    suite: Suite | None
    prompts: tuple[Prompt, ...] | None


def suite_of(card: ScoreCard, mirror: str | None = None) -> Loaded:
    """The suite a card is of, in the card's edition."""
    edition = "pocket" if card.suite_version.startswith("pocket") else "official"
    references = card.protocol.get("references")
    options = SuiteOptions(
        edition=edition, references=references if references == "pr3158" else "official", mirror=mirror
    )
    try:
        suite = load_suite(card.suite, options)
    except (DataError, ConfigError) as error:
        log.info("%s: compared without its data: %s", card.suite, error)
        return Loaded(None, None)
    if isinstance(suite, OwnRunner) or suite.version != card.suite_version:
        return Loaded(None, None)
    limit = card.protocol.get("limit")
    if isinstance(limit, dict) and isinstance(limit.get("n"), int) and isinstance(limit.get("seed"), int):
        return Loaded(suite, limited(suite.prompts(), int(str(limit["n"])), int(str(limit["seed"]))))
    return Loaded(suite, tuple(suite.prompts()))


def compare_models(
    names: Sequence[str],
    results: Path,
    *,
    suites: Collection[str] = (),
    force: bool = False,
    mirror: str | None = None,
    seed: int = 0,
) -> list[Comparison]:
    """Every model after the first beside the first, suite by suite, Holm over the models.

    Raises ConfigError where two runs are not comparable, with all that differs, unless `force`.
    """
    found = []
    for runs in matched(names, results, suites):
        shown = shown_names(runs)
        for at, one in enumerate(runs[1:], start=1):
            refuse_different(runs[0].card, one.card, (shown[0], shown[at]), force=force)
        loaded = suite_of(runs[0].card, mirror)
        rows = [run_rows(one, name) for one, name in zip(runs, shown, strict=True)]
        found += [compare(rows[0], other, prompts=loaded.prompts, suite=loaded.suite, seed=seed) for other in rows[1:]]
    return adjusted(found)


def refuse_different(first: ScoreCard, other: ScoreCard, names: tuple[str, str], *, force: bool) -> None:
    apart = differing(first, other)
    if apart and not force:
        raise ConfigError(
            f"{names[0]} and {names[1]} were not measured alike on {first.suite}, so a difference would not be the "
            f"models': {'; '.join(apart)}. --force compares them all the same"
        )
