"""The examples that open the product's modules work."""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "judges", "recipes")
HEAVY = re.compile(r"^(import|from) (torch|vllm|ray|transformers|datasets)\b", re.MULTILINE)
"""A module that imports one of these at the top is left out: unit tests need no torch."""


def modules_with_examples() -> list[str]:
    texts = {path: path.read_text("utf-8") for name in PACKAGES for path in sorted((ROOT / name).rglob("*.py"))}
    return [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path, text in texts.items()
        if ">>>" in text and ">>>" in (ast.get_docstring(ast.parse(text)) or "") and not HEAVY.search(text)
    ]


def run_example(name: str) -> doctest.TestResults:
    runner = doctest.DocTestRunner()
    for example in doctest.DocTestFinder(recurse=False).find(importlib.import_module(name), name):
        runner.run(example)
    return runner.summarize(verbose=False)


@pytest.mark.parametrize("name", modules_with_examples())
def test_the_example_of_a_module_works(name: str) -> None:
    results = run_example(name)

    assert results.attempted > 0
    assert results.failed == 0
