"""Adapters of one base share a server: those of one command, and the checkpoints of a training. By a stand-in vLLM."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.store import find_cards, read_card
from tests.fakes.commands import Done
from tests.fakes.vllm_server import as_package
from tests.unit.test_checkpoint import write_adapter, write_checkpoint

SUITE = """\
prompts: [{id: a, prompt: two words, reference: words}]
judge: {kind: checks, checks: [contains_reference]}
"""


@pytest.fixture
def notes(tmp_path: Path, installed: Callable[[str, Path], Path]) -> Path:
    """The stand-in is the installed vLLM; the file has a line of JSON per start. A base and a suite are there."""
    write_checkpoint(tmp_path / "base", template="{% for message in messages %}{{ message.content }}{% endfor %}")
    (tmp_path / "own.yaml").write_text(SUITE)
    return installed("harness.backends.vllm.check_loadable", as_package(tmp_path / "packages"))


def adapter(folder: Path, answer: str, *, base: str = "base", rank: int = 4) -> None:
    """An adapter of a base beside it, or beside the training folder it is in, that gives one answer to everything."""
    home = folder.parents[1] if folder.parent.name == "out" else folder.parent
    write_adapter(folder, str(home / base), r=rank)
    (folder / "answer.txt").write_text(answer)


def starts(notes: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in notes.read_text().splitlines()]


@pytest.mark.slow
def test_models_of_one_command_share_a_server_and_keep_their_own_scores(
    tmp_path: Path, notes: Path, harness: Callable[..., Done]
) -> None:
    adapter(tmp_path / "good", "these are words", rank=4)
    adapter(tmp_path / "bad", "no", rank=12)

    done = harness("run", "--model", "good,bad", "--suite", "own.yaml", "--json")

    assert done.code == 0, done.err
    good, bad = json.loads(done.out)["cards"]
    (start,) = starts(notes)
    assert [str(name).partition("@")[0] for name in start["names"]] == ["good", "bad"]  # type: ignore[attr-defined]
    assert start["rank"] == 16  # the smallest of vLLM's ranks that 12 fits in
    assert [card["model"] for card in (good, bad)] == ["good", "bad"]
    scores = [card["scores"][card["headline"]]["value"] for card in (good, bad)]
    assert scores[0] > scores[1]
    parts = [card["provenance"]["weights"] for card in (good, bad)]
    assert parts[0]["adapter"] != parts[1]["adapter"]
    assert parts[0]["base"] == parts[1]["base"]
    assert not Path(f"/proc/{start['pid']}").exists()


@pytest.mark.slow
def test_alone_or_shared_the_run_is_the_same(tmp_path: Path, notes: Path, harness: Callable[..., Done]) -> None:
    adapter(tmp_path / "good", "these are words")
    adapter(tmp_path / "bad", "no")
    alone = harness("run", "--model", "good", "--suite", "own.yaml")

    both = harness("run", "--model", "good,bad", "--suite", "own.yaml")

    assert (alone.code, both.code) == (0, 0), alone.err + both.err
    assert len(find_cards(tmp_path / "results")) == 2
    assert [len(start["names"]) for start in starts(notes)] == [1, 2]  # type: ignore[arg-type]


@pytest.mark.slow
def test_another_base_gets_a_server_of_its_own(tmp_path: Path, notes: Path, harness: Callable[..., Done]) -> None:
    write_checkpoint(tmp_path / "second", template="{{ messages }}")
    adapter(tmp_path / "one", "words")
    adapter(tmp_path / "two", "words", base="second")

    done = harness("run", "--model", "one,two", "--suite", "own.yaml")

    assert done.code == 0, done.err
    assert [len(start["names"]) for start in starts(notes)] == [1, 1]  # type: ignore[arg-type]


@pytest.mark.slow
def test_watch_loads_new_adapters_into_the_running_server(
    tmp_path: Path, notes: Path, harness: Callable[..., Done]
) -> None:
    for step, answer in ((10, "no"), (20, "words"), (30, "words")):
        adapter(tmp_path / "out" / f"checkpoint-{step}", answer)
    (tmp_path / "out" / "checkpoint-30" / "broken").touch()

    done = harness("watch", "out", "--suite", "own.yaml", "--once", "--settle", "0")

    (start,) = starts(notes)
    assert done.code == 4, done.err  # of the broken one
    assert "vLLM does not load the adapter" in done.err
    assert "no such module" in done.err
    cards = sorted((read_card(path) for path in find_cards(tmp_path / "results")), key=lambda card: card.model)
    assert [card.scores[card.headline].value for card in cards] == [0.0, 100.0]
    assert "of which its server took" in done.err
    assert "by a server that was running" in done.err
    assert not Path(f"/proc/{start['pid']}").exists()


@pytest.mark.slow
def test_watch_stops_its_server_in_between_if_told(tmp_path: Path, notes: Path, harness: Callable[..., Done]) -> None:
    for step in (10, 20):
        adapter(tmp_path / "out" / f"checkpoint-{step}", "words")

    done = harness("watch", "out", "--suite", "own.yaml", "--once", "--settle", "0", "--stop-server")

    assert done.code == 0, done.err
    assert len(starts(notes)) == 2
