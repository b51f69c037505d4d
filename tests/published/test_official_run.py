"""The official edition through the real command: real upstream questions and judge prompts, a judge over HTTP.

Needs the upstream files (HARNESS_MIRROR); nothing of theirs is in this repository.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, judge_reply, serving

MIRROR = os.environ.get("HARNESS_MIRROR", "")
needs_mirror = pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR is not set: no upstream files at hand")
QUICK = ("--suite", "mt_bench,arena_hard", "--limit", "20")


def cards(done: Done) -> dict[str, Any]:
    return {card["suite"]: card for card in json.loads(done.out)["cards"]}


@pytest.mark.slow
@needs_mirror
def test_data_is_pulled_from_a_mirror_verified_and_then_found_without_it(harness: Callable[..., Done]) -> None:
    pulled = harness("data", "pull", "--mirror", MIRROR, HARNESS_MIRROR="")
    assert pulled.code == 0, pulled.err

    verified = harness("data", "verify", "--json", HARNESS_MIRROR="")

    assert verified.code == 0, verified.err
    listed = harness("data", "list", "--json", HARNESS_MIRROR="")
    assert "gpt-4-0314" in listed.out


@needs_mirror
@pytest.mark.parametrize("judge", ["gpt-4.1", "gpt-5.4"])
def test_listed_prices_are_those_of_a_dry_run(harness: Callable[..., Done], tmp_path: Path, judge: str) -> None:
    """With the rule of thumb: a token table may be on this machine."""
    listed = next(line for line in harness("judge", "list").out.splitlines() if line.startswith(f"{judge} "))

    prices = [float(price) for price in re.findall(r"\d+\.\d\d(?= /|\s|$)", listed.partition(" llm ")[2])]
    done = harness(
        *("run", "--model", "echo", "--backend", "scripted", "--suite", "all", "--judge", judge, "--dry-run"),
        *("--json", "--results", str(tmp_path)),
        OPENAI_API_KEY="not-called",
        HARNESS_CACHE=str(tmp_path / "cache"),
    )

    assert done.code == 0, done.err
    rows = json.loads(done.out)["dry_run"]
    assert all(row["tokens_by"].startswith("4 characters per token") for row in rows)
    assert prices == pytest.approx([row["judge_cost"] for row in rows], abs=0.006)


@needs_mirror
def test_the_official_questions_are_asked_judged_and_scored(harness: Callable[..., Done]) -> None:
    with serving(FakeOpenAI()) as model, serving(FakeOpenAI(reply=judge_reply)) as judge:
        done = harness(
            *("run", "--model", f"endpoint:fake@{model.url}", "--judge", f"endpoint:judge@{judge.url}"),
            *QUICK,
            "--json",
        )

    assert done.code == 0, done.err
    assert len(model.requests) == 20 * 2 + 20
    assert len(judge.requests) == 20 * 2 + 20 * 2
    found = cards(done)
    assert {name: card["scores"][name]["n"] for name, card in found.items()} == {"mt_bench": 40, "arena_hard": 40}
    assert all(card["suite_version"] == "official-1" for card in found.values())
    assert all(card["protocol"]["limit"] == {"n": 20, "seed": 0} for card in found.values())


@pytest.mark.slow
@needs_mirror
def test_the_requests_carry_the_benchmarks_own_settings(harness: Callable[..., Done]) -> None:
    with serving(FakeOpenAI()) as model, serving(FakeOpenAI(reply=judge_reply)) as judge:
        done = harness(
            *("run", "--model", f"endpoint:fake@{model.url}", "--judge", f"endpoint:judge@{judge.url}"),
            *("--suite", "all", "--limit", "16"),
        )
    assert done.code == 0, done.err

    answers = {(body["temperature"], body["max_tokens"]) for body in (request.body for request in model.requests)}
    judged = {
        (body["temperature"], body["max_tokens"], body.get("top_logprobs"))
        for body in (request.body for request in judge.requests)
    }

    # MT-Bench by category; AlpacaEval; Arena-Hard
    assert answers == {(0.7, 1024), (0.0, 1024), (0.1, 1024), (0.7, 4096), (0.0, 4096)}
    assert judged == {(0.0, 2048, None), (1.0, 1, 5), (0.0, 4096, None)}


def test_without_data_mirror_or_network_one_sentence_names_the_file_and_the_two_ways(
    harness: Callable[..., Done], tmp_path: Path
) -> None:
    done = harness(
        *("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--judge", "endpoint:j@http://127.0.0.1:1/v1"),
        *("--suite", "mt_bench"),
        HARNESS_CACHE=str(tmp_path / "empty"),
        HARNESS_MIRROR="",
        https_proxy="http://127.0.0.1:1",
    )

    assert done.code == 2
    assert "question.jsonl" in done.err
    assert "harness data pull" in done.err
    assert "--mirror" in done.err
    assert not (tmp_path / "results").exists()


def test_without_a_judge_the_choices_are_named(harness: Callable[..., Done], tmp_path: Path) -> None:
    done = harness("run", "--model", "endpoint:m@http://127.0.0.1:1/v1", "--suite", "mt_bench")

    assert done.code == 2
    assert "OPENAI_API_KEY" in done.err
    assert "--edition pocket" in done.err
    assert list(tmp_path.iterdir()) == []


@needs_mirror
@pytest.mark.slow
def test_the_official_questions_go_through_a_real_vllm(harness: Callable[..., Done], vllm_checkpoint: Path) -> None:
    with serving(FakeOpenAI(reply=judge_reply)) as judge:
        done = harness(
            *("run", "--model", str(vllm_checkpoint), "--judge", f"endpoint:judge@{judge.url}", *QUICK, "--json")
        )

    assert done.code == 0, done.err
    found = cards(done)
    for name, per_prompt in (("mt_bench", 2), ("arena_hard", 2)):
        score, counts = found[name]["scores"][name], found[name]["counts"]
        assert score["n"] + score["unscored"] == 20 * per_prompt
        assert score["unscored"] == 0, counts
        assert found[name]["usage"]["answer_completion_tokens"] > 0
    assert len(judge.requests) == 80
