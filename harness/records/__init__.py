"""Define the frozen records that cross file and module boundaries. They have no behaviour.

A record is validated when it is created and when it is read from a file. Text fields come from a model or a judge: they
are untrusted and must be escaped wherever they are shown.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .asking import Answer, Failure, Finish, ModelRef, Prompt, Record, Sampling, base_url, digest
    from .errors import Reason
    from .judging import (
        Access,
        AuditSpec,
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
        Audit,
        AuditGain,
        JudgeSpending,
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
    "Audit",
    "AuditGain",
    "AuditSpec",
    "Failure",
    "Filling",
    "Finish",
    "JudgeSpec",
    "JudgeSpending",
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

_HOMES = {
    ".asking": "Answer Failure Finish ModelRef Prompt Record Sampling base_url digest",
    ".errors": "Reason",
    ".judging": (
        "Access AuditSpec Filling JudgeSpec JudgeTask JudgeTemplate Judgment JudgmentFlag JuryRule Order Preference "
        "Rating TokenLogprob Verdict"
    ),
    ".results": (
        "LARGEST MAX_EMPTY AnchorCheck Audit AuditGain JudgeSpending Judging JuryCounts PairAgreement QuestionScores "
        "Score ScoreCard SuiteScores VarianceParts"
    ),
}
"""Module -> its public names. They are imported on first use, because training's arithmetic needs only `errors`."""


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
