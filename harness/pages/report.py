"""A decision among a few models as a message: for Slack, for a pull request, or as one HTML file. Pure.

    report_text(report, "slack")

Each format escapes names and texts in its own way: a model called `<!channel>` notifies nobody.

>>> slack_text("<!channel> *ship* @here")
'&lt;!channel&gt; *\\u2060ship*\\u2060 @\\u2060here'
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from ..analysis.best import BestOf
from ..analysis.comparison import Comparison
from ..analysis.differences import Difference
from ..records import Score
from .board import Figure, asset, content_policy, environment
from .charts import ChartPoint, differences
from .comparison_text import (
    CAUTIOUS,
    best_sentence,
    difference_span,
    left_out_lines,
    models_correction_lines,
    p_cell,
    verdict,
)
from .text import escape_markdown, interval, plain

HEAD = ("model", "score [95 %]", "difference [95 %]", "p")
JOINER = "\u2060"
"""Word joiner: invisible, and it ends what Slack would read as formatting or a mention."""


@dataclass(frozen=True)
class ReportRow:
    """One model on one suite."""

    model: str
    score: Score
    """The headline, on all of the model's questions."""
    difference: Difference | None
    """Minus the first model, on the common questions; None for the first, or if nothing can be compared."""
    run: str = ""
    """MODEL/SUITE@VERSION/ID, the last three parts of the run's folder; empty: the card is a file of its own."""

    def cells(self) -> list[str]:
        """Return the row's texts under `HEAD`."""
        row = self.difference
        if row is None:
            return [self.model, interval(self.score), "-", "-"]
        return [
            self.model,
            interval(self.score),
            difference_span(row),
            p_cell(row.p_shown),
        ]


@dataclass(frozen=True)
class ReportSection:
    """One suite. The first row is the model that the others are compared with."""

    suite: str
    suite_version: str
    judge: str
    metric: str
    rows: tuple[ReportRow, ...]
    comparisons: tuple[Comparison, ...]
    best: BestOf | None = None
    """With three models or more."""
    unranked: str = ""
    """Why no best of three or more could be found."""

    @property
    def title(self) -> str:
        return f"{self.suite} ({self.suite_version}), judge {self.judge}, {self.metric}"

    def verdicts(self) -> list[str]:
        """Return the sentence on the best of several, then one per comparison."""
        return ([best_sentence(self.best)] if self.best else []) + [verdict(pair) for pair in self.comparisons]

    def notes(self) -> list[str]:
        """Return what limits the differences."""
        lines = [f"compared although different: {text}" for pair in self.comparisons for text in pair.forced]
        lines += [self.unranked] if self.unranked else []
        lines += [note for pair in self.comparisons for note in pair.notes]
        lines += [line for pair in self.comparisons[:1] for line in models_correction_lines(pair)]
        if any(row.difference is not None and row.difference.is_cautious for row in self.rows):
            lines.append(CAUTIOUS)
        lines += [
            f"{row.model}: {row.score.n} scored, {row.score.unscored} unscored"
            for row in self.rows
            if row.score.unscored
        ]
        lines += [line for pair in self.comparisons for line in left_out_lines(pair)]
        return list(dict.fromkeys(lines))


@dataclass(frozen=True)
class ModelsReport:
    sections: tuple[ReportSection, ...]
    results: str
    """The results folder as the user named it; links to runs start there."""
    viewer: str = ""
    """Address of a `harness view` that shows these runs; empty: links are the runs' folders."""

    def address(self, row: ReportRow) -> str:
        """Return where the run is: a page of the viewer, or a folder."""
        if self.viewer:
            return f"{self.viewer.rstrip('/')}/run/{quote(row.run, safe='/@')}"
        return f"{self.results}/runs/{row.run}"


def report_text(report: ModelsReport, to: str) -> str:
    """Return the report for `slack`, `github` or `html`."""
    return {"slack": slack, "github": github, "html": html}[to](report)


def slack_text(text: str) -> str:
    """Return the text literally for a Slack message: no mention, link or formatting."""
    joined = re.sub(r"[*~`@]|(?<!\w)_|_(?!\w)", lambda match: match[0] + JOINER, plain(text))
    return _slack_entities(joined)


