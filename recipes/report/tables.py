"""Write the leaderboard of variants as text, Markdown and rich tables. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as RichTable
from rich.text import Text

from harness.records import Score
from harness.report.cells import escape_markdown, plain

from .records import ModelRow, VariantBoard, Versus
from .sentences import at, difference_text, signed

PARENTS = ("sft", "target")
"""Models that the variants started from. As baselines they say less than another variant does."""
HEAD = (
    "Rewards are means over test prompts and seeds. Differences are paired by prompt and seed. Intervals are 95 % "
    "over prompts and seeds at once, so they cover other prompts and another seed. p is two-sided and adjusted "
    '(Holm) over the models compared with one baseline at one temperature. "better" and "worse" mean p < 0.05; any '
    'other difference is "not shown".'
)


@dataclass(frozen=True)
class TextGrid:
    """One table of texts."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    """Whether all columns but the first are numbers, which are right-aligned."""
    folded: bool = False
    """Whether the table is collapsed at first, in formats that can do so."""


def grids(board: VariantBoard) -> list[TextGrid]:
    """Return the tables of each temperature: the models, then their differences to each baseline.

    Differences to the models that all variants started from are folded.
    """
    tables = []
    for temperature in board.temperatures:
        tables.append(_models(board, temperature))
        tables += [
            _differences(baseline, temperature, rows)
            for baseline in board.baselines
            if (rows := board.versus(temperature, baseline))
        ]
    return tables


def _models(board: VariantBoard, temperature: float) -> TextGrid:
    rows = board.rows(temperature)
    lengths = any(row.tokens is not None for row in rows)
    head = ["model", "reward [95 %]", "each seed", "validation", *(["tokens"] if lengths else []), "truncated"]
    return TextGrid(
        title=f"Test reward, {at(temperature)} ({board.prompts} prompts, seeds {_list(board.seeds)})",
        head=(*head, "unscored"),
        rows=tuple(_model_cells(row, lengths) for row in rows),
    )


def _model_cells(row: ModelRow, lengths: bool) -> tuple[str, ...]:
    validation = "-" if row.validation is None else f"{row.validation:.3f}"
    tokens = ["-" if row.tokens is None else f"{row.tokens:.0f}"] if lengths else []
    seeds = " ".join(f"{value:.3f}" for value in row.by_seed.values())
    name = row.model if row.complete else f"{row.model} (incomplete)"
    return (name, score_text(row.reward), seeds, validation, *tokens, str(row.truncated), str(row.reward.unscored))


def score_text(score: Score) -> str:
    """Return a score with its interval, e.g. `0.843 [0.801, 0.885]`; "-" if there is none."""
    if score.value is None:
        return "-"
    if score.ci_low is None or score.ci_high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.ci_low:.3f}, {score.ci_high:.3f}]"


def _differences(baseline: str, temperature: float, rows: Sequence[Versus]) -> TextGrid:
    return TextGrid(
        title=f"Difference to {baseline}, {at(temperature)}",
        head=(
            "model",
            "difference [95 %]",
            "over prompts alone",
            "each seed",
            "detectable at 80 % power",
            "p (Holm)",
            "verdict",
        ),
        rows=tuple(
            (
                difference.model,
                difference_text(difference),
                f"[{difference.prompts_low:.3f}, {difference.prompts_high:.3f}]",
                " ".join(signed(value) for value in difference.by_seed.values()),
                f"{difference.detectable:.3f}",
                p_text(difference.p_adjusted),
                difference.verdict,
            )
            for difference in rows
        ),
        folded=baseline in PARENTS,
    )


def p_text(p: float) -> str:
    """Return a p-value as text, at least `< 0.001`."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds)) or "none"


def rich_tables(board: VariantBoard) -> list[RichTable]:
    """Return the tables for a terminal, without the folded ones. Names are passed as Text, never as markup."""
    tables = []
    for grid in grids(board):
        if grid.folded:
            continue
        rich = RichTable(title=Text(plain(grid.title)), title_justify="left")
        for column, name in enumerate(grid.head):
            rich.add_column(Text(name), justify="right" if column else "left", overflow="fold")
        for row in grid.rows:
            rich.add_row(*(Text(plain(cell)) for cell in row))
        tables.append(rich)
    return tables


def markdown(board: VariantBoard) -> str:
    """Return the leaderboard as GitHub Markdown, with the sentences first."""
    parts = [f"# {escape_markdown(board.recipe)}: variants", "", HEAD, ""]
    parts += [f"- {escape_markdown(line)}" for line in (*board.sentences, *board.notes)]
    for grid in grids(board):
        parts += ["", f"## {escape_markdown(grid.title)}", "", markdown_grid(grid).rstrip()]
    return "\n".join(parts) + "\n"


def markdown_grid(grid: TextGrid) -> str:
    """Return the table as GitHub Markdown, with all cells escaped."""
    lines = [
        "| " + " | ".join(map(escape_markdown, grid.head)) + " |",
        "| " + " | ".join("---:" if column and grid.numbers else "---" for column in range(len(grid.head))) + " |",
        *("| " + " | ".join(map(escape_markdown, row)) + " |" for row in grid.rows),
    ]
    return "\n".join(lines) + "\n"
