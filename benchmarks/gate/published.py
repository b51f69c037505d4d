"""Published judgments of three benchmarks as question sums, models in the order of their scores."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from harness.analysis.gate.policy import default_checks
from harness.records.facts import facts_of, load_function
from harness.records.protocols import OwnRunner, SuiteOptions
from harness.run.plan import load_suite
from harness.suites.exchange import ImportRequest, with_format
from harness.suites.files import SourceFile, read_files
from harness.suites.scoring import QuestionSums, question_sums

FILES = {
    "mt_bench": ("fastchat", "mt_bench/official_scores.jsonl.xz"),
    "alpaca_eval": ("alpaca_eval", "alpaca_eval/annotations"),
    "arena_hard": ("arena_hard", "arena_hard/raw_judgments/image_arena_gpt4o.tar.xz"),
}
"""Suite -> format and place below HARNESS_PUBLISHED. Arena-Hard's are of screenshots, judged by gpt-4o: the official
judge's published verdicts are of one model, and a pair needs two."""
LEFT_OUT = ("gpt4_gamed",)
"""An answer that tricks the judge is no model."""


@dataclass(frozen=True)
class Published:
    """One suite's models."""

    suite: str
    margin: float
    models: dict[str, QuestionSums]
    """By name, the lowest score first."""

    def neighbours(self) -> list[tuple[QuestionSums, QuestionSums]]:
        """Each model with the next better one: pairs as close as two checkpoints are."""
        sums = list(self.models.values())
        return list(pairwise(sums))


def published_root() -> Path:
    """Return the folder of published judgments; exit if HARNESS_PUBLISHED does not name it."""
    if not os.environ.get("HARNESS_PUBLISHED"):
        sys.exit("HARNESS_PUBLISHED is not set: it names the folder of published judgments")
    return Path(os.environ["HARNESS_PUBLISHED"])


@cache
def published(suite: str) -> Published:
    """Return the suite's published judgments, read once per process."""
    root, (file_format, place) = published_root(), FILES[suite]
    made = load_suite(suite, SuiteOptions())
    assert not isinstance(made, OwnRunner), "these suites are judged"
    files = list(read_files([root / place]))
    prompts, found = made.prompts(), {}
    read = load_function(with_format(file_format, "read")[0][1].read)
    for name in _models(file_format, files):
        rows = read(files, ImportRequest(prompts, name, None))
        found[name] = question_sums(facts_of(suite).rules[0], list(rows.answers.values()), list(rows.judgments))
    ordered = dict(sorted(found.items(), key=lambda item: item[1].value or 0.0))
    check = default_checks([suite])[0]
    return Published(suite, check.margin, ordered)


def _models(file_format: str, files: list[SourceFile]) -> list[str]:
    key = "generator_2" if file_format == "alpaca_eval" else "model"
    names = dict.fromkeys(str(row[key]) for file in files for row in file.rows if key in row)
    return [name for name in names if name not in LEFT_OUT]
