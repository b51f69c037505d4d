"""Records of the leaderboard of variants: models, their differences, and the conclusions in words."""

from __future__ import annotations

from typing import Literal

from harness.records import Record, Score

Verdict = Literal["better", "worse", "not shown", "incomplete"]


class ModelRow(Record):
    """One model at one temperature, on the test prompts."""

    model: str
    temperature: float
    reward: Score
    """Mean over prompts and seeds; `n` counts scored answers."""
    by_seed: dict[int, float]
    """Mean of each seed."""
    seed_scores: dict[int, Score] = {}
    """The same with intervals over prompts; each describes one checkpoint."""
    validation: float | None
    """Mean over validation prompts and seeds, which decides which variant is `best`."""
    tokens: float | None
    """Mean length of the answers in tokens."""
    truncated: int
    complete: bool
    """At least 90 % of the answers have a reward."""


class Versus(Record):
    """A model minus a baseline at one temperature, over the test prompts that have rewards for both in every seed."""

    model: str
    baseline: str
    temperature: float
    value: float
    ci_low: float
    ci_high: float
    """95 % interval over prompts and seeds, or over prompts alone if there is only one seed."""
    prompts_low: float
    prompts_high: float
    """95 % interval over prompts alone."""
    se: float
    df: float
    by_seed: dict[int, float]
    prompts: int
    p: float
    """Two-sided p-value of "no difference", over prompts and seeds."""
    p_adjusted: float
    detectable: float
    """Smallest true difference that such a comparison detects with 80 % power, before the Holm adjustment."""
    verdict: Verdict


class VariantBoard(Record):
    """`report/variants.json`: the leaderboard of variants."""

    recipe: str
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: int
    """Number of test prompts."""
    models: tuple[ModelRow, ...]
    """Grouped by temperature, best first."""
    differences: tuple[Versus, ...]
    sentences: tuple[str, ...]
    """One per preference variant, which says whether it beats the baselines."""
    notes: tuple[str, ...] = ()

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(row.temperature for row in self.models))

    def rows(self, temperature: float) -> list[ModelRow]:
        return [row for row in self.models if row.temperature == temperature]

    def versus(self, temperature: float, baseline: str) -> list[Versus]:
        """Return all models minus this baseline at this temperature."""
        return [
            difference
            for difference in self.differences
            if (difference.temperature, difference.baseline) == (temperature, baseline)
        ]
