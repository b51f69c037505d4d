"""`harness report`: write a decision among a few models as a message, a page, or metadata of a model card."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from ..analysis.best import BestOf, NotRankedError, best_of_runs
from ..analysis.comparison import Comparison
from ..analysis.finished_runs import PairOptions, StoredRun, compare_models, find_runs, matched, shown_names
from ..pages.report import (
    Entry,
    ModelsReport,
    ReportRow,
    ReportSection,
    check_pdf,
    edited_card,
    entries,
    index_yaml,
    pdf,
    report_text,
    section_figure,
)
from ..records.errors import ConfigError, did_you_mean, printable
from ..store import make_folder, write_atomic, write_bytes
from ..store.hub_card import HubCard
from .console import write_or_print
from .options import MirrorFlags, ResultsFlags, comma_list, command

FORMATS = ("slack", "github", "html", "pdf", "hf")


class ReportFlags(ResultsFlags, MirrorFlags):
    runs: Annotated[list[str], typer.Argument(metavar="A [B C ...]", help="Run folders, card files or model names.")]
    to: Annotated[
        str,
        typer.Option(
            help="slack: message; github: Markdown comment; html or pdf: one file; hf: model-index of a card."
        ),
    ] = "github"
    baseline: Annotated[str | None, typer.Option(help="Compare with this run instead of the first.")] = None
    suite: Annotated[str | None, typer.Option(help="Only these suites (comma list).")] = None
    force: Annotated[bool, typer.Option("--force", help="Compare runs even if their protocols differ.")] = False
    seed: Annotated[int, typer.Option(min=0, help="Seed of bootstrap and permutations.")] = 0
    viewer: Annotated[str, typer.Option(help="URL of a `harness view` to link to; default: name run folders.")] = ""
    out: Annotated[Path | None, typer.Option(help="Write to this file instead of printing.")] = None
    figures: Annotated[
        Path | None, typer.Option(help="Folder for the figures of differences: SVG, and PNG if resvg is installed.")
    ] = None
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Put one model's results into this repository's card.")
    ] = None
    yes: Annotated[bool, typer.Option("--yes", help="With --push-to-hub: do not ask after showing the diff.")] = False


@command
def report(flags: ReportFlags) -> None:
    """Report which of a few models is better, ready to send: verdict, scores, differences, links.

    Examples: harness report base new-1 new-2 --to slack; harness report base new-1 --to html --out report.html;
    harness report new-1 --push-to-hub my-org/new-1
    """
    if flags.to not in FORMATS:
        raise ConfigError(f"no format {flags.to!r}{did_you_mean(flags.to, FORMATS)}; known: {', '.join(FORMATS)}")
    if flags.viewer and not flags.viewer.startswith(("http://", "https://")):
        raise ConfigError(f"--viewer {flags.viewer!r} is not an address that begins with http:// or https://")
    if flags.push_to_hub is not None:
        push(flags, flags.push_to_hub)
        return
    if flags.to == "pdf" and flags.out is None:
        raise ConfigError("--to pdf is a file: add --out report.pdf")
    if flags.to == "hf":
        write_or_print(index_yaml([(name, results_of(name, flags)) for name in flags.runs]), flags.out)
        return
    if flags.to == "pdf":
        check_pdf()
    content = read_report(flags)
    if flags.figures is not None:
        write_figures(flags.figures, content)
    if flags.to == "pdf":
        assert flags.out is not None
        write_bytes(flags.out, pdf(report_text(content, "html")))
        print(f"wrote {flags.out}")
        return
    write_or_print(report_text(content, flags.to), flags.out)


def read_report(flags: ReportFlags) -> ModelsReport:
    """Return scores, differences and verdicts per suite that all models have, the baseline first.

    Raise ConfigError as `harness compare` does.
    """
    names = list(dict.fromkeys([*([flags.baseline] if flags.baseline else []), *flags.runs]))
    suites = comma_list(flags.suite)
    groups = matched(names, flags.results, suites)
    options = PairOptions(suites, force=flags.force, mirror=flags.mirror, seed=flags.seed)
    pairs = compare_models(names, flags.results, options) if len(names) > 1 else []
    sections = []
    for number, runs in enumerate(groups):
        # the comparisons come suite by suite, and in each of them model by model
        compared = pairs[number * (len(names) - 1) : (number + 1) * (len(names) - 1)]
        first = runs[0].card
        best, unranked = _best(runs, options) if len(names) > 2 else (None, "")
        sections.append(
            ReportSection(
                first.suite,
                first.suite_version,
                first.judge,
                first.headline,
                tuple(_rows(runs, compared)),
                tuple(compared),
                best,
                unranked,
            )
        )
    return ModelsReport(tuple(sections), str(flags.results), flags.viewer)


def _best(runs: Sequence[StoredRun], options: PairOptions) -> tuple[BestOf | None, str]:
    """Return the best of a suite's runs; or why there is none, so that the other suites are reported."""
    try:
        return best_of_runs(runs, options), ""
    except NotRankedError as error:
        return None, str(error)


