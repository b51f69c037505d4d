"""Report how the test reward changes with one value of a variant, a sweep, as sentences, table and figure.

Each sweep is a leaderboard of its own: its variants are compared with the variant that it is `of`, paired by prompt and
seed, and p-values are adjusted within the sweep. They are not on the recipe's leaderboard, where more rows would make
every other comparison stricter.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from pydantic import Field

from harness.pages.charts import ROW, WIDTH, ChartPoint, Drawing, axis, curves, whisker, width_of
from harness.pages.text import escape_markdown
from harness.records import Record, Score
from harness.records.asking import is_empty

from ..layout import Recipe
from ..spec import WEIGHTED, RecipeSpec, SweepSpec, sources_used
from ..training.settings import variant_settings
from .board import Measured, variant_board
from .suite_scores import Gap, SuiteComparison, SuiteGroup, Suites, gap_cells, suite_groups
from .tables import (
    Section,
    TextGrid,
    VariantBoard,
    Verdict,
    Versus,
    at,
    difference_text,
    markdown_grid,
    p_text,
    score_text,
    signed,
)

Value = str | int | float | bool
CLAIMS: dict[Verdict, str] = {
    "better": "raises the reward of {of}",
    "worse": "lowers the reward of {of}",
    "not shown": "is not shown to change the reward of {of}",
    "incomplete": "cannot be compared with {of}, too many answers are unscored",
}
SHARED = "SFT and the target's own samples are those of {of}: only what is chosen from the sources' answers changes."


class SuiteSweep(Record):
    """One suite that the variants of a sweep were run on."""

    name: str
    scores: dict[str, Score]
    differences: dict[str, Gap]
    """To the variant that the sweep is of."""


class SweepReport(Record):
    """One sweep: `report/sweeps.json` has a list of them."""

    of: str
    key: str
    values: dict[str, Value | None]
    """By variant, in the order of the table; None: nothing is left out, or the recipe does not state the value."""
    board: VariantBoard
    sentences: tuple[str, ...]
    note: str = ""
    """What the variants of the sweep share, if that is not all but the value."""
    suites: tuple[SuiteSweep, ...] = Field(default=(), exclude_if=is_empty)

    @property
    def title(self) -> str:
        return f"{self.of}: " + {"leave_out": "leaving out one source"}.get(self.key, f"by {self.key}")

    @property
    def name(self) -> str:
        """Return the name of its figure."""
        return f"sweep-{self.of}-{self.key}"


def sweep_reports(recipe: Recipe, measured: Sequence[Measured], suites: Suites = ()) -> list[SweepReport]:
    """Return the sweeps of which the variant itself and at least one other were measured, or run on a suite."""
    reports = []
    groups = suite_groups(recipe, suites)
    compared = SuiteComparison(recipe, suites) if recipe.spec.sweeps and groups else None
    for sweep in recipe.spec.sweeps:
        names = (sweep.of, *sweep.variants)
        rows = [result for result in measured if result.model in names]
        swept_groups = [group for every in groups if _compares(sweep, (group := every.of(names)).cards)]
        rewarded = {result.model for result in rows}
        has_rewards = _compares(sweep, rewarded)
        if not has_rewards and not swept_groups:
            continue
        with_results = rewarded.union(*(group.cards for group in swept_groups))
        board = variant_board(recipe.spec.name, rows if has_rewards else [], baselines=[sweep.of], preference=())
        values = _ordered({sweep.of: own_value(recipe.spec, sweep), **sweep.variants})
        values = {name: value for name, value in values.items() if name in with_results}
        reports.append(
            SweepReport(
                of=sweep.of,
                key=sweep.key,
                values=values,
                board=board,
                sentences=tuple(_sentence(sweep, name, values, board) for name in values if name != sweep.of)
                if has_rewards
                else (),
                note=_note(recipe.spec, sweep),
                suites=tuple(_suite_sweep(sweep, group, compared) for group in swept_groups if compared is not None),
            )
        )
    return reports


def _compares(sweep: SweepSpec, models: Collection[str]) -> bool:
    return sweep.of in models and len(models) > 1


def _suite_sweep(sweep: SweepSpec, group: SuiteGroup, compared: SuiteComparison) -> SuiteSweep:
    scores = {model: compared.score(cards) for model, cards in group.cards.items()}
    return SuiteSweep(name=group.title, scores=scores, differences=compared.gaps(group, sweep.of))


def own_value(spec: RecipeSpec, sweep: SweepSpec) -> Value | None:
    """Return the value of the variant that a sweep is of, or None for `leave_out` or if the recipe states none."""
    merge = spec.merges.get(sweep.of)
    if sweep.key == "leave_out":
        return None
    if merge is not None:
        value = len(merge.models) if sweep.key == "sources" else getattr(merge, sweep.key, None)
    elif sweep.key == "sources":
        value = len(sources_used(spec, spec.variants[sweep.of]))
    elif sweep.key == "samples":
        value = spec.variants[sweep.of].samples or spec.sampling.n
    else:
        value = variant_settings(spec, spec.variants[sweep.of]).get(sweep.key)
    return value if isinstance(value, str | int | float) else None


def _note(spec: RecipeSpec, sweep: SweepSpec) -> str:
    variant = spec.variants.get(sweep.of)
    if sweep.key not in ("sources", "samples", "leave_out") or variant is None or variant.method in WEIGHTED:
        return ""
    return SHARED.format(of=sweep.of)


def _ordered(values: dict[str, Value | None]) -> dict[str, Value | None]:
    if _are_numbers(value for value in values.values() if value is not None):
        return dict(sorted(values.items(), key=lambda item: (item[1] is None, item[1])))
    return values


def _are_numbers(values: Iterable[Value]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _sentence(sweep: SweepSpec, name: str, values: dict[str, Value | None], board: VariantBoard) -> str:
    """Return e.g. `Leaving out code is not shown to change the reward of wrpo (T 0 +0.010 [-0.020, 0.040]).`"""
    subject = _subject(sweep.key, values[name], values[sweep.of])
    rows = [row for row in board.differences if row.model == name]
    if not rows:
        return f"{subject}: not compared with {sweep.of}, because they share no seed or too few prompts."
    clauses: list[str] = []
    for verdict, words in CLAIMS.items():
        matches = [row for row in rows if row.verdict == verdict]
        if matches:
            figures = ", ".join(f"{at(row.temperature)} {difference_text(row)}" for row in matches)
            clauses.append(f"{words.format(of=sweep.of if not clauses else 'it')} ({figures})")
    return f"{subject} {' and '.join(clauses)}."


def _subject(key: str, value: Value | None, reference: Value | None) -> str:
    instead = "" if reference is None else f" instead of {reference}"
    if key == "leave_out":
        return f"Leaving out {value}"
    if key == "sources":
        return f"Using the first {value} of the sources{instead}"
    if key == "samples":
        return f"Choosing from {value} answer{'' if value == 1 else 's'} per source{instead}"
    return f"Setting {key} to {value}{instead}"


def sweep_section(report: SweepReport) -> Section:
    """Return the sweep for a page, or as a part of `sweeps.md`."""
    drawing = sweep_figure(report)
    lines = (*report.sentences, *((report.note,) if report.note else ()), *report.board.notes)
    return Section(report.title, lines, tuple(sweep_grids(report)), () if drawing is None else (drawing,))


def sweep_grids(report: SweepReport) -> list[TextGrid]:
    """Return one table per temperature and per suite. The variant that the sweep is of has no difference."""
    value, difference = "left out" if report.key == "leave_out" else report.key, f"difference to {report.of} [95 %]"
    head = (value, "reward [95 %]", difference, "each seed", "p (Holm)", "verdict")
    suite_head = (value, "score [95 %]", difference, "p (Holm)", "verdict")
    return [
        *(
            TextGrid(f"{report.title}, {at(temperature)}", head, tuple(_cells(report, temperature)))
            for temperature in report.board.temperatures
        ),
        *(
            TextGrid(f"{report.title}, {suite.name}", suite_head, tuple(_suite_cells(report, suite)))
            for suite in report.suites
        ),
    ]


def _suite_cells(report: SweepReport, suite: SuiteSweep) -> Iterable[tuple[str, ...]]:
    for name in report.values:
        if name in suite.scores:
            yield (_label(report, name), score_text(suite.scores[name]), *gap_cells(suite.differences.get(name)))


def _cells(report: SweepReport, temperature: float) -> Iterable[tuple[str, ...]]:
    rewards = {row.model: row.reward for row in report.board.rows(temperature)}
    differences = {row.model: row for row in report.board.versus(temperature, report.of)}
    for name in report.values:
        if name in rewards:
            yield (_label(report, name), score_text(rewards[name]), *_difference_cells(differences.get(name)))


def _label(report: SweepReport, name: str) -> str:
    value = report.values[name]
    if name == report.of:
        return f"{report.of} itself" if value is None else f"{value} ({report.of})"
    return str(value)


def _difference_cells(row: Versus | None) -> tuple[str, ...]:
    if row is None:
        return ("-",) * 4
    seeds = " ".join(signed(value) for value in row.by_seed.values())
    return difference_text(row), seeds, p_text(row.p_adjusted), row.verdict


def sweep_figure(report: SweepReport) -> Drawing | None:
    """Return the differences as a curve over numbers, or else as a list, or None if there are none."""
    if not report.board.differences:
        return None
    values = {name: value for name, value in report.values.items() if value is not None}
    if report.key == "leave_out" or not _are_numbers(values.values()):
        return _listed(report)
    series = []
    for temperature in report.board.temperatures:
        rows = {row.model: row for row in report.board.versus(temperature, report.of)}
        points = [
            ChartPoint(name, float(value), row.value, row.ci_low, row.ci_high)
            for name, value in values.items()
            if (row := rows.get(name)) is not None
        ]
        if report.of in values:  # its difference to itself is 0, without an interval
            points.append(ChartPoint(report.of, float(values[report.of]), 0.0))
        series.append((at(temperature), points))
    title = f"Difference of the mean test reward to {report.of}, with 95 % intervals, by {report.key}"
    return curves(series, title, report.key, f"test reward, difference to {report.of}, 95 % interval,")


def _listed(report: SweepReport) -> Drawing:
    """Draw each difference at the first temperature with its interval, and a line at zero."""
    temperature = report.board.temperatures[0]
    rows = report.board.versus(temperature, report.of)
    order = list(report.values)
    rows = sorted(rows, key=lambda row: order.index(row.model))
    left = min(max(width_of(_label(report, row.model)) for row in rows) + 24, 300)
    bottom = 24 + ROW * len(rows)
    scale = axis([0.0, *(end for row in rows for end in (row.ci_low, row.value, row.ci_high))], left, WIDTH - 160.0)
    drawing = Drawing(WIDTH, bottom + 28, f"{report.title}, difference of the mean test reward, {at(temperature)}")
    drawing.text(left, 14, f"test reward, difference to {report.of}, 95 % interval, {at(temperature)}", css="title")
    for tick in scale.ticks(6):
        drawing.line(scale(tick), 24, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 16, f"{tick:g}", anchor="middle", css="small muted")
    drawing.line(scale(0.0), 24, scale(0.0), bottom, "axis")
    for position, row in enumerate(rows):
        y = 24 + ROW * (position + 0.5)
        span = (row.ci_low, row.ci_high) if row.se else (None, None)
        score = Score(value=row.value, ci_low=span[0], ci_high=span[1], n=row.prompts, unscored=0)
        drawing.text(left - 12, y + 4, _label(report, row.model), anchor="end")
        whisker(drawing, scale, score, y, hint=f"{row.model}: {difference_text(row)}")
        drawing.text(WIDTH - 4, y + 4, difference_text(row), anchor="end", css="small muted")
    return drawing


def sweeps_markdown(recipe: str, reports: Sequence[SweepReport]) -> str:
    """Return all sweeps as GitHub Markdown."""
    parts = [f"# {escape_markdown(recipe)}: sweeps", ""]
    for section in map(sweep_section, reports):
        parts += [f"## {escape_markdown(section.title)}", "", *(f"- {escape_markdown(line)}" for line in section.lines)]
        for grid in section.grids:
            parts += ["", f"### {escape_markdown(grid.title)}", "", markdown_grid(grid).rstrip()]
        parts += [""]
    return "\n".join(parts).rstrip() + "\n"
