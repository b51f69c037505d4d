"""A candidate asked as its model card says: any parameter, a system prompt, another limit, fields left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.records import Sampling
from harness.records.errors import ConfigError
from harness.records.settings import SamplingOverride, checked
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, serving

CARD = """
sampling:
  temperature: 0.6
  top_k: 20
  min_p: 0.0
  presence_penalty: 1.5
  stop: ["<end>"]
  draw_seed: 7
  system_prompt: "Think first."
  max_completion_tokens: 512
  extra_body: {chat_template_kwargs: {enable_thinking: true}}
  omit: [top_p]
"""


def run(
    harness: Callable[..., Done], tmp_path: Path, *flags: str, config: str = ""
) -> tuple[Done, list[dict[str, Any]]]:
    (tmp_path / "card.yaml").write_text(config or "{}")
    with serving(FakeOpenAI()) as fake:
        done = harness(
            *(
                "run",
                "--model",
                f"endpoint:fake@{fake.url}",
                "--suite",
                "alpaca_eval",
                "--edition",
                "pocket",
                "--limit",
                "2",
            ),
            *("--config", str(tmp_path / "card.yaml"), "--results", str(tmp_path / "results"), "--json", *flags),
        )
        asked = [request.body for request in fake.requests if request.path.endswith("/chat/completions")]
    return done, [body for body in asked if "three rivers" not in str(body)]  # without the canary


def test_every_setting_of_the_card_is_sent_and_is_a_deviation(harness: Callable[..., Done], tmp_path: Path) -> None:
    done, bodies = run(harness, tmp_path, config=CARD)

    assert done.code == 0, done.err
    for body in bodies:
        assert (body["temperature"], body["top_k"], body["min_p"], body["presence_penalty"]) == (0.6, 20, 0.0, 1.5)
        assert body["stop"] == ["<end>"]
        assert body["max_completion_tokens"] == 512
        assert body["chat_template_kwargs"] == {"enable_thinking": True}
        assert isinstance(body["seed"], int)
        assert body["messages"][0] == {"role": "system", "content": "Think first."}
        assert "max_tokens" not in body
        assert "top_p" not in body
    (card,) = json.loads(done.out)["cards"]
    deviation = card["protocol"]["sampling_deviation"]
    assert deviation["system_prompt"] == "Think first."
    assert deviation["omit"] == ["top_p"]
    assert deviation["top_k"] == 20
    assert deviation["extra_body"] == {"chat_template_kwargs": {"enable_thinking": True}}


def test_flags_say_the_same_as_the_file(harness: Callable[..., Done], tmp_path: Path) -> None:
    flags = ("--top-k", "5", "--system-prompt", "Be brief.", "--omit", "max_tokens", "--extra-body", '{"seed_x": 1}')
    done, bodies = run(harness, tmp_path, *flags)

    assert done.code == 0, done.err
    assert all((body["top_k"], body["seed_x"], "max_tokens" in body) == (5, 1, False) for body in bodies)


def test_what_equals_the_benchmarks_own_is_no_deviation() -> None:
    own = [Sampling(temperature=0.7, max_tokens=1024), Sampling(temperature=0.7, max_tokens=2048)]

    assert SamplingOverride(temperature=0.7, max_tokens=1024).deviation(own) == {"max_tokens": 1024}
    assert SamplingOverride(temperature=0.7).deviation(own) == {}
    assert SamplingOverride(n=2, top_k=0).deviation(own) == {"n": 2, "top_k": 0}


def test_settings_of_before_are_written_as_before() -> None:
    assert SamplingOverride(temperature=1.0).changes == {"temperature": 1.0}
    assert Sampling(max_tokens=5).model_dump() == {
        **{"temperature": None, "top_p": None, "max_tokens": 5, "n": 1, "seed": None, "stop": ()}
    }


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"extra_body": {"model": "x"}}, "extra_body has model"),
        ({"extra_body": {"top_k": 5}}, "extra_body has top_k"),
        ({"extra_body": "[1]"}, "not a JSON object"),
        ({"omit": ["messages"]}, "omit has messages"),
        ({"temperature": 1.0, "omit": ["temperature"]}, "omit has temperature"),
        ({"max_tokens": 1, "max_completion_tokens": 1}, "one limit under two names"),
        ({"topk": 1}, "unknown key 'topk'"),
    ],
)
def test_a_setting_that_cannot_be_is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        checked(SamplingOverride, settings, "sampling")


def test_a_backend_without_a_server_refuses_what_it_cannot_honour(harness: Callable[..., Done], tmp_path: Path) -> None:
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")

    done = harness(*words, "--top-k", "5", "--results", tmp_path)

    assert done.code == 2
    assert "backend 'scripted' cannot honour top_k of sampling" in done.err
    assert list(tmp_path.iterdir()) == []
