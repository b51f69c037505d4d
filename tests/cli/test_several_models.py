"""`harness run` on several models: one after the other, each with its own results, and one table at the end."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records.errors import ConfigError
from harness.running.resolve import models_in
from harness.store import find_cards
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, chat_reply, serving

CHECKED = """\
prompts: [{id: a, prompt: two words, reference: words}]
judge: {kind: checks, checks: [contains_reference]}
"""


def own_suite(folder: Path) -> tuple[str, ...]:
    """A suite of one question that a check judges, and answers of two scripted models."""
    (folder / "tiny.yaml").write_text(CHECKED)
    for name, text in (("right", "these are words"), ("wrong", "no")):
        row = {"prompt_id": "a", "turns": [text]}
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    return ("--suite", "tiny.yaml", "--backend", "scripted")


def test_a_comma_or_a_file_names_several_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models.txt").write_text("# the sources\n./a\n\n  hf:org/b  \n./with,comma\n")
    (tmp_path / "one,two").mkdir()
    (tmp_path / "@at").mkdir()

    assert models_in("a, b") == ("a", "b")
    assert models_in("@models.txt") == ("./a", "hf:org/b", "./with,comma")
    assert models_in("one,two") == ("one,two",)
    assert models_in("@at") == ("@at",)
    assert models_in("endpoint:x,y@http://h/v1,endpoint:z@http://h/v1") == (
        "endpoint:x,y@http://h/v1",
        "endpoint:z@http://h/v1",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [("a,,b", "empty name"), ("a,b,a", "'a' more than once"), ("@none.txt", "cannot be read"), ("@empty", "no model")],
)
def test_a_wrong_list_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("# nothing\n")

    with pytest.raises(ConfigError, match=words):
        models_in(text)


@pytest.mark.slow
def test_several_models_end_in_one_table_and_resume(harness: Callable[..., Done], tmp_path: Path) -> None:
    suite = own_suite(tmp_path)

    done = harness("run", "--model", "right.jsonl,wrong.jsonl", *suite)
    again = harness("run", "--model", "right.jsonl,wrong.jsonl", *suite, "--json")

    assert done.code == 0, done.err
    assert "model 2 of 2" in done.err
    assert done.out.count("next: harness leaderboard") == 1
    assert again.code == 0, again.err
    cards = json.loads(again.out)["cards"]
    assert [card["model"] for card in cards] == ["right.jsonl", "wrong.jsonl"]
    assert len(find_cards(tmp_path / "results")) == 2


def test_a_wrong_name_stops_before_anything_starts(harness: Callable[..., Done], tmp_path: Path) -> None:
    done = harness("run", "--model", "right.jsonl,nowhere.jsonl", *own_suite(tmp_path))

    assert done.code == 2
    assert "nowhere.jsonl" in done.err
    assert not (tmp_path / "results").exists()


def test_one_name_is_not_for_several_models(harness: Callable[..., Done], tmp_path: Path) -> None:
    done = harness("run", "--model", "right.jsonl,wrong.jsonl", "--name", "mine", *own_suite(tmp_path))

    assert (done.code, "--name 'mine'" in done.err) == (2, True)


@pytest.mark.slow
def test_a_model_that_fails_does_not_stop_the_others(harness: Callable[..., Done], tmp_path: Path) -> None:
    suite = own_suite(tmp_path)[:2]
    with serving(FakeOpenAI(reply=chat_reply)) as fake:
        gone = "endpoint:gone@http://127.0.0.1:9/v1"
        done = harness("run", "--model", f"{gone},endpoint:fake@{fake.url}", *suite, "--patience", "1")

    assert done.code == 4, done.err
    assert f"1 of 2 models are incomplete: {gone};" in done.err, done.err + done.out
    assert [path.parts[-4] for path in find_cards(tmp_path / "results")] == ["fake"]


def test_a_dry_run_of_several_names_each_model(harness: Callable[..., Done], tmp_path: Path) -> None:
    suite = own_suite(tmp_path)

    done = harness("run", "--model", "right.jsonl,wrong.jsonl", *suite, "--dry-run", "--json")

    assert done.code == 0, done.err
    assert [row["model"] for row in json.loads(done.out)["dry_run"]] == ["right.jsonl", "wrong.jsonl"]
    assert not (tmp_path / "results").exists()
