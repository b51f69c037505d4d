"""`results/baselines.yaml`: which run is the baseline of which suite, decided by whom, when and why.

baselines:
  default:                     # a name, used by --baseline NAME
    arena_hard@official-1:
      run: runs/model/arena_hard@official-1/0123456789ab
      model: model
      protocol: 0123456789ab
      by: a person
      when: 2026-01-31T12:00:00+00:00
      why: release 1.2
history: [...]                 # replaced baselines, oldest first
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml

from ...records import Record, ScoreCard
from ...records.documents import read_yaml
from ...records.errors import ConfigError
from ...records.settings import checked
from ...store import locked, make_folder, write_atomic

DEFAULT = "default"


class Promoted(Record):
    """A run promoted to baseline."""

    run: str
    """Its folder, relative to the results folder if inside it."""
    model: str
    protocol: str
    by: str
    when: str
    """ISO 8601, UTC."""
    why: str


class Replaced(Promoted):
    name: str
    suite: str


class Baselines(Record):
    baselines: dict[str, dict[str, Promoted]] = {}
    """Name -> `suite@version` -> run."""
    history: tuple[Replaced, ...] = ()


def baselines_file(results: Path) -> Path:
    return results / "baselines.yaml"


def read_baselines(results: Path) -> Baselines:
    """Return the baselines; empty if the file does not exist. Raise ConfigError if it is invalid."""
    path = baselines_file(results)
    return checked(Baselines, read_yaml(path), str(path)) if path.exists() else Baselines()


def baseline_folders(results: Path, name: str) -> list[Path]:
    """Return the run folders of a named baseline; empty if there is no such name."""
    # an absolute path stays absolute
    return [results / run.run for run in read_baselines(results).baselines.get(name, {}).values()]


def promote(
    results: Path, runs: Sequence[tuple[ScoreCard, Path]], *, name: str, by: str, why: str, now: datetime | None = None
) -> Baselines:
    """Make these runs (card, folder) the baselines of their suites; replaced ones move to the history.

    The file is replaced atomically. Raise ConfigError without a reason or if a run is incomplete or full of
    empty answers.
    """
    if not why.strip() or not by.strip():
        raise ConfigError("promoting a baseline needs --why and --by: the reason, and who decided")
    incomplete = next((card for card, _ in runs if not card.complete), None)
    if incomplete is not None:
        raise ConfigError(f"the run of {incomplete.model} on {incomplete.suite} is incomplete and cannot be a baseline")
    hollow = next((card for card, _ in runs if not card.is_mostly_text), None)
    if hollow is not None:
        raise ConfigError(
            f"{hollow.empty_share:.0%} of the answers of {hollow.model} on {hollow.suite} are empty, so it cannot be a "
            "baseline"
        )
    when = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    make_folder(results)
    with locked(results / ".baselines.lock"):  # a second promotion must read what the first one wrote
        current = read_baselines(results)
        table, history = dict(current.baselines.get(name, {})), list(current.history)
        for card, folder in runs:
            key, run = f"{card.suite}@{card.suite_version}", _relative(folder, results)
            if key in table:
                history.append(Replaced(name=name, suite=key, **table[key].model_dump()))
            table[key] = Promoted(run=run, model=card.model, protocol=card.protocol_sha, by=by, when=when, why=why)
        updated = Baselines(baselines={**current.baselines, name: table}, history=tuple(history))
        text = yaml.safe_dump(updated.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        write_atomic(baselines_file(results), text)
    return updated


def _relative(folder: Path, results: Path) -> str:
    resolved, root = folder.resolve(), results.resolve()
    return resolved.relative_to(root).as_posix() if resolved.is_relative_to(root) else str(resolved)
