"""Compare MT-Bench answers with a baseline's in both orders; two games that disagree are a tie.

>>> won, lost = Preference(value=1.0), Preference(value=0.0)
>>> Games("81", 1, first=won, second=won).outcome, Games("81", 1, first=won, second=lost).outcome
(1.0, 0.5)

`mt_bench_pairs:FILE` names a file with the baseline's answers in FastChat's format; the default is the official
baseline, gpt-3.5-turbo. Questions and answer settings are MT-Bench's.

Source: FastChat gen_judgment.py --mode pairwise-baseline and show_result.py, display_result_pairwise, at the pinned
revision: a row counts only if both games have a winner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from ...records import Answer, JudgeTask, Judgment, Preference, Prompt, Sampling, Score, SuiteScores
from ...records.errors import ConfigError, DataError
from ...records.protocols import SuiteData, SuiteOptions
from ...records.reasoning import split_reasoning
from ...store.official import expected_sha256, pinned_files, sha256_of
from ..files import FAILED_CALL, official_files, read_json_lines
from ..scoring import PREFERENCES, Slot, Unit, Verdicts, categories, draws, mean_score, score_notes, verdicts_by_slot
from .facts import PAIRS
from .suite import ORDERS, MtBench, load_official, pair_tasks, pair_templates


@dataclass(frozen=True)
class Games:
    """One turn of a question judged in both orders; preferences are the candidate's (1 win, 0.5 tie, 0 loss)."""

    prompt_id: str
    turn: int
    first: Preference | None
    """None: no verdict."""
    second: Preference | None

    @property
    def outcome(self) -> float | None:
        """Return 1 if the candidate wins both games, 0 if it loses both, else 0.5, or None if one game failed."""
        if self.first is None or self.second is None:
            return None
        return self.first.value if self.first.value == self.second.value else 0.5


