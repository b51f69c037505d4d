"""The examples that open modules which import torch work; `tests/unit/test_examples.py` runs the others."""

from __future__ import annotations

import pytest

from tests.unit.test_examples import run_example

pytest.importorskip("torch")


@pytest.mark.parametrize("name", ["recipes.training.losses", "recipes.training.packing"])
def test_the_example_of_a_module_that_imports_torch_works(name: str) -> None:
    results = run_example(name)

    assert results.attempted > 0
    assert results.failed == 0
