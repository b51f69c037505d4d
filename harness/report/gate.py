"""Format a gate's report as Markdown (for a GitHub step summary) and as one line. Pure; untrusted text is escaped."""

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
    parts += markdown_table(HEAD, [check_cells(check) for check in report.checks])
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
