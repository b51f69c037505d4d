"""`python -m benchmarks.judges.first_turns OUT`: MT-Bench's voted first turns as comparisons of one's own.

A judge that compares answers of one turn, as alpaca-eval's evaluators and small models do, can then be calibrated on
people's votes: `harness judge calibrate --suite own --data OUT`. Needs HARNESS_PUBLISHED and HARNESS_MIRROR.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from harness.records.protocols import SuiteOptions
from harness.suites.mt_bench.recorded import load
from harness.suites.recorded import RecordedComparison, data_folder

SIDES = {1.0: "candidate", 0.5: "tie", 0.0: "baseline"}


def own_row(comparison: RecordedComparison) -> dict[str, object] | None:
    """Return the comparison as a row of `--suite own`; None if it is not a voted first turn with its texts."""
    if comparison.turn != 1 or not comparison.people or comparison.answers is None:
        return None
    candidate, baseline = ({"model": answer.model, "answer": answer.turns[0]} for answer in comparison.answers)
    votes = [SIDES[vote] for vote in comparison.people]
    question = comparison.prompt.turns[0]
    return {"id": comparison.id, "question": question, "candidate": candidate, "baseline": baseline, "votes": votes}


def main() -> int:
    out = Path(sys.argv[1]) / "own" / "first_turns.jsonl"
    comparisons = load(data_folder(None), SuiteOptions()).comparisons
    rows = [row for comparison in comparisons if (row := own_row(comparison)) is not None]
    out.parent.mkdir(parents=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    sys.stdout.write(f"{len(rows)} comparisons: {out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
