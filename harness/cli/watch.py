"""`harness watch`: evaluate each new checkpoint of a training folder, and draw the trend.

LoRA adapters of one base are asked of one server, which stays between checkpoints. Whole checkpoints get a server each:
vLLM loads other weights into a running server only by its development endpoints, which anybody on the machine may call,
and which leave weights as they were that the new files lack.
"""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Annotated

import typer

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
from ..backends.adapters import SharedServer
from ..pages import charts
from ..pages.text import FittedTable, interval, rich_table
from ..records.errors import ConfigError, IncompleteError, StoppedRunError
from ..records.judge_choice import suite_names
from ..records.protocols import Backend, Starting
from ..store import make_folder, write_atomic
from .console import print_tables, set_up_logging
from .options import SETTINGS, ResultsFlags, command, from_values
from .run import RunFlags, raise_if_incomplete, run, run_one

log = logging.getLogger(__name__)
TRIES = 3
"""Attempts at one state of a checkpoint in one session."""
DIRECTION = {True: "more is better", False: "less is better", None: "unknown whether more or less is better"}
RESERVED = ("--model", "--suite", "--results", "--json", "--dry-run")
"""Flags of `harness run` that this command sets."""


class WatchFlags(ResultsFlags):
    folder: Annotated[Path, typer.Argument(help="Training folder: its sub-folders, and itself, are checkpoints.")]
    suite: Annotated[str, typer.Option(help="all, or a comma list of suites.")]
    every: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.1)] = 60.0
    settle: Annotated[float, typer.Option(help="Seconds without a change until a checkpoint is ready.", min=0)] = 30.0
    log_to: Annotated[
        str | None, typer.Option(help="Log each checkpoint as a step of one run: wandb, mlflow, trackio (comma list).")
    ] = None
    stop_server: Annotated[
        bool, typer.Option("--stop-server", help="Free the GPUs between checkpoints, also where a server could stay.")
    ] = False
    once: Annotated[bool, typer.Option("--once", help="Evaluate what is ready now, then end.")] = False
    as_json: Annotated[bool, typer.Option("--json", help="Print the state as JSON at the end.")] = False


watch_app = typer.Typer(**SETTINGS)


