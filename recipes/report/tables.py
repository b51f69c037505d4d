"""Write the leaderboard of variants as records, as sentences, and as text, Markdown and rich tables.

>>> print(markdown_grid(TextGrid("", ("model", "reward"), (("wrpo", "0.843"), ("sft|dpo", "0.8")))), end="")
| model | reward |
| --- | ---: |
| wrpo | 0.843 |
| sft\\|dpo | 0.8 |
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from harness.pages.charts import Drawing
from harness.pages.text import FittedTable, escape_markdown, rich_table
from harness.records import Record, Score

Verdict = Literal["better", "worse", "not shown", "incomplete"]


PARENTS = ("sft", "target")
"""Models that the variants started from. As baselines they say less than another variant does."""
PRIORITIES = (
    *("model", "reward [95 %]", "difference [95 %]", "verdict", "p (Holm)", "validation", "unscored", "tokens"),
    "truncated",
)
"""Columns from the most important on, for a terminal that has no room for all."""
HEAD = (
    "Rewards are means over test prompts and seeds. Differences are paired by prompt and seed. Intervals are 95 % "
    "over prompts and seeds at once, so they cover other prompts and another seed. p is two-sided and adjusted "
    '(Holm) over the models compared with one baseline at one temperature. "better" and "worse" mean p < 0.05; any '
    'other difference is "not shown".'
)


class ModelRow(Record):
    """One model at one temperature, on the test prompts."""

    model: str
    temperature: float
    reward: Score
    """Mean over prompts and seeds; `n` counts scored answers."""
    by_seed: dict[int, float]
    """Mean of each seed."""
    seed_scores: dict[int, Score] = {}
    """The same with intervals over prompts; each describes one checkpoint."""
    validation: float | None
    """Mean over validation prompts and seeds, which decides which variant is `best`."""
    tokens: float | None
    """Mean length of the answers in tokens."""
    truncated: int
    complete: bool
    """At least 90 % of the answers have a reward."""


class Versus(Record):
    """A model minus a baseline at one temperature, over the test prompts that have rewards for both in every seed."""

    model: str
    baseline: str
    temperature: float
    value: float
    ci_low: float
    ci_high: float
    """95 % interval over prompts and seeds, or over prompts alone if there is only one seed."""
    prompts_low: float
    prompts_high: float
    """95 % interval over prompts alone."""
    se: float
    df: float
    by_seed: dict[int, float]
    prompts: int
    p: float
    """Two-sided p-value of "no difference", over prompts and seeds."""
    p_adjusted: float
    detectable: float
    """Smallest true difference that such a comparison detects with 80 % power, before the Holm adjustment."""
    verdict: Verdict


class VariantBoard(Record):
    """`report/variants.json`: the leaderboard of variants."""

    recipe: str
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: int
    """Number of test prompts."""
    models: tuple[ModelRow, ...]
    """Grouped by temperature, best first."""
    differences: tuple[Versus, ...]
    sentences: tuple[str, ...]
    """One per preference variant, which says whether it beats the baselines."""
    notes: tuple[str, ...] = ()

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(row.temperature for row in self.models))

    def rows(self, temperature: float) -> list[ModelRow]:
        return [row for row in self.models if row.temperature == temperature]

    def versus(self, temperature: float, baseline: str) -> list[Versus]:
        """Return all models minus this baseline at this temperature."""
        return [
            difference
            for difference in self.differences
            if (difference.temperature, difference.baseline) == (temperature, baseline)
        ]


def sentence(model: str, baselines: Sequence[str], differences: Sequence[Versus]) -> str:
    """Return how a model compares with each baseline, e.g. `wrpo: beats dpo at T 0.3, not shown at T 0 (...); ....`

    Baselines that are variants come first, and the models that all variants started from come last.
    """
    parts = []
    for baseline in baselines:
        matches = [row for row in differences if (row.model, row.baseline) == (model, baseline)]
        if matches:
            parts.append(_part(baseline, matches))
    return f"{model}: " + "; ".join(parts) + "." if parts else f"{model}: not compared with any baseline."


def _part(baseline: str, matches: Sequence[Versus]) -> str:
    figures = ", ".join(f"{at(difference.temperature)} {difference_text(difference)}" for difference in matches)
    temperatures = _by_verdict(matches)
    if len(temperatures) == 1:
        (verdict,) = temperatures
        claim = f"{CLAIMS[verdict]} {baseline}"
    else:
        # the claim comes first: a gain at some temperature, or that there is none at any
        beaten = "better" in temperatures
        words = {
            "better": f"beats {baseline} at",
            "worse": "is worse at" if beaten else f"does not beat {baseline}: worse at",
            "not shown": "not shown at" if beaten else "not shown to be better at",
            "incomplete": "too many answers unscored at",
        }
        claim = _listed(temperatures, words)
        if not beaten and "worse" not in temperatures:
            claim = f"not shown to beat {baseline}: {claim}"
    return f"{claim} ({figures})"


CLAIMS = {
    "better": "beats",
    "worse": "is worse than",
    "not shown": "not shown to beat",
    "incomplete": "too many answers unscored to compare with",
}


def _by_verdict(matches: Sequence[Versus]) -> dict[str, list[str]]:
    """Return the temperatures of each verdict that occurs, in the order of `CLAIMS`."""
    names = {verdict: [at(row.temperature) for row in matches if row.verdict == verdict] for verdict in CLAIMS}
    return {verdict: temperatures for verdict, temperatures in names.items() if temperatures}


def _listed(temperatures: Mapping[str, Sequence[str]], words: Mapping[str, str]) -> str:
    return ", ".join(f"{words[verdict]} {' and '.join(names)}" for verdict, names in temperatures.items())


def verdict_grid(board: VariantBoard) -> TextGrid:
    """Return the verdict on each model against each baseline, over all temperatures; `-`: not compared.

    If the verdicts differ, temperatures that are not named show no difference.
    """

    def cell(model: str, baseline: str) -> str:
        matches = [row for row in board.differences if (row.model, row.baseline) == (model, baseline)]
        temperatures = _by_verdict(matches)
        if len(temperatures) == 1:
            return next(iter(temperatures))
        decided = {verdict: names for verdict, names in temperatures.items() if verdict != "not shown"}
        return _listed(decided, {verdict: f"{verdict} at" for verdict in CLAIMS}) or "-"

    models = dict.fromkeys(row.model for row in board.differences)
    return TextGrid(
        title="Test reward against each baseline",
        head=("model", *(f"against {baseline}" for baseline in board.baselines)),
        rows=tuple((model, *(cell(model, baseline) for baseline in board.baselines)) for model in models),
        numbers=False,
    )


def at(temperature: float) -> str:
    """Return a temperature as text, e.g. `T 0.3`."""
    return "T 0" if temperature == 0 else f"T {temperature:g}"


def difference_text(difference: Versus) -> str:
    """Return a difference with its interval, e.g. `+0.120 [0.040, 0.200]`; without one if nothing varies."""
    span = f" [{difference.ci_low:.3f}, {difference.ci_high:.3f}]" if difference.se else ""
    return signed(difference.value) + span


def signed(value: float) -> str:
    """Return the value with its sign, e.g. `+0.120`; a value that rounds to zero gets no minus."""
    return f"{round(value, 3) + 0.0:+.3f}"


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


@dataclass(frozen=True)
class Section:
    """A part of the page: sentences, figures and tables below a title."""

    title: str
    lines: tuple[str, ...]
    grids: tuple[TextGrid, ...]
    drawings: tuple[Drawing, ...] = ()


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
    seeds = ", ".join(map(str, board.seeds)) or "none"
    return TextGrid(
        title=f"Test reward, {at(temperature)} ({board.prompts} prompts, seeds {seeds})",
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
                f"[{difference.prompts_low:.3f}, {difference.prompts_high:.3f}]" if difference.se else "-",
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


def rich_tables(board: VariantBoard) -> list[FittedTable]:
    """Return the tables for a terminal, without the folded ones."""
    return [rich_grid(grid) for grid in grids(board) if not grid.folded]


def rich_grid(grid: TextGrid) -> FittedTable:
    """Return the table for a terminal."""
    return rich_table(grid.title, grid.head, grid.rows, grid.head[:1], PRIORITIES)


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
