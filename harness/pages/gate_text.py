"""Write a gate's report as Markdown (for a GitHub step summary), as one line, and as JUnit XML for CI systems.

The XML follows the common schema of Jenkins' xunit plugin (junit-10.xsd), with one test case per check and per limit.
Worse checks and the candidate's exceeded limits are failures. What makes the gate invalid, and undecided critical
checks, are errors; other undecided checks are skipped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

from ..analysis.gate.candidates import CandidatesReport
from ..analysis.gate.decision import Slope, named, sentence
from ..analysis.gate.policy import CheckResult, GateReport, LimitResult, SequentialReport
from ..analysis.gate.power import PowerRow
from ..analysis.population import POPULATION_LINES
from .comparison_text import best_sentence, method_span, p_cell
from .text import FittedTable, escape_markdown, listed, markdown_list, markdown_table, plain, rich_table

GATE_HEAD = ("check", "tier", "baseline", "candidate", "difference [95 %]", "lower bound", "margin", "result")
GATE_ORDER = ("check", "result", "difference [95 %]", "margin", "lower bound", "baseline", "candidate")
"""Columns of a gate from the most important on, for a narrow terminal."""
POWER_HEAD = ("metric", "questions", "margin", "true drop", "pass", "inconclusive", "fail", "trials")
SLOPE_HEAD = ("suite", "with", "models", "points per point", "stated", "logit correlation")
LEFT = ("suite", "with", "check", "tier", "result", "metric")
FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production Char


def summary_line(report: GateReport) -> str:
    """Return the line that a person reads first; it is printed last."""
    head = f"{report.outcome.upper()} (exit {report.exit_code}): {report.candidate} against {report.baseline}: "
    return plain(head + "; ".join(report.reasons))


def candidate_line(report: GateReport, count: int) -> str:
    """Return the verdict on one of `count` candidates, with what decided it."""
    p_value = "" if report.p_pass is None else f" (p {p_cell(report.p_pass)} after Holm over {count})"
    return plain(f"{report.candidate}: {report.outcome.upper()}{p_value}: " + "; ".join(report.reasons))


def shipping_line(report: CandidatesReport) -> str:
    """Return the line that a person reads first of several candidates; it is printed last."""
    head = f"{report.outcome.upper()} (exit {report.exit_code}): "
    passing = [row.candidate for row in report.reports if row.outcome == "pass"]
    if not passing:
        return plain(f"{head}none of {len(report.reports)} candidates passes against {report.baseline}")
    passed = f"{listed(passing)} of {len(report.reports)} candidates {'pass' if len(passing) > 1 else 'passes'}"
    head += f"{passed} against {report.baseline}"
    if len(passing) == 1:
        return plain(head)
    if not report.shippable:
        return plain(
            f"{head}; each is shown to be worse than the best on some suite, so choose by the suite that matters"
        )
    if len(report.shippable) == 1:
        return plain(
            f"{head}; ship {report.shippable[0]}: the others are shown to be worse than the best on some suite"
        )
    rest = "are not shown to be worse than the best: ship any of them, such as the cheapest"
    return plain(f"{head}; {listed(report.shippable)} {rest}")


def candidates_markdown(report: CandidatesReport) -> str:
    """Return what may be shipped first, then a section per candidate."""
    count = len(report.reports)
    parts = [f"# Gate of {count} candidates: {report.outcome.upper()}", "", escape_markdown(shipping_line(report)), ""]
    parts += markdown_list([candidate_line(row, count) for row in report.reports])
    parts += markdown_list([best_sentence(best) for best in report.best])
    parts += ["", *(f"#{gate_markdown(row)}" for row in report.reports)]
    return "\n".join(parts).rstrip() + "\n"


def rich_checks(report: GateReport, title: str = "Checks") -> FittedTable:
    return rich_table(title, GATE_HEAD, [check_cells(check) for check in report.checks], LEFT, GATE_ORDER, 4)


def check_cells(check: CheckResult) -> list[str]:
    """Return the check's texts under `GATE_HEAD`."""
    if check.difference is None or check.bound is None:
        return [named(check), check.tier, "-", "-", "-", "-", f"{check.margin:g}", check.found]
    row = check.difference
    result = check.found if check.found != "worse" or check.p_worse is None else f"worse, p {p_cell(check.p_worse)}"
    floor = {True: "above the floor", False: "below the floor", None: "floor undecided"}
    if check.less_is_better:
        floor = {True: "below the ceiling", False: "above the ceiling", None: "ceiling undecided"}
    return [
        named(check),
        check.tier,
        # the pooled difference is not that of the first suite's values
        *(["-", "-"] if row.method == "pooled" else [f"{row.first:.{row.decimals}f}", f"{row.other:.{row.decimals}f}"]),
        method_span(row),
        f"{'upper ' if check.less_is_better else ''}{check.bound:+.{row.decimals}f}",
        f"{check.margin:g}",
        result if check.floor is None else f"{result}; {floor[check.above_floor]}",
    ]


