"""`harness watch`: evaluates each new checkpoint of a training folder, and draws the trend."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.trackers import log_step, tracker_names
from ..analysis.watch import (
    Candidate,
    WatchState,
    candidates,
    evaluated,
    read_state,
    settings_digest,
    state_file,
    trends,
    write_state,
)
from ..pages import charts
from ..pages.text import interval, plain
from ..records import ScoreCard
from ..records.errors import ConfigError, IncompleteError
from ..records.judge_choice import suite_names
from ..store import make_folder, write_atomic
from .console import set_up_logging

log = logging.getLogger(__name__)
TRIES = 3
"""Attempts at one state of a checkpoint in one session."""
OWN_FLAGS = ("--model", "--suite", "--results", "--json", "--dry-run")


def watch(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Training folder: its sub-folders, and itself, are checkpoints.")],
    suite: Annotated[str, typer.Option(help="all, or a comma list of suites.")],
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 60.0,
    settle: Annotated[float, typer.Option(help="Seconds without a change until a checkpoint is ready.", min=0)] = 30.0,
    log_to: Annotated[
        str | None, typer.Option(help="Log each checkpoint as a step of one run: wandb, mlflow, trackio (comma list).")
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Evaluate what is ready now, then end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON at the end.")] = False,
) -> None:
    """Run suites on each new checkpoint, as soon as it is wholly written. All flags of `harness run` are handed on.

    Example: harness watch out/wrpo --suite mt_bench --judge gpt-4.1 --limit 20 --log-to wandb
    """
    set_up_logging(Console(stderr=True), verbose=False)
    suite_names(suite)
    words = ["--suite", suite, *context.args]
    for flag in OWN_FLAGS:
        if any(word == flag or word.startswith(f"{flag}=") for word in context.args):
            raise ConfigError(f"{flag} cannot be handed on: harness watch sets it itself")
    watching = Watching(folder, results, words, settle, tracker_names(log_to))
    left = watching.look()
    if not candidates(folder):
        log.info("no checkpoint in %s yet: no folder with a config.json or safetensors weights", folder)
    while not once:
        time.sleep(every)
        left = watching.look()
    if as_json:
        print(json.dumps(watching.state.model_dump(mode="json"), indent=2))
    else:
        show(watching.state)
    if left:
        raise IncompleteError(f"{len(left)} of the checkpoints were not evaluated: {left[0]}")


class Watching:
    """One watched folder: looks, evaluates, remembers."""

    def __init__(
        self, folder: Path, results: Path, words: list[str], settle: float, trackers: tuple[str, ...] = ()
    ) -> None:
        self._folder, self._results, self._words, self._settle = folder, results, words, settle
        self._trackers = trackers
        self._asked = settings_digest(words)
        self._file = state_file(results, folder)
        self._said: dict[str, str] = {}
        self._tries: dict[tuple[str, str], int] = {}
        candidates(folder)  # a wrong folder is said before anything else
        self.state = read_state(self._file, folder)

    def look(self) -> list[str]:
        """Evaluates all that is ready and new; returns a sentence for each checkpoint that is left."""
        left = []
        for candidate in candidates(self._folder):
            if self.state.has(candidate, self._asked):
                continue
            problem = candidate.problem(self._settle) or self._evaluate(candidate)
            if problem is not None:
                left.append(f"{candidate.name}: {problem}")
                self._say(candidate, problem)
        return left

    def _say(self, candidate: Candidate, problem: str) -> None:
        """Once for each new reason."""
        kind = problem.split(" s ago")[0].rstrip("0123456789")
        if self._said.get(candidate.name) != kind:
            self._said[candidate.name] = kind
            log.info("%s: %s", candidate.name, problem)

    def _evaluate(self, candidate: Candidate) -> str | None:
        """Runs `harness run` in a process of its own, so that a crash takes nothing along; None when it is done."""
        key = (candidate.name, candidate.fingerprint)
        self._tries[key] = self._tries.get(key, 0) + 1
        if self._tries[key] > TRIES:
            return f"given up after {TRIES} attempts; start harness watch again to try anew"
        log.info("%s: evaluating", candidate.name)
        command = [sys.executable, "-m", "harness.cli.main", "run", "--model", str(candidate.path)]
        command += [*self._words, "--results", str(self._results), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            return f"harness run ended with exit code {done.returncode} (its own words are above)"
        cards = [ScoreCard.model_validate(card) for card in json.loads(done.stdout)["cards"]]
        self.state = self.state.plus(evaluated(candidate, self._asked, cards))
        write_state(self._file, self.state)
        draw(self.state, self._file)
        for card in cards:
            log.info("%s: %s %s", candidate.name, card.suite, interval(card.scores[card.headline]))
        log_step(self._trackers, self.state.folder, cards, candidate.step)
        return None


def draw(state: WatchState, file: Path) -> None:
    """One SVG a suite and protocol beside the state file: the headline against the training step."""
    make_folder(file.parent)
    for (suite, metric, protocol), found in trends(state).items():
        points = [
            charts.ChartPoint(done.checkpoint, float(done.step), score.value, score.ci_low, score.ci_high)
            for done, point in found
            for score in [point.score]
            if done.step is not None and score.value is not None
        ]
        if points:
            title = f"{suite}: {metric} by training step, judge {found[0][1].judge}"
            drawing = charts.curves([(state.folder, points)], title, "training step", metric)
            slug = "".join(letter if letter.isalnum() else "-" for letter in suite)
            write_atomic(file.with_name(f"{file.stem}-{slug}-{protocol}.svg"), drawing.standalone() + "\n")


def show(state: WatchState) -> None:
    """A table a suite and protocol, in the order of steps."""
    console = Console(width=None if os.isatty(1) else 140)
    for (suite, metric, protocol), found in trends(state).items():
        title = f"{suite}: {metric}, judge {found[0][1].judge}, protocol {protocol}"
        table = Table(title=Text(plain(title)), title_justify="left")
        for name in ("step", "checkpoint", f"{metric} [95 %]", "since the last", "unscored"):
            table.add_column(Text(name), justify="left" if name == "checkpoint" else "right", overflow="fold")
        last: float | None = None
        for done, point in found:
            value = point.score.value
            change = "-" if last is None or value is None else f"{value - last:+.2f}"
            step = "-" if done.step is None else str(done.step)
            cells = (step, done.checkpoint, interval(point.score), change, str(point.score.unscored))
            table.add_row(*(Text(plain(cell)) for cell in cells))
            last = value if value is not None else last
        console.print(table)


watch_app = typer.Typer(pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None)
watch_app.command("watch", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(watch)
