"""Arena-Hard v0.1: 500 hard prompts, each answer in two games against the baseline's, shown in both orders.

Source of every rule: arena-hard-auto at the pinned revision (gen_answer.py, gen_judgment.py, show_result.py). The score
is the closed form of its Bradley-Terry fit, which it equals because every battle has the same opponent (spec 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import yaml
from pydantic import JsonValue

from ...records import Answer, JudgeTask, JudgeTemplate, Judgment, Order, Prompt, Sampling, Score, SuiteScores, Verdict
from ...records.errors import DataError
from ...records.protocols import SuiteData, SuiteOptions
from ...stats.bradley_terry import row_interval
from ..editions import load_edition, official_files, only_template, pinned, read_json_lines, template_shas
from ..scoring import (
    Slot,
    Verdicts,
    categories,
    draws,
    latest_answers,
    mean_score,
    slot_unit,
    unscored_note,
    verdict_weight,
    verdicts_by_slot,
)

ORDERS: tuple[Order, ...] = get_args(Order)
"""Game 0 shows the baseline as A, game 1 shows the candidate as A."""
MAX_TOKENS = 4096  # gen_answer.py
BASELINE = "gpt-4-0314"
REASK = "continue your judgment and finish by outputting a final verdict label"  # gen_judgment.py, second attempt
NAMES = ("arena_hard/questions", "arena_hard/baseline", "arena_hard/judge_config")


def build(options: SuiteOptions) -> ArenaHard:
    """Build the suite (`fusion_harness.suites` entry point); DataError without data, ConfigError for an unknown
    edition."""
    return ArenaHard(load_edition("arena_hard", options, load_official))


class ArenaHard:
    """The suite over any suitable data: one-turn prompts, a baseline's answers, one template with five labels."""

    name = "arena_hard"
    headline = "arena_hard"
    official_judges = ("gpt-4-1106-preview",)

    def __init__(self, data: SuiteData, *, seed: int = 0) -> None:
        self.version = data.version
        self._data = data
        self._template = only_template(data)
        self._seed = seed

    def protocol(self) -> dict[str, JsonValue]:
        return {
            "data": dict(self._data.files),
            "baseline": self._data.baseline_name,
            "templates": template_shas(self._data.templates),
            "answer_settings": {"max_tokens": MAX_TOKENS, "temperature": 0.0},
        }

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
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
                template=self._template,
                fields=_fields(prompt, opponent, answer, order),
            )
            for order in ORDERS
        ]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return `arena_hard` = 100 * (wins + draws / 2) / games, where a ">>" verdict counts three times.

        If one game of a question is broken, the other still counts."""
        verdicts = verdicts_by_slot(judgments, answers)
        times = draws(answers)
        headline = self._score(prompts, verdicts, times)
        by_id = {prompt.id: prompt for prompt in prompts}
        groups = categories(prompts)
        by_category = {
            category: {"arena_hard": self._score([by_id[prompt_id] for prompt_id in ids], verdicts, times)}
            for category, ids in groups.items()
            if len(groups) > 1
        }
        reference = _reference(prompts, verdicts, times, headline)
        tokens = average_tokens(prompts, answers, times)
        notes = (*unscored_note(headline, "games"), *reference_note(reference))
        if tokens.value is not None:
            notes += (
                "avg_tokens: by the model's own tokenizer, or as imported rows have it; published: by cl100k_base",
            )
        scores = {"arena_hard": headline, "arena_hard_reference": reference, "avg_tokens": tokens}
        return SuiteScores(scores=scores, by_category=by_category, notes=notes)

    def _score(self, prompts: Sequence[Prompt], verdicts: Verdicts, times: int) -> Score:
        slots = _slots(prompts, times)
        units = [slot_unit(slot.prompt_id, verdicts[slot]) for slot in slots if verdicts.get(slot)]
        return mean_score(units, len(slots), scale=100.0, seed=self._seed)


def _slots(prompts: Sequence[Prompt], times: int) -> list[Slot]:
    return [Slot(prompt.id, index, order=order) for prompt in prompts for index in range(times) for order in ORDERS]


def _reference(prompts: Sequence[Prompt], verdicts: Verdicts, times: int, headline: Score) -> Score:
    """Return the score with the reference's interval: weighted rows, 100 rounds, numpy seed 42, this model alone."""
    rows = battles([verdicts.get(slot, ()) for slot in _slots(prompts, times)])
    interval = row_interval([verdict.value for verdict in rows], [verdict_weight(verdict) for verdict in rows])
    limits: dict[str, float | None] = {"ci_low": None, "ci_high": None, "se": None}
    if interval is not None:
        limits = {"ci_low": interval.low, "ci_high": interval.high, "se": interval.se}
    return headline.model_copy(update=limits)


