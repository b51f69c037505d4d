"""The leaderboard of variants as records: models, their differences, what was found in words."""

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
    """Each seed's own mean."""
    seed_scores: dict[int, Score] = {}
    """The same with intervals over prompts: of that one checkpoint."""
    validation: float | None
    """Mean over the validation prompts and seeds: what `best` goes by."""
    tokens: float | None
    """Mean length of the answers."""
    truncated: int
    complete: bool
    """At least 90 % of the answers have a reward."""


class Versus(Record):
    """A model minus a baseline at one temperature, on the test prompts that both have a reward for in every seed."""

    model: str
    baseline: str
    temperature: float
    value: float
    ci_low: float
    ci_high: float
    """95 %, over prompts and seeds; over prompts alone where there is one seed."""
    prompts_low: float
    prompts_high: float
    """95 %, over prompts alone."""
    se: float
    df: float
    by_seed: dict[int, float]
    prompts: int
    p: float
    """Two-sided, of no difference, from the interval over prompts and seeds."""
    p_adjusted: float
    detectable: float
    """The smallest true difference that such a comparison tells from none with 80 % power, Holm aside."""
    verdict: Verdict


class VariantBoard(Record):
    recipe: str
    baselines: tuple[str, ...]
    seeds: tuple[int, ...]
    prompts: int
    """Test prompts."""
    models: tuple[ModelRow, ...]
    """By temperature, best first."""
    differences: tuple[Versus, ...]
    sentences: tuple[str, ...]
    """One a preference variant: whether it beats the baselines."""
    notes: tuple[str, ...] = ()

    @property
    def temperatures(self) -> tuple[float, ...]:
        return tuple(dict.fromkeys(row.temperature for row in self.models))

    def rows(self, temperature: float) -> list[ModelRow]:
        return [row for row in self.models if row.temperature == temperature]

    def versus(self, temperature: float, baseline: str) -> list[Versus]:
        return [
            difference
            for difference in self.differences
            if (difference.temperature, difference.baseline) == (temperature, baseline)
        ]
