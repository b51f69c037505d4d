"""Bad input is one sentence and exit code 2, nothing written; every command explains itself with an example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.commands import Done

COMMANDS = (
    "run",
    "score",
    "export",
    "import",
    "leaderboard",
    "compare",
    "gate",
    "gate promote",
    "gate power",
    "watch",
    "view",
    "data list",
    "data pull",
    "data verify",
    "cache stats",
    "cache prune",
    "judge list",
    "judge anchors",
    "judge calibrate",
    "judge injections",
    "judge template",
    "config trust",
    "config untrust",
    "config show",
    "ls",
    "doctor",
    "embedded",
    "pocket-models",
    "smollm2",
    "train",
)
POCKET = ("--suite", "all", "--edition", "pocket")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_an_example(harness: Callable[..., Done], command: str) -> None:
    done = harness(*command.split(), "--help")

    assert done.code == 0, done.err
    assert f"harness {command}" in done.out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("run", "--edition", "pocket"), "no model: give --model"),
        (("run", "--model", "./none", *POCKET), "no such model folder: 'none'"),
        (("run", "--model", "hf:x", *POCKET), "is not hf:ORG/NAME"),
        (("run", "--model", "endpoint:m", *POCKET), "is not endpoint:NAME@"),
        (("run", "--model", "x", "--suite", "mtbench"), "no suite named 'mtbench'; installed: alpaca_eval"),
        (("run", "--model", "x", *POCKET, "--backend", "vlm"), "no backend named 'vlm'; installed: best_of, endpoint"),
        (("run", "--model", "x", *POCKET, "--judge", "gpt9"), "no judge named 'gpt9'; known: "),
        (("run", "--model", "x", *POCKET, "--limit", "0"), "limit = 0"),
        (("run", "--model", "x", *POCKET, "--temperature", "-1"), "temperature = -1"),
        (("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--suite", "all", "--edition", "gold"), "pocket"),
        (("run", "--model", "x", *POCKET, "--config", "none.yaml"), "cannot read none.yaml"),
        (("leaderboard", "--results", "none"), "no score cards under none/runs"),
        (("leaderboard", "--format", "pdf"), "no format 'pdf'; known: table"),
        (("gate", "new", "old"), "no command 'new' of the gate; a model is named by a flag, as in `harness gate"),
        (("gate", "promot", "new"), "no command 'promot' of the gate (did you mean 'promote'?)"),
        (("ls", "things"), "no group 'things'; known: runs, backends"),
        (("run", "--model", "x", "--suite", ""), "--suite is empty: name one, or leave it out"),
        (("compare", "a", "b", "--judge", "j"), "--judge 'j' is for --head-to-head: add it, or drop --judge"),
        (("gate", "--candidate", "a", "--limit", "3"), "--limit '3' is for --live: add it, or drop --limit"),
        (("score", "x", "--format", "fastchat", "--pool"), "--pool is for --format arena_hard, not fastchat: drop it"),
        (("export", "y" * 300, "--format", "fastchat", "--out", "o"), "yyy: File name too long"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    harness: Callable[..., Done], tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    done = harness(*words)

    assert done.code == 2
    assert sentence in done.err
    assert "Traceback" not in done.err
    assert len(done.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_key_in_harness_yaml_lists_the_right_ones(harness: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "harness.yaml").write_text("modle: x\n")

    done = harness("run")

    assert done.code == 2
    assert "harness.yaml: unknown key 'modle'; known: anchors, audit, backend, baseline, cache, edition, " in done.err


@pytest.mark.slow
def test_a_dry_run_needs_no_key_and_says_that_the_run_will(harness: Callable[..., Done]) -> None:
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")

    for judge in (("--judge", "gpt-5.4"), ("--judge", "gpt-5.4", "--transport", "batch")):
        dry = harness(*words, *judge, "--dry-run")
        assert dry.code == 0, dry.err
        assert "judge 'gpt-5.4' needs its API key in the environment variable OPENAI_API_KEY for the run" in dry.err
        with_key = harness(*words, *judge, "--dry-run", OPENAI_API_KEY="x")
        assert (with_key.out, "API key" in with_key.err) == (dry.out, False)
    refused = harness(*words, "--judge", "gpt-5.4")
    assert (refused.code, refused.err.count("needs its API key")) == (2, 1)


def test_a_dry_run_prints_the_calls_and_writes_nothing(harness: Callable[..., Done], tmp_path: Path) -> None:
    words = ("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", *POCKET, "--dry-run")

    done = harness(*words, "--json")

    assert done.code == 0, done.err
    rows = {row["suite"]: row for row in json.loads(done.out)["dry_run"]}
    assert {name: (row["prompts"], row["generation_calls"], row["judge_calls"]) for name, row in rows.items()} == {
        "mt_bench": (80, 160, 160),
        "alpaca_eval": (120, 120, 120),
        "arena_hard": (60, 60, 120),
    }
    assert harness(*words).code == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_cannot_be_reached_ends_incomplete(harness: Callable[..., Done]) -> None:
    done = harness("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", *POCKET, "--limit", "2")

    assert done.code == 4
    assert "Traceback" not in done.err


def test_judges_are_listed_with_prices_and_no_key(harness: Callable[..., Done]) -> None:
    done = harness("judge", "list", OPENAI_API_KEY="sk-very-secret")

    assert done.code == 0
    assert "gpt-4.1" in done.out
    assert "sk-very-secret" not in done.out + done.err


def test_ls_names_the_built_in_plug_ins(harness: Callable[..., Done]) -> None:
    listed = json.loads(harness("ls", "backends", "--json").out)["backends"]

    assert [row["name"] for row in listed] == [
        "best_of",
        "endpoint",
        "in_process",
        "llamacpp",
        "moa",
        "ray",
        "route",
        "scripted",
        "sglang",
        "transformers",
        "vllm",
    ]