def _rows(runs: Sequence[StoredRun], pairs: Sequence[Comparison]) -> Iterator[ReportRow]:
    rows = [None, *(pair.deciding(pair.headline) for pair in pairs)]
    for run, name, row in zip(runs, shown_names(runs), rows, strict=True):
        key = "" if run.folder is None else "/".join(run.folder.parts[-3:])
        yield ReportRow(name, run.card.scores[run.card.headline], row, key)


def write_figures(folder: Path, content: ModelsReport) -> None:
    """Write each suite's figure of differences as SVG, and as PNG if resvg is installed."""
    from ..pages.board import png

    figures = [figure for section in content.sections if (figure := section_figure(section)) is not None]
    has_resvg = find_spec("resvg_py") is not None
    make_folder(folder)
    for figure in figures:
        write_atomic(folder / f"{figure.name}.svg", figure.drawing.standalone() + "\n")
        if has_resvg:
            write_bytes(folder / f"{figure.name}.png", png(figure.drawing))
    print(
        f"wrote {len(figures)} figure{'' if len(figures) == 1 else 's'} to {folder}{'' if has_resvg else ' as .svg'}",
        file=sys.stderr,
    )


def results_of(name: str, flags: ReportFlags) -> list[Entry]:
    """Return the `model-index` results of a model's complete runs. Raise ConfigError if it has none."""
    results = entries(run.card for run in find_runs(name, flags.results, comma_list(flags.suite)))
    if not results:
        raise ConfigError(f"{name!r} has no complete run with a score; `harness ls runs` says what is missing")
    return results


def push(flags: ReportFlags, repo: str) -> None:
    """Show what would change in the repository's model card, ask, and commit it.

    Raise ConfigError if there are several models, or nobody can be asked and --yes is missing.
    """
    if len(flags.runs) != 1:
        raise ConfigError(f"--push-to-hub writes the card of one model, got {len(flags.runs)}: {', '.join(flags.runs)}")
    results = results_of(flags.runs[0], flags)
    card = HubCard(repo)
    # the commit on which the edit is based: if the card changes meanwhile, the Hub rejects ours
    text, commit = card.read()
    edited = edited_card(text, repo.rpartition("/")[2], results)
    if edited == text:
        print(f"the card of {repo} has these results already")
        return
    lines = difflib.unified_diff(text.splitlines(), edited.splitlines(), "README.md", "README.md", lineterm="")
    print("\n".join(printable(line) for line in lines))
    if not flags.yes:
        # in CI a question would wait for ever
        if not sys.stdin.isatty():
            raise ConfigError("nothing was pushed: no terminal to ask on; --yes pushes what the diff shows")
        if not typer.confirm(f"Commit this to {repo}?"):
            print("nothing was pushed")
            return
    print(f"pushed: {card.write(edited, commit)}")
