"""Two models' answers shown to the judge side by side, in both orders: far sharper than two win rates against a third.

Words and parsers are those of the suite whose questions are asked; a game is worth the candidate's preference (1 win,
0.5 tie, 0 loss), whatever the suite's own weights, and the win rate is the mean over games, question the unit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from pydantic import JsonValue

from ..records import Answer, JudgeTask, Judgment, Prompt, Sampling, Score, SuiteScores, digest
from ..scoring import Unit, categories, draws, mean_score, unscored_note, verdicts_by_slot

PREFIX = "head_to_head_"


@runtime_checkable
class PlaysGames(Protocol):
    """A suite with words for a comparison of two answers."""

    name: str
    version: str

    def prompts(self) -> Sequence[Prompt]: ...

    def sampling(self, prompt: Prompt) -> Sampling: ...

    def games(self, prompt: Prompt, answer: Answer, other: Answer) -> Sequence[JudgeTask]:
        """Every game of these two answers, in both orders; `other` is the tasks' baseline. Raises ConfigError or
        DataError where this edition has no words for it."""
        ...


class HeadToHead:
    """A suite's questions, one model's answers against another's."""

    headline = "win_rate"

    def __init__(self, suite: PlaysGames, other: str, answers: Sequence[Answer], *, seed: int = 0) -> None:
        self.name = f"{PREFIX}{suite.name}"
        self.version = suite.version
        self._suite = suite
        self._other = other
        self._answers: Mapping[str, Answer] = {one.key: one for one in answers if one.error is None}
        self._seed = seed

    def protocol(self) -> dict[str, JsonValue]:
        """The other model's answers are part of it; the words are named by their digests."""
        answers = digest(sorted([one.key, one.sha] for one in self._answers.values()))[:12]
        templates = sorted({task.template.sha[:12] for prompt in self.prompts() for task in self._example(prompt)})
        return {"baseline": self._other, "baseline_answers": answers, "templates": list(templates)}

    def _example(self, prompt: Prompt) -> Sequence[JudgeTask]:
        other = self._of(prompt.id, 0)
        return self._suite.games(prompt, other, other) if other is not None else ()

    def prompts(self) -> Sequence[Prompt]:
        return self._suite.prompts()

    def sampling(self, prompt: Prompt) -> Sampling:
        """One draw: what is asked is recorded already."""
        return self._suite.sampling(prompt).model_copy(update={"n": 1})

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        other = self._of(prompt.id, answer.index)
        if answer.error is not None or other is None:
            return ()
        return self._suite.games(prompt, answer, other)

    def _of(self, prompt_id: str, index: int) -> Answer | None:
        return self._answers.get(f"{prompt_id}#{index}") or self._answers.get(f"{prompt_id}#0")

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """`win_rate`: percent of the games' points; `n_won`, `n_tied`, `n_lost`: questions, over all their games."""
        units = _units(answers, judgments)
        expected = {prompt.id: 2 * len(prompt.turns) * draws(answers) for prompt in prompts}
        total = self._rate(units, [prompt.id for prompt in prompts], expected)
        groups = categories(prompts)
        by_category = {
            name: {"win_rate": self._rate(units, ids, expected)} for name, ids in groups.items() if len(groups) > 1
        }
        scores = {"win_rate": total, **_won(units, total)}
        return SuiteScores(scores=scores, by_category=by_category, notes=unscored_note(total, "games"))

    def _rate(self, units: Sequence[Unit], ids: Sequence[str], expected: Mapping[str, int]) -> Score:
        asked = set(ids)
        some = [unit for unit in units if unit.prompt_id in asked]
        return mean_score(some, sum(expected[one] for one in ids), scale=100.0, seed=self._seed)


def _units(answers: Sequence[Answer], judgments: Sequence[Judgment]) -> list[Unit]:
    """One a game; repeats and a jury's members count as their mean."""
    found = verdicts_by_slot(judgments, answers)
    return [
        Unit(slot.prompt_id, sum(verdict.value for verdict in verdicts) / len(verdicts))
        for slot, verdicts in found.items()
        if verdicts
    ]


def _won(units: Sequence[Unit], total: Score) -> dict[str, Score]:
    """Questions won, tied and lost over all their games."""
    points: dict[str, list[float]] = {}
    for unit in units:
        points.setdefault(unit.prompt_id, []).append(unit.value)
    means = [sum(values) / len(values) for values in points.values()]
    counts = {
        "n_won": sum(mean > 0.5 for mean in means),
        "n_tied": sum(mean == 0.5 for mean in means),
        "n_lost": sum(mean < 0.5 for mean in means),
    }
    return {name: Score(value=float(value), n=total.n, unscored=total.unscored) for name, value in counts.items()}
