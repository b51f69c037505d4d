"""A command's help drags in nothing heavy, and the checkout makes only our packages importable."""

from __future__ import annotations

import subprocess
import sys

import pytest

from harness.cli.main import COMMANDS
from harness.records.protocols import installed

HEAVY = ("torch", "vllm", "ray", "transformers", "datasets", "pandas", "sklearn", "matplotlib")
NUMBERS = ("numpy", "scipy", "aiohttp", "openai")
SCRIPT = """
import sys
from harness.cli.main import run
sys.argv = ["harness", *sys.argv[1:], "--help"]
try:
    run()
finally:
    print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""


def python(code: str, *words: str) -> str:
    command = [sys.executable, "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, cwd="/")
    return done.stdout.strip()


def loaded_by_help(*words: str) -> set[str]:
    """Top-level packages that a fresh process has imported after printing a command's help."""
    return set(python(SCRIPT, *words).rpartition("loaded: ")[2].split())


def test_importing_harness_loads_nothing_heavy() -> None:
    modules = "sys, harness, harness.cli.run, harness.running.execute"
    code = f"import {modules}; print([m for m in {HEAVY} if m in sys.modules])"

    assert python(code) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("run",)], ids=["harness", "harness run"])
def test_help_needs_no_numbers_and_no_network(words: tuple[str, ...]) -> None:
    assert loaded_by_help(*words).isdisjoint({*HEAVY, *NUMBERS})


@pytest.mark.slow
def test_no_commands_help_loads_anything_heavy() -> None:
    code = f"""
import sys
from harness.cli.main import load_command
for name in {sorted({*COMMANDS, *installed("commands")})}:
    load_command(name)
print([name for name in {(*HEAVY, "scipy", "openai")} if name in sys.modules])
"""
    assert python(code) == "[]"


def test_only_our_packages_can_be_imported_from_the_checkout() -> None:
    code = """
import importlib.util as u
print([n for n in ("harness", "judges", "recipes", "tests", "results") if u.find_spec(n)])
"""
    assert python(code) == "['harness', 'judges', 'recipes']"