def sequential_line(stop: SequentialReport) -> str:
    """Return one suite's early stop as a sentence."""
    if stop.note is not None:
        return f"{stop.suite}: {stop.note}"
    if not stop.steps:  # no early stop was asked for
        return f"{stop.suite}: all {stop.of} questions judged, with {stop.calls} judge calls"
    steps = ", ".join(f"{metric} {step}" for metric, step in stop.steps.items())
    stopped, saved, asked_calls = (
        ("would have stopped", "would have been saved", "needed") if stop.replayed else ("stopped", "saved", "made")
    )
    return (
        f"{stop.suite}: {stopped} after {stop.questions} of {stop.of} questions ({steps}): "
        f"{stop.calls_saved} judge calls {saved}, {stop.calls} {asked_calls}"
    )


def gate_markdown(report: GateReport) -> str:
    """Return the verdict first, then checks, limits and notes."""
    parts = [f"# Gate: {report.outcome.upper()}", ""]
    parts.append(f"{escape_markdown(report.candidate)} against {escape_markdown(report.baseline)}")
    parts += ["", *markdown_list(report.reasons), ""]
    parts += [POPULATION_LINES[report.policy.population], ""] if report.policy.population != "all" else []
    parts += markdown_table(GATE_HEAD, [check_cells(check) for check in report.checks], LEFT)
    exceeded = [limit for limit in report.limits if not limit.kept]
    parts += ["", f"Limits: {len(report.limits) - len(exceeded)} kept, {len(exceeded)} exceeded."]
    parts += markdown_list([f"{limit.suite} {limit.name} of {limit.run}: {limit.value:.1%}" for limit in exceeded])
    parts += ["", *markdown_list([sequential_line(stop) for stop in report.sequential])]
    parts += markdown_list(report.notes)
    return "\n".join(parts).rstrip() + "\n"


def rich_power(rows: Sequence[PowerRow]) -> FittedTable:
    return rich_table("Verdicts on known drops", POWER_HEAD, [power_cells(row) for row in rows], LEFT)


def rich_slopes(rows: Sequence[Slope]) -> FittedTable:
    return rich_table("How suites move together", SLOPE_HEAD, [slope_cells(row) for row in rows], LEFT)


def slope_cells(row: Slope) -> list[str]:
    """Return the row's texts under `SLOPE_HEAD`."""
    stated = "-" if row.stated is None else f"{row.stated:.2f}"
    names = f"{row.first} {row.first_metric}", f"{row.second} {row.second_metric}"
    return [*names, str(row.models), f"{row.slope:.2f}", stated, f"{row.correlation:.2f}"]


def power_cells(row: PowerRow) -> list[str]:
    """Return the row's texts under `POWER_HEAD`."""
    shares = [f"{100 * share:.1f} %" for share in (row.passed, row.inconclusive, row.failed)]
    return [row.metric, str(row.questions), f"{row.margin:g}", f"{row.drop:g}", *shares, str(row.trials)]


def junit(reports: Sequence[GateReport]) -> str:
    """Return the XML text with declaration: a test suite per candidate."""
    root = ElementTree.Element("testsuites")
    root.extend(_test_suite(report) for report in reports)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _test_suite(report: GateReport) -> ElementTree.Element:
    cases = [
        _verdict_case(report),
        *(_check_case(check, report) for check in report.checks),
        *(_limit_case(limit) for limit in report.limits),
    ]
    suite = ElementTree.Element("testsuite", name=_xml_text(f"harness gate {report.candidate} {report.baseline}"))
    suite.extend(cases)
    suite.set("tests", str(len(cases)))
    for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(sum(case.find(tag) is not None for case in cases)))
    suite.set("time", "0")  # required by the schema; a gate's checks have no duration
    return suite


def _verdict_case(report: GateReport) -> ElementTree.Element:
    tag = {"pass": None, "fail": "failure", "inconclusive": "error", "invalid": "error"}[report.outcome]
    return _case("gate", f"verdict: {report.outcome}", tag, "; ".join(report.reasons))


def _check_case(check: CheckResult, report: GateReport) -> ElementTree.Element:
    advisory, tag = check.tier == "advisory", None
    if check.found == "missing":
        tag = "skipped" if advisory else "error"
    elif (check.found == "worse" or check.above_floor is False) and not advisory:
        tag = "failure"
    elif check.found == "undecided":
        tag = "error" if check.tier == "critical" else "skipped"
    elif check.found == "worse":
        tag = "skipped"  # an advisory check decides nothing
    name = f"{named(check)}, margin {check.margin:g}"
    return _case(f"gate.{check.tier}.{check.suite}", name, tag, sentence(check, report.policy))


def _limit_case(limit: LimitResult) -> ElementTree.Element:
    tag = None if limit.kept else "failure" if limit.name.startswith("truncated") or limit.name == "empty" else "error"
    message = f"{limit.value:.2%}, limit {limit.limit:.2%}"
    return _case(f"gate.limits.{limit.suite}", f"{limit.name} of {limit.run}", tag, message)


def _case(classname: str, name: str, tag: str | None, message: str) -> ElementTree.Element:
    case = ElementTree.Element("testcase", classname=_xml_text(classname), name=_xml_text(name), time="0")
    if tag is not None:
        attributes = {"message": _xml_text(message)} | ({} if tag == "skipped" else {"type": tag})
        ElementTree.SubElement(case, tag, attributes)
    return case


def _xml_text(text: str) -> str:
    return FORBIDDEN.sub("", plain(text))
