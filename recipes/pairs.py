"""Form preference pairs: find the answers with the highest rewards, and choose y_ws, y_wt and y_l of each prompt.

>>> prompt = Prompt(id="p", category="all", turns=("The capital of France?",))
>>> best = Chosen(text="Paris", model="sft", index=0, reward=0.7)
>>> worst = Chosen(text="Lyon", model="sft", index=1, reward=0.1)
>>> source = Chosen(text="Paris.", model="qwen", index=3, reward=0.9)
>>> pair = paired(prompt, source, Extremes(best, worst, count=2, distinct=2), PairsSpec())
>>> pair.source.text, pair.target.text, pair.rejected.text
('Paris.', 'Paris', 'Lyon')
>>> paired(prompt, source, Extremes(best, best, count=5, distinct=1), PairsSpec()).reason
'identical'

y_ws is the best answer of all sources; y_wt and y_l are the best and the worst of the target's own samples. A prompt
without a pair gets the first reason against it. The tallies count what the pairs were made from (`data.json`): rewards,
lengths, wins of each source, dropped prompts. One file is read at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from harness.records import Answer, Prompt, Record
from harness.records.errors import IncompleteError
from harness.store import JsonlRows

from .layout import Chosen, Part, PreferencePair, PromptRow, RewardRow, rows_in
from .spec import PairsSpec

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
Reason = Literal[
    "no_source_answer",  # no source's answer has a reward
    "no_target_answer",  # no answer of the target has a reward
    "one_target_answer",  # a best and a worst sample need at least two
    "identical",  # all of the target's samples are the same text (SimPO on_policy_data_gen drops these)
    "equal_rewards",  # best and worst have the same reward, so neither is preferred
    "margin_low",
    "margin_high",
]
Seen = Callable[[Answer, RewardRow | None], None]


@dataclass(frozen=True)
class RewardedAnswer:
    """An answer that has a reward."""

    answer: Answer
    reward: float
    model: str
    """Who answered, as in the reward's row: the name of the source, not of its weights."""

    @property
    def text(self) -> str:
        return self.answer.turns[0]

    @property
    def chosen(self) -> Chosen:
        reasoning = self.answer.reasoning[0] if self.answer.reasoning else ""
        return Chosen(
            text=self.text, model=self.model, index=self.answer.index, reward=self.reward, reasoning=reasoning
        )


def read_prompts(path: Path, part: Part) -> list[PromptRow]:
    """Return the prompts of a part in the file's order. Raise IncompleteError if there are none."""
    rows = list(rows_in(path, PromptRow))
    chosen = [row for row in rows if row.part == part]
    if not chosen:
        raise IncompleteError(f"none of the {len(rows)} prompts in {path} is in the part {part!r}")
    return chosen


@dataclass(frozen=True)
class Considered:
    """Which answers may be chosen."""

    drop_truncated: bool = False
    samples: int | None = None
    """Only the first answers to each prompt; the others are treated as if they had never been sampled."""


ALL = Considered()


def rated(
    answers: Path, rewards: Path, considered: Considered = ALL, *, seen: Seen = lambda answer, reward: None
) -> Iterator[RewardedAnswer]:
    """Yield every considered answer of a file that has a reward, in the file's order.

    `seen` is called for every answer of `considered.samples`, including those left out.
    """
    # by key and text, because a draw that was repeated has the same key but no reward yet
    by_key = {row.key: row for row in JsonlRows(rewards, RewardRow).read()}
    for answer in JsonlRows(answers, Answer).read():
        if considered.samples is not None and answer.index >= considered.samples:
            continue
        row = None if answer.error is not None else by_key.get(f"{answer.key}|{answer.sha}")
        seen(answer, row)
        if row is not None and row.value is not None and not (considered.drop_truncated and answer.truncated):
            yield RewardedAnswer(answer, row.value, row.model)


def best_by_prompt(
    answers: Sequence[Path],
    rewards: Sequence[Path],
    prompt_ids: frozenset[str],
    considered: Considered = ALL,
    *,
    seen: Sequence[Seen] | None = None,
) -> dict[str, Chosen]:
    """Return the best source answer to each of these prompts. Prompts without a rewarded answer are left out.

    Ties go to the earlier source, then to the lower index. `seen` has one callback per source, as in `rated`.
    """
    best: dict[str, tuple[tuple[float, int, int], Chosen]] = {}
    observers = seen or [lambda answer, reward: None] * len(answers)
    for number, (answered, rewarded, observer) in enumerate(zip(answers, rewards, observers, strict=True)):
        for candidate in rated(answered, rewarded, considered, seen=observer):
            prompt_id, rank = candidate.answer.prompt_id, (candidate.reward, -number, -candidate.answer.index)
            if prompt_id in prompt_ids and (prompt_id not in best or rank > best[prompt_id][0]):
                best[prompt_id] = rank, candidate.chosen
    return {prompt_id: chosen for prompt_id, (_, chosen) in best.items()}


