"""Several models at a time, on GPUs of their own: pretend GPUs, real server processes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.backends.devices import disjoint_devices
from harness.records.errors import ConfigError
from harness.running.execute import side_by_side
from harness.store import find_cards, read_card
from tests.fakes import openai_server
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, chat_reply, serving
from tests.servers.test_llamacpp import write_gguf

SUITE = """\
prompts: [{id: a, prompt: two words, reference: words}]
judge: {kind: checks, checks: [contains_reference]}
"""


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A `llama-server` that notes its model, its GPUs and when it started; the file it writes to."""
    folder, notes = tmp_path / "bin", tmp_path / "notes.jsonl"
    folder.mkdir()
    (tmp_path / "own.yaml").write_text(SUITE)
    file = folder / "llama-server"
    file.write_text(
        f"#!{sys.executable}\nimport json, os, sys, time\nwords = sys.argv[1:]\n"
        "port, name = words[words.index('--port') + 1], words[words.index('--alias') + 1]\n"
        "note = json.dumps([name, os.environ.get('CUDA_VISIBLE_DEVICES'), time.time()])\n"
        f"open({str(notes)!r}, 'a').write(note + '\\n')\n"
        "if name.startswith('broken'): sys.exit('Error: no such tensor')\n"
        f"os.execv({sys.executable!r}, [{sys.executable!r}, {openai_server.__file__!r}, '--port=' + port, "
        "'--model=' + name, '--latency=0.3'])\n"
    )
    file.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return notes


def models(tmp_path: Path, *names: str) -> str:
    for name in names:
        write_gguf(tmp_path / f"{name}.gguf")
    return ",".join(f"{name}.gguf" for name in names)


@pytest.mark.slow
def test_each_model_gets_gpus_that_no_other_has(tmp_path: Path, program: Path, harness: Callable[..., Done]) -> None:
    words = ("run", "--model", models(tmp_path, "one", "two", "three"), "--suite", "own.yaml")

    done = harness(*words, "--parallel-models", "2", CUDA_VISIBLE_DEVICES="4,5,6")

    assert done.code == 0, done.err
    notes = [json.loads(line) for line in program.read_text().splitlines()]
    first, second, third = notes
    assert {first[1], second[1]} == {"4", "5"}
    assert third[1] in ("4", "5")
    # the third server waits for a model to end, the second for nothing
    assert second[2] - first[2] < third[2] - first[2]
    assert done.out.count("next: harness leaderboard") == 1
    cards = [read_card(path) for path in find_cards(tmp_path / "results")]
    assert sorted(card.model for card in cards) == ["one.gguf", "three.gguf", "two.gguf"]


@pytest.mark.slow
def test_the_same_command_one_after_the_other_finds_everything_done(
    tmp_path: Path, program: Path, harness: Callable[..., Done]
) -> None:
    words = ("run", "--model", models(tmp_path, "one", "two"), "--suite", "own.yaml", "--json")
    at_once = harness(*words, "--parallel-models", "2", CUDA_VISIBLE_DEVICES="0,1")

    again = harness(*words)

    assert (at_once.code, again.code) == (0, 0), at_once.err + again.err
    assert len(program.read_text().splitlines()) == 2
    scores = [[card["scores"] for card in json.loads(done.out)["cards"]] for done in (at_once, again)]
    assert scores[0] == scores[1]


@pytest.mark.slow
def test_a_model_that_cannot_be_served_does_not_stop_the_other(
    tmp_path: Path, program: Path, harness: Callable[..., Done]
) -> None:
    words = ("run", "--model", models(tmp_path, "broken", "two"), "--suite", "own.yaml")

    done = harness(*words, "--parallel-models", "2", CUDA_VISIBLE_DEVICES="0,1")

    assert done.code == 4
    assert "1 of 2 models are incomplete: broken.gguf;" in done.err
    assert "no such tensor" in done.err
    assert [path.parts[-4] for path in find_cards(tmp_path / "results")] == ["two.gguf"]


