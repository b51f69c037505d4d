"""Model folders: what passes inspection, what is refused and in which words. No engine is needed."""

import json
import shutil
import struct
from pathlib import Path

import pytest

from harness.records import ModelRef
from harness.records.errors import CheckpointError
from harness.store import files as digests
from harness.store.checkpoint import inspect_checkpoint, resolve


def write_safetensors(file: Path, payload: bytes = b"\0" * 8) -> None:
    """One float32 tensor `w` of len(payload) / 4 numbers."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [len(payload) // 4], "data_offsets": [0, len(payload)]}})
    file.write_bytes(struct.pack("<Q", len(header)) + header.encode() + payload)


def write_checkpoint(folder: Path, template: str | None = "{{ messages }}") -> Path:
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "max_position_embeddings": 4096}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"temperature": 0.6, "eos_token_id": 2}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": {"content": "<s>"}}))
    write_safetensors(folder / "model.safetensors")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return folder


def write_adapter(folder: Path, base: str, **more: object) -> Path:
    folder.mkdir(parents=True)
    adapter = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": base, **more}
    (folder / "adapter_config.json").write_text(json.dumps(adapter))
    write_safetensors(folder / "adapter_model.safetensors")
    return folder


def refusal(folder: Path, **options: object) -> str:
    with pytest.raises(CheckpointError) as error:
        inspect_checkpoint(folder, **options)  # type: ignore[arg-type]  # options vary by test
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_whole_checkpoint_passes(tmp_path: Path) -> None:
    found = inspect_checkpoint(write_checkpoint(tmp_path / "ckpt"))

    assert found.architecture == "LlamaForCausalLM"
    assert found.max_position == 4096
    assert found.template == "{{ messages }}"
    assert found.template_source == "chat_template.jinja"
    assert found.generation_config == {"temperature": 0.6}
    assert found.bos_token == "<s>"
    assert not found.is_adapter


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    assert "no such model folder" in refusal(tmp_path / "nowhere")


def test_a_file_is_no_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF")

    assert "is a file" in refusal(tmp_path / "model.gguf")


def test_no_config_no_weights_no_architecture(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "config.json").write_text("{}")
    assert "names no architecture" in refusal(folder)

    (folder / "config.json").write_text("{")
    assert "cannot be read as JSON" in refusal(folder)

    (folder / "config.json").unlink()
    assert "no config.json" in refusal(folder)

    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_need_the_users_word(tmp_path: Path, name: str) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "model.safetensors").rename(folder / name)

    assert f"only pickled weights ({name})" in refusal(folder)
    assert inspect_checkpoint(folder, allow_pickle=True).has_pickles


def test_a_trainers_own_pickles_are_no_weights(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "training_args.bin").write_bytes(b"x")
    assert not inspect_checkpoint(folder).has_pickles

    (folder / "model.safetensors").unlink()
    assert "has no weights" in refusal(folder)


def test_truncated_weights_are_found_without_loading_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    file = folder / "model.safetensors"
    whole = file.read_bytes()

    file.write_bytes(whole[:-1])
    assert f"has {len(whole) - 1} bytes, but its header describes {len(whole)}" in refusal(folder)
    file.write_bytes(whole[:20])
    assert "broken header" in refusal(folder)
    file.write_bytes(b"")
    assert "broken header" in refusal(folder)
    file.write_text("version https://git-lfs.github.com/spec/v1\n")
    assert "git-lfs pointer" in refusal(folder)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))

    assert "model-00002-of-00002.safetensors is missing (1 of 2 shards)" in refusal(folder)


def test_no_chat_template_says_how_to_give_one(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", template=None)
    file = tmp_path / "mine.jinja"
    file.write_text("{{ mine }}")

    assert "has no chat template; give one with --chat-template" in refusal(folder)
    assert "cannot be read" in refusal(folder, chat_template=str(tmp_path / "absent.jinja"))
    found = inspect_checkpoint(folder, chat_template=str(file))
    assert (found.template, found.template_source) == ("{{ mine }}", "--chat-template")


def test_templates_are_found_where_transformers_finds_them(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt", template=None)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": "third"}))
    assert inspect_checkpoint(folder).template == "third"

    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "second"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": named}))
    assert inspect_checkpoint(folder).template == "second"

    (folder / "chat_template.jinja").write_text("first")
    assert inspect_checkpoint(folder).template == "first"


def test_digest_follows_contents_not_places(tmp_path: Path) -> None:
    first = write_checkpoint(tmp_path / "one")
    second = Path(shutil.copytree(first, tmp_path / "two"))
    digest = inspect_checkpoint(first).weights_digest
    assert inspect_checkpoint(second).weights_digest == digest

    (second / "README.md").write_text("words")
    for name in ("trainer_state.json", "step.json", "begun.json"):
        (second / name).write_text("{}")
    assert inspect_checkpoint(second).weights_digest == digest

    write_safetensors(second / "model.safetensors", b"\1" * 8)
    assert inspect_checkpoint(second).weights_digest != digest


def test_large_files_are_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "REMEMBERED", 4)
    file = tmp_path / "weights"
    file.write_bytes(b"abcdef")
    first = digests.file_sha256(file)
    (note,) = (tmp_path / "cache" / "digests").iterdir()
    assert note.read_text() == first

    note.write_text("0" * 64)
    assert digests.file_sha256(file) == "0" * 64

    file.write_bytes(b"abcdefg")
    assert digests.file_sha256(file) not in (first, "0" * 64)


def test_an_adapter_is_served_on_its_base(tmp_path: Path) -> None:
    base = write_checkpoint(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", str(base), rank_pattern={"layers.0": 16})

    found = inspect_checkpoint(adapter)

    assert found.base == base
    assert found.lora_rank == 16
    assert found.template == "{{ messages }}"
    assert found.architecture == "LlamaForCausalLM"
    assert found.weights_digest != inspect_checkpoint(base).weights_digest


def test_an_adapters_own_template_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # a relative base is looked up from here first
    base = write_checkpoint(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", "../base")
    (adapter / "tokenizer_config.json").write_text(json.dumps({"chat_template": "tuned"}))

    assert inspect_checkpoint(adapter).template == "tuned"
    assert inspect_checkpoint(adapter).base == base


def test_an_adapter_without_its_base_is_refused(tmp_path: Path) -> None:
    assert "set base_model_name_or_path" in refusal(write_adapter(tmp_path / "a", "/nowhere/base"))
    assert "names no base_model" in refusal(write_adapter(tmp_path / "b", ""))
    assert "'IA3' cannot be served" in refusal(
        write_adapter(tmp_path / "c", str(write_checkpoint(tmp_path / "base")), peft_type="IA3")
    )


def test_a_hub_model_without_network_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(hub, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(hub, "HF_HUB_CACHE", str(tmp_path))

    with pytest.raises(CheckpointError, match="is not in the local Hugging Face cache"):
        resolve(ModelRef.parse("hf:nobody/nothing@main"))


# Decoys: what a loader opens is decided by names, not by what else lies there


def sharded(folder: Path, shards: dict[str, str]) -> None:
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))


def refused_pickle(folder: Path, name: str) -> None:
    assert f"({name}), which can run code when loaded" in refusal(folder)
    assert inspect_checkpoint(folder, allow_pickle=True)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "pytorch_model.bin.index.json", "consolidated.00.pth"])
@pytest.mark.parametrize(
    "decoy", ["decoy.safetensors", "adapter_model.safetensors", "model-00001-of-00002.safetensors"]
)
def test_a_safetensors_file_that_no_loader_opens_does_not_hide_a_pickle(tmp_path: Path, name: str, decoy: str) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "model.safetensors").rename(folder / decoy)
    (folder / name).write_bytes(b"{}")

    refused_pickle(folder, name)


def test_a_pickle_beside_weights_that_are_opened_first_is_ignored(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    assert inspect_checkpoint(folder).has_pickles  # vLLM is told not to open it

    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    sharded(folder, {"w": "model-1.safetensors"})
    assert inspect_checkpoint(folder)


@pytest.mark.parametrize("name", ["adapter_model.bin", "adapter_model.pt"])
def test_an_adapters_pickle_is_refused_whatever_lies_beside_it(tmp_path: Path, name: str) -> None:
    write_checkpoint(tmp_path / "base")
    adapter = write_adapter(tmp_path / "adapter", str(tmp_path / "base"))
    (adapter / "adapter_model.safetensors").rename(adapter / "model.safetensors")
    (adapter / name).write_bytes(b"x")

    refused_pickle(adapter, name)


def test_a_base_that_is_itself_an_adapter_cannot_bring_a_pickle(tmp_path: Path) -> None:
    """transformers loads an adapter that lies in a model's folder without being asked to."""
    base = write_checkpoint(tmp_path / "base")
    (base / "adapter_config.json").write_text("{}")
    (base / "adapter_model.bin").write_bytes(b"x")

    refused_pickle(write_adapter(tmp_path / "adapter", str(base)), "adapter_model.bin")


@pytest.mark.parametrize("shard", ["evil.bin", "../evil.safetensors", "/tmp/evil.safetensors"])
def test_an_index_names_safetensors_files_beside_it_only(tmp_path: Path, shard: str) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    for target in (folder / "evil.bin", tmp_path / "evil.safetensors", Path("/tmp/evil.safetensors")):
        if target.is_relative_to(tmp_path):
            write_safetensors(target)
    sharded(folder, {"w": shard})

    words = refusal(folder)

    assert f"names {shard!r} as a part of the weights" in words or "is missing" in words


def test_a_configuration_cannot_choose_a_pickle(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")
    (folder / "adapter_model.bin").write_bytes(b"x")
    config = {"architectures": ["LlamaForCausalLM"], "transformers_weights": "adapter_model.bin"}
    (folder / "config.json").write_text(json.dumps(config))

    assert "sets transformers_weights to 'adapter_model.bin'" in refusal(folder)
    assert inspect_checkpoint(folder, allow_pickle=True)
