"""Evaluate a model on MT-Bench, AlpacaEval 2 and Arena-Hard, with scores that can be trusted, resumed and compared.

`run`, `load`, `compare`, `gate` and `leaderboard` do what the commands of these names do. The other names below are
what a plug-in needs; they stay when modules move:

>>> from harness import Prompt
>>> Prompt(id="1", turns=("What is 2 + 2?",), category="math").turns
('What is 2 + 2?',)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .python.api import (
        Cards,
        Comparisons,
        GateVerdict,
        Leaderboard,
        LoadedRun,
        Runs,
        compare,
        gate,
        leaderboard,
        load,
        run,
        run_async,
    )
    from .records import (
        Answer,
        Failure,
        JudgeSpec,
        JudgeTask,
        JudgeTemplate,
        Judgment,
        ModelRef,
        Preference,
        Prompt,
        Rating,
        Sampling,
        Score,
        ScoreCard,
        SuiteScores,
    )
    from .records.errors import (
        CheckpointError,
        ConfigError,
        DataError,
        HarnessError,
        IncompleteError,
        PluginError,
        ReplyError,
        ServerError,
        VerdictParseError,
    )
    from .records.facts import DefaultCheck, Facts, FileFormat, Metric, QuestionRule
    from .records.protocols import (
        Backend,
        BulkBackend,
        Draw,
        Judge,
        Numbers,
        OwnRun,
        OwnRunner,
        Reward,
        RewardOptions,
        Served,
        ServeOptions,
        Serving,
        Suite,
        SuiteData,
        SuiteOptions,
    )
    from .suites.exchange import FinishedRun, Imported, ImportRequest
    from .suites.scoring import mean_score, verdicts_by_slot

__all__ = [
    "Answer",
    "Backend",
    "BulkBackend",
    "Cards",
    "CheckpointError",
    "Comparisons",
    "ConfigError",
    "DataError",
    "DefaultCheck",
    "Draw",
    "Facts",
    "Failure",
    "FileFormat",
    "FinishedRun",
    "GateVerdict",
    "HarnessError",
    "ImportRequest",
    "Imported",
    "IncompleteError",
    "Judge",
    "JudgeSpec",
    "JudgeTask",
    "JudgeTemplate",
    "Judgment",
    "Leaderboard",
    "LoadedRun",
    "Metric",
    "ModelRef",
    "Numbers",
    "OwnRun",
    "OwnRunner",
    "PluginError",
    "Preference",
    "Prompt",
    "QuestionRule",
    "Rating",
    "ReplyError",
    "Reward",
    "RewardOptions",
    "Runs",
    "Sampling",
    "Score",
    "ScoreCard",
    "ServeOptions",
    "Served",
    "ServerError",
    "Serving",
    "Suite",
    "SuiteData",
    "SuiteOptions",
    "SuiteScores",
    "VerdictParseError",
    "__version__",
    "compare",
    "gate",
    "leaderboard",
    "load",
    "mean_score",
    "run",
    "run_async",
    "verdicts_by_slot",
]

_HOMES = {
    ".python.api": (
        "Cards Comparisons GateVerdict Leaderboard LoadedRun Runs compare gate leaderboard load run run_async"
    ),
    ".records": (
        "Answer Failure JudgeSpec JudgeTask JudgeTemplate Judgment ModelRef Preference Prompt Rating Sampling "
        "Score ScoreCard SuiteScores"
    ),
    ".records.errors": (
        "CheckpointError ConfigError DataError HarnessError IncompleteError PluginError ReplyError "
        "ServerError VerdictParseError"
    ),
    ".records.protocols": (
        "Backend BulkBackend Draw Judge Numbers OwnRun OwnRunner Reward RewardOptions ServeOptions Served "
        "Serving Suite SuiteData SuiteOptions"
    ),
    ".records.facts": "DefaultCheck Facts FileFormat Metric QuestionRule",
    ".suites.exchange": "FinishedRun Imported ImportRequest",
    ".suites.scoring": "mean_score verdicts_by_slot",
}
"""Module -> its public names. They are imported on first use, so that `import harness` costs nothing."""


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> object:
    if name == "__version__":
        return import_module(".store.provenance", __name__).VERSION
    for module, names in _HOMES.items():
        if name in names.split():
            return getattr(import_module(module, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
