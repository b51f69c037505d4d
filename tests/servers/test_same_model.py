"""Another model behind the same URL and name: its predecessor's answers are not silently taken for its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.backends.endpoint import EndpointBackend
from harness.records import ModelRef
from harness.records.protocols import Presented, ServeOptions
from harness.running.same_model import canary_differs, differences
from harness.store import find_cards
from tests.fakes.commands import Done, run_command
from tests.fakes.openai_server import CUT_OFF, FakeOpenAI, Reply, ReplyFunction, serving


@pytest.fixture
def model() -> Iterator[FakeOpenAI]:
    with serving(FakeOpenAI(model="candidate", root="/ckpt-1", max_model_len=4096)) as fake:
        yield fake


def run(model: FakeOpenAI, folder: Path, *words: str) -> Done:
    name = f"endpoint:candidate@{model.url}"
    pocket = ("--suite", "mt_bench", "--edition", "pocket", "--judge", "reference", "--limit", "3")
    return run_command("run", "--model", name, *pocket, *words, cwd=folder)


def sessions(folder: Path) -> list[dict[str, object]]:
    (card,) = find_cards(folder / "results")
    return [json.loads(line) for line in (card.parent / "served.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_another_checkpoint_under_the_same_name_is_refused_until_the_user_decides(
    model: FakeOpenAI, tmp_path: Path
) -> None:
    assert run(model, tmp_path).code == 0
    asked = len(model.requests)
    assert len(model.canaries) == 1

    model.root = "/ckpt-2"
    done = run(model, tmp_path)
    assert done.code == 2
    assert "from another model: the server states root '/ckpt-1', now '/ckpt-2'" in done.err
    assert "--fresh" in done.err
    assert "--assume-same" in done.err
    assert len(sessions(tmp_path)) == 1

    done = run(model, tmp_path, "--assume-same")
    assert done.code == 0
    assert "although the server states root" in done.err
    assert len(model.requests) == asked

    assert run(model, tmp_path).code == 0  # what was accepted is what the next session is compared with
    model.root = "/ckpt-3"
    assert run(model, tmp_path, "--fresh").code == 0
    assert len(model.requests) == 2 * asked


@pytest.mark.slow
def test_another_length_is_another_model_and_what_is_not_stated_is_not_compared(
    model: FakeOpenAI, tmp_path: Path
) -> None:
    assert run(model, tmp_path).code == 0
    model.max_model_len = None
    assert run(model, tmp_path).code == 0
    model.max_model_len = 8192
    assert run(model, tmp_path).code == 0  # the last session stated none
    model.max_model_len = 4096
    assert "max_model_len 8192, now 4096" in run(model, tmp_path).err


@pytest.mark.slow
def test_another_answer_to_the_canary_warns_and_the_age_of_the_answers_is_said(
    model: FakeOpenAI, tmp_path: Path
) -> None:
    assert "earlier session" not in run(model, tmp_path).err
    same = run(model, tmp_path)
    assert "mt_bench: all 3 answers are of an earlier session (20" in same.err
    assert "canary" not in same.err

    model.canary = lambda request: "something else"
    done = run(model, tmp_path)
    assert done.code == 0
    assert "canary prompt is not that of" in done.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "canary",
    [lambda request: CUT_OFF, lambda request: Reply("no", status=500), lambda request: Reply("no", status=400)],
    ids=["disconnects", "fails", "rejects"],
)
def test_no_run_fails_for_the_canary(model: FakeOpenAI, tmp_path: Path, canary: ReplyFunction) -> None:
    model.canary = canary
    assert run(model, tmp_path).code == 0
    assert sessions(tmp_path)[0]["canary"] is None


@pytest.mark.slow
def test_a_finished_run_is_scored_again_without_its_server(model: FakeOpenAI, tmp_path: Path) -> None:
    assert run(model, tmp_path).code == 0
    model.model = "replaced"

    done = run(model, tmp_path)

    assert done.code == 0
    assert "cannot show whether its model is still the same" not in done.out
    assert "has no model 'candidate'" in done.err


def test_log_probabilities_are_asked_for_and_left_out_where_they_are_rejected(
    model: FakeOpenAI, tmp_path: Path
) -> None:
    def offered(request: object) -> Reply:
        return Reply("four", tops=(("four", -0.25),))

    def rejected(request: object) -> Reply:
        wants = "logprobs" in model.canaries[-1].body
        return Reply("logprobs is not supported", status=400) if wants else Reply("four")

    async def presented(canary: ReplyFunction) -> Presented:
        model.canary = canary
        ref = ModelRef.parse(f"endpoint:candidate@{model.url}")
        return await EndpointBackend(ref, ServeOptions(log_dir=tmp_path)).presented()

    first = asyncio.run(presented(offered))
    assert first.metadata == {"root": "/ckpt-1", "max_model_len": 4096}
    assert first.canary == {"text": "four", "reasoning": "", "logprobs": [["four", -0.25]]}
    assert asyncio.run(presented(rejected)).canary == {"text": "four", "reasoning": "", "logprobs": []}
    assert model.canaries[0].body["max_tokens"] == 16


def test_a_canary_differs_in_words_or_by_more_than_rounding() -> None:
    before: dict[str, JsonValue] = {"text": "a", "reasoning": "", "logprobs": [["a", -1.0]]}

    assert not canary_differs(before, before)
    assert not canary_differs(before, {**before, "logprobs": [["a", -1.04]]})
    assert canary_differs(before, {**before, "logprobs": [["a", -1.06]]})
    assert canary_differs(before, {**before, "reasoning": "hm"})
    assert not canary_differs(before, None)
    assert not canary_differs(None, before)
    assert differences(None, {"root": "a"}) == []
    assert differences({"root": "a"}, {"root": "a", "max_model_len": 1}) == []
