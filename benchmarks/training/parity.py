"""The parity table of docs/wrpo.md: what the trainer's tests measured, as Markdown.

python -m benchmarks.training.parity [--slow]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

TESTS = ("tests/torch/test_losses.py", "tests/torch/test_wrpo.py", "tests/torch/test_wrpo_parity.py")
SLOW = "tests/torch/test_distributed.py"


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slow", action="store_true", help="with the runs of several processes")
    tests = [*TESTS, SLOW] if parser.parse_args().slow else list(TESTS)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", *tests, f"--junitxml={report}", "-o", "junit_family=xunit1"]
        ended = subprocess.run(command, stdout=sys.stderr, check=False)
        cases = ElementTree.parse(report).getroot().iter("testcase")
        print("| test | measured |\n|---|---|")
        for case in cases:
            for found in case.iter("property"):
                if found.get("name") == "measured":
                    name = str(case.get("name")).removeprefix("test_").replace("_", " ")
                    print(f"| {name} | {found.get('value')} |")
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
