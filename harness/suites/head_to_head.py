"""Show the judge two models' answers side by side, in both orders: far sharper than two win rates against a third.

Prompts and parsers are those of the questions' suite. A game counts as the candidate's preference (1 win, 0.5 tie,
0 loss), without the suite's own weights; the win rate is the mean over games, with questions as the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from ..records import Answer, JudgeTask, Judgment, Prompt, Sampling, Score, SuiteScores
from ..records.asking import answers_digest
from ..records.judge_choice import GAMES
from .scoring import PREFERENCES, Unit, categories, draws, mean_score, score_notes, verdicts_by_slot


@runtime_checkable
class PlaysGames(Protocol):
    """A suite with prompts for comparing two answers."""

    name: str
    version: str

    def prompts(self) -> Sequence[Prompt]: ...

    def sampling(self, prompt: Prompt) -> Sampling: ...

    def games(self, prompt: Prompt, answer: Answer, opponent: Answer) -> Sequence[JudgeTask]:
        """Return every game of these two answers, in both orders; `opponent` is the tasks' baseline.

        Raise ConfigError or DataError if this edition has no prompts for it.
        """
        ...


class HeadToHead:
    """A suite's questions, with one model's answers judged against another's."""

    headline = "win_rate"

    def __init__(self, suite: PlaysGames, opponent: str, answers: Sequence[Answer]) -> None:
        self.name = f"{GAMES}{suite.name}"
        self.version = suite.version
        self._suite = suite
        self._opponent = opponent
        self._answers: Mapping[str, Answer] = {answer.key: answer for answer in answers if answer.error is None}

    def protocol(self) -> dict[str, JsonValue]:
        """Return the protocol; it includes digests of the other model's answers and of the templates."""
        answers = answers_digest(list(self._answers.values()))
        templates = sorted({task.template.sha[:12] for prompt in self.prompts() for task in self._example(prompt)})
        return {"baseline": self._opponent, "baseline_answers": answers, "templates": list(templates)}

    def _example(self, prompt: Prompt) -> Sequence[JudgeTask]:
        opponent = self._opponent_of(prompt.id, 0)
        return self._suite.games(prompt, opponent, opponent) if opponent is not None else ()

    def prompts(self) -> Sequence[Prompt]:
        return self._suite.prompts()

    def sampling(self, prompt: Prompt) -> Sampling:
        """Return settings for one draw, because the answers are recorded already."""
        return self._suite.sampling(prompt).model_copy(update={"n": 1})

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        opponent = self._opponent_of(prompt.id, answer.index)
        if answer.error is not None or opponent is None:
            return ()
        return self._suite.games(prompt, answer, opponent)

    def _opponent_of(self, prompt_id: str, index: int) -> Answer | None:
        # an opponent with fewer draws meets the further ones with its first answer
        return self._answers.get(f"{prompt_id}#{index}") or self._answers.get(f"{prompt_id}#0")

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return `win_rate` (percent of the games' points) and, in questions, `n_won`, `n_tied` and `n_lost`."""
        units = _units(answers, judgments)
        expected = {prompt.id: 2 * len(prompt.turns) * draws(answers) for prompt in prompts}
        total = self._rate(units, [prompt.id for prompt in prompts], expected)
        groups = categories(prompts)
        by_category = {
            name: {"win_rate": self._rate(units, ids, expected)} for name, ids in groups.items() if len(groups) > 1
        }
        scores = {"win_rate": total, **_won(units, total)}
        return SuiteScores(scores=scores, by_category=by_category, notes=score_notes(total, "games"))

    def _rate(self, units: Sequence[Unit], ids: Sequence[str], expected: Mapping[str, int]) -> Score:
        prompt_ids = set(ids)
        category_units = [unit for unit in units if unit.prompt_id in prompt_ids]
        total = sum(expected[prompt_id] for prompt_id in ids)
        return mean_score(category_units, total, scale=100.0, bounds=PREFERENCES)


def _units(answers: Sequence[Answer], judgments: Sequence[Judgment]) -> list[Unit]:
    verdicts = verdicts_by_slot(judgments, answers)
    return [
        Unit(slot.prompt_id, sum(verdict.value for verdict in slot_verdicts) / len(slot_verdicts))
        for slot, slot_verdicts in verdicts.items()
        if slot_verdicts
    ]


def _won(units: Sequence[Unit], total: Score) -> dict[str, Score]:
    points: dict[str, list[float]] = {}
    for unit in units:
        points.setdefault(unit.prompt_id, []).append(unit.value)
    means = [sum(values) / len(values) for values in points.values()]
    counts = {
        "n_won": sum(mean > 0.5 for mean in means),
        "n_tied": sum(mean == 0.5 for mean in means),
        "n_lost": sum(mean < 0.5 for mean in means),
    }
    return {
        name: Score(value=float(value) if total.n else None, n=total.n, unscored=total.unscored)
        for name, value in counts.items()
    }
