"""Backend `best_of`: every member of a team answers, and the answer with the highest reward is the ensemble's.

    harness run --model best_of:team.yaml --suite all

The ranking step of LLM-Blender (arXiv 2306.02561) with the reward of a recipe (`reward:` in the team's file) in place
of its pairwise ranker. In a conversation the best answer to each turn is kept, and all members continue from it.
Rewards that can be cached are, in the file that recipes use.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from pydantic import JsonValue

from harness.backends.ensemble import TeamTalk, TurnEnsemble, all_failed
from harness.records import Answer, Failure, ModelRef
from harness.records.errors import ConfigError
from harness.records.protocols import ServeOptions
from harness.records.settings import checked
from harness.store import make_folder

from .layout import PromptRow, prompt_text
from .rewards.scorer import Outcome, RewardItem
from .rewards.scoring import RewardCache, cache_path, reward_key, reward_settings, scorer_of
from .spec import RewardSpec


class BestOfBackend(TurnEnsemble):
    """Raise ConfigError if the team has no reward, or one that cannot be created."""

    scheme = "best_of"
    understood = ("reward", "samples", "temperature", "top_p")

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        super().__init__(model, options)
        if self.team.reward is None:
            raise ConfigError(f"{model.name}: best_of: needs `reward:`, as a recipe has it")
        self.reward = checked(RewardSpec, self.team.reward, f"{model.name}: reward")
        self._scorer = scorer_of(self.reward, options.log_dir)
        self._scorer.check_for_questions()

    def identity(self) -> dict[str, JsonValue]:
        identity: dict[str, JsonValue] = json.loads(json.dumps(self._scorer.identity()))
        reward = {**reward_settings(self.reward), "identity": identity}
        return super().identity() | {"samples": self.team.samples, "reward": reward}

    async def answer_turn(self, talks: Sequence[TeamTalk]) -> None:
        count = self.team.samples
        draws = [
            [
                talk.request(sampling=self.member_sampling(talk.draw.sampling), index=talk.draw.index * count + number)
                for number in range(count)
            ]
            for talk in talks
        ]
        answers = await self.ask_members(talks, draws)
        items, owners = [], []
        for talk, replies in zip(talks, answers, strict=True):
            for reply in replies:
                if reply.error is None and reply.turns[0].strip():
                    items.append(RewardItem(self._row(talk), reply.turns[0]))
                    owners.append((talk, reply))
        make_folder(self.options.log_dir)
        outcomes = await asyncio.to_thread(self._score, items)
        best: dict[int, tuple[float, Answer]] = {}
        failures: dict[int, Failure] = {}
        for (talk, reply), outcome in zip(owners, outcomes, strict=True):
            if isinstance(outcome, Failure):
                failures[id(talk)] = outcome
            elif id(talk) not in best or outcome > best[id(talk)][0]:  # the first of equals stays
                best[id(talk)] = outcome, reply
        for talk, replies in zip(talks, answers, strict=True):
            empty = [reply for reply in replies if reply.error is None and not reply.turns[0].strip()]
            if id(talk) in best:
                talk.settle(best[id(talk)][1])
            elif id(talk) in failures:
                talk.failure = failures[id(talk)]
            elif empty:  # judged, as a single model's empty answer is
                talk.settle(empty[0])
            else:
                talk.failure = all_failed([member for member in self.members for _ in range(count)], replies)

    def _row(self, talk: TeamTalk) -> PromptRow:
        """Return the turn as rewards take it: earlier turns are part of the text, as a reward sees one message."""
        prompt = talk.draw.prompt
        turn = len(talk.answered)
        question = prompt.model_copy(update={"turns": prompt.turns[: turn + 1], "answered": talk.answered})
        changes = {"turns": (prompt_text(question),), "answered": (), "reference": prompt.reference[turn : turn + 1]}
        return PromptRow(prompt=prompt.model_copy(update=changes), part="test")

    def _score(self, items: Sequence[RewardItem]) -> list[Outcome]:
        """Return an outcome per item. Runs in a thread, because rewards have event loops of their own."""
        scorer, identity = self._scorer, self._scorer.identity()
        scored: dict[bytes, Outcome] = {}
        keys = [reward_key(identity, item) for item in items]
        with RewardCache(cache_path() if scorer.cacheable else None) as cache:
            for key in keys:
                value = cache.get(key)
                if value is not None:
                    scored[key] = value
            fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in scored}
            if fresh:
                with scorer:
                    pending = list(fresh)
                    for start in range(0, len(pending), scorer.at_once):
                        batch = pending[start : start + scorer.at_once]
                        outcomes = dict(zip(batch, scorer.score([fresh[key] for key in batch]), strict=True))
                        cache.put([(key, value) for key, value in outcomes.items() if isinstance(value, float)])
                        scored |= outcomes
        return [scored[key] for key in keys]
