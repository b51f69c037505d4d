"""Define the records of results: scores with their intervals, and the score card.

>>> Score(value=52.3, ci_low=49.8, ci_high=54.9, n=805).unscored
0
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, JsonValue, model_validator

from .asking import Record, digest, is_empty
from .judging import JuryRule

if TYPE_CHECKING:
    from ..stats.intervals import Interval

NO_WIDTH = 1e-12  # rounding leaves a resampled mean of equal numbers that uneven
MAX_EMPTY = 0.1
"""Share of answers without visible text above which a card is not ranked unless the user asks for it."""
PASSING = frozenset({"http", "timeout", "transport"})
"""Failures for lack of a server. The same prompt is too long, filtered or answered without a verdict once more."""
LARGEST = 1e15
"""Bound of a card's numbers; integers are exact below 2**53, about 9e15."""


class Score(Record):
    """One number with its interval. `value` is None if it cannot be computed; the card's notes state why."""

    value: float | None
    ci_low: float | None = None
    ci_high: float | None = None
    """95 % interval unless the metric's name says otherwise; same unit as `value`."""
    se: float | None = None
    n: int
    """Number of scored items, in the suite's own unit (turns, instructions, games)."""
    unscored: int = 0
    """Items that should have been scored but were not."""

    def with_interval(self, interval: Interval | None, scale: float = 1.0) -> Score:
        """Return the score with `scale` times this interval; without any for None, or if it has no value.

        An interval without width comes from verdicts that are all equal: they do not show how much the score varies,
        which is not the same as certainty.
        """
        if interval is None or self.value is None or interval.high - interval.low <= NO_WIDTH * max(1.0, interval.high):
            return self.model_copy(update={"ci_low": None, "ci_high": None, "se": None})
        limits = {"ci_low": scale * interval.low, "ci_high": scale * interval.high, "se": scale * interval.se}
        return self.model_copy(update=limits)


class SuiteScores(Record):
    """The result of a suite's scorer: metrics by name, overall and by category, and notes for the reader."""

    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    notes: tuple[str, ...] = ()


class QuestionScores(Record):
    """One question's value of each metric, from a benchmark that scores by itself: a row of `questions.jsonl`.

    Two runs of one benchmark are compared question by question if both have such rows.
    """

    question: str
    """Equal in every run of the benchmark that asks this question."""
    category: str | None = None
    scores: dict[str, float]


class JuryCounts(Record):
    """How many verdicts a jury's questions got. A question is one answer to be judged (turn, order, repeat)."""

    questions: int
    full: int
    """All members gave a verdict."""
    part: int
    """More than half of the members gave a verdict, but not all; those given were combined."""
    short: int
    """At most half of the members gave a verdict: unscored."""
    undecided: int = 0
    """No majority: a draw for preferences, the median for ratings."""


class PairAgreement(Record):
    """Two members' verdicts on the same questions; preferences count as win, draw or loss, ratings as they are."""

    one: str
    other: str
    agreement: Score
    """Percent of equal verdicts."""
    kappa: Score
    """Cohen's, -1..1."""


class VarianceParts(Record):
    """Where the headline's sampling error comes from: components of variance of one verdict, and their effect.

    In the square of `unit`, or None if the design cannot tell a level from the one above it (one draw, one judge and
    order, one repeat), which then includes both. Negative estimates are 0 and listed in `truncated`.
    """

    unit: Literal["percent", "points"]
    questions: int
    question: float
    generation: float | None = None
    """Between answers drawn for one question."""
    judge: float | None = None
    """Between judges and orders on one answer, their means over all answers taken off."""
    repeat: float | None = None
    """Between repeats of one judge in one order on one answer."""
    truncated: tuple[Literal["question", "generation", "judge", "repeat"], ...] = ()
    se: float
    """Standard error of the mean over questions implied by the components."""
    judge_share: float
    """Percent of its square that is due to the judges (`judge` and `repeat`)."""


class AnchorCheck(Record):
    """One judge's verdicts on the anchor set now, compared with the recorded ones."""

    anchors: str
    """First 12 characters of the anchor file's digest."""
    n: int
    """Anchors compared."""
    unscored: int
    """Anchors without a verdict now."""
    unit: Literal["percent", "points"]
    shift: Score
    """Mean of now less recorded, question as the unit: percent points of preference, or rating points."""
    p: float | None = None
    """p-value of the paired t-test that the shift is 0; None if it cannot be computed."""
    changed: float | None = None
    """Percent of verdicts with another outcome (win, draw, loss) or rating than recorded."""
    detectable: float | None = None
    """Shift that such a check detects with a probability of 80 %, same unit."""
    drifted: bool | None = None
    """True: the judge moved (p under 0.01). None: unknown, see `reason`."""
    reason: str | None = None


class AuditGain(Record):
    """What the cheap judge's verdicts added to the audit's, for one metric."""

    slope: float
    """Weight of the cheap judge's differences between questions; 0: useless."""
    correlation: float
    """Of both judges' scores over the audited questions, -1..1."""
    effective: float
    """Questions that the expensive judge alone would need for the same interval."""


class JudgeSpending(Record):
    """What one judge's verdicts took, over all sessions of the run."""

    calls: int
    """Requests sent; replies from the cache need none."""
    paid: float | None
    """US dollars paid by this run; None if the judge has no known price."""


