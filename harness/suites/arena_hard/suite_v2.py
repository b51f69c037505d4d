"""Arena-Hard v2.0: 500 hard prompts against o3-mini, 250 of creative writing against gemini-2.0-flash.

Source of every rule: arena-hard-auto at 196f6b8 (gen_judgment.py, show_result.py; specs/arena_hard). The two categories
have different baselines, so they are never pooled: the headline covers the hard prompts. A question with one broken
game is dropped completely. The judge's prompts are string constants of upstream's utils/judge_utils.py (never
executed).
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from ...records import Answer, JudgeTask, JudgeTemplate, Judgment, Order, Prompt, Sampling, Score, SuiteScores, Verdict
from ...records.errors import ConfigError, DataError
from ...records.protocols import SuiteData, SuiteOptions
from ...stats.bradley_terry import v2_row_interval
from ..editions import official_files, pinned, read_json_lines, template_shas
from ..scoring import (
    Slot,
    Unit,
    Verdicts,
    categories,
    draws,
    mean_score,
    slot_unit,
    unscored_note,
    verdict_weight,
    verdicts_by_slot,
)
from .suite import MAX_TOKENS, ORDERS, average_tokens, battles, reference_note

HEADLINE_CATEGORY = "hard_prompt"
CATEGORIES = ("hard_prompt", "creative_writing")
NAMES = (
    "arena_hard_v2/questions",
    "arena_hard_v2/judge_config",
    "arena_hard_v2/judge_prompts",
    "arena_hard_v2/baseline/hard_prompt",
    "arena_hard_v2/baseline/creative_writing",
)
SETTINGS = "JUDGE_SETTINGS"
"""The constant of judge_utils.py with each category's baseline and system prompt."""


def build(options: SuiteOptions) -> ArenaHardV2:
    """Build the suite (`fusion_harness.suites` entry point); DataError without data, ConfigError for another
    edition."""
    if options.edition != "official":
        raise ConfigError(f"arena_hard_v2 has no edition {options.edition!r}; editions: official")
    return ArenaHardV2(load_official(options))


class ArenaHardV2:
    """The suite over any suitable data: a template per category, a baseline answer per prompt."""

    name = "arena_hard_v2"
    headline = "arena_hard"
    official_judges = ("gpt-4.1-2025-04-14", "gpt-4.1", "gemini-2.5-pro-preview-03-25", "gemini-2.5-pro")

    def __init__(self, data: SuiteData, *, seed: int = 0) -> None:
        self.version = data.version
        self._data = data
        self._seed = seed

    def protocol(self) -> dict[str, JsonValue]:
        baselines = {
            prompt.category: self._data.baseline[prompt.id].model
            for prompt in self._data.prompts
            if prompt.id in self._data.baseline
        }
        return {
            "data": dict(self._data.files),
            "baseline": dict(sorted(baselines.items())),
            "templates": template_shas(self._data.templates),
            "answer_settings": {"max_tokens": MAX_TOKENS, "temperature": 0.0},
        }

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        """Return v0.1's settings, because v2.0 leaves them to each model's endpoint."""
        return Sampling(temperature=0.0, max_tokens=MAX_TOKENS)

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return both games; none for a failed answer or without a baseline answer."""
        baseline = self._data.baseline.get(prompt.id)
        return () if answer.error is not None or baseline is None else self.games(prompt, answer, baseline)

    def games(self, prompt: Prompt, answer: Answer, opponent: Answer) -> Sequence[JudgeTask]:
        """Return the games of two answers of any models, shown in both orders."""
        return [
            JudgeTask(
                prompt=prompt,
                answer=answer,
                baseline=opponent,
                order=order,
                template=self._data.templates[prompt.category],
                fields=_fields(prompt, opponent, answer, order),
            )
            for order in ORDERS
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return `arena_hard` (100 * (wins + draws / 2) / battles of hard prompts) and the same for
        `creative_writing`."""
        verdicts, times = verdicts_by_slot(judgments, answers), draws(answers)
        by_id = {prompt.id: prompt for prompt in prompts}
        parts = {name: [by_id[prompt_id] for prompt_id in ids] for name, ids in categories(prompts).items()}
        by_category = {name: {"arena_hard": self._score(part, verdicts, times)} for name, part in parts.items()}
        main = parts.get(HEADLINE_CATEGORY, [])
        headline = self._score(main, verdicts, times)
        scores = {"arena_hard": headline, "arena_hard_reference": _reference(main, verdicts, times, headline)}
        if "creative_writing" in by_category:
            scores["creative_writing"] = by_category["creative_writing"]["arena_hard"]
        scores["avg_tokens"] = average_tokens(prompts, answers, times)
        missing = reference_note(scores["arena_hard_reference"])
        notes = (*unscored_note(headline, "games of hard prompts"), *_creative_note(scores), *missing)
        return SuiteScores(scores=scores, by_category=by_category, notes=notes)

    def _score(self, prompts: Sequence[Prompt], verdicts: Verdicts, times: int) -> Score:
        pairs = [pair for prompt in prompts for pair in _whole(prompt, verdicts, times)]
        units: list[Unit] = [slot_unit(prompt_id, game) for prompt_id, game in pairs]
        return mean_score(units, 2 * times * len(prompts), scale=100.0, seed=self._seed)


