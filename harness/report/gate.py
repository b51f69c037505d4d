"""A gate's report as Markdown (for a GitHub step summary) and as one line. Pure; what others wrote is escaped."""

from __future__ import annotations

from ..gate.decision import named
from ..gate.power import PowerRow
from ..gate.records import CheckResult, GateReport, SequentialReport
from .cells import escape_markdown, plain
from .comparison import markdown_table, p_text

HEAD = ("check", "tier", "baseline", "candidate", "difference [95 %]", "above", "margin", "found")
POWER_HEAD = ("metric", "questions", "margin", "true drop", "pass", "inconclusive", "fail", "gates")
MARKS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE", "invalid": "INVALID"}


def summary_line(report: GateReport) -> str:
    """What a person reads first; it is printed last."""
    return plain(
        f"{MARKS[report.outcome]} (exit {report.exit_code}): {report.candidate} against {report.baseline}: "
        + "; ".join(report.reasons)
    )


def check_cells(one: CheckResult) -> list[str]:
    """The check's texts under `HEAD`."""
    if one.difference is None or one.lower is None:
        return [named(one), one.tier, "-", "-", "-", "-", f"{one.margin:g}", one.found]
    row = one.difference
    found = one.found if one.found != "worse" or one.p_worse is None else f"worse, p {p_text(one.p_worse)}"
    floor = {True: "above the floor", False: "below the floor", None: "floor undecided"}
    return [
        named(one),
        one.tier,
        f"{row.first:.2f}",
        f"{row.other:.2f}",
        f"{row.value:+.2f} [{row.ci_low:+.2f}, {row.ci_high:+.2f}]",
        f"{one.lower:+.2f}",
        f"{one.margin:g}",
        found if one.floor is None else f"{found}; {floor[one.above_floor]}",
    ]


def sequential_line(one: SequentialReport) -> str:
    """One suite's early stop in words."""
    if one.note is not None:
        return f"{one.suite}: {one.note}"
    steps = ", ".join(f"{metric} {step}" for metric, step in one.steps.items())
    would = "would have stopped" if one.replayed else "stopped"
    return (
        f"{one.suite}: {would} after {one.questions} of {one.of} questions ({steps}): "
        f"{one.calls_saved} judge calls {'would have been ' if one.replayed else ''}saved, {one.calls} "
        f"{'needed' if one.replayed else 'made'}"
    )


def gate_markdown(report: GateReport) -> str:
    """The verdict first, then checks, limits and notes."""
    parts = [f"# Gate: {MARKS[report.outcome]}", ""]
    parts.append(f"{escape_markdown(report.candidate)} against {escape_markdown(report.baseline)}")
    parts += ["", *(f"- {escape_markdown(reason)}" for reason in report.reasons), ""]
    parts += markdown_table(HEAD, [check_cells(one) for one in report.checks])
    broken = [one for one in report.limits if not one.kept]
    kept = len(report.limits) - len(broken)
    parts += ["", f"Limits: {kept} kept, {len(broken)} broken."]
    parts += [f"- {escape_markdown(f'{one.suite} {one.name} of {one.run}: {one.value:.1%}')}" for one in broken]
    parts += ["", *(f"- {escape_markdown(sequential_line(one))}" for one in report.sequential)]
    parts += [f"- {escape_markdown(note)}" for note in report.notes]
    return "\n".join(parts).rstrip() + "\n"


def power_cells(row: PowerRow) -> list[str]:
    """The row's texts under `POWER_HEAD`."""
    shares = [f"{100 * share:.1f} %" for share in (row.passed, row.inconclusive, row.failed)]
    return [row.metric, str(row.questions), f"{row.margin:g}", f"{row.drop:g}", *shares, str(row.trials)]