def best_source_answers(
    prompts: Path, answers: Sequence[Path], rewards: Sequence[Path], part: Part, *, drop_truncated: bool = False
) -> Iterator[tuple[Prompt, Chosen]]:
    """Yield each prompt of a part with its best source answer, in the prompts' order; skip prompts without one.

    `answers` and `rewards` are the files of the sources, in the recipe's order. Raise IncompleteError if no prompt of
    the part has a rewarded answer.
    """
    rows = read_prompts(prompts, part)
    prompt_ids = frozenset(row.prompt.id for row in rows)
    best = best_by_prompt(answers, rewards, prompt_ids, Considered(drop_truncated=drop_truncated))
    if not best:
        why = "; answers cut by sampling.max_tokens are left out (pairs.drop_truncated)" if drop_truncated else ""
        raise IncompleteError(f"none of the {len(rows)} prompts in the part {part!r} has a rewarded source answer{why}")
    for row in rows:
        if row.prompt.id in best:
            yield row.prompt, best[row.prompt.id]


class DroppedPair(Record):
    """One line of `dropped.jsonl`."""

    prompt_id: str
    reason: Reason
    margin: float | None = None
    """Reward of the target's best minus its worst sample; None if the target has no rewarded answer."""


@dataclass(frozen=True)
class Extremes:
    """Best (y_wt) and worst (y_l) of the target's rewarded samples of one prompt, and the number of samples."""

    best: Chosen
    worst: Chosen
    count: int
    distinct: int
    """Number of different texts."""


def extremes(samples: Iterable[RewardedAnswer]) -> dict[str, Extremes]:
    """Return the extremes of each prompt id. Ties go to the lower index, for best and worst alike."""
    by_prompt: dict[str, list[RewardedAnswer]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.answer.prompt_id, []).append(sample)
    return {prompt_id: _extremes(drawn) for prompt_id, drawn in by_prompt.items()}


def _extremes(samples: list[RewardedAnswer]) -> Extremes:
    best = min(samples, key=lambda sample: (-sample.reward, sample.answer.index))
    worst = min(samples, key=lambda sample: (sample.reward, sample.answer.index))
    return Extremes(best.chosen, worst.chosen, len(samples), len({sample.text for sample in samples}))


def paired(
    prompt: Prompt, source: Chosen | None, target: Extremes | None, spec: PairsSpec
) -> PreferencePair | DroppedPair:
    """Return the prompt's pair, or the first reason against it."""
    if target is None:
        return DroppedPair(prompt_id=prompt.id, reason="no_target_answer")
    margin = target.best.reward - target.worst.reward
    reason = _reason(source, target, margin, spec)
    if reason is not None:
        return DroppedPair(prompt_id=prompt.id, reason=reason, margin=margin)
    assert source is not None, "_reason rejects a missing source"
    return PreferencePair(prompt=prompt, source=source, target=target.best, rejected=target.worst)


def _reason(source: Chosen | None, target: Extremes, margin: float, spec: PairsSpec) -> Reason | None:
    if source is None:
        return "no_source_answer"
    if target.count == 1:
        return "one_target_answer"
    if target.distinct == 1:
        return "identical"
    if margin == 0:
        return "equal_rewards"
    if target.best.text == target.worst.text:  # e.g. a judge that samples gives the same text different rewards
        return "identical"
    if margin < spec.min_margin:
        return "margin_low"
    return "margin_high" if spec.max_margin is not None and margin > spec.max_margin else None


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
    prompt_ids: frozenset[str]
    """Ids of the prompts that count."""
    counts: Counter[str] = field(default_factory=Counter)
    rewards: list[float] = field(default_factory=list)
    characters: list[float] = field(default_factory=list)
    tokens: list[float] = field(default_factory=list)

    def add(self, answer: Answer, reward: RewardRow | None) -> None:
        if answer.prompt_id not in self.prompt_ids:
            return
        self.counts["answers"] += 1
        if answer.error is not None:
            self.counts["failed"] += 1
            return
        self.counts["truncated"] += answer.truncated
        self.characters.append(len(answer.turns[0]))
        self.tokens += [] if answer.visible_tokens is None else [answer.visible_tokens]
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