def reference_note(reference: Score) -> tuple[str, ...]:
    """Return a note on why the reference's interval is missing, if its score is not."""
    if reference.value is None or reference.ci_low is not None:
        return ()
    return ("arena_hard_reference has no interval: the reference's is of one verdict a game, here there are several",)


def battles(games: Sequence[Sequence[Verdict]]) -> list[Verdict]:
    """Return the games as rows of the reference's interval: one verdict each, won, drawn or lost.

    Empty if a game has several verdicts (repeats) or a fraction (a jury's mean), which would count as independent rows.
    """
    verdicts = [verdict for game in games for verdict in game]
    single = all(len(game) <= 1 for game in games) and all(verdict.value in (0.0, 0.5, 1.0) for verdict in verdicts)
    return verdicts if single else []


def _fields(prompt: Prompt, baseline: Answer, answer: Answer, order: Order) -> dict[str, str]:
    first, second = (baseline, answer) if order == "ab" else (answer, baseline)
    return {"question_1": prompt.turns[0], "answer_1": first.turns[0], "answer_2": second.turns[0]}


def average_tokens(prompts: Sequence[Prompt], answers: Sequence[Answer], times: int) -> Score:
    """Return the floor of the mean answer length in tokens, as in published tables, over answers with a token count."""
    prompt_ids = {prompt.id for prompt in prompts}
    counts = [
        sum(answer.completion_tokens)
        for (prompt_id, _), answer in latest_answers(answers).items()
        if prompt_id in prompt_ids and answer.error is None and answer.completion_tokens
    ]
    unscored = len(prompt_ids) * times - len(counts)
    return Score(value=float(sum(counts) // len(counts)) if counts else None, n=len(counts), unscored=unscored)


# --------------------------------------------------------------------------------------------------- official data


def load_official(options: SuiteOptions) -> SuiteData:
    """Load the pinned questions, the baseline's answers, and the judge's prompt."""
    paths = official_files(options, NAMES)
    prompts = tuple(
        Prompt(
            id=row["question_id"],
            turns=(row["turns"][0]["content"],),
            category=row["category"],
            cluster=row["cluster"],
        )
        for row in read_json_lines(paths["arena_hard/questions"])
    )
    baseline = {
        row["question_id"]: Answer(
            prompt_id=row["question_id"],
            model=BASELINE,
            turns=(row["choices"][0]["turns"][0]["content"],),
            finish=("stop",),
        )
        for row in read_json_lines(paths["arena_hard/baseline"])
    }
    template = _read_template(paths["arena_hard/judge_config"])
    return SuiteData(
        version="official-1",
        prompts=prompts,
        templates={template.name: template},
        baseline_name=BASELINE,
        baseline=baseline,
        files=pinned(NAMES),
    )


def _read_template(path: Path) -> JudgeTemplate:
    config = yaml.safe_load(path.read_text("utf-8"))
    try:
        return JudgeTemplate(
            name=config["bench_name"],
            system=config["system_prompt"],
            user=config["prompt_template"][0],
            parser="arena_label",
            reask=REASK,
            temperature=config["temperature"],
            max_tokens=config["max_tokens"],
        )
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is not Arena-Hard's judge configuration: {error!r}") from None
