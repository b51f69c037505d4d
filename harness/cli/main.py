"""The `harness` command: import only the command that is called, and turn errors into exit codes."""

from __future__ import annotations

import io
import os
import select
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..records.errors import HarnessError, IncompleteError, UsageError, first_error, one_line, printable
from ..records.keys import masked
from ..records.protocols import installed
from ..store.provenance import VERSION
from .options import SETTINGS

COMMANDS = {
    "run": ("run:run", "Serve a model, ask it a suite's questions, judge, score."),
    "score": ("score:score", "Score judgment files made by the original tools."),
    "export": ("export:export", "Write a run as files of FastChat, AlpacaEval or Arena-Hard."),
    "import": ("importing:import_", "Import answers, judgments or lm-eval results made elsewhere."),
    "leaderboard": ("leaderboard:leaderboard", "Rank the score cards of a results folder."),
    "compare": ("compare:compare", "Compare runs on the same questions: differences, flips, detectable differences."),
    "watch": ("watch:watch_app", "Evaluate each new checkpoint of a training folder."),
    "view": ("view:view", "Read runs, questions, answers and verdicts in the browser."),
    "gate": ("gate:gate_app", "Is a candidate no worse than the baseline? Verdict, exit code, JUnit; promote, power."),
    "suite": ("suite:suite_app", "Check a suite of your own before it asks anything."),
    "data": ("data:data_app", "List, fetch and verify the official benchmark files."),
    "cache": ("cache:cache_app", "Show or prune the cache of judges' replies."),
    "judge": ("judge:judge_app", "List the judges, calibrate one against people."),
    "config": ("config:config_app", "Trust a harness.yaml: let it run code and send keys."),
    "ls": ("ls:ls", "List installed backends, suites, judges, rewards or checks."),
    "doctor": ("doctor:doctor", "Check this machine and say how to fix what is missing."),
}
"""Name -> (module:attribute in this package, one line of help). Imported only when used: --help stays fast."""


USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for wrong flags; it is exported by no public name of typer, which may bring its own click."""
INTERRUPTED, READER_GONE = 130, 141
"""128 + SIGINT, 128 + SIGPIPE: what a shell reports for a program that such a signal ends."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [*COMMANDS, *installed("commands")]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in for the help page: a name and a line, nothing imported."""
        if cmd_name in COMMANDS:
            return TyperCommand(cmd_name, help=COMMANDS[cmd_name][1])
        if cmd_name in installed("commands"):
            return TyperCommand(cmd_name, help=f"See `harness {cmd_name} --help`.")
        return None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest


def load_command(name: str) -> Any:
    """Return the click command of a name."""
    if name in COMMANDS:
        module, _, attribute = COMMANDS[name][0].partition(":")
        plugin = getattr(import_module(f".{module}", __package__), attribute)
    else:
        plugin = installed("commands")[name].load()
    if not isinstance(plugin, typer.Typer):
        function, plugin = plugin, typer.Typer(**SETTINGS)
        plugin.command(name)(function)
    command = typer.main.get_command(plugin)
    command.name = name
    return command


app = typer.Typer(cls=LazyGroup, no_args_is_help=True, **SETTINGS)


def _version(value: bool) -> None:
    if value:
        print(VERSION)
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Is this fused checkpoint better, by how much, and can I trust the answer?

    Example: harness run --model ./ckpt --suite all
    """


def run() -> None:
    """Run the console script and exit with the command's code.

    An error is one sentence on stderr. A crash is never exit 1, which a gate would read as a regression.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal shows \u2192 rather than nothing
    try:
        code = app(standalone_mode=False) or 0
        sys.stdout.flush()  # now, as a full disk or a closed pipe could not be reported while Python ends
    except BaseException as error:
        code = exit_code_of(error)
    sys.exit(code)


def exit_code_of(error: BaseException) -> int:
    """Report what ended the command, and return its exit code."""
    if isinstance(error, SystemExit) and isinstance(error.code, int | None):
        if isinstance(error.__context__, BrokenPipeError):  # typer and rich turn it into exit 1
            _nobody_reads()
            return READER_GONE
        return error.code or 0
    if isinstance(error, BaseExceptionGroup) and error.split(HarnessError)[1] is None:
        error = first_error(error)
    if isinstance(error, HarnessError):
        _say(str(error))
        return error.exit_code
    if isinstance(error, USAGE_ERROR):
        usage: Any = error
        usage.show()
        return int(usage.exit_code)
    if isinstance(error, KeyboardInterrupt | EOFError | typer.Abort):
        _say("stopped; run the same command again to resume")
        return INTERRUPTED
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        return READER_GONE
    if isinstance(error, OSError) and _folder_is_gone():
        _say("the working directory was deleted; change to one that exists")
        return UsageError.exit_code
    _say(_crash(error))
    return IncompleteError.exit_code


def _crash(error: BaseException) -> str:
    """Write the traceback to a file of its own, and return one sentence that names it."""
    kind = "not enough memory" if isinstance(error, MemoryError) else f"unexpected {type(error).__name__}"
    words = one_line(masked(printable(str(error))))
    sentence = f"{kind}: {words}" if words else kind
    text = masked("".join(traceback.format_exception(error)))
    try:
        number, path = tempfile.mkstemp(prefix=time.strftime("harness-crash-%Y%m%dT%H%M%S-"), suffix=".log")
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(f"harness {VERSION}, Python {sys.version.split()[0]}\n{' '.join(sys.argv)}\n\n{text}")
    except OSError:  # no temporary folder, or a full one
        print(text, file=sys.stderr, end="")
        return f"{sentence}; its traceback is above; nothing was decided, and finished work is kept"
    return f"{sentence}; its traceback is in {path}; nothing was decided, and finished work is kept"


def _say(sentence: str) -> None:
    with suppress(OSError, ValueError):  # stderr may be closed
        print(f"harness: {sentence}", file=sys.stderr, flush=True)


def _nobody_reads() -> bool:
    """Return whether the reader of our output is gone; if so, discard the output that is still buffered."""
    gone = False
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            poll = select.poll()
            poll.register(stream.fileno(), 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                gone = True
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return gone


def _folder_is_gone() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False


if __name__ == "__main__":
    run()
