"""Complete words in a shell: suites, judges, and the models of the results folder.

    harness --install-completion    # once; then: harness compare <Tab>

A completion never fails and never writes: what cannot be read is not suggested.

>>> comma_values("mt_bench,al", ["alpaca_eval", "arena_hard", "mt_bench"])
['mt_bench,alpaca_eval']

Bash splits words at ":" and "=" before it asks, and replaces only what follows the last of them:

>>> glued(["harness", "run", "--judge", "local", ":", "q"], 5)
(['harness', 'run', '--judge', 'local:q'], 3, 'local:')
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path

import typer

from ..records.errors import HarnessError
from ..records.protocols import installed

BREAKS = ":="
"""Those of bash's COMP_WORDBREAKS that are part of our values: `local:PATH`, `SUITE=JUDGE`, `--flag=value`."""
Completer = Callable[[typer.Context, str], list[str]]


def comma_values(incomplete: str, values: Iterable[str]) -> list[str]:
    """Return what the last part of a comma list may become; parts that are there already are not offered again."""
    *before, last = incomplete.split(",")
    return [",".join([*before, value]) for value in values if value.startswith(last) and value not in before]


def glued(words: Sequence[str], cursor: int) -> tuple[list[str], int, str]:
    """Rejoin words that bash split at ":" or "=".

    Return them, the index of the word under the cursor, and its typed prefix, which bash does not replace.
    """
    joined: list[str] = []
    before, joins = "", False
    for word in words[: cursor + 1]:
        is_break = bool(word) and not word.strip(BREAKS)
        if joined and word and (joins or is_break):
            before = joined[-1] + (word if is_break else "")
            joined[-1] += word
        else:
            before = ""
            joined.append(word)
        joins = is_break
    return [*joined, *words[cursor + 1 :]], len(joined) - 1, before


@contextmanager
def bash_words() -> Iterator[None]:
    """Let typer see whole words if bash asks for a completion, and bash what it replaces."""
    if os.environ.get("_HARNESS_COMPLETE") != "complete_bash" or "COMP_WORDS" not in os.environ:
        yield
        return
    words = os.environ["COMP_WORDS"].split("\n" if "\n" in os.environ["COMP_WORDS"] else " ")
    words, position, before = glued(words, int(os.environ["COMP_CWORD"]))
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(position)}
    if before.startswith("-"):
        before = before.partition("=")[2]  # typer's offers are values, without the flag
    offers = io.StringIO()
    try:
        with redirect_stdout(offers):
            yield
    finally:
        sys.stdout.write("".join(line.removeprefix(before) for line in offers.getvalue().splitlines(keepends=True)))


def suites(ctx: typer.Context, incomplete: str) -> list[str]:
    return comma_values(incomplete, [*([] if "," in incomplete else ["all"]), *installed("suites")])


def judges(ctx: typer.Context, incomplete: str) -> list[str]:
    from ..records.judge_choice import judge_files, judge_presets
    from ..store.trusted import listed_judges

    names = [*installed("judges"), *judge_files(), *judge_presets()]
    with suppress(HarnessError, OSError):
        names += listed_judges()
    *_, last = incomplete.split(",")
    suite, equals, _ = last.rpartition("=")
    return comma_values(incomplete, [f"{suite}{equals}{name}" for name in sorted(set(names))])


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
