"""Count what pairs were made from (`data.json`): rewards, lengths, wins of each source, dropped prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from harness.records import Answer, Record

from ..records import PreferencePair, RewardRow
from .pairing import DroppedPair, Reason

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Spread(Record):
    """A distribution: `sd` is the sample's (0 for one value), and quantiles are at QUANTILES, linearly interpolated."""

    n: int
    mean: float
    sd: float
    low: float
    high: float
    quantiles: tuple[float, ...]


class ModelData(Record):
    """One model's answers to the preference prompts."""

    model: str
    answers: int
    failed: int
    """Number of answers that are errors."""
    truncated: int
    unrewarded: int
    """Number of answers without a reward, because they were too long for the reward model or it failed."""
    rewards: Spread | None
    characters: Spread | None
    tokens: Spread | None
    """As counted by the server; None if it did not count."""
    wins: int | None = None
    """Number of pairs with a y_ws of this model; None for the target."""


class PairData(Record):
    """`data.json`: counts and distributions over all preference prompts of one set of pairs."""

    prompts: int
    pairs: int
    dropped: dict[Reason, int]
    sources: tuple[ModelData, ...]
    """In the recipe's order."""
    target: ModelData
    margins: Spread | None
    """Reward of y_wt minus y_l, over the pairs kept."""
    source_margins: Spread | None
    """Reward of y_ws minus y_wt; above 0 if the sources' answer is better."""
    source_better: int
    """Number of pairs whose y_ws has a higher reward than y_wt."""
    source_characters: Spread | None
    target_characters: Spread | None
    rejected_characters: Spread | None
    """Like the two fields above: lengths in characters, over the pairs kept."""


def spread(values: Sequence[float]) -> Spread | None:
    """Return the distribution of the values, or None if there are none."""
    if not values:
        return None
    array = np.asarray(values, dtype=float)
    return Spread(
        n=len(values),
        mean=float(array.mean()),
        sd=float(array.std(ddof=1)) if len(values) > 1 else 0.0,
        low=float(array.min()),
        high=float(array.max()),
        quantiles=tuple(float(value) for value in np.quantile(array, QUANTILES)),
    )


@dataclass
class Tally:
    """Counts one model's answers while they are read."""

    model: str
    wanted: frozenset[str]
    """Ids of the prompts that count."""
    counts: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)
    characters: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def add(self, answer: Answer, reward: RewardRow | None) -> None:
        if answer.prompt_id not in self.wanted:
            return
        self.counts["answers"] += 1
        if answer.error is not None:
            self.counts["failed"] += 1
            return
        self.counts["truncated"] += answer.truncated
        self.characters.append(len(answer.turns[0]))
        self.tokens += answer.completion_tokens[:1]
        if reward is None or reward.value is None:
            self.counts["unrewarded"] += 1
        else:
            self.rewards.append(reward.value)

    def data(self, wins: int | None = None) -> ModelData:
        return ModelData(
            model=self.model,
            answers=self.counts["answers"],
            failed=self.counts["failed"],
            truncated=self.counts["truncated"],
            unrewarded=self.counts["unrewarded"],
            rewards=spread(self.rewards),
            characters=spread(self.characters),
            tokens=spread(self.tokens),
            wins=wins,
        )


@dataclass
class PairTally:
    """Counts pairs while they are written, without keeping their texts."""

    wins: Counter[str] = field(default_factory=Counter)
    dropped: Counter[Reason] = field(default_factory=Counter)
    margins: list[float] = field(default_factory=list)
    source_margins: list[float] = field(default_factory=list)
    lengths: list[tuple[int, int, int]] = field(default_factory=list)
    """Characters of y_ws, y_wt and y_l."""

    def add(self, outcome: PreferencePair | DroppedPair) -> None:
        if isinstance(outcome, DroppedPair):
            self.dropped[outcome.reason] += 1
            return
        self.wins[outcome.source.model] += 1
        self.margins.append(outcome.target.reward - outcome.rejected.reward)
        self.source_margins.append(outcome.source.reward - outcome.target.reward)
        self.lengths.append((len(outcome.source.text), len(outcome.target.text), len(outcome.rejected.text)))

    def data(self, sources: Sequence[Tally], target: Tally) -> PairData:
        source, best, worst = ([float(row[column]) for row in self.lengths] for column in range(3))
        return PairData(
            prompts=len(self.margins) + self.dropped.total(),
            pairs=len(self.margins),
            dropped=dict(self.dropped),
            sources=tuple(tally.data(self.wins[tally.model]) for tally in sources),
            target=target.data(),
            margins=spread(self.margins),
            source_margins=spread(self.source_margins),
            source_better=sum(margin > 0 for margin in self.source_margins),
            source_characters=spread(source),
            target_characters=spread(best),
            rejected_characters=spread(worst),
        )
