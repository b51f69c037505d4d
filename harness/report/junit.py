"""A gate's report as JUnit XML, the form CI systems read. Pure.

Schema: the common one of Jenkins' xunit plugin (junit-10.xsd). One test case a check and a limit: worse and broken
limits of the candidate are failures; what makes the gate invalid, and what a critical check leaves undecided, is an
error; other undecided checks are skipped. Characters that XML 1.0 forbids are dropped.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..gate.decision import named, sentence
from ..gate.records import CheckResult, GateReport, LimitResult
from .cells import plain

FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production Char


def junit(report: GateReport) -> str:
    """The XML text, with declaration."""
    suite = ElementTree.Element("testsuite", name=_text(f"harness gate {report.candidate} {report.baseline}"))
    cases = [_verdict(report)]
    cases += [_check(one, report) for one in report.checks]
    cases += [_limit(one) for one in report.limits]
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


def _check(one: CheckResult, report: GateReport) -> ElementTree.Element:
    words = sentence(one, report.policy)
    name = f"{named(one)}, margin {one.margin:g}"
    classname = f"gate.{one.tier}.{one.suite}"
    if one.found == "missing":
        return _case(classname, name, "skipped" if one.tier == "advisory" else "error", words)
    if (one.found == "worse" or one.above_floor is False) and one.tier != "advisory":
        return _case(classname, name, "failure", words)
    if one.found == "undecided":
        return _case(classname, name, "error" if one.tier == "critical" else "skipped", words)
    return _case(classname, name, "skipped" if one.found == "worse" else None, words)


def _limit(one: LimitResult) -> ElementTree.Element:
    tag = None if one.kept else "failure" if one.name.startswith("truncated") else "error"
    words = f"{one.value:.2%}, limit {one.limit:.2%}"
    return _case(f"gate.limits.{one.suite}", f"{one.name} of {one.run}", tag, words)