def _slack_entities(text: str) -> str:
    # Slack: only these three characters are escaped, also inside code
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def slack(report: ModelsReport) -> str:
    """Return Slack's mrkdwn: the first verdict in bold, then tables as code, which Slack aligns."""
    lines: list[str] = []
    for section in report.sections:
        first, *rest = section.verdicts() or [section.title]
        lines += [f"*{slack_text(first)}*", *(f"• {slack_text(text)}" for text in rest)]
    for section in report.sections:
        lines += [
            "",
            slack_text(section.title),
            "```",
            *_aligned([HEAD, *(row.cells() for row in section.rows)]),
            "```",
        ]
        lines += [f"_{slack_text(note)}_" for note in section.notes()]
        lines += [_slack_link(report, row) for row in section.rows if row.run]
    return "\n".join(lines) + "\n"


def _aligned(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    # a backtick could end the block of code
    cells = [[plain(text).replace("`", "'") for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for name, *numbers in cells:
        padded = [text.rjust(width) for text, width in zip(numbers, widths[1:], strict=True)]
        yield _slack_entities("  ".join([name.ljust(widths[0]), *padded]))


def _slack_link(report: ModelsReport, row: ReportRow) -> str:
    address, name = report.address(row), slack_text(row.model)
    if not report.viewer:
        return f"• {name}: {_slack_entities(_code(address))}"
    # `|` separates address and text of a link
    return f"• <{_slack_entities(address).replace('|', '%7C')}|{name.replace('|', '/')}>"


def _code(text: str) -> str:
    """Return the text as code, in which neither Slack nor GitHub reads mentions or formatting."""
    return f"`{plain(text).replace('`', chr(39))}`"


def github_text(text: str) -> str:
    """Return the text literally for a comment on GitHub: no mention, no reference to an issue."""
    # a zero-width space as an entity ends the name that GitHub would notify
    return escape_markdown(text).replace("@", "@&#8203;").replace("\\#", "\\#&#8203;")


def github(report: ModelsReport) -> str:
    """Return GitHub's Markdown, for a comment or a step summary."""
    lines = ["### Which model is better", ""]
    for section in report.sections:
        lines += [f"- {github_text(text)}" for text in section.verdicts()]
    for section in report.sections:
        lines += [
            "",
            f"#### {github_text(section.title)}",
            "",
            "| " + " | ".join(HEAD) + " |",
            "| --- | ---: | ---: | ---: |",
        ]
        for row in section.rows:
            name, *numbers = map(github_text, row.cells())
            lines.append("| " + " | ".join([_github_link(report, row, name), *numbers]) + " |")
        lines += ["", *(f"- {github_text(note)}" for note in section.notes())]
        if not report.viewer:
            lines += [f"- {github_text(row.model)}: {_code(report.address(row))}" for row in section.rows if row.run]
    return "\n".join(lines).rstrip() + "\n"


def _github_link(report: ModelsReport, row: ReportRow, name: str) -> str:
    if not (report.viewer and row.run):
        return name
    address = report.address(row).replace("(", "%28").replace(")", "%29").replace("|", "%7C")
    return f"[{name}]({address})"


def html(report: ModelsReport) -> str:
    """Return one HTML file without scripts, which needs no network."""
    style = asset("style.css")
    template = environment().get_template("models_report.html")
    drawn = [(section, section_figure(section)) for section in report.sections]
    return template.render(report=report, drawn=drawn, head=HEAD, style=style, policy=content_policy(style, "")) + "\n"


def section_figure(section: ReportSection) -> Figure | None:
    """Return the figure of the differences from the first model; None if nothing was compared."""
    compared = [
        ChartPoint(row.model, row.difference.value, 0.0, row.difference.ci_low, row.difference.ci_high)
        for row in section.rows
        if row.difference is not None
    ]
    drawing = differences(compared, section.metric, section.rows[0].model)
    if drawing is None:
        return None
    name = re.sub(r"[^\w.-]+", "-", f"{section.suite}-{section.suite_version}-differences")
    return Figure(name, drawing)
