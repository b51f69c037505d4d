"""Real tiny checkpoints against their architecture: what transformers' loader would leave random is refused."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
import torch
from safetensors.torch import load_file, save_file

from harness.backends.loadable import check_loadable, compare
from harness.backends.transformers import TransformersBackend
from harness.records import ModelRef
from harness.records.errors import CheckpointError
from harness.records.protocols import ServeOptions
from harness.store.checkpoint import inspect_checkpoint
from recipes.in_process.backend import InProcessBackend
from tests.fakes.tiny_models import make_checkpoint

UP = "model.layers.1.mlp.up_proj.weight"
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("whole") / "tiny")


def changed(whole: Path, folder: Path, change: Callable[[Tensors], Tensors]) -> Path:
    shutil.copytree(whole, folder)
    save_file(change(load_file(folder / "model.safetensors")), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def without_up(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != UP}


def test_good_checkpoints_have_nothing_to_report(whole: Path, tmp_path: Path) -> None:
    """Tied weights are not missing, and names of an older format are converted as the loader converts them."""
    assert compare(whole)["missing"] == ()
    assert compare(whole)["unexpected"] == ()

    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MixtralConfig(vocab_size=32, num_key_value_heads=1, num_local_experts=2, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path / "moe")  # stored per expert, fused in the model
    assert any("experts.1." in name for name in load_file(tmp_path / "moe/model.safetensors"))
    assert compare(tmp_path / "moe")["missing"] == ()
    assert compare(tmp_path / "moe")["unexpected"] == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_up, r"1 missing \(model\.layers\.1\.mlp\.up_proj\.weight\)"),
        (lambda tensors: {**tensors, "model.layers.2.w": torch.zeros(2)}, r"1 without a place in it \(model\.layers"),
        (lambda tensors: {**tensors, UP: torch.zeros(0)}, r"1 of another shape \(model\.layers\.1\S+ \[0\] instead"),
        (lambda tensors: {f"net.{name}": tensor for name, tensor in tensors.items()}, r"without the prefix 'net\.'"),
    ],
    ids=["missing", "too many", "shape", "prefix"],
)
def test_weights_that_would_stay_random_are_refused_in_process(
    whole: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], words: str
) -> None:
    folder = changed(whole, tmp_path / "ckpt", change)
    backend = InProcessBackend(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path))

    async def load() -> None:
        async with backend:
            raise AssertionError("it was loaded")

    with pytest.raises(CheckpointError, match=words):
        asyncio.run(load())


@pytest.mark.slow
def test_a_server_is_not_started_on_them(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    folder = changed(whole, tmp_path / "ckpt", without_up)

    async def serve() -> None:
        async with TransformersBackend(ModelRef.parse(str(folder)), ServeOptions(log_dir=tmp_path)):
            raise AssertionError("it was served")

    with pytest.raises(CheckpointError, match="1 missing"):
        asyncio.run(serve())
    assert not (tmp_path / "transformers.log").exists()


@pytest.mark.slow
def test_a_whole_checkpoint_is_compared_once(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    asyncio.run(check_loadable(inspect_checkpoint(whole)))
    assert len(list((tmp_path / "cache" / "whole").iterdir())) == 1


def test_what_transformers_cannot_tell_is_left_to_the_server(whole: Path, tmp_path: Path) -> None:
    folder = changed(whole, tmp_path / "ckpt", without_up)
    config = json.loads((folder / "config.json").read_text())

    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OurOwnForCausalLM"]}))
    assert compare(folder) == {"unsure": "transformers does not know OurOwnForCausalLM"}
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"quant_method": "awq"}}))
    assert compare(folder) == {"unsure": "it is quantized"}


def test_pickled_weights_are_compared_without_running_them(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    shutil.copytree(whole, folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(without_up(tensors), folder / "pytorch_model.bin")

    assert compare(folder)["missing"] == (UP,)
