"""Frozen records: everything that crosses a file or a function boundary, and nothing that acts.

A record is validated when it is made, and again when it is read from a file. Text fields are what a model or a
judge wrote: untrusted, to be escaped wherever they are shown.
"""

from .asking import Answer, Failure, Finish, ModelRef, Prompt, Reason, Sampling
from .base import Record, base_url, digest
from .judging import (
    Access,
    Filling,
    JudgeSpec,
    JudgeTask,
    JudgeTemplate,
    Judgment,
    JuryRule,
    Order,
    Preference,
    Rating,
    TokenLogprob,
    Verdict,
)
from .results import (
    LARGEST,
    AnchorCheck,
    Judging,
    JuryCounts,
    PairAgreement,
    Score,
    ScoreCard,
    SuiteScores,
    VarianceParts,
)

__all__ = [
    "LARGEST",
    "Access",
    "AnchorCheck",
    "Answer",
    "Failure",
    "Filling",
    "Finish",
    "JudgeSpec",
    "JudgeTask",
    "JudgeTemplate",
    "Judging",
    "Judgment",
    "JuryCounts",
    "JuryRule",
    "ModelRef",
    "Order",
    "PairAgreement",
    "Preference",
    "Prompt",
    "Rating",
    "Reason",
    "Record",
    "Sampling",
    "Score",
    "ScoreCard",
    "SuiteScores",
    "TokenLogprob",
    "VarianceParts",
    "Verdict",
    "base_url",
    "digest",
]
