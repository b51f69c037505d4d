"""Format comparisons as rich tables and Markdown. Pure: records in, text out; untrusted text stays text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from rich.table import Table as RichTable
from rich.text import Text

from ..analysis.comparison import AnswerShift, Comparison, Difference
from ..analysis.gate.decision import named, sentence
from ..analysis.gate.policy import CheckResult, GateReport, LimitResult, SequentialReport
from ..analysis.gate.power import PowerRow
from ..records import ScoreCard
from .tables import escape_markdown, interval, number, plain

HEAD = ("metric", "category", "first", "other", "difference [95 %]", "p", "could see", "questions")
LEFT = ("metric", "category", "model", "question", "what", "check", "tier", "found", "suite", "against")


def difference_cells(row: Difference) -> list[str]:
    """Return the row's texts under `HEAD`."""
    p = row.p if row.p_adjusted is None else row.p_adjusted
    return [
        row.metric,
        row.category or "all",
        f"{row.first:.2f}",
        f"{row.other:.2f}",
        f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]",
        p_text(p),
        f"{row.detectable:.2f}",
        str(row.n),
    ]


def p_text(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def title(pair: Comparison) -> str:
    return f"{pair.suite} ({pair.suite_version}), judge {pair.judge}: {pair.other} minus {pair.first}"


def verdict(pair: Comparison) -> str:
    """Return one sentence on the headline, which a person reads first."""
    row = pair.difference(pair.headline) or next(iter(pair.differences), None)
    if row is None:
        return f"{pair.suite}: nothing to compare"
    p = row.p if row.p_adjusted is None else row.p_adjusted
    span = f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}], p {p_text(p)}"
    if p <= 0.05:
        word = "better" if row.value > 0 else "worse"
        return f"{pair.suite}: {pair.other} is {word} than {pair.first} by {row.metric}: {span}"
    if row.se == 0 and row.value == 0:
        return f"{pair.suite}: {pair.other} and {pair.first} have the same verdict on every question, by {row.metric}"
    needed = f"; a true {abs(row.value):.2f} would need {row.needed} questions" if row.needed else ""
    return (
        f"{pair.suite}: no difference shown between {pair.other} and {pair.first} by {row.metric}: {span}; "
        f"smaller ones than {row.detectable:.2f} are not seen by this comparison{needed}"
    )


def other_lines(pair: Comparison) -> list[str]:
    """Return what a reader should know besides the differences."""
    lines = [f"compared although different: {difference}" for difference in pair.forced]
    lines += list(pair.notes)
    if pair.only_first or pair.only_other:
        lines.append(
            f"left out, scored in one run alone: {pair.only_first} of {pair.first}, {pair.only_other} of {pair.other}"
        )
    gained = sum(flip.kind == "gained" for flip in pair.flips)
    doubtful = sum(flip.doubtful for flip in pair.flips)
    lines.append(
        f"{len(pair.flips)} questions flipped: {gained} to {pair.other}, {len(pair.flips) - gained} away from it"
    )
    if pair.orders is not None:
        kept = "" if pair.orders.without is None else f"; without them the difference is {pair.orders.without:+.2f}"
        lines.append(
            f"the judge contradicted itself between the two orders on {pair.orders.first} questions of "
            f"{pair.first} and "
            f"{pair.orders.other} of {pair.other} (of {pair.orders.judged_twice}), {doubtful} flips among them{kept}"
        )
    return lines + [shift_line(shift) for shift in pair.shifts]


def shift_line(shift: AnswerShift) -> str:
    span = "" if shift.ci_low is None else f" [{shift.ci_low:+.1f}, {shift.ci_high:+.1f}]"
    return f"{shift.name}: {shift.first:.1f} -> {shift.other:.1f}, {shift.value:+.1f}{span}"


def flip_cells(pair: Comparison, limit: int) -> list[list[str]]:
    return [
        [
            flip.prompt_id,
            flip.category or "-",
            f"{flip.first:.1f}",
            f"{flip.other:.1f}",
            flip.kind + (", judge contradicted itself" if flip.doubtful else ""),
        ]
        for flip in pair.flips[:limit]
    ]


FLIP_HEAD = ("question", "category", "first", "other", "what")


def rich_comparison(pair: Comparison, *, flips: int) -> list[RichTable]:
    """Return tables for a terminal; untrusted text is added as Text, never as markup."""
    tables = [rich_table(title(pair), HEAD, [difference_cells(row) for row in pair.differences])]
    cells = flip_cells(pair, flips)
    if cells:
        tables.append(rich_table(f"largest flips ({len(cells)} of {len(pair.flips)})", FLIP_HEAD, cells))
    return tables


