"""Choose y_ws, y_wt and y_l of a prompt, or say why there is no pair. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from harness.records import Prompt, Record

from ..records import Chosen, PreferencePair
from ..spec import PairsSpec
from .best import RewardedAnswer

Reason = Literal[
    "no_source_answer",  # no source's answer has a reward
    "no_target_answer",  # no answer of the target has a reward
    "one_target_answer",  # a best and a worst sample need at least two
    "identical",  # all of the target's samples are the same text (SimPO on_policy_data_gen drops these)
    "equal_rewards",  # best and worst have the same reward, so neither is preferred
    "margin_low",
    "margin_high",
]


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
    return {prompt_id: _extremes(rated) for prompt_id, rated in by_prompt.items()}


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
