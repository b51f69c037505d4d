r"""Write a decision among a few models as a Slack or pull request message, an HTML or PDF page, or a model card.

>>> slack_text("<!channel> *ship* @here")
'&lt;!channel&gt; *\u2060ship*\u2060 @\u2060here'

>>> edited_card("---\nlicense: mit\n---\n# m\n", "m", []).splitlines()[:3]
['---', 'license: mit', 'model-index:']

Each format escapes names and texts in its own way: a model called `<!channel>` notifies nobody.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import yaml
from pydantic import JsonValue

from ..analysis.best import BestOf
from ..analysis.comparison import Comparison
from ..analysis.differences import Difference
from ..records import Score, ScoreCard
from ..records.documents import parse_yaml
from ..records.errors import ConfigError
from .board import Figure, asset, content_policy, environment
from .charts import ChartPoint, differences
from .comparison_text import (
    CAUTIOUS,
    best_sentence,
    left_out_lines,
    method_span,
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
            method_span(row),
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
    """Return the figure of the differences from the first model, or None if nothing was compared."""
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


# ----------------------------------------------------------------------------------------------- model-index of the Hub
# Only `model-index` of the card's YAML is ours; all else in it stays as its author wrote it. The format is
# https://github.com/huggingface/hub-docs/blob/main/modelcard.md.


KEY = "model-index"
README = "the model card's metadata"
FRONT = re.compile(r"\A(?P<open>\s*---[ \t]*\r?\n)(?P<yaml>(?:.*\r?\n)*?)(?=---[ \t]*(?:\r?\n|\Z))")
LEVEL = 95
"""Confidence level of the intervals, in percent."""

Entry = dict[str, JsonValue]


def entries(cards: Iterable[ScoreCard]) -> list[Entry]:
    """Return one result per complete card that has a headline score, with its interval in the metric's `args`."""
    return [_entry(card) for card in cards if card.complete and card.scores[card.headline].value is not None]


def _entry(card: ScoreCard) -> Entry:
    score = card.scores[card.headline]
    certainty: Entry = {"n": score.n}
    if score.ci_low is not None and score.ci_high is not None:
        limits: Entry = {"ci_low": round(score.ci_low, 6), "ci_high": round(score.ci_high, 6), "confidence": LEVEL}
        certainty = limits | certainty
    return {
        "task": {"type": "text-generation", "name": "Text generation"},
        "dataset": {
            "name": f"{card.suite} {card.suite_version}, judge {card.judge}",
            "type": card.suite,
            "config": card.protocol_sha,
        },
        "metrics": [{"type": card.headline, "value": round(score.value or 0.0, 6), "args": certainty}],
    }


def index_yaml(models: Sequence[tuple[str, Sequence[Entry]]]) -> str:
    """Return the YAML of a `model-index` with one entry per model."""
    return _dump([{"name": name, "results": list(results)} for name, results in models])


def _dump(index: list[JsonValue]) -> str:
    return yaml.safe_dump({KEY: index}, sort_keys=False, allow_unicode=True, width=1000)


def edited_card(text: str, name: str, results: Sequence[Entry]) -> str:
    """Return the model card with these results; all its other text and metadata stay as they are.

    A result replaces one of the same suite, protocol and metric. `name` is used if the card has no `model-index` yet.
    Raise ConfigError if the card's metadata cannot be read or edited without changing the rest.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    front = FRONT.match(text)
    if front is None:
        if text.lstrip().startswith("---"):
            raise ConfigError(f"{README} begin with --- but have no end; correct the card first")
        head = f"---\n{index_yaml([(name, results)])}---\n".replace("\n", newline)
        return head + (newline + text if text else "")
    metadata = parse_yaml(front["yaml"], README) or {}
    if not isinstance(metadata, dict):
        raise ConfigError(f"{README} are not a mapping; correct the card first")
    index = _merged(metadata.get(KEY), name, results)
    before, after = _around(front["yaml"].splitlines(keepends=True))
    if KEY in metadata and before + after == front["yaml"]:
        raise ConfigError(f"{README}: {KEY} is not a plain key at the start of a line; correct the card first")
    edited = before + _dump(index).replace("\n", newline) + after
    if parse_yaml(edited, README) != metadata | {KEY: index}:
        raise ConfigError(f"{README} state {KEY} in a way that cannot be edited safely; add `--to hf` output by hand")
    return front["open"] + edited + text[front.end() :]


def _around(lines: Sequence[str]) -> tuple[str, str]:
    """Return the YAML before and after the block of `model-index`; without one, all of it is before."""
    start = next((number for number, line in enumerate(lines) if line.startswith(f"{KEY}:")), len(lines))
    end = next((number for number in range(start + 1, len(lines)) if _is_key(lines[number])), len(lines))
    # comments just above the next key are about that key
    while end > start + 1 and lines[end - 1].startswith("#"):
        end -= 1
    return "".join(lines[:start]), "".join(lines[end:])


def _is_key(line: str) -> bool:
    return re.match(r"[^\s#-]", line) is not None


def _merged(index: object, name: str, results: Sequence[Entry]) -> list[JsonValue]:
    if index is None or index == []:
        return [{"name": name, "results": list(results)}]
    if not (isinstance(index, list) and all(isinstance(model, dict) for model in index)):
        raise ConfigError(f"{README}: {KEY} is not a list of models; correct the card first")
    position = next((number for number, model in enumerate(index) if model.get("name") == name), 0)
    earlier = index[position].get("results") or []
    if not (isinstance(earlier, list) and all(isinstance(result, dict) for result in earlier)):
        raise ConfigError(f"{README}: {KEY} has results that are not a list; correct the card first")
    new = {_identity(result) for result in results}
    unrelated = [result for result in earlier if _identity(result) not in new]
    edited: list[JsonValue] = [*index]
    edited[position] = index[position] | {"results": [*unrelated, *results]}
    return edited


def _identity(result: Entry) -> str:
    """Return what two results of one measurement have in common."""
    dataset, metrics = result.get("dataset"), result.get("metrics")
    parts = [dataset.get(key) for key in ("type", "config")] if isinstance(dataset, dict) else [dataset]
    kinds = [row.get("type") if isinstance(row, dict) else row for row in metrics] if isinstance(metrics, list) else []
    return repr((parts, kinds))


# ------------------------------------------------------------------------------------------------------------------ PDF
# Playwright prints the page through a Chromium of this machine. Neither is a dependency.


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands of browsers that print; Playwright's own download comes after them."""
MARGIN = "15mm"
"""Above and below; the page has its own at the sides."""


def check_pdf() -> None:
    """Raise ConfigError if the package that drives the browser is missing, before anything is compared."""
    if find_spec("playwright") is None:
        raise ConfigError(
            "--to pdf needs Playwright and a Chromium: pip install playwright && playwright install chromium; "
            "or write --to html and print it in a browser"
        )


def pdf(html: str) -> bytes:
    """Return a page without scripts as PDF, A4, in light colours. Raise ConfigError if no browser starts."""
    check_pdf()
    from playwright.sync_api import Error, sync_playwright

    command = next(filter(None, map(shutil.which, BROWSERS)), None)
    # Chromium refuses its sandbox to root; the page is our own, and loads nothing
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=command and Path(command), args=arguments)
            page = browser.new_page(color_scheme="light", java_script_enabled=False)
            page.set_content(html)
            content: bytes = page.pdf(format="A4", print_background=True, margin={"top": MARGIN, "bottom": MARGIN})
            browser.close()
    except Error as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--to pdf found no Chromium that starts ({reason}); playwright install chromium, "
            "or write --to html and print it in a browser"
        ) from None
    return content