def rich_table(name: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> RichTable:
    """Return a table with the columns in `LEFT` aligned left, all others right."""
    rich = RichTable(title=Text(plain(name)), title_justify="left")
    for column in head:
        rich.add_column(Text(column), justify="left" if column in LEFT else "right", overflow="fold")
    for row in rows:
        rich.add_row(*(Text(plain(cell)) for cell in row))
    return rich


def markdown(comparisons: Sequence[Comparison], *, flips: int) -> str:
    """Return one section per comparison, the verdicts first."""
    parts = ["# Comparison", "", *(f"- {escape_markdown(verdict(pair))}" for pair in comparisons), ""]
    for pair in comparisons:
        parts += [f"## {escape_markdown(title(pair))}", ""]
        parts += markdown_table(HEAD, [difference_cells(row) for row in pair.differences])
        parts += ["", *(f"- {escape_markdown(line)}" for line in other_lines(pair)), ""]
        cells = flip_cells(pair, flips)
        if cells:
            parts += [*markdown_table(FLIP_HEAD, cells), ""]
    return "\n".join(parts).rstrip() + "\n"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    aligned = ["---" if name in LEFT else "---:" for name in head]
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join(aligned) + " |"]
    return lines + ["| " + " | ".join(escape_markdown(cell) for cell in row) + " |" for row in rows]


# ----------------------------------------------------------------------------------------------------
# Format head-to-head games as tables and sentences. Pure: cards in, text out.


GAMES_HEAD = ("suite", "model", "against", "category", "win rate [95 %]", "games", "unscored", "won", "tied", "lost")


def games_cells(cards: Sequence[ScoreCard]) -> list[list[str]]:
    """Return rows under `GAMES_HEAD`: all questions of a suite, then its categories."""
    rows = []
    for card in cards:
        total = card.scores["win_rate"]
        questions = [number(card.scores.get(name), name) for name in ("n_won", "n_tied", "n_lost")]
        fixed = [card.suite, card.model, str(card.protocol.get("baseline"))]
        rows.append([*fixed, "all", interval(total, "win_rate"), str(total.n), str(total.unscored), *questions])
        for name, scores in card.by_category.items():
            part = scores["win_rate"]
            rows.append(["", "", "", name, interval(part, "win_rate"), str(part.n), str(part.unscored), "", "", ""])
    return rows


def games_verdict(card: ScoreCard) -> str:
    """Return one sentence on who wins, if that is certain."""
    score, baseline = card.scores["win_rate"], str(card.protocol.get("baseline"))
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return f"{card.suite}: too few games to say who wins"
    span = f"{score.value:.1f} % of the points [{score.ci_low:.1f}, {score.ci_high:.1f}]"
    if score.ci_low > 50:
        return f"{card.suite}: {card.model} beats {baseline}: {span}"
    if score.ci_high < 50:
        return f"{card.suite}: {card.model} loses to {baseline}: {span}"
    return f"{card.suite}: {card.model} and {baseline} are not told apart: {span}"


def games_markdown(cards: Sequence[ScoreCard]) -> str:
    lines = ["# Head to head", "", *(f"- {escape_markdown(games_verdict(card))}" for card in cards), ""]
    return "\n".join(lines + markdown_table(GAMES_HEAD, games_cells(cards))) + "\n"


# ----------------------------------------------------------------------------------------------------
# Format a gate's report as Markdown (for a GitHub step summary) and as one line. Pure; untrusted text is escaped.


GATE_HEAD = ("check", "tier", "baseline", "candidate", "difference [95 %]", "above", "margin", "found")
POWER_HEAD = ("metric", "questions", "margin", "true drop", "pass", "inconclusive", "fail", "gates")
MARKS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "invalid": "INVALID"}


def summary_line(report: GateReport) -> str:
    """Return the line that a person reads first; it is printed last."""
    return plain(
        f"{MARKS[report.outcome]} (exit {report.exit_code}): {report.candidate} against {report.baseline}: "
        + "; ".join(report.reasons)
    )


def check_cells(check: CheckResult) -> list[str]:
    """Return the check's texts under `HEAD`."""
    if check.difference is None or check.lower is None:
        return [named(check), check.tier, "-", "-", "-", "-", f"{check.margin:g}", check.found]
    row = check.difference
    finding = check.found if check.found != "worse" or check.p_worse is None else f"worse, p {p_text(check.p_worse)}"
    floor = {True: "above the floor", False: "below the floor", None: "floor undecided"}
    return [
        named(check),
        check.tier,
        f"{row.first:.2f}",
        f"{row.other:.2f}",
        f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]",
        f"{check.lower:+.2f}",
        f"{check.margin:g}",
        finding if check.floor is None else f"{finding}; {floor[check.above_floor]}",
    ]


