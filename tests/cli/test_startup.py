"""The command answers at once and drags in nothing heavy."""

from __future__ import annotations

import subprocess
import sys
import time

HEAVY = ("torch", "vllm", "ray", "transformers", "pandas", "sklearn")


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()


def test_importing_harness_loads_nothing_heavy() -> None:
    code = f"import sys, harness, harness.cli.run, harness.run; print([m for m in {HEAVY} if m in sys.modules])"

    assert python(code) == "[]"


def test_help_answers_in_half_a_second() -> None:
    command = [sys.executable, "-m", "harness.cli.main", "--help"]
    subprocess.run(command, capture_output=True, check=True, timeout=60)  # once to write the byte code
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        best = min(best, time.perf_counter() - started)

    assert best < 0.5
    for name in ("run", "leaderboard", "data", "judge", "ls", "doctor", "embedded"):
        assert name in shown


def test_only_our_packages_can_be_imported_from_the_checkout() -> None:
    code = """
import importlib.util as u
print([n for n in ("harness", "judges", "recipes", "tests", "results") if u.find_spec(n)])
"""
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60, cwd="/"
    ).stdout
    assert found.strip() == "['harness', 'judges', 'recipes']"
