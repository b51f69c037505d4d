"""How much KV cache a server on CPUs gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.backends.devices import (
    GIB,
    available_memory,
    kv_bytes_per_token,
    kv_cache_gib,
    kv_cache_space,
    loaded_bytes,
)
from tests.unit.test_checkpoint import write_checkpoint

LLAMA_8B = {"num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 4096}


def test_half_of_what_weights_and_server_leave() -> None:
    assert kv_cache_gib(free=64 * GIB, weights=30 * GIB, useful=None) == 16  # (64 - 30 - 2) / 2
    assert kv_cache_gib(free=4 * GIB, weights=30 * GIB, useful=None) == 1
    assert kv_cache_gib(free=None, weights=0, useful=None) == 1


def test_never_more_than_the_requests_in_flight_can_fill() -> None:
    # 2 tensors x 32 layers x 8 heads x 128 numbers x 2 bytes = 128 KiB per token
    assert kv_bytes_per_token(LLAMA_8B, "bfloat16") == 128 * 1024
    assert kv_cache_gib(free=64 * GIB, weights=16 * GIB, useful=128 * 1024 * 4096 * 9) == 5  # 4.5 rounded up


@pytest.mark.parametrize("config", [{}, {"num_hidden_layers": 2, "num_attention_heads": 0, "hidden_size": 8}])
def test_an_unusual_configuration_sets_no_limit(config: dict[str, int]) -> None:
    assert kv_bytes_per_token(config, "float32") is None


def test_a_multimodal_configuration_has_it_one_level_down() -> None:
    assert kv_bytes_per_token({"text_config": LLAMA_8B}, "float32") == 256 * 1024


def test_weights_count_as_they_are_loaded(tmp_path: Path) -> None:
    folder = tmp_path / "ckpt"
    folder.mkdir()
    header = {
        "a": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]},
        "b": {"dtype": "U8", "shape": [5], "data_offsets": [6, 11]},
    }
    raw = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(len(raw).to_bytes(8, "little") + raw + bytes(11))

    assert loaded_bytes(folder, "float32") == 12 + 5
    assert loaded_bytes(folder, "bfloat16") == 6 + 5
    assert loaded_bytes(tmp_path / "absent", "float32") == 0


def test_workers_share_the_memory(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "ckpt")

    assert kv_cache_space(folder, "float32", tokens=None, workers=1, free=42 * GIB) == 19  # (42 - 2) / 2, less weights
    assert kv_cache_space(folder, "float32", tokens=None, workers=4, free=42 * GIB) == 4  # (10.5 - 2) / 2


def test_the_limit_of_a_container_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9 kB\nMemAvailable:    8388608 kB\n")
    assert available_memory(tmp_path) == 8 * GIB
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("5\n")
    assert available_memory(tmp_path) == 8 * GIB
    (group / "memory.max").write_text(f"{4 * GIB}\n")
    (group / "memory.current").write_text(f"{3 * GIB}\n")
    (group / "memory.stat").write_text(f"anon 7\ninactive_file {GIB}\n")
    assert available_memory(tmp_path) == 2 * GIB
    assert available_memory(tmp_path / "nowhere") is None