class Audit(Record):
    """How an expensive judge on some questions corrected a cheap one (or a jury) on all."""

    judge: str
    """The expensive judge, on whose scale the card's scores are."""
    drawn: int
    """Questions it was to judge."""
    judged: int
    """Those with a verdict of both sides."""
    of: int
    """Questions with a verdict of the cheap side."""
    gains: dict[str, AuditGain]
    """By metric: all that the card has on the expensive judge's scale."""
    cheap: dict[str, Score]
    """The cheap side's own scores, on its own scale."""
    spending: dict[str, JudgeSpending]
    """By judge."""


class Judging(Record):
    """How far the verdicts can be trusted. Shares are percent with 95 % intervals over questions."""

    rule: JuryRule | None = None
    """None: one judge."""
    repeats: int = 1
    members: dict[str, Score] = {}
    """Jury member -> the headline by its verdicts alone."""
    jury: JuryCounts | None = None
    agreement: tuple[PairAgreement, ...] = ()
    differing: Score | None = None
    """Percent of questions with two verdicts or more on which members differ."""
    alpha: float | None = None
    """Krippendorff's, interval metric, over all members."""
    order_flips: dict[str, Score] = {}
    """By judge: answers whose outcome changes with the order they are shown in."""
    first_shown: dict[str, Score] = {}
    """By judge: share of the points that the answer shown first gets; 50 means no position bias."""
    repeat_flips: dict[str, Score] = {}
    """By judge: chance that two repeats of one question differ."""
    variance: VarianceParts | None = None
    anchors: dict[str, AnchorCheck] = {}
    """By judge."""
    audit: Audit | None = Field(default=None, exclude_if=is_empty)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Return the judges that moved, on which a gate must not pass."""
        return tuple(name for name, check in self.anchors.items() if check.drifted)


class ScoreCard(Record):
    """The scores of one model on one suite under one protocol, as the leaderboard and the gate read them."""

    schema_version: Literal[1] = 1
    suite: str
    suite_version: str
    model: str
    judge: str
    headline: str
    """The metric of `scores` that ranks."""
    complete: bool
    """False if too little was scored (under 90 %) to rank this card."""
    protocol: dict[str, JsonValue]
    """Everything that makes two scores comparable; cards with unequal protocols are never ranked together."""
    sampling: dict[str, JsonValue]
    scores: dict[str, Score]
    by_category: dict[str, dict[str, Score]] = {}
    counts: dict[str, JsonValue] = {}
    """Numbers of prompts asked, answered, truncated, unscored by reason, and the like."""
    notes: tuple[str, ...] = ()
    provenance: dict[str, JsonValue]
    """What produced the scores: digests, versions, git state, seeds."""
    higher_is_better: dict[str, bool | None] = Field(default={}, exclude_if=is_empty)
    """Metric -> False if less is better, None if nobody states which. Metrics of which more is better, and those that
    the suite's facts describe, are left out; `facts.higher_is_better` looks up any metric."""
    margin: float | None = Field(default=None, gt=0, exclude_if=lambda margin: margin is None)
    """The gate's default margin for the headline, of a suite whose file states one; else the suite's facts decide."""
    judging: Judging | None = None
    """Jury, flips, variance, drift; None on cards whose judgments did not come from this pipeline."""
    usage: dict[str, JsonValue] = {}
    """Seconds, tokens and dollars by stage; as they are measured, they differ between runs."""

    @model_validator(mode="after")
    def _has_its_headline(self) -> Self:
        if self.headline not in self.scores:
            raise ValueError(f"no score named {self.headline!r}, the card's headline")
        return self

    @property
    def edition(self) -> str:
        """Return `official` or `pocket`, for `SuiteOptions`."""
        return "pocket" if self.suite_version.startswith("pocket") else "official"

    @property
    def empty_share(self) -> float | None:
        """Return the share of answers that show the reader nothing, or None if the card has no such counts."""
        empty, answers = self.counts.get("empty"), self.counts.get("answers")
        if not isinstance(empty, int) or not isinstance(answers, int) or not answers:
            return None
        return empty / answers

    @property
    def is_mostly_text(self) -> bool:
        """Return whether so few answers are empty that the scores say something about the model's answers."""
        return (self.empty_share or 0.0) <= MAX_EMPTY

    def unreadable(self) -> str | None:
        """Return the first metric with a NaN or an infinity, which foreign cards may have; else None."""
        for scores in (self.scores, *self.by_category.values()):
            for name, score in scores.items():
                numbers = [
                    number for number in (score.value, score.ci_low, score.ci_high, score.se) if number is not None
                ]
                if not all(abs(number) < LARGEST for number in numbers):
                    return name
        return None

    @property
    def protocol_sha(self) -> str:
        return digest(self.protocol)[:12]


def what_is_missing(incomplete: Sequence[ScoreCard]) -> str:
    """Return what is unscored on these cards, and what the same command would do about it."""
    failures: Counter[str] = Counter()
    for card in incomplete:
        for stage in ("unanswered", "unjudged"):
            reasons = card.counts.get(stage)
            failures.update(reasons if isinstance(reasons, dict) else {})
    passing = {reason: number for reason, number in failures.items() if reason in PASSING}
    lasting = {reason: number for reason, number in failures.items() if reason not in PASSING}
    sentence = f"too much unscored in {', '.join(card.suite for card in incomplete)} (see the notes)"
    if passing:
        sentence += f"; the same command asks {sum(passing.values())} failed calls again ({listed_reasons(passing)})"
    if lasting:
        sentence += (
            f"; {sum(lasting.values())} would most likely fail again ({listed_reasons(lasting)}), "
            "so change the judge or the settings first"
        )
    return sentence


def listed_reasons(reasons: Mapping[str, int]) -> str:
    """Return `parse 10, timeout 2`."""
    return ", ".join(f"{reason} {number}" for reason, number in sorted(reasons.items()))
