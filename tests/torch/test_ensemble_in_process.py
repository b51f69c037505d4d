"""Ensembles of models that are loaded here, one after another: a conversation of two turns, and a route."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import yaml

from harness.backends.ensemble import MoaBackend, RouteBackend
from harness.records import Answer, ModelRef, Prompt
from harness.records.protocols import Draw, ServeOptions
from recipes.in_process.backend import InProcessBackend
from tests.fakes.tiny_models import make_checkpoint
from tests.fakes.toys import GREEDY, prompt

ASKED = prompt("first?", "second?")


async def answer(backend: MoaBackend | RouteBackend | InProcessBackend, asked: Prompt = ASKED) -> Answer:
    async with backend:
        if not isinstance(backend, InProcessBackend):
            await backend.prepare_draws([Draw(asked, GREEDY)])
        return await backend.answer(asked, GREEDY)


@pytest.mark.slow
def test_models_of_this_machine_answer_as_one(tmp_path: Path) -> None:
    folders = {name: str(make_checkpoint(tmp_path / name, seed=seed)) for seed, name in enumerate("ab")}
    members = {name: {"model": folder, "backend": "in_process"} for name, folder in folders.items()}
    (tmp_path / "short.txt").write_text("{answers}")  # the models read 512 bytes
    team = {"members": members, "aggregator": "b", "template": str(tmp_path / "short.txt")}
    (tmp_path / "team.yaml").write_text(yaml.safe_dump(team))
    (tmp_path / "route.yaml").write_text(yaml.safe_dump({"members": members}))
    options = ServeOptions(log_dir=tmp_path / "logs")

    mixed = asyncio.run(answer(MoaBackend(ModelRef.parse(f"moa:{tmp_path / 'team.yaml'}"), options)))
    routed = asyncio.run(answer(RouteBackend(ModelRef.parse(f"route:{tmp_path / 'route.yaml'}"), options)))

    assert mixed.error is None
    assert len(mixed.turns) == 2
    size = mixed.work[0].parameter_tokens
    assert [(work.member, work.calls) for work in mixed.work] == [("a", 2), ("b", 4)]
    assert size is not None
    assert size % (mixed.work[0].prompt_tokens + mixed.work[0].completion_tokens) == 0  # whole parameters
    alone = {name: asyncio.run(answer(_alone(folder, options))).turns for name, folder in folders.items()}
    assert routed.turns == alone[routed.work[0].member]


@pytest.mark.slow
def test_fixed_answers_are_not_asked_again(tmp_path: Path) -> None:
    folder = str(make_checkpoint(tmp_path / "a"))
    options = ServeOptions(log_dir=tmp_path)
    both = asyncio.run(answer(_alone(folder, options)))

    later = asyncio.run(answer(_alone(folder, options), ASKED.model_copy(update={"answered": both.turns[:1]})))

    assert later.turns == both.turns[1:]


def _alone(folder: str, options: ServeOptions) -> InProcessBackend:
    return InProcessBackend(ModelRef.parse(folder), options)
