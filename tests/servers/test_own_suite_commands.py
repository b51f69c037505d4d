"""A suite of one's own under all commands that run suites: gate --live, --transport batch, watch, a recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.judging import batch as wire_module
from harness.records import ModelRef
from recipes.spec import SuitesSpec
from recipes.suites import check_suites, own_suites, run_suites, suite_calls
from tests.fakes.batch_server import FakeBatchOpenAI
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Request, serving

from .test_custom_suite import RUBRIC, cards, longer_reply, rubric_reply, run_words, write_answers, write_suite

Call = Callable[..., Done]
Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]
BACKEND = """
import pathlib
from harness.records import Answer

class Written:
    def __init__(self, model, options):
        self.model, self.text = model, (pathlib.Path(model.name) / "text").read_text()

    def identity(self):
        return {"backend": "written", "weights": self.text}

    async def __aenter__(self):
        return self

    async def __aexit__(self, *exc):
        return None

    async def answer(self, prompt, sampling, index=0):
        return Answer(prompt_id=prompt.id, model=self.model.label, turns=(self.text,), finish=("stop",))
"""
GOOD, BAD = "the right one, please take it home", "who knows"


@pytest.mark.slow
@pytest.mark.parametrize("named", [(), ("--policy", "gate.yaml")])
def test_gate_live_asks_a_candidate_in_blocks(
    harness: Call, serve: Serve, tmp_path: Path, named: tuple[str, ...]
) -> None:
    (tmp_path / "shop").mkdir()
    write_suite(tmp_path / "shop", RUBRIC, prompts=60)
    good = write_answers(tmp_path / "good.jsonl", lambda n: GOOD, 60)
    write_answers(tmp_path / "bad.jsonl", lambda n: BAD, 60)
    (tmp_path / "gate.yaml").write_text("checks: [{suite: 'custom:bicycles', margin: 12}]\n")
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        cards(harness(*run_words(good, judge.url, "--suite", "shop/bicycles.yaml")))
        asked = len(judge.requests)
        (tmp_path / "shop/bicycles.yaml").unlink()  # the baseline's folder has a copy
        words = ("gate", "--candidate", "bad.jsonl", "--baseline", "good.jsonl", "--live", "--sequential")
        done = harness(*words, "--backend", "scripted", "--judge", f"endpoint:gpt-x@{judge.url}", *named, "--json")

    assert done.code == 1, done.err
    [sequential] = json.loads(done.out)["sequential"]
    assert sequential["questions"] < sequential["of"] == 60
    assert len(judge.requests) - asked == sequential["questions"]


@pytest.mark.slow
def test_a_batch_judges_a_suite_of_ones_own_as_single_calls_do(
    harness: Call, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire_module, "QUIET", 0.05)
    monkeypatch.setattr(wire_module, "FIRST_WAIT", 0.01)
    write_suite(tmp_path, RUBRIC)
    mine = write_answers(tmp_path / "mine.jsonl", lambda n: GOOD if n < 6 else BAD)
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        [single] = cards(harness(*run_words(mine, judge.url, "--suite", "bicycles.yaml", "--no-cache")))
    with serving(FakeBatchOpenAI(reply=rubric_reply)) as batches:
        words = ("--suite", "bicycles.yaml", "--transport", "batch", "--no-cache", "--results", "batched")
        [batched] = cards(harness(*run_words(mine, batches.url, *words)))

    assert batched["scores"] == single["scores"]
    assert single["scores"]["rubric"]["value"] == pytest.approx(0.6 * 95.0)


@pytest.mark.slow
@pytest.mark.parametrize("suite", ["duel.yaml", "sums.yaml"])
def test_gate_live_compares_with_the_baselines_opponent_and_runs_checks(
    harness: Call, serve: Serve, tmp_path: Path, suite: str
) -> None:
    """The opponent was a model, asked once, which need not be served again; checks have no judge."""
    write_suite(tmp_path, "prompts: questions.jsonl\njudge: {kind: pairwise}\nmargin: 5\n", "duel.yaml", prompts=60)
    (tmp_path / "sums.yaml").write_text(
        "prompts: questions.jsonl\njudge: {kind: checks, checks: [valid_json]}\nmargin: 5\n"
    )
    good = write_answers(tmp_path / "good.jsonl", lambda n: '["the longest answer"]', 60)
    write_answers(tmp_path / "bad.jsonl", lambda n: "short", 60)
    with serve(FakeOpenAI(reply=labelled)) as judge, serve(FakeOpenAI(reply=lambda request: "middling")) as model:
        against = ("--baseline", f"endpoint:fake@{model.url}") if suite == "duel.yaml" else ()
        [first] = cards(harness(*run_words(good, judge.url, "--suite", suite, *against)))
        asked = len(model.requests)
        words = ("gate", "--candidate", "bad.jsonl", "--baseline", "good.jsonl", "--live", "--sequential")
        done = harness(*words, "--backend", "scripted", "--judge", f"endpoint:gpt-x@{judge.url}", "--json")

    assert done.code == 1, done.err
    assert first["scores"][first["headline"]]["value"] == 100.0
    assert json.loads(done.out)["sequential"][0]["questions"] < 60
    assert len(model.requests) == asked


def test_another_file_of_the_same_name_is_noticed(harness: Call, serve: Serve, tmp_path: Path) -> None:
    write_suite(tmp_path, RUBRIC)
    answers = write_answers(tmp_path / "good.jsonl", lambda n: "the right one")
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        first = harness(*run_words(answers, judge.url, "--suite", "bicycles.yaml", "--limit", "2"))
        again = harness(*run_words(answers, judge.url, "--suite", "bicycles.yaml", "--limit", "2"))
        (tmp_path / "bicycles.jsonl").write_text('{"id": "1", "prompt": "Which tyre?"}\n')
        other = harness(*run_words(answers, judge.url, "--suite", "bicycles.jsonl", "--dry-run"))

    assert (first.code, again.code, "other questions" in first.err + again.err) == (0, 0, False)
    assert "custom:bicycles: results/runs/good.jsonl/custom_bicycles@" in other.err
    assert "asked other questions under this name" in other.err


@pytest.mark.slow
def test_gate_live_without_a_check_asks_nothing(harness: Call, serve: Serve, tmp_path: Path) -> None:
    write_suite(tmp_path, RUBRIC.replace("margin: 12", ""))
    good = write_answers(tmp_path / "good.jsonl", lambda n: GOOD)
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        cards(harness(*run_words(good, judge.url, "--suite", "bicycles.yaml")))
        asked = len(judge.requests)
        words = ("gate", "--candidate", "good.jsonl", "--baseline", "good.jsonl", "--live", "--backend", "scripted")
        done = harness(*words, "--judge", f"endpoint:gpt-x@{judge.url}")

    assert done.code == 2
    assert "no check for custom:bicycles, so nothing would be decided: give --policy a file with checks" in done.err
    assert len(judge.requests) == asked


def test_a_recipe_evaluates_on_a_suite_of_ones_own(serve: Serve, tmp_path: Path) -> None:
    write_suite(tmp_path, RUBRIC)
    model = ModelRef.parse(str(write_answers(tmp_path / "mine.jsonl", lambda n: GOOD)))
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        spec = SuitesSpec(
            suite=str(tmp_path / "bicycles.yaml"), judge=f"endpoint:gpt-x@{judge.url}", backend="scripted", limit=4
        )
        check_suites(spec)
        content = own_suites(spec)
        calls = suite_calls(spec, seed=1)
        [card] = run_suites(spec, model, tmp_path / "results", seed=1)

    assert calls == 4
    write_suite(tmp_path, RUBRIC.replace("polite", "kind"))
    assert content.keys() == own_suites(spec).keys() == {"custom:bicycles"}
    assert content != own_suites(spec)  # the step of a changed suite is done again
    assert own_suites(spec.model_copy(update={"suite": "mt_bench,arena_hard"})) == {}
    assert card.suite == "custom:bicycles"
    assert card.scores["rubric"].value == pytest.approx(95.0)


def labelled(request: Request) -> str:
    return longer_reply(request).replace("first", "A>B").replace("second", "B>A").replace("neither", "A=B")


@pytest.mark.slow
def test_watch_draws_the_trend_of_a_suite_of_ones_own(
    harness: Call, serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = tmp_path / "plugin"
    (plugin / "written-1.dist-info").mkdir(parents=True)
    (plugin / "written.py").write_text(BACKEND)
    (plugin / "written-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: written\nVersion: 1\n")
    (plugin / "written-1.dist-info" / "entry_points.txt").write_text(
        "[fusion_harness.backends]\nwritten = written:Written\n"
    )
    monkeypatch.syspath_prepend(str(plugin))
    write_suite(tmp_path, RUBRIC)
    for step, text in ((10, BAD), (20, GOOD)):
        folder = tmp_path / "out" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
        (folder / "text").write_text(text)
    with serve(FakeOpenAI(reply=rubric_reply)) as judge:
        words = ("watch", "out", "--suite", "bicycles.yaml", "--once", "--settle", "0", "--json")
        done = harness(*words, "--backend", "written", "--judge", f"endpoint:gpt-x@{judge.url}")

    assert done.code == 0, done.err
    points = [done["points"][0] for done in json.loads(done.out)["done"]]
    assert [point["suite"] for point in points] == ["custom:bicycles"] * 2
    assert [point["score"]["value"] for point in points] == pytest.approx([0.0, 95.0])
    assert list(tmp_path.glob("results/watch/*custom-bicycles*.svg"))
