"""YAML and JSON of others: too deep, too large, too many aliases, or simply wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.analysis.gate.evidence import read_baselines, read_policy
from harness.records.documents import MAX_BYTES, parse_json, parse_yaml, read_json_object, read_yaml
from harness.records.errors import ConfigError
from harness.store.checkpoint import read_checkpoint_fusion, read_fusion

BOMB = "a: &a [1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{last}'] * 9)}]\n" for last, name in zip("abcdefg", "bcdefgh", strict=True)
)
"""9 to the power of 7 values in 8 lines."""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 20_000, "nested more than 64 levels deep"),
        ("{a: " * 20_000, "nested more than 64 levels deep"),
        ("- " * 20_000, "nested more than 64 levels deep"),
        (BOMB, "stands for more than 200,000 values"),
        ("a: &a [*a]", "an alias refers to the value that it is part of"),
        ("a: *b", "undefined alias"),
        ("a: 2026-99-99", "month must be in 1..12"),
        ("a: !!int ''", "is not YAML"),
        ("a: " + "9" * 5000, "is not YAML"),
        ("? [a]\n: b", "unhashable"),
        ("a: !!python/object/apply:os.system ['true']", "could not determine a constructor"),
        ("a: 'open", "is not YAML"),
        ("x" * (MAX_BYTES + 1), "at most 4,000,000 are read"),
    ],
)
def test_yaml_that_is_too_much_or_wrong_is_one_sentence(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_yaml(text, "harness.yaml")

    assert str(error.value).startswith("harness.yaml ")
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_ordinary_aliases_and_depth_are_read() -> None:
    assert parse_yaml("a: &a {x: 1}\nb: *a\nc: {<<: *a, y: 2}", "f") == {
        "a": {"x": 1},
        "b": {"x": 1},
        "c": {"x": 1, "y": 2},
    }
    assert parse_yaml("[" * 50 + "]" * 50, "f")


@pytest.mark.parametrize("content", [b"", b"{", b'"torn', b"[]", b"null", b"3", b"\xff\xfe", b"[" * 100_000])
def test_a_file_of_ours_that_is_no_json_object_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=r"manifest\.json is not (a )?JSON.*; start over") as error:
        read_json_object(path, "start over")
    assert "\n" not in str(error.value)


def test_json_is_read_as_ever() -> None:
    assert parse_json(json.dumps({"a": [1, 2.5, None]}), "f") == {"a": [1, 2.5, None]}


@pytest.mark.slow
def test_every_yaml_of_the_product_has_these_limits(tmp_path: Path) -> None:
    for name in ("harness.yaml", "gate.yaml", "baselines.yaml", "fusion.yaml"):
        (tmp_path / name).write_text("[" * 20_000)
    for read in (
        lambda: read_yaml(tmp_path / "harness.yaml"),
        lambda: read_policy(tmp_path / "gate.yaml"),
        lambda: read_baselines(tmp_path),
        lambda: read_fusion(tmp_path),
    ):
        with pytest.raises(ConfigError, match=r"yaml is not YAML: it is nested more than 64 levels deep"):
            read()


def test_a_broken_fusion_json_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "fusion.json").write_text("[" * 100_000)

    with pytest.raises(ConfigError, match=r"fusion\.json is not JSON: it is nested too deeply"):
        read_checkpoint_fusion(tmp_path)