def sequential_line(stop: SequentialReport) -> str:
    """Return one suite's early stop as a sentence."""
    if stop.note is not None:
        return f"{stop.suite}: {stop.note}"
    steps = ", ".join(f"{metric} {step}" for metric, step in stop.steps.items())
    would = "would have stopped" if stop.replayed else "stopped"
    return (
        f"{stop.suite}: {would} after {stop.questions} of {stop.of} questions ({steps}): "
        f"{stop.calls_saved} judge calls {'would have been ' if stop.replayed else ''}saved, {stop.calls} "
        f"{'needed' if stop.replayed else 'made'}"
    )


def gate_markdown(report: GateReport) -> str:
    """Return the verdict first, then checks, limits and notes."""
    parts = [f"# Gate: {MARKS[report.outcome]}", ""]
    parts.append(f"{escape_markdown(report.candidate)} against {escape_markdown(report.baseline)}")
    parts += ["", *(f"- {escape_markdown(reason)}" for reason in report.reasons), ""]
    parts += markdown_table(GATE_HEAD, [check_cells(check) for check in report.checks])
    broken = [limit for limit in report.limits if not limit.kept]
    kept = len(report.limits) - len(broken)
    parts += ["", f"Limits: {kept} kept, {len(broken)} broken."]
    parts += [
        f"- {escape_markdown(f'{limit.suite} {limit.name} of {limit.run}: {limit.value:.1%}')}" for limit in broken
    ]
    parts += ["", *(f"- {escape_markdown(sequential_line(stop))}" for stop in report.sequential)]
    parts += [f"- {escape_markdown(note)}" for note in report.notes]
    return "\n".join(parts).rstrip() + "\n"


def power_cells(row: PowerRow) -> list[str]:
    """Return the row's texts under `POWER_HEAD`."""
    shares = [f"{100 * share:.1f} %" for share in (row.passed, row.inconclusive, row.failed)]
    return [row.metric, str(row.questions), f"{row.margin:g}", f"{row.drop:g}", *shares, str(row.trials)]


# ----------------------------------------------------------------------------------------------------
# Format a gate's report as JUnit XML, which CI systems read. Pure. Schema: the common one of Jenkins' xunit plugin
# (junit-10.xsd). There is one test case per check and per limit. Worse checks and the candidate's broken limits are
# failures. What makes the gate invalid, and undecided critical checks, are errors; other undecided checks are
# skipped. Characters that XML 1.0 forbids are dropped.


FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production Char


def junit(report: GateReport) -> str:
    """Return the XML text with declaration."""
    suite = ElementTree.Element("testsuite", name=_text(f"harness gate {report.candidate} {report.baseline}"))
    cases = [_verdict(report)]
    cases += [_check(check, report) for check in report.checks]
    cases += [_limit(limit) for limit in report.limits]
    for case in cases:
        suite.append(case)
    suite.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", "0")
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _text(text: str) -> str:
    return FORBIDDEN.sub("", plain(text))


def _case(classname: str, name: str, tag: str | None = None, message: str = "") -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_text(classname), name=_text(name), time="0")
    if tag is not None:
        attributes = {"message": _text(message)} | ({} if tag == "skipped" else {"type": tag})
        ElementTree.SubElement(case, tag, attributes)
    return case


def _verdict(report: GateReport) -> ElementTree.Element:
    tag = {"pass": None, "fail": "failure", "inconclusive": "error", "invalid": "error"}[report.outcome]
    return _case("gate", f"verdict: {report.outcome}", tag, "; ".join(report.reasons))


def _check(check: CheckResult, report: GateReport) -> ElementTree.Element:
    words = sentence(check, report.policy)
    name = f"{named(check)}, margin {check.margin:g}"
    classname = f"gate.{check.tier}.{check.suite}"
    if check.found == "missing":
        return _case(classname, name, "skipped" if check.tier == "advisory" else "error", words)
    if (check.found == "worse" or check.above_floor is False) and check.tier != "advisory":
        return _case(classname, name, "failure", words)
    if check.found == "undecided":
        return _case(classname, name, "error" if check.tier == "critical" else "skipped", words)
    return _case(classname, name, "skipped" if check.found == "worse" else None, words)


def _limit(limit: LimitResult) -> ElementTree.Element:
    tag = None if limit.kept else "failure" if limit.name.startswith("truncated") else "error"
    words = f"{limit.value:.2%}, limit {limit.limit:.2%}"
    return _case(f"gate.limits.{limit.suite}", f"{limit.name} of {limit.run}", tag, words)
