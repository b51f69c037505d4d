"""Format a gate's report as JUnit XML, which CI systems read. Pure.

Schema: the common one of Jenkins' xunit plugin (junit-10.xsd). There is one test case per check and per limit. Worse
checks and the candidate's broken limits are failures. What makes the gate invalid, and undecided critical checks, are
errors; other undecided checks are skipped. Characters that XML 1.0 forbids are dropped.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ..gate.decision import named, sentence
from ..gate.records import CheckResult, GateReport, LimitResult
from .cells import plain

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
