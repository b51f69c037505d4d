"""Share among commands how they log, print tables, stop on Ctrl-C, and state what the judges cost."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, JsonValue
from rich.console import Console
from rich.logging import RichHandler
from rich.text import Text

from ..judging.cost import dollars
from ..pages.text import UNLIMITED, FittedTable, hidden_line, rich_table
from ..records import ScoreCard
from ..records.errors import ConfigError, StoppedRunError
from ..running.estimate import Estimate
from ..store import write_atomic

log = logging.getLogger(__name__)
T = TypeVar("T")

COLOURS: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"
"""Rich's own reading of NO_COLOR leaves bold, dim and italic; without a colour system there is no escape at all."""
STDERR = Console(stderr=True, color_system=COLOURS)
"""Log lines and bars share it, so that a line does not tear a bar apart."""
DRY_RUN_HEAD = (
    *("suite", "judge", "prompts", "generation calls", "judge calls"),
    *("done", "cached", "cost", "still to pay"),
)


class _LinesThatStay(RichHandler):
    """Leaves records marked `transient` to the progress display."""

    def emit(self, record: logging.LogRecord) -> None:
        if not getattr(record, "transient", False):
            super().emit(record)


def set_up_logging(*, verbose: bool = False) -> None:
    """Log INFO to stderr, through the console on a terminal and as plain timed lines otherwise."""
    handler: logging.Handler
    if STDERR.is_terminal:
        handler = _LinesThatStay(console=STDERR, show_path=False, show_level=False, markup=False, highlighter=None)
        handler.setFormatter(logging.Formatter("%(message)s"))
    else:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.DEBUG if verbose else logging.INFO, handlers=[handler], force=True)
    # these log every request at INFO, which would bury the progress
    for noisy in ("asyncio", "urllib3", "filelock", "httpx", "httpx2", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def stdout_console(*, wide: bool = False) -> Console:
    """Return a console for results: as wide as the terminal, or as the content needs if `wide` or not a terminal."""
    return Console(width=None if os.isatty(1) and not wide else UNLIMITED, color_system=COLOURS)


def refuse_overwriting(files: Mapping[Path, str]) -> None:
    """Raise ConfigError if one of the files of `--out` exists with different content."""
    for path, text in files.items():
        if path.is_file() and path.read_bytes() != text.encode("utf-8"):
            raise ConfigError(f"{path} exists and differs; move it away, or give another --out")


def write_or_print(text: str, out: Path | None) -> None:
    """Write the text to the file and say so, or print it if there is none."""
    if out is None:
        print(text, end="")
    else:
        write_atomic(out, text)
        print(f"wrote {out}")


def print_tables(*tables: FittedTable, more: str = "--json has them") -> None:
    """Print tables as wide as the terminal. `more` says how to see the columns for which it is too narrow."""
    console = stdout_console()
    for table in tables:
        console.print(table)
    print_hidden(console, tables, more)


def print_hidden(console: Console, tables: Sequence[FittedTable], more: str = "--json has them") -> None:
    """Print which columns of the tables the terminal is too narrow for, if any, and how to see them."""
    if sentence := hidden_line(tables, console.width, more):
        console.print(Text(sentence, style="dim"))


def json_text(name: str, records: Iterable[BaseModel], **more: Iterable[BaseModel]) -> str:
    """Return the one JSON object that `--json` prints: records under a name, and `more` of them under theirs."""
    lists = {name: records, **more}
    text = json.dumps({key: [row.model_dump(mode="json") for row in rows] for key, rows in lists.items()}, indent=2)
    return text + "\n"


def until_stopped(job: Coroutine[Any, Any, T]) -> T:
    """Run the job; Ctrl-C and SIGTERM cancel it, so that it stores what is finished, and raise StoppedRunError."""
    try:
        return asyncio.run(_stoppable(job))
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise StoppedRunError(
            "stopped; finished answers and judgments are kept: run the same command again to resume"
        ) from None


async def _stoppable(job: Coroutine[Any, Any, T]) -> T:
    task = asyncio.current_task()
    assert task is not None
    # schedulers send SIGTERM before they kill: cancelled like Ctrl-C, the job closes its files and servers
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await job


def announce(estimates: Sequence[Estimate]) -> None:
    """Log who judges and what that costs, before the first call."""
    for part in estimates:
        cost = f", about {dollars(part.judge_cost_open or 0)} to pay" if part.judge_cost else ""
        reused = f" ({part.judge_calls_done} done, {part.judge_calls_cached} cached)"
        log.info(
            "%s: %d prompts, %d generation calls; judge %s, %d calls%s%s",
            part.suite,
            part.prompts,
            part.generation_calls,
            part.judge,
            part.judge_calls,
            reused if part.judge_calls_done or part.judge_calls_cached else "",
            cost,
        )


def estimate_rows(estimates: Sequence[Estimate], self_scored: Sequence[str] = ()) -> list[dict[str, JsonValue]]:
    """Return the rows of a dry run as `--json` prints them."""
    self_rows: list[dict[str, JsonValue]] = [{"suite": name, "judge": "none"} for name in self_scored]
    return [part.as_dict() for part in estimates] + self_rows


def print_estimate(estimates: Sequence[Estimate], self_scored: Sequence[str] = (), *, as_json: bool) -> None:
    """Print what a run would ask. `self_scored`: suites that ask and score by themselves; their counts are unknown."""
    if as_json:
        print(json.dumps({"dry_run": estimate_rows(estimates, self_scored)}, indent=2))
        return
    lines: list[list[str]] = []
    for part in estimates:
        counts = (part.prompts, part.generation_calls, part.judge_calls, part.judge_calls_done, part.judge_calls_cached)
        lines.append(
            [part.suite, part.judge, *map(str, counts), _amount(part.judge_cost), _amount(part.judge_cost_open)]
        )
        for name, share in part.by_judge.items():
            lines.append(["", f"  {name}", "", "", str(share.calls), "", "", _amount(share.cost), ""])
    lines += [[name, "none", *["-"] * 7] for name in self_scored]
    if len(estimates) > 1 and all(part.judge_cost is not None for part in estimates):
        totals = (sum(part.judge_cost or 0 for part in estimates), sum(part.judge_cost_open or 0 for part in estimates))
        lines.append(["total", *[""] * 6, *map(dollars, totals)])
    order = ("suite", "still to pay", "judge calls", "judge", "prompts", "cost")
    console = stdout_console()
    title = "Dry run: nothing is asked, nothing is written"
    console.print(rich_table(title, DRY_RUN_HEAD, lines, ("suite", "judge"), order, 4))
    if not estimates:
        return
    ways = ", ".join(dict.fromkeys(part.tokens_by for part in estimates))
    console.print(Text(f"dollars are estimates: tokens by {ways}, 400 per verdict in words"))


def print_cost(cards: Sequence[ScoreCard]) -> None:
    """Print a line per judged suite: what this run paid, and what its verdicts cost when they were first asked for."""
    for card in cards:
        if "judgment_calls" not in card.usage:
            continue
        value, paid, calls = (card.usage.get(f"judgment_{name}") for name in ("cost", "paid", "calls"))
        if value is None and paid is None:
            print(f"{card.suite}: {calls} judge calls, of unknown price")
        else:
            worth = "" if value is None else f"; the verdicts are worth {_amount(value)}"
            print(f"{card.suite}: {calls} judge calls, {_amount(paid)} paid{worth}")


def _amount(amount: object) -> str:
    return dollars(amount) if isinstance(amount, int | float) else "unknown"
