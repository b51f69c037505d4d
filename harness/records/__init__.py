"""Frozen records: the data that crosses file and module boundaries, without behaviour.

A record is validated when it is created and when it is read from a file. Text fields come from a model or a judge: they
are untrusted and must be escaped wherever they are shown.
"""

from .asking import Answer, Failure, Finish, ModelRef, Prompt, Record, Sampling, base_url, digest
from .errors import Reason
from .judging import (
    Access,
    Filling,
    JudgeSpec,
    JudgeTask,
    JudgeTemplate,
    Judgment,
    JudgmentFlag,
    JuryRule,
    Order,
    Preference,
    Rating,
    TokenLogprob,
    Verdict,
)
from .results import (
    LARGEST,
    MAX_EMPTY,
    AnchorCheck,
    Judging,
    JuryCounts,
    PairAgreement,
    QuestionScores,
    Score,
    ScoreCard,
    SuiteScores,
    VarianceParts,
)

__all__ = [
    "LARGEST",
    "MAX_EMPTY",
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
    "JudgmentFlag",
    "JuryCounts",
    "JuryRule",
    "ModelRef",
    "Order",
    "PairAgreement",
    "Preference",
    "Prompt",
    "QuestionScores",
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
