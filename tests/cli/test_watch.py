"""A checkpoint is evaluated once, when it is wholly written; what is not ready is said, and nothing is scored twice."""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from harness.analysis.watch import candidates
from harness.records.errors import ConfigError
from tests.fakes.commands import Done

BACKEND = '''
import json, pathlib
from harness.records import Answer

class Folder:
    """Answers with the gold answer to as many prompts of ten as the checkpoint's config says."""

    def __init__(self, model, options):
        self.model = model
        self.skill = json.loads((pathlib.Path(model.name) / "config.json").read_text())["skill"]

    def identity(self):
        return {"backend": "folder", "weights": str(self.skill)}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        return None

    async def answer(self, prompt, sampling, index=0):
        right = int(prompt.id.split("-")[1]) % 10 < self.skill
        turns = prompt.reference if right else tuple("no idea" for _ in prompt.turns)
        return Answer(prompt_id=prompt.id, model=self.model.label, turns=turns, finish=("stop",) * len(turns))
'''


@pytest.fixture
def plugin(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder on the path in which a backend is installed that serves the folders below."""
    folder = tmp_path_factory.mktemp("plugin")
    monkeypatch.syspath_prepend(str(folder))
    (folder / "folder_backend.py").write_text(BACKEND)
    info = folder / "folder_backend-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: folder-backend\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[fusion_harness.backends]\nfolder = folder_backend:Folder\n")
    return os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])


def checkpoint(folder: Path, *, skill: int, shards: int = 2, written: int = 2, cut: int = 0) -> None:
    """A checkpoint of `shards` shards, of which `written` are there, the last one `cut` bytes short."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"skill": skill}))
    names = [f"model-{number + 1:05}-of-{shards:05}.safetensors" for number in range(shards)]
    index = {"weight_map": {f"w{number}": name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    for number, name in enumerate(names[:written]):
        header = json.dumps({f"w{number}": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
        content = struct.pack("<Q", len(header)) + header + bytes(16)
        (folder / name).write_bytes(content[: len(content) - cut] if number == written - 1 else content)


def test_checkpoints_come_by_step_the_final_model_last(tmp_path: Path) -> None:
    for name in ("checkpoint-1000", "checkpoint-200", "tmp-checkpoint-300", "runs"):
        (tmp_path / name).mkdir()
    for name in ("checkpoint-1000", "checkpoint-200", "tmp-checkpoint-300"):
        checkpoint(tmp_path / name, skill=1)
    checkpoint(tmp_path, skill=1)

    assert [one.name for one in candidates(tmp_path)] == ["checkpoint-200", "checkpoint-1000", tmp_path.name]
    assert [one.step for one in candidates(tmp_path)][:2] == [200, 1000]


@pytest.mark.parametrize(
    ("written", "cut", "age", "reason"),
    [
        (1, 0, 100, "is incomplete: model-00002-of-00002.safetensors is missing"),
        (2, 3, 100, "truncated"),
        (0, 0, 100, "is incomplete"),
        (2, 0, 5, "written 5 s ago; ready after 30 s without a change"),
        (2, 0, 100, None),
    ],
)
def test_a_checkpoint_is_ready_when_it_is_whole_and_still(
    tmp_path: Path, written: int, cut: int, age: float, reason: str | None
) -> None:
    checkpoint(tmp_path / "checkpoint-1", skill=1, written=written, cut=cut)
    (found,) = candidates(tmp_path)

    problem = found.problem(30, now=found.changed + age)

    assert problem is None if reason is None else reason in (problem or "")


@pytest.mark.slow
def test_each_new_checkpoint_is_run_once_and_the_trend_is_drawn(
    harness: Callable[..., Done], plugin: str, tmp_path: Path
) -> None:
    training = tmp_path / "out" / "wrpo"
    checkpoint(training / "checkpoint-10", skill=3)
    checkpoint(training / "checkpoint-20", skill=6, written=1)
    words = ("watch", str(training), "--suite", "mt_bench", "--edition", "pocket", "--backend", "folder")

    def look() -> Done:
        return harness(*words, "--once", "--settle", "0", PYTHONPATH=plugin)

    first = look()
    assert first.code == 4, first.err
    assert "1 of the checkpoints were not evaluated: checkpoint-20: " in first.err
    assert "checkpoint-10: mt_bench" in first.err
    checkpoint(training / "checkpoint-20", skill=6)
    second = look()
    assert second.code == 0, second.err
    assert "checkpoint-20: evaluating" in second.err
    assert "checkpoint-10: evaluating" not in second.err
    third = harness(*words, "--once", "--settle", "0", "--json", PYTHONPATH=plugin)
    assert "evaluating" not in third.err
    done = json.loads(third.out)["done"]
    values = [one["points"][0]["score"]["value"] for one in done]
    assert [one["step"] for one in done] == [10, 20]
    assert values[0] < values[1]
    (drawn,) = (tmp_path / "results" / "watch").glob("wrpo-*-mt-bench-*.svg")
    assert len(ElementTree.fromstring(drawn.read_text()).findall(".//{*}circle")) == 3  # two points and the legend's
    assert "more is better" in second.out
    assert re.search(r"\+\d+\.\d\d better", second.out)  # since the last
    assert re.search(r"checkpoint-20: evaluated in \d+ s\n", second.err)


def test_a_failing_run_is_said_and_tried_again_later(harness: Callable[..., Done], plugin: str, tmp_path: Path) -> None:
    checkpoint(tmp_path / "out" / "checkpoint-1", skill=3)
    (tmp_path / "out" / "checkpoint-1" / "config.json").write_text("{}")
    words = ("watch", "out", "--suite", "mt_bench", "--edition", "pocket", "--backend", "folder", "--once")

    done = harness(*words, "--settle", "0", PYTHONPATH=plugin)

    assert done.code == 4
    assert "harness run ended with exit code 4" in done.err
    assert not (tmp_path / "results" / "watch").exists()


def test_a_folder_without_checkpoints_is_said(harness: Callable[..., Done], tmp_path: Path) -> None:
    done = harness("watch", str(tmp_path), "--suite", "mt_bench", "--once")

    assert done.code == 0, done.err
    assert "no checkpoint in" in done.err


def test_a_wrong_flag_is_an_error_before_the_first_look(harness: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()

    refused = harness("watch", "out", "--suite", "mt_bench", "--once", "--no-such-flag")

    assert (refused.code, "no-such-flag" in refused.err) == (2, True)


def test_what_watch_sets_itself_cannot_be_handed_on(harness: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    refused = harness("watch", "out", "--suite", "mt_bench", "--once", "--model", "x")
    assert refused.code == 2
    assert "--model cannot be passed to harness run" in refused.err
    with pytest.raises(ConfigError, match="no training folder"):
        candidates(tmp_path / "none")
