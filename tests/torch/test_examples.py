"""The examples that open modules which import torch work; `tests/unit/test_examples.py` runs the others."""

from __future__ import annotations

import doctest
import importlib

import pytest

pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["recipes.training.losses", "recipes.training.packing"])
def test_the_example_of_a_module_that_imports_torch_works(name: str) -> None:
    module = importlib.import_module(name)
    run = doctest.DocTestRunner()

    for example in doctest.DocTestFinder(recurse=False).find(module, name):
        run.run(example)

    assert run.tries > 0
    assert run.failures == 0