@pytest.mark.slow
def test_too_few_gpus_are_a_sentence_and_nothing_starts(
    tmp_path: Path, program: Path, harness: Callable[..., Done]
) -> None:
    words = ("run", "--model", models(tmp_path, "one", "two"), "--suite", "own.yaml", "--parallel-models", "2")

    none = harness(*words, CUDA_VISIBLE_DEVICES="")
    single = harness(*words, "--devices", "3", CUDA_VISIBLE_DEVICES="0,1,2,3")

    assert (none.code, single.code) == (2, 2)
    assert "on CPUs models run one after the other" in none.err
    assert "needs 2 GPUs, 1 per model, but 1 are visible (3)" in single.err
    assert not program.exists()
    assert not (tmp_path / "results").exists()


@pytest.mark.slow
def test_endpoints_need_no_gpus_and_are_asked_at_once(tmp_path: Path, harness: Callable[..., Done]) -> None:
    (tmp_path / "own.yaml").write_text(SUITE)
    first, second = FakeOpenAI(reply=chat_reply, latency=0.5), FakeOpenAI(reply=chat_reply, latency=0.5, model="b")
    together: list[int] = []
    first.on_request = second.on_request = lambda count: together.append(first.in_flight + second.in_flight)
    with serving(first), serving(second):
        both = f"endpoint:fake@{first.url},endpoint:b@{second.url}"
        done = harness("run", "--model", both, "--suite", "own.yaml", "--parallel-models", "2", "--json")

    assert done.code == 0, done.err
    assert [card["model"] for card in json.loads(done.out)["cards"]] == ["fake", "b"]
    assert max(together) == 2  # the second is asked before the first has answered


JUDGED = """\
prompts: [{id: a, prompt: one}, {id: b, prompt: two}, {id: c, prompt: three}, {id: d, prompt: four}]
judge: {kind: rating}
"""


def test_models_side_by_side_share_the_limits_of_their_judge(tmp_path: Path, harness: Callable[..., Done]) -> None:
    (tmp_path / "own.yaml").write_text(JUDGED)
    judge = FakeOpenAI(reply=lambda request: "[[7]]", latency=0.2, model="judge")
    first, second = FakeOpenAI(reply=chat_reply), FakeOpenAI(reply=chat_reply, model="b")
    with serving(judge), serving(first), serving(second):
        (tmp_path / "judge.yaml").write_text(f"{{kind: llm, model: judge, url: {judge.url}, concurrency: 2}}")
        both = f"endpoint:fake@{first.url},endpoint:b@{second.url}"
        words = ("run", "--model", both, "--suite", "own.yaml", "--judge", "judge.yaml", "--no-cache")
        done = harness(*words, "--parallel-models", "2")

    assert done.code == 0, done.err
    assert len(judge.requests) == 8
    assert judge.peak == 2


def test_jobs_wait_for_a_slot_and_errors_stay_with_their_job() -> None:
    running: set[str | None] = set()

    async def job(devices: str | None) -> str | None:
        assert devices not in running
        running.add(devices)
        await asyncio.sleep(0.01)
        running.discard(devices)
        return devices

    async def fails(devices: str | None) -> str | None:
        raise ConfigError("no")

    outcomes = asyncio.run(side_by_side([job, fails, job, job, job], ["0", "1"]))

    assert [str(outcome) for outcome in outcomes if isinstance(outcome, Exception)] == ["no"]
    assert {outcome for outcome in outcomes if isinstance(outcome, str)} == {"0", "1"}


def test_gpus_are_divided_in_whole_groups() -> None:
    assert disjoint_devices(("0", "1", "2", "3", "4"), unit=2, count=2) == ["0,1", "2,3"]
    with pytest.raises(ConfigError, match="needs 6 GPUs, 2 per model, but 5 are visible"):
        disjoint_devices(("0", "1", "2", "3", "4"), unit=2, count=3)