def _whole(prompt: Prompt, verdicts: Verdicts, times: int) -> list[tuple[str, Sequence[Verdict]]]:
    """Return the games of a prompt's answers that have a verdict in both orders."""
    games = []
    for index in range(times):
        pair = [verdicts.get(Slot(prompt.id, index, order=order), ()) for order in ORDERS]
        if all(pair):
            games += [(prompt.id, game) for game in pair]
    return games


def _reference(prompts: Sequence[Prompt], verdicts: Verdicts, times: int, headline: Score) -> Score:
    """Return the mean of 100 resamples of rows with its 90 % interval, as in v2.0's table."""
    rows = battles([game for prompt in prompts for _, game in _whole(prompt, verdicts, times)])
    interval = v2_row_interval([verdict.value for verdict in rows], [verdict_weight(verdict) for verdict in rows])
    if interval is None:
        return headline.model_copy(update={"ci_low": None, "ci_high": None, "se": None})
    update = {"value": interval.middle, "ci_low": interval.low, "ci_high": interval.high, "se": interval.se}
    return headline.model_copy(update=update)


def _creative_note(scores: Mapping[str, Score]) -> tuple[str, ...]:
    creative = scores.get("creative_writing")
    return unscored_note(creative, "games of creative writing") if creative else ()


def _fields(prompt: Prompt, baseline: Answer, answer: Answer, order: Order) -> dict[str, str]:
    first, second = (baseline, answer) if order == "ab" else (answer, baseline)
    return {"QUESTION": prompt.turns[0], "ANSWER_A": first.turns[0], "ANSWER_B": second.turns[0]}


# --------------------------------------------------------------------------------------------------- official data


def load_official(options: SuiteOptions) -> SuiteData:
    """Load the pinned questions, both baselines' answers and the judge's prompts; DataError for an invalid file."""
    paths = official_files(options, NAMES)
    settings = read_judge_settings(paths["arena_hard_v2/judge_prompts"].read_text("utf-8"))
    prompts = tuple(
        Prompt(id=row["uid"], turns=(row["prompt"],), category=row["category"])
        for row in read_json_lines(paths["arena_hard_v2/questions"])
    )
    baseline: dict[str, Answer] = {}
    for category in CATEGORIES:
        prompt_ids = {prompt.id for prompt in prompts if prompt.category == category}
        rows = read_json_lines(paths[f"arena_hard_v2/baseline/{category}"])
        baseline |= {row["uid"]: answer(row) for row in rows if row["uid"] in prompt_ids}
    return SuiteData(
        version="official-1",
        prompts=prompts,
        templates=read_templates(paths["arena_hard_v2/judge_config"], settings),
        baseline=baseline,
        files=pinned(NAMES, options.cache_dir),
    )


def answer(row: dict[str, Any]) -> Answer:
    try:
        text = row["messages"][-1]["content"]["answer"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"answer {row.get('uid')!r} is not of Arena-Hard v2.0's form: {error!r}") from None
    return Answer(prompt_id=row["uid"], model=row["model"], turns=(text,), finish=("stop",))


def read_templates(config: Path, settings: Mapping[str, Mapping[str, str]]) -> dict[str, JudgeTemplate]:
    """Return one template per category: the config's user text and parameters, the settings' system text."""
    settings_file = yaml.safe_load(config.read_text("utf-8"))
    try:
        return {
            category: JudgeTemplate(
                name=f"{settings_file['bench_name']}/{category}",
                system=settings[category]["system_prompt"],
                user=settings_file["prompt_template"],
                parser="arena_label_v2",
                temperature=settings_file["temperature"],
                max_tokens=settings_file["max_tokens"],
            )
            for category in CATEGORIES
        }
    except (KeyError, TypeError) as error:
        raise DataError(f"{config} and {SETTINGS} are not Arena-Hard v2.0's judge settings: {error!r}") from None


def read_judge_settings(source: str) -> dict[str, dict[str, str]]:
    """Return category -> name -> text from the source of judge_utils.py; only string constants are read, nothing runs.

    Raise DataError if the constant is missing or contains anything but names and strings.
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise DataError(f"judge_utils.py is not Python: {error}") from None
    texts: dict[str, str] = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict() as table) if name == SETTINGS:
                return {key: _strings(value, texts) for key, value in _items(table)}
            case ast.Assign(targets=[ast.Name(id=name)], value=ast.Constant(value=str(text))):
                texts[name] = text
    raise DataError(f"judge_utils.py has no {SETTINGS}")


def _items(table: ast.expr) -> list[tuple[str, ast.expr]]:
    if not isinstance(table, ast.Dict):
        raise DataError(f"{SETTINGS} holds something other than texts")
    return [
        (key.value, value)
        for key, value in zip(table.keys, table.values, strict=True)
        if isinstance(key, ast.Constant) and isinstance(key.value, str)
    ]


def _strings(table: ast.expr, texts: Mapping[str, str]) -> dict[str, str]:
    strings = {}
    for key, value in _items(table):
        match value:
            case ast.Constant(value=str(text)):
                strings[key] = text
            case ast.Name(id=name) if name in texts:
                strings[key] = texts[name]
            case _:
                raise DataError(f"{SETTINGS}: {key!r} is neither a text nor the name of one")
    return strings
