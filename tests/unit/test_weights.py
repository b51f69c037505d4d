"""Tensor names and folders that are not a checkpoint: which are refused, and what the sentence says to do."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from pathlib import Path

import pytest

from harness.records.errors import CheckpointError
from harness.store.checkpoint import inspect_checkpoint
from harness.store.weights import LoadingReport, check_loaded, tensor_names


def write_tensors(file: Path, names: Iterable[str]) -> None:
    """One empty tensor per name."""
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps(dict.fromkeys(names, entry)).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)


def write_model(folder: Path, names: Iterable[str] = ("model.norm.weight", "lm_head.weight")) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    write_tensors(folder / "model.safetensors", names)
    return folder


def refusal(folder: Path, *, allow_pickle: bool = False) -> str:
    with pytest.raises(CheckpointError) as error:
        inspect_checkpoint(folder, allow_pickle=allow_pickle)
    return str(error.value)


@pytest.mark.parametrize(
    ("name", "wrapper", "repair"),
    [
        ("_orig_mod.model.norm.weight", "torch.compile", "model._orig_mod.save_pretrained(DIR)"),
        ("model.layers.0._orig_mod.mlp.up_proj.weight", "torch.compile", "model._orig_mod"),
        ("module.model.norm.weight", "DistributedDataParallel", "model.module.save_pretrained(DIR)"),
        ("module._orig_mod.model.norm.weight", "torch.compile", "model._orig_mod"),
        ("base_model.model.model.norm.weight", "PEFT", "model.merge_and_unload().save_pretrained(DIR)"),
        ("_fsdp_wrapped_module.model.norm.weight", "FSDP", "FULL_STATE_DICT"),
        ("model.layers.0._checkpoint_wrapped_module.mlp.up_proj.weight", "activation checkpointing", "before it was"),
    ],
)
def test_names_of_a_wrapped_model_are_refused_with_the_repair(
    tmp_path: Path, name: str, wrapper: str, repair: str
) -> None:
    sentence = refusal(write_model(tmp_path / "ckpt", [name, "lm_head.weight"]))

    assert f"named as {wrapper} names them ({name})" in sentence
    assert repair in sentence


def test_names_come_from_the_index_and_other_files_are_not_read(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ckpt")
    write_tensors(folder / "consolidated.safetensors", ["module.other"])
    assert tensor_names(folder) == ["lm_head.weight", "model.norm.weight"]
    inspect_checkpoint(folder)

    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"_orig_mod.model.norm.weight": "model.safetensors"}})
    )
    assert "torch.compile" in refusal(folder)


def test_names_of_pickled_shards_come_from_their_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "ckpt")
    (folder / "model.safetensors").rename(folder / "pytorch_model-00001-of-00001.bin")
    names = {"module.model.norm.weight": "pytorch_model-00001-of-00001.bin"}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))

    assert "DistributedDataParallel" in refusal(folder, allow_pickle=True)


def test_an_adapters_names_begin_with_its_wrapper(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": 4, "base_model_name_or_path": str(base)}))
    write_tensors(folder / "adapter_model.safetensors", ["base_model.model.model.layers.0.q_proj.lora_A.weight"])
    assert inspect_checkpoint(folder).is_adapter

    write_tensors(folder / "adapter_model.safetensors", ["_orig_mod.base_model.model.q_proj.lora_A.weight"])
    assert "torch.compile" in refusal(folder)


def test_missing_and_misplaced_weights_are_refused_with_the_first_names() -> None:
    folder = Path("ckpt")
    missing = ("model.a", "model.b", "model.c")
    with pytest.raises(CheckpointError, match=r"3 missing \(model\.a, model\.b, and 1 more\).*save_pretrained"):
        check_loaded(folder, "Llama", LoadingReport(missing=missing))
    with pytest.raises(CheckpointError, match=r"1 of another shape \(lm_head \[4\] instead of \[8\]\)"):
        check_loaded(folder, "Llama", LoadingReport(mismatched=("lm_head [4] instead of [8]",)))
    with pytest.raises(CheckpointError, match=r"1 without a place in it \(model\.layers\.2\.w\)"):
        check_loaded(folder, "Llama", LoadingReport(unexpected=("model.layers.2.w",)))


def test_a_prefix_that_explains_the_difference_is_named() -> None:
    folder = Path("ckpt")
    longer = LoadingReport(missing=("model.norm.weight",), unexpected=("net.model.norm.weight",))
    with pytest.raises(CheckpointError, match=r"rename them without the prefix 'net\.'"):
        check_loaded(folder, "Llama", longer)
    shorter = LoadingReport(missing=("model.norm.weight",), unexpected=("norm.weight",))
    with pytest.raises(CheckpointError, match=r"rename them with the prefix 'model\.'"):
        check_loaded(folder, "Llama", shorter)


def test_tensors_beside_the_model_and_draft_layers_are_only_reported() -> None:
    folder = Path("ckpt")
    assert check_loaded(folder, "Llama", LoadingReport()) == []
    assert check_loaded(folder, "Llama", LoadingReport(unexpected=("v_head.weight",))) == [
        "1 tensors of 'ckpt' are not used (v_head.weight)"
    ]
    assert check_loaded(folder, "Llama", LoadingReport(unexpected=("model.layers.9.w",), draft_layers=True))


def test_a_trainers_output_names_its_last_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for step in (9, 100, 20):
        write_model(output / f"checkpoint-{step}")
    (output / "trainer_state.json").write_text("{}")

    sentence = refusal(output)

    assert f"--model {output / 'checkpoint-100'}" in sentence
    assert "3 checkpoints" in sentence
    assert f"harness watch {output}" in sentence


def test_a_folder_around_one_model_names_it(tmp_path: Path) -> None:
    write_model(tmp_path / "out" / "final")
    (tmp_path / "out" / "config.json").write_text("{}")

    assert f"give the model in it: --model {tmp_path / 'out/final'}" in refusal(tmp_path / "out")


def test_a_folder_of_the_hubs_cache_names_its_snapshot(tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    write_model(repository / "snapshots" / "abc123")
    write_model(repository / "snapshots" / "def456")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc123")

    for folder in (repository, repository / "snapshots"):
        sentence = refusal(folder)
        assert f"--model {repository / 'snapshots/abc123'}" in sentence
        assert "--model hf:org/name" in sentence


def test_shards_of_deepspeed_and_fsdp_name_the_command_that_joins_them(tmp_path: Path) -> None:
    deep = tmp_path / "deep"
    (deep / "global_step9").mkdir(parents=True)
    (deep / "config.json").write_text("{}")
    (deep / "zero_to_fp32.py").write_text("")
    (deep / "global_step9" / "zero_pp_rank_0_mp_rank_00_model_states.pt").write_text("")
    for folder in (deep, deep / "global_step9"):
        assert f"python {deep / 'zero_to_fp32.py'} {deep} OUT" in refusal(folder)

    fsdp = tmp_path / "fsdp"
    (fsdp / "pytorch_model_fsdp_0").mkdir(parents=True)
    (fsdp / "pytorch_model_fsdp_0" / "__0_0.distcp").write_text("")
    assert f"accelerate merge-weights {fsdp / 'pytorch_model_fsdp_0'} OUT" in refusal(fsdp)


def test_gguf_files_name_the_backend_that_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "gguf" / "tiny.Q4.gguf"
    file.parent.mkdir()
    file.write_bytes(b"GGUF")

    for path in (file, file.parent):
        assert "--backend llamacpp" in refusal(path)
        assert f"harness run --model {file}" in refusal(path)


def test_other_near_misses_are_one_sentence_each(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "is empty" in refusal(tmp_path / "empty")

    lone = tmp_path / "lone"
    lone.mkdir()
    write_tensors(lone / "adapter_model.safetensors", ["w"])
    assert "no adapter_config.json" in refusal(lone)

    model = write_model(tmp_path / "ckpt")
    assert f"give its folder: --model {model}" in refusal(model / "model.safetensors")

    (tmp_path / "ckpt.tar.gz").write_bytes(b"")
    assert "unpack it" in refusal(tmp_path / "ckpt.tar.gz")
    assert "--model hf:org/name" in refusal(Path("org/name"))