def score_pairs(
    prompts: Sequence[Prompt], games: Sequence[Games], expected: int, *, intervals: bool = True
) -> SuiteScores:
    """Return `win_rate` (wins over all) and `win_rate_adjusted` (a tie: half a win), percent of `expected` pairs."""

    def rates_of(part: Sequence[Games], expected_pairs: int) -> dict[str, Score]:
        outcomes = [(pair.prompt_id, pair.outcome) for pair in part]
        values = [(prompt_id, value) for prompt_id, value in outcomes if value is not None]
        wins = [Unit(prompt_id, float(value == 1)) for prompt_id, value in values]
        halves = [Unit(prompt_id, value) for prompt_id, value in values]
        return {
            name: mean_score(units, expected_pairs, scale=100.0, bounds=PREFERENCES, intervals=intervals)
            for name, units in (("win_rate", wins), ("win_rate_adjusted", halves))
        }

    scores = rates_of(games, expected)
    by_category = {}
    for category, ids in categories(prompts).items():
        category_games = [pair for pair in games if pair.prompt_id in ids]
        by_category[category] = rates_of(category_games, max(len(category_games), expected * len(ids) // len(prompts)))
    notes = score_notes(scores["win_rate"], "pairs of games", intervals=intervals)
    return SuiteScores(scores=scores, by_category=by_category, notes=notes)


# ------------------------------------------------------------------------------------------------------------ the suite


BASELINE_FILE = "mt_bench_pairs/baseline"
"""Answers of gpt-3.5-turbo: gen_judgment.py --baseline-model."""


def build(options: SuiteOptions) -> MtBenchPairs:
    """Build the suite (`fusion_harness.suites` entry point).

    Raise ConfigError for another edition or a missing baseline file, DataError for an invalid one."""
    if options.edition != "official":
        raise ConfigError(f"mt_bench_pairs has no edition {options.edition!r}; editions: official")
    data, path = load_official(options), _baseline_file(options)
    sha = sha256_of(path) if options.argument else expected_sha256(pinned_files()[BASELINE_FILE], options.cache_dir)
    name, answers = read_answers(path)
    missing = [prompt.id for prompt in data.prompts if prompt.id not in answers]
    if missing:
        raise DataError(f"{path} has no answer of two turns to {len(missing)} questions, e.g. {missing[0]}")
    pairs = replace(
        data,
        templates=pair_templates(options),
        baseline_name=name,
        baseline=answers,
        files=data.files | {BASELINE_FILE: sha or "unknown"},
    )
    return MtBenchPairs(pairs, references=options.references)


def without_baseline(options: SuiteOptions) -> MtBenchPairs:
    """Build the suite for imported verdicts against any baseline: it has questions and scoring, but no judge tasks."""
    if options.edition != "official":
        raise ConfigError(f"mt_bench_pairs has no edition {options.edition!r}; editions: official")
    return MtBenchPairs(replace(load_official(options), templates={}), references=options.references)


def _baseline_file(options: SuiteOptions) -> Path:
    if not options.argument:
        return official_files(options, [BASELINE_FILE])[BASELINE_FILE]
    path = Path(options.argument)
    if not path.is_file():
        raise ConfigError(f"no file with a baseline's answers: {options.argument!r}; use mt_bench_pairs:FILE.jsonl")
    return path


def read_answers(path: Path) -> tuple[str, dict[str, Answer]]:
    """Return the model's name and its first answer to each question, from a file in FastChat's answer format."""
    answers: dict[str, Answer] = {}
    names: set[str] = set()
    for row in read_json_lines(path):
        match row:
            case {"question_id": question, "choices": [{"turns": [str(first), str(second)]}, *_]}:
                name = str(row.get("model_id", path.stem))
                names.add(name)
                answers[str(question)] = Answer(
                    prompt_id=str(question),
                    model=name,
                    turns=(split_reasoning(first).visible, split_reasoning(second).visible),
                    finish=("stop", "stop"),
                )
    if len(names) != 1:
        raise DataError(f"{path} contains answers of {len(names)} models in FastChat's format; expected one")
    return names.pop(), answers


class MtBenchPairs:
    """Each turn of each question judged twice with swapped answers; two games that differ are a tie."""

    name = PAIRS.name
    headline = PAIRS.headline
    official_judges = PAIRS.official_judges

    def __init__(self, data: SuiteData, *, references: str = "official") -> None:
        self.version = data.version
        self._data = data
        self._bench = MtBench(data, references=references)

    def protocol(self) -> dict[str, JsonValue]:
        return {**self._bench.protocol(), "baseline": self._data.baseline_name}

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        return self._bench.sampling(prompt)

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return both games of each turn, up to the first turn that the baseline's file marks as failed."""
        if answer.error is not None:
            return ()
        baseline, tasks = self._data.baseline[prompt.id], []
        for turn, baseline_turn in enumerate(baseline.turns[: len(answer.turns)], start=1):
            if baseline_turn.strip() == FAILED_CALL:
                break
            tasks += pair_tasks(prompt, answer, baseline, turn, self._data.templates)
        return tasks

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return `win_rate` and `win_rate_adjusted` over pairs of games that both have a winner (show_result.py)."""
        verdicts = verdicts_by_slot(judgments, answers)
        games = [
            Games(prompt.id, turn, *(_verdict(verdicts, Slot(prompt.id, index, turn, order)) for order in ORDERS))
            for prompt in prompts
            for index in range(draws(answers))
            for turn in range(1, len(prompt.turns) + 1)
        ]
        return score_pairs(prompts, games, len(games))


def _verdict(verdicts: Verdicts, slot: Slot) -> Preference | None:
    """Return one game's winner; for several verdicts (repeats, a jury) the side of the majority."""
    values = [verdict.value for verdict in verdicts.get(slot, ())]
    if not values:
        return None
    mean = sum(values) / len(values)
    return Preference(value=0.5 if mean == 0.5 else float(mean > 0.5))
