"""`harness train` as a user runs it, on models of random weights: every stage, the leaderboard, the push to a Hub."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub.repocard import metadata_load

from tests.fakes.commands import Done, ended, harness_process
from tests.fakes.hub_server import FakeHub
from tests.fakes.tiny_models import make_checkpoint

RECIPE = """
name: tiny
output_dir: out
target: models/target
prompts: {dataset: prompts.jsonl, validation: 4, test: 8, decontaminate: [], sft_share: 0.33}
sources:
  - {name: a, model: models/a, backend: in_process, license: mit}
  - {name: b, model: models/b, backend: in_process}
sampling: {n: 3, max_tokens: 12}
pairs: {drop_truncated: false}  # random models rarely end an answer
target_backend: in_process
reward: {kind: function, model: "reward.py:letters"}
sft: {learning_rate: 1.0e-3, per_device_train_batch_size: 8, num_train_epochs: 1, logging_steps: 1}
training: {learning_rate: 1.0e-3, beta: 0.5, per_device_train_batch_size: 8, logging_steps: 1}
variants: {dpo: {training: {alpha: 0}}, wrpo: {training: {alpha: 0.5}}}
evaluate: {temperatures: [0.7], samples: 2}
"""
REWARD = "def letters(prompts, completions, **columns):\n    return [float(len(set(text))) for text in completions]\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, name in enumerate(("target", "a", "b")):
        make_checkpoint(tmp_path / "models" / name, seed=seed)
    rng = random.Random(0)
    words = [f"say {rng.choice('abcdefgh')} {number}" for number in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in words))
    (tmp_path / "reward.py").write_text(REWARD)
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return tmp_path


@pytest.mark.slow
def test_a_recipe_ends_in_a_leaderboard_and_its_variants_on_a_hub(folder: Path) -> None:
    with FakeHub().serving() as hub:
        token = {"HF_TOKEN": "hf_secret", "HF_ENDPOINT": hub.url, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
        token["HF_HUB_OFFLINE"] = "0"  # `make test-slow` sets it
        # processes of their own: huggingface_hub reads these variables once, when it is imported
        words = ("train", "tiny.yaml", "--push-to-hub")
        first = ended(harness_process(*words, "org", "--json", cwd=folder, **token), 500)
        again = ended(harness_process(*words, "org/mine", "--variant", "wrpo", cwd=folder, **token), 500)

    assert (first.code, again.code) == (0, 0), first.err + again.err
    found = json.loads(first.out)
    assert [row["model"] for row in found["variants"]["models"]].count("wrpo") == 1
    assert found["pushed"] == [f"{hub.url}/org/tiny-dpo", f"{hub.url}/org/tiny-wrpo"]
    assert "Test reward, T 0.7 (8 prompts, seeds 42)" in again.out
    assert "only one seed, so the intervals do not cover what another seed would give" in again.out
    assert "pushed: " in again.out
    assert sorted(hub.files) == ["org/mine", "org/tiny-dpo", "org/tiny-wrpo"]
    got = hub.files["org/mine"]
    assert got["model.safetensors"] == (folder / "out/seed-42/align/wrpo/model.safetensors").read_bytes()
    assert {"README.md", "config.json", "fusion.json", "tokenizer.json", "training_curves.svg"} <= set(got)
    assert not {name for name in got if "checkpoint" in name or name.endswith((".pt", ".bin", ".jsonl"))}
    (folder / "README.md").write_bytes(got["README.md"])
    assert (metadata_load(folder / "README.md") or {})["model-index"][0]["name"] == "tiny-wrpo"
    everything = b"".join(content for files in hub.files.values() for content in files.values())
    assert b"hf_secret" not in everything
    assert str(folder).encode() not in everything
    assert "hf_secret" not in first.out + first.err + again.out + again.err


def test_what_stops_a_push_is_said_before_anything_runs(folder: Path, harness: Callable[..., Done]) -> None:
    no_token = harness("train", "tiny.yaml", "--push-to-hub", "org", HF_TOKEN="")
    too_early = harness("train", "tiny.yaml", "--push-to-hub", "org", "--until", "pairs", HF_TOKEN="x")

    assert (no_token.code, too_early.code) == (2, 2)
    assert "needs a token with write access in the environment variable HF_TOKEN" in no_token.err
    assert "--until pairs stops before training" in too_early.err
    assert not (folder / "out").exists()
