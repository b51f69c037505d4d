"""Data parallelism without Ray: servers and reward processes that share a step's GPUs, one request for n samples."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import JsonValue

from harness.backends.chat import Asker, ChatCompletions, ContextWindow
from harness.records import Answer, Prompt, Sampling
from harness.records.errors import IncompleteError
from harness.records.protocols import Draw, RewardOptions
from harness.store import JsonlRows
from recipes.estimate import Gpus, replica_devices
from recipes.layout import PromptRow
from recipes.rewards.scorer import RewardItem
from recipes.rewards.scoring import reward_gpus, scorer_of
from recipes.rewards.workers import ReplicaScorer
from recipes.sampling import _ask_by_workers
from recipes.spec import RewardSpec, SamplingSpec

REWARD = """
import os

def mine(prompts, completions):
    return [float(text) + float(os.environ["CUDA_VISIBLE_DEVICES"]) / 10 for text in completions]
"""


def prompt(name: str) -> Prompt:
    return Prompt(id=name, turns=("say it",), category="c")


# ----------------------------------------------------------------------------------------------------- the devices


def test_a_steps_gpus_are_divided_into_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3,6,7,1")

    assert replica_devices(1) == ["2", "3", "6", "7", "1"]
    assert replica_devices(2) == ["2,3", "6,7"]
    assert replica_devices(8) == [None]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert replica_devices(1) == [None]


def test_which_rewards_use_gpus() -> None:
    assert reward_gpus(RewardSpec(kind="function", model="x:y")) == Gpus()
    assert reward_gpus(RewardSpec(kind="pooling", model="m", url="http://127.0.0.1:9")) == Gpus()
    assert reward_gpus(RewardSpec.model_validate({"kind": "pooling", "serve": {"tensor_parallel": 2}})) == Gpus(2)
    assert reward_gpus(RewardSpec.model_validate({"kind": "armorm", "serve": {"devices": "1"}})) == Gpus(1, replicas=1)


# ----------------------------------------------------------------------------------------------------- the rewards


def scorer(tmp_path: Path, devices: Sequence[str]) -> ReplicaScorer:
    (tmp_path / "mine.py").write_text(REWARD)
    options = RewardOptions(kind="function", model=f"{tmp_path / 'mine.py'}:mine", batch_size=2, log_dir=tmp_path)
    return ReplicaScorer(options, devices)


def items(count: int) -> list[RewardItem]:
    row = PromptRow(prompt=prompt("p"), part="preference")
    return [RewardItem(row, str(number)) for number in range(count)]


@pytest.mark.slow
def test_rewards_come_in_order_from_processes_with_gpus_of_their_own(tmp_path: Path) -> None:
    with scorer(tmp_path, ("1", "2")) as replicas:
        values = replicas.score(items(12))

    assert [int(value) for value in values if isinstance(value, float)] == list(range(12))
    used = Counter(round(value % 1 * 10) for value in values if isinstance(value, float))
    assert set(used) == {1, 2}


@pytest.mark.slow
def test_a_reward_process_that_dies_is_an_error_of_one_sentence(tmp_path: Path) -> None:
    with scorer(tmp_path, ("1", "2")) as replicas:
        for process in replicas._processes:
            assert process.pid is not None
            os.kill(process.pid, signal.SIGKILL)
            process.join()
        with pytest.raises(IncompleteError, match="a process of the function reward ended with exit code -9"):
            replicas.score(items(4))


def test_a_function_is_scored_in_the_steps_own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    (tmp_path / "mine.py").write_text(REWARD)

    assert scorer_of(RewardSpec(kind="function", model=f"{tmp_path / 'mine.py'}:mine"), tmp_path).replicas == 1


# ----------------------------------------------------------------------------------------------------- the answers


class Server:
    """Answers after the others have had their turn, and notes what it was asked."""

    def __init__(self) -> None:
        self.groups: list[tuple[str, tuple[int, ...]]] = []
        self.singles: list[tuple[str, int]] = []
        self.in_flight = self.peak = 0

    async def __aenter__(self) -> Server:
        return self

    async def __aexit__(self, *exc: object) -> None:
        return None

    def identity(self) -> dict[str, JsonValue]:
        return {}

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        await self._wait(1)
        self.singles.append((prompt.id, index))
        return Answer(prompt_id=prompt.id, model="m", index=index, turns=("x",), finish=("stop",))

    async def answer_group(self, prompt: Prompt, sampling: Sampling, indices: Sequence[int]) -> list[Answer]:
        await self._wait(len(indices))
        self.groups.append((prompt.id, tuple(indices)))
        return [Answer(prompt_id=prompt.id, model="m", index=i, turns=("x",), finish=("stop",)) for i in indices]

    async def _wait(self, count: int) -> None:
        self.in_flight += count
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(0.01)
        self.in_flight -= count


def ask(tmp_path: Path, seed: int | None, *, leave: int = 0) -> tuple[list[Server], list[Answer]]:
    """Ask two servers for three draws of eight prompts, of which the first `leave` draws exist already."""
    rows = JsonlRows(tmp_path / "answers.jsonl", Answer)
    sampling = SamplingSpec(n=3, seed=seed).as_sampling()
    draws = [Draw(prompt(f"p{number}"), sampling, index) for number in range(8) for index in range(3)]
    servers, answers = [Server(), Server()], list[Answer]()
    missing = [(draw, rows) for draw in draws[leave:]]
    asyncio.run(_ask_by_workers(servers, missing, lambda answer, _: answers.append(answer), concurrency=6))
    return servers, answers


def test_without_a_seed_a_prompts_answers_come_from_one_request_of_one_server(tmp_path: Path) -> None:
    servers, answers = ask(tmp_path, None, leave=1)

    groups = [group for server in servers for group in server.groups]
    assert sorted(groups) == [("p0", (1, 2)), *[(f"p{number}", (0, 1, 2)) for number in range(1, 8)]]
    assert all(server.groups for server in servers)
    assert max(server.peak for server in servers) <= 6
    assert len(answers) == 23


def test_with_a_seed_every_draw_is_a_request(tmp_path: Path) -> None:
    servers, answers = ask(tmp_path, 5)

    assert sorted(single for server in servers for single in server.singles) == [
        (f"p{number}", index) for number in range(8) for index in range(3)
    ]
    assert all(server.singles and not server.groups and server.peak <= 6 for server in servers)
    assert len(answers) == 24


def test_a_recipe_without_seeds_has_none_for_any_of_its_seeds() -> None:
    assert SamplingSpec(seed=None).as_sampling(7).seed is None
    assert SamplingSpec(seed=5).as_sampling(7).seed == 7


def grouped(choices: list[dict[str, Any]], *, count: int = 3) -> tuple[dict[str, Any], list[Answer]]:
    """The body that was sent for `count` draws, and the answers if the server returns these choices."""
    bodies: list[dict[str, Any]] = []

    async def post(path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        bodies.append(body)
        return {"choices": choices, "usage": {"prompt_tokens": 9, "completion_tokens": 7}}

    asker = Asker(ChatCompletions(post, "m"), ContextWindow(None), "m", seed=5)
    sampling = SamplingSpec(n=count, seed=None).as_sampling()
    answers = asyncio.run(asker.answer_group(prompt("p"), sampling, range(count)))
    return bodies[0], answers


def choice(text: str, finish: str = "stop", **more: object) -> dict[str, Any]:
    return {"message": {"content": text}, "finish_reason": finish, **more}


def test_one_request_gives_an_answer_per_choice() -> None:
    body, answers = grouped([choice("a"), choice("b", "length"), choice("", "abort")])

    assert body["n"] == 3
    assert "seed" not in body
    assert [(answer.index, answer.turns, answer.finish) for answer in answers[:2]] == [
        (0, ("a",), ("stop",)),
        (1, ("b",), ("length",)),
    ]
    assert answers[2].error is not None
    # seven tokens in equal shares: the server did not say how many each choice has
    assert [answer.completion_tokens for answer in answers[:2]] == [(3,), (2,)]
    assert [answer.prompt_tokens for answer in answers[:2]] == [(9,), (9,)]


def test_a_choice_has_as_many_tokens_as_the_server_lists() -> None:
    _, answers = grouped(
        [choice("a", token_ids=[1]), choice("b", token_ids=[1, 2, 3]), choice("c", token_ids=[4, 5, 6])]
    )

    assert [answer.completion_tokens for answer in answers] == [(1,), (3,), (3,)]


def test_too_few_choices_are_a_failure_of_every_draw() -> None:
    _, answers = grouped([choice("a")])

    assert [answer.error.message for answer in answers if answer.error] == [
        "asked for 3 answers, the server returned 1"
    ] * 3