@watch_app.command("watch", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@command
def watch(context: typer.Context, flags: WatchFlags) -> None:
    """Run suites on each new checkpoint once it is completely written. Further flags are passed to `harness run`.

    Example: harness watch out/wrpo --suite mt_bench --judge gpt-5.4 --limit 20 --log-to wandb
    """
    set_up_logging()
    suite_names(flags.suite)  # an unknown suite is an error before the first look
    for flag in RESERVED:
        if any(word == flag or word.startswith(f"{flag}=") for word in context.args):
            raise ConfigError(f"{flag} cannot be passed to harness run: harness watch sets it")
    watching = Watching(flags, ["--suite", flags.suite, *context.args])
    try:
        problems = watching.look()
        if not candidates(flags.folder):
            log.info("no checkpoint in %s yet: no folder with a config.json or safetensors weights", flags.folder)
        while not flags.once:
            time.sleep(flags.every)
            problems = watching.look()
    finally:
        watching.server.close()
    if flags.as_json:
        print(json.dumps(watching.state.model_dump(mode="json"), indent=2))
    else:
        print_tables(*trend_tables(watching.state), more="`| cat` shows them")
    if problems:
        raise IncompleteError(f"{len(problems)} of the checkpoints were not evaluated: {problems[0]}")


class Watching:
    """A watched folder: which checkpoints were evaluated, and which problems were logged."""

    def __init__(self, flags: WatchFlags, words: list[str]) -> None:
        """`words`: flags of `harness run`."""
        self._flags = flags
        self._run_flags = run_flags([*words, "--results", str(flags.results)])
        self._settings = self._run_flags.settings()
        self.server = SharedServer(grows=True)
        self._trackers = tracker_names(flags.log_to)
        self._settings_sha = settings_digest(words)
        self._file = state_file(flags.results, flags.folder)
        self._logged: dict[str, str] = {}
        self._tries: dict[tuple[str, str], int] = {}
        candidates(flags.folder)  # raises if the folder does not exist
        self.state = read_state(self._file, flags.folder)

    def look(self) -> list[str]:
        """Evaluate every new checkpoint that is ready; return a sentence per checkpoint that was not evaluated."""
        problems = []
        for candidate in candidates(self._flags.folder):
            if self.state.has(candidate, self._settings_sha):
                continue
            problem = candidate.problem(self._flags.settle) or self._evaluate(candidate)
            if problem is not None:
                problems.append(f"{candidate.name}: {problem}")
                self._log_once(candidate, problem)
        return problems

    def _log_once(self, candidate: Candidate, problem: str) -> None:
        kind = problem.split(" s ago")[0].rstrip("0123456789")
        if self._logged.get(candidate.name) != kind:
            self._logged[candidate.name] = kind
            log.info("%s: %s", candidate.name, problem)

    def _evaluate(self, candidate: Candidate) -> str | None:
        """Run the suites on a checkpoint; return the problem, or None if there was none."""
        from .main import exit_code_of  # deferred: main imports every command only when it is used

        key = (candidate.name, candidate.fingerprint)
        self._tries[key] = self._tries.get(key, 0) + 1
        if self._tries[key] > TRIES:
            return f"failed {TRIES} times; restart harness watch to retry"
        log.info("%s: evaluating", candidate.name)
        settings, begin = self._settings.model_copy(update={"model": str(candidate.path)}), time.monotonic()
        server = None if self._flags.stop_server else self.server
        try:
            run_plan, cards = run_one(settings, (), fresh=self._run_flags.fresh, shared=server)
            raise_if_incomplete(cards)
        except (BrokenPipeError, StoppedRunError):
            raise
        except Exception as error:  # also a crash: the next checkpoint has nothing to do with it
            return f"harness run ended with exit code {exit_code_of(error)} (its message is above)"
        log.info("%s: %s", candidate.name, took(run_plan.backend, time.monotonic() - begin))
        self.state = self.state.plus(evaluated(candidate, self._settings_sha, cards))
        write_state(self._file, self.state)
        draw(self.state, self._file)
        for card in cards:
            log.info("%s: %s %s", candidate.name, card.suite, interval(card.scores[card.headline]))
        log_step(self._trackers, self.state.folder, cards, candidate.step)
        return None


def run_flags(words: list[str]) -> RunFlags:
    """Return the flags of `harness run` in these words. Raise a usage error as that command does."""
    app = typer.Typer(**SETTINGS)
    app.command()(run)
    with typer.main.get_command(app).make_context("harness run", words) as context:
        return from_values(RunFlags, context.params)


def took(backend: Backend, seconds: float) -> str:
    """Return how long a checkpoint took, and how much of it was the start of its server."""
    start = backend.started() if isinstance(backend, Starting) else None
    if start is None:
        return f"evaluated in {seconds:.0f} s"
    if start == 0:
        return f"evaluated in {seconds:.0f} s by a server that was running"
    return f"evaluated in {seconds:.0f} s, of which its server took {start:.0f} s to start"


def draw(state: WatchState, file: Path) -> None:
    """Write one SVG per suite and protocol beside the state file: the headline against the training step."""
    make_folder(file.parent)
    for (suite, metric, protocol), trend in trends(state).items():
        points = [
            charts.ChartPoint(checkpoint.checkpoint, float(checkpoint.step), score.value, score.ci_low, score.ci_high)
            for checkpoint, point in trend
            for score in [point.score]
            if checkpoint.step is not None and score.value is not None
        ]
        if points:
            title = f"{suite}: {metric} by training step, judge {trend[0][1].judge}"
            drawing = charts.curves([(state.folder, points)], title, "training step", metric)
            slug = "".join(letter if letter.isalnum() else "-" for letter in suite)
            write_atomic(file.with_name(f"{file.stem}-{slug}-{protocol}.svg"), drawing.standalone() + "\n")


def changed(change: float, higher_is_better: bool | None) -> str:
    """Return a change of a metric with its meaning.

    >>> changed(-0.25, True), changed(-0.25, False), changed(0.0, True)
    ('-0.25 worse', '-0.25 better', '+0.00')
    """
    if higher_is_better is None or change == 0:
        return f"{change:+.2f}"
    return f"{change:+.2f} {'better' if (change > 0) == higher_is_better else 'worse'}"


def trend_tables(state: WatchState) -> list[FittedTable]:
    """Return one table per suite and protocol, in the order of steps."""
    tables = []
    for (suite, metric, protocol), trend in trends(state).items():
        better = trend[0][1].higher_is_better
        title = f"{suite}: {metric} ({DIRECTION[better]}), judge {trend[0][1].judge}, protocol {protocol}"
        head = ("step", "checkpoint", f"{metric} [95 %]", "since the last", "unscored")
        rows = []
        last: float | None = None
        for checkpoint, point in trend:
            value = point.score.value
            change = "-" if last is None or value is None else changed(value - last, better)
            step = "-" if checkpoint.step is None else str(checkpoint.step)
            rows.append((step, checkpoint.checkpoint, interval(point.score), change, str(point.score.unscored)))
            last = value if value is not None else last
        tables.append(rich_table(title, head, rows, ("checkpoint",), (0, 1, 2, 3), 3))
    return tables
