"""The `harness` command: import only the command that is called, and turn errors into exit codes."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from ..records.errors import HarnessError
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
    "data": ("data:data_app", "List, fetch and verify the official benchmark files."),
    "cache": ("cache:cache_app", "Show or prune the cache of judges' replies."),
    "judge": ("judge:judge_app", "List the judges, calibrate one against people."),
    "ls": ("ls:ls", "List installed backends, suites, judges or rewards."),
    "doctor": ("doctor:doctor", "Check this machine and say how to fix what is missing."),
}
"""Name -> (module:attribute in this package, one line of help). Imported only when used: --help stays fast."""


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
    """Run the console script; a HarnessError becomes one sentence on stderr and its own exit code."""
    try:
        app()
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("harness: stopped; run the same command again to resume", file=sys.stderr)
        sys.exit(4)


if __name__ == "__main__":
    run()
