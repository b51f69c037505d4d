"""Load the pocket edition: the three suites with small data of our own, for machines without the official data.

This package contains the files under `data/` (made by `make.py`) and turns them into `SuiteData`. Protocol and scoring
are the suites' own.
"""

from __future__ import annotations

import hashlib
import json
from importlib.resources import files
from typing import Literal

from harness.records import Answer, JudgeTemplate, Prompt
from harness.records.errors import DataError
from harness.records.protocols import SuiteData

from .edition import alpaca_eval_templates, arena_hard_templates, mt_bench_templates

SuiteName = Literal["mt_bench", "alpaca_eval", "arena_hard"]
VERSION = "pocket-1"


def load(suite: SuiteName) -> SuiteData:
    """Return a suite's data from the package's own files. Raise DataError for a suite without a pocket edition."""
    if suite not in LOADERS:
        raise DataError(f"suite {suite!r} has no pocket edition; these have: {', '.join(LOADERS)}")
    return LOADERS[suite]()


def first_questions() -> frozenset[str]:
    """Return the first question of every prompt of the edition, which training data must not contain."""
    return frozenset(prompt.turns[0] for suite in LOADERS for prompt in _prompts(_read(suite, "prompts")))


def _mt_bench() -> SuiteData:
    prompts = _read("mt_bench", "prompts")
    return SuiteData(
        version=VERSION,
        prompts=_prompts(prompts),
        templates=_by_name(mt_bench_templates()),
        files=_sha("mt_bench", prompts=prompts),
    )


def _alpaca_eval() -> SuiteData:
    prompts, baseline = _read("alpaca_eval", "prompts"), _read("alpaca_eval", "baseline")
    difficulty, gamed = _read("alpaca_eval", "difficulty"), _read("alpaca_eval", "gamed")
    answers = _answers(baseline)
    return SuiteData(
        version=VERSION,
        prompts=_prompts(prompts),
        templates=_by_name(alpaca_eval_templates()),
        baseline_name=next(iter(answers.values())).model,
        baseline=answers,
        difficulty={row["prompt_id"]: row["difficulty"] for row in map(json.loads, difficulty.splitlines())},
        gamed=tuple(
            (row["preference"], row["length_difference"], row["difficulty"])
            for row in map(json.loads, gamed.splitlines())
        ),
        files=_sha("alpaca_eval", prompts=prompts, baseline=baseline, difficulty=difficulty, gamed=gamed),
    )


def _arena_hard() -> SuiteData:
    prompts, baseline = _read("arena_hard", "prompts"), _read("arena_hard", "baseline")
    answers = _answers(baseline)
    return SuiteData(
        version=VERSION,
        prompts=_prompts(prompts),
        templates=_by_name(arena_hard_templates()),
        baseline_name=next(iter(answers.values())).model,
        baseline=answers,
        files=_sha("arena_hard", prompts=prompts, baseline=baseline),
    )


LOADERS = {"mt_bench": _mt_bench, "alpaca_eval": _alpaca_eval, "arena_hard": _arena_hard}


def _name(suite: str, part: str) -> str:
    return f"{suite}.{part}.jsonl"


def _read(suite: str, part: str) -> str:
    return files(__package__).joinpath("data", _name(suite, part)).read_bytes().decode("utf-8")


def _sha(suite: str, **texts: str) -> dict[str, str]:
    return {_name(suite, part): hashlib.sha256(text.encode("utf-8")).hexdigest() for part, text in texts.items()}


def _prompts(text: str) -> tuple[Prompt, ...]:
    return tuple(Prompt.model_validate_json(line) for line in text.splitlines())


def _answers(text: str) -> dict[str, Answer]:
    answers = [Answer.model_validate_json(line) for line in text.splitlines()]
    return {answer.prompt_id: answer for answer in answers}


def _by_name(templates: tuple[JudgeTemplate, ...]) -> dict[str, JudgeTemplate]:
    return {template.name: template for template in templates}
