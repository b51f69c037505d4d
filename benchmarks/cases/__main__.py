"""`python -m benchmarks.cases [WORD ...]`: the table of all cases, or of those with a word in their name.

Exit 1 if a value is not the right one. Cases with official questions need HARNESS_MIRROR and are skipped without it.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from .case import Case
from .files import FILES
from .servers import SERVERS

HEAD = ("case", "0.2.0", "right", "now", "")


def main() -> int:
    words = sys.argv[1:]
    cases = [case for case in (*FILES, *SERVERS) if not words or any(word in case.name for word in words)]
    print_row(*HEAD)
    wrong = 0
    for case in cases:
        if case.needs_mirror and not os.environ.get("HARNESS_MIRROR"):
            print_row(case.name, case.before, case.right, "-", "skipped: HARNESS_MIRROR is not set")
            continue
        now = value_of(case)
        wrong += now != case.right
        print_row(case.name, case.before, case.right, now, "ok" if now == case.right else "WRONG")
    sys.stdout.write(f"\n{wrong} of {len(cases)} are wrong\n")
    return 1 if wrong else 0


def value_of(case: Case) -> str:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return case.measure(Path(folder))
        except (KeyError, IndexError, ValueError, TypeError, OSError) as error:  # no figure: the command gave none
            return f"no value ({type(error).__name__})"


def print_row(*cells: str) -> None:
    sys.stdout.write("| " + " | ".join(f"{cell:<34}" for cell in cells).rstrip() + " |\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
