"""Published judgments of three benchmarks as question sums, models in the order of their scores."""

from __future__ import annotations

import csv
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

from harness.analysis.gate.policy import default_checks
from harness.records.facts import facts_of, load_function
from harness.records.protocols import OwnRunner, SuiteOptions
from harness.running.plan import load_suite
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
    """Of the default check of this metric."""
    metric: str
    """A sum over questions: the headline, or of a fitted one the rate that it is fitted to."""
    models: dict[str, QuestionSums]
    """By name, the lowest score first."""
    unweighted: tuple[QuestionSums, ...]
    """The same models by the metric without threefold weights, if the suite has one."""

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
    prompts, found, unweighted = made.prompts(), {}, {}
    plain_rule = next((rule for rule in facts_of(suite).rules if not rule.weighted), None)
    read = load_function(with_format(file_format, "read")[0][1].read)
    for name in _models(file_format, files):
        rows = read(files, ImportRequest(prompts, name, None))
        answers, judgments = list(rows.answers.values()), list(rows.judgments)
        found[name] = question_sums(facts_of(suite).rules[0], answers, judgments)
        if plain_rule is not None:
            unweighted[name] = question_sums(plain_rule, answers, judgments)
    ordered = dict(sorted(found.items(), key=lambda item: item[1].value or 0.0))
    facts = facts_of(suite)
    metric = facts.rules[0].metric
    check = next(check for check in default_checks([suite]) if (check.metric or facts.headline) == metric)
    plain = tuple(unweighted[name] for name in ordered if name in unweighted)
    return Published(suite, check.margin, metric, ordered, plain)


BOARDS = ("alpaca_eval/published_leaderboard.csv", "arena_hard/published.json", "leaderboard_20240731")
"""AlpacaEval's official board, Arena-Hard's, and the table of the second."""
SAME = {
    "claude-2.0": "claude-2",
    "dbrx-instruct-preview": "dbrx-instruct",
    "llama-2-70b-chat": "llama-2-70b-chat-hf",
    "llama-3-8b-instruct": "Meta-Llama-3-8B-Instruct",
    "llama-3-70b-instruct": "Meta-Llama-3-70B-Instruct",
    "llama-3.1-8b-instruct": "Meta-Llama-3.1-8B-Instruct-Turbo",
    "llama-3.1-70b-instruct": "Meta-Llama-3.1-70B-Instruct-Turbo",
    "llama-3.1-405b-instruct": "Meta-Llama-3.1-405B-Instruct-Turbo",
    "mistral-7b-instruct": "Mistral-7B-Instruct-v0.2",
    "vicuna-33b": "vicuna-33b-v1.3",
}
"""Arena-Hard's name -> AlpacaEval's, where they differ by more than signs and case."""


def both_boards(root: Path) -> dict[str, tuple[float, float, float]]:
    """Return model -> length-controlled win rate, win rate and Arena-Hard score, of models on both official boards."""
    with (root / BOARDS[0]).open(encoding="utf-8", newline="") as file:
        alpaca_eval = {
            _plain(row[""]): (float(row["length_controlled_winrate"]), float(row["win_rate"]))
            for row in csv.DictReader(file)
            if row["length_controlled_winrate"]
        }
    rows = json.loads((root / BOARDS[1]).read_text("utf-8"))["v0.1"][BOARDS[2]]["rows"]
    arena_hard = {row["model"]: float(row["score"]) for row in rows}
    return {
        name: (*alpaca_eval[key], score)
        for name, score in arena_hard.items()
        if (key := _plain(SAME.get(name, name))) in alpaca_eval
    }


def _plain(name: str) -> str:
    return re.sub("[^a-z0-9.]", "", name.lower())


def _models(file_format: str, files: list[SourceFile]) -> list[str]:
    key = "generator_2" if file_format == "alpaca_eval" else "model"
    names = dict.fromkeys(str(row[key]) for file in files for row in file.rows if key in row)
    return [name for name in names if name not in LEFT_OUT]
