"""What a shell completes after a flag: suites, judges, the models of the results folder.

    harness --install-completion    # once; then: harness compare <Tab>

A completion never fails and never writes: what cannot be read is not suggested.

>>> comma_values("mt_bench,al", ["alpaca_eval", "arena_hard", "mt_bench"])
['mt_bench,alpaca_eval']
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import typer

from ..records.errors import HarnessError
from ..records.protocols import installed

Completer = Callable[[typer.Context, str], list[str]]


def comma_values(incomplete: str, values: Iterable[str]) -> list[str]:
    """Return what the last part of a comma list may become; parts that are there already are not offered again."""
    *before, last = incomplete.split(",")
    return [",".join([*before, value]) for value in values if value.startswith(last) and value not in before]


def suites(ctx: typer.Context, incomplete: str) -> list[str]:
    return comma_values(incomplete, [*([] if "," in incomplete else ["all"]), *installed("suites")])


def judges(ctx: typer.Context, incomplete: str) -> list[str]:
    from ..records.judge_choice import judge_files, judge_presets
    from ..store.trusted import listed_judges

    names = [*installed("judges"), *judge_files(), *judge_presets()]
    with suppress(HarnessError, OSError):
        names += listed_judges()
    return comma_values(incomplete, sorted(set(names)))


def models(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the models that have a folder under the results, whose names `compare` and the others take."""
    from ..store.trusted import configured_results_folder

    folder = ctx.params.get("results") or os.environ.get("HARNESS_RESULTS")
    with suppress(HarnessError, OSError):
        folder = folder or configured_results_folder()
    try:
        names = sorted(path.name for path in (Path(folder or "results") / "runs").iterdir() if path.is_dir())
    except OSError:
        return []
    return comma_values(incomplete, [name for name in names if not name.startswith(".")])


COMPLETERS: dict[str, Completer] = {
    "suite": suites,
    "suites": suites,
    "judge": judges,
    "run": models,
    "runs": models,
    "baseline": models,
    "candidate": models,
    "candidates": models,
}
"""By the field of a record of flags."""
