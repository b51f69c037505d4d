"""The embedded checkpoint: tokenizer, lessons and a training of a few steps."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from click.testing import CliRunner
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.cli.main import load_command
from harness.records.errors import ConfigError
from harness.suites.pocket import first_questions
from harness.suites.pocket.skills import SKILLS, Task
from recipes.worlds.embedded import EmbeddedSettings, RowWriter, draw_task, rate_at, train
from recipes.worlds.tiny import build_tokenizer, orthogonal

TINY = EmbeddedSettings(steps=3, rows=8, width=32, layers=1)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("embedded") / "tiny"
    train(out, TINY)
    return out


@pytest.mark.parametrize("text", ["fox", "héllo  wörld\n", "日本語 🦊", "<|user|x", "\x00\x7f"])
def test_every_text_comes_back_from_its_bytes(text: str) -> None:
    tokenizer = build_tokenizer()
    ids = tokenizer(text).input_ids

    assert len(ids) == len(text.encode())
    assert tokenizer.decode(ids) == text


def test_template_has_one_bos_and_ends_assistant_turns() -> None:
    talk = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    text = build_tokenizer().apply_chat_template(talk, tokenize=False, add_generation_prompt=True)

    assert text == "<|bos|><|system|>s<|user|>a<|assistant|>b<|eos|><|user|>c<|assistant|>"


def test_a_row_is_what_the_template_renders_and_learns_answers_alone() -> None:
    tokenizer = build_tokenizer()
    row = RowWriter(tokenizer).row([Task("say [a]!", "[a]!"), Task("again", "b")])
    talk = [
        {"role": "user", "content": "say [a]!"},
        {"role": "assistant", "content": "[a]!"},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": "b"},
    ]

    assert row.ids == tokenizer.apply_chat_template(talk, return_dict=False)
    learned = [token for token, mark in zip(row.ids, row.learned, strict=True) if mark]
    assert tokenizer.decode(learned) == "[a]!<|eos|>b<|eos|>"


def test_training_tasks_are_never_questions_of_the_edition() -> None:
    banned = first_questions()
    rng = random.Random(3)

    assert all(draw_task(rng, skill, banned).question not in banned for skill in SKILLS for _ in range(300))


def test_rate_rises_over_a_tenth_and_falls_to_nothing() -> None:
    rates = [rate_at(step, 100) for step in range(100)]

    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[10] == pytest.approx(1.0)
    assert rates[99] == pytest.approx(1 / 90)


def test_orthogonal_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 8, 24), (2, 24, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(*shape)))
        assert 0.5 < values.min() <= values.max() < 1.4


def test_a_checkpoint_is_an_ordinary_folder(tiny: Path) -> None:
    names = {path.name for path in tiny.iterdir()}
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "training.json"} <= names
    assert "chat_template.jinja" in names

    tokenizer, model = AutoTokenizer.from_pretrained(tiny), AutoModelForCausalLM.from_pretrained(tiny)
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "x"}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    assert model.generate(**prompt, max_new_tokens=2, do_sample=False).shape[1] <= prompt["input_ids"].shape[1] + 2
    assert model.config.max_position_embeddings == 16384


def test_same_settings_give_the_same_weights_and_another_seed_others(tiny: Path, tmp_path: Path) -> None:
    train(tmp_path / "again", TINY)
    train(tmp_path / "other", TINY.model_copy(update={"seed": 1}))
    weights = (tiny / "model.safetensors").read_bytes()

    assert (tmp_path / "again" / "model.safetensors").read_bytes() == weights
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != weights


def test_a_finished_checkpoint_is_taken_as_it_is(tiny: Path) -> None:
    before = (tiny / "model.safetensors").stat().st_mtime_ns

    assert train(tiny, TINY).settings == TINY
    assert (tiny / "model.safetensors").stat().st_mtime_ns == before


def test_a_folder_that_holds_something_else_is_left_alone(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")

    with pytest.raises(ConfigError, match="not an embedded checkpoint"):
        train(tmp_path, TINY)
    with pytest.raises(ConfigError, match="other settings"):
        train(tiny, TINY.model_copy(update={"seed": 5}))
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_training_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object, **__: object) -> float:
        raise KeyboardInterrupt

    monkeypatch.setattr("recipes.worlds.embedded.fit", die)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "x", TINY)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_command_trains_and_says_when_it_did_not_have_to(tmp_path: Path) -> None:
    arguments = ["--out", str(tmp_path / "x"), "--steps", "1", "--json"]
    first = CliRunner().invoke(load_command("embedded"), arguments)
    again = CliRunner().invoke(load_command("embedded"), arguments[:-1])

    assert first.exit_code == again.exit_code == 0, first.output + again.output
    assert json.loads(first.stdout)["settings"]["steps"] == 1
    assert "exists, same settings" in again.output
