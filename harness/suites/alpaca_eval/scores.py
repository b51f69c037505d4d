"""Compute AlpacaEval's scores from preferences: win rates, counts, and the length-controlled win rate."""

from __future__ import annotations

import hashlib
import math
import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

import numpy as np

from ...records import Answer, Judgment, Prompt, Score, SuiteScores
from ...records.errors import ConfigError
from ...records.protocols import Refits, RunRows, SuiteData
from ...stats.intervals import FloatArray
from ...stats.length_control import (
    REFITS,
    FoldOrder,
    LengthControl,
    LengthRows,
    control_length,
    control_length_interval,
    control_length_replicates,
)
from ...store.files import cache_folder
from ..scoring import (
    MIN_SCORED,
    PREFERENCES,
    Unit,
    categories,
    draws,
    latest_answers,
    mean_score,
    score_notes,
    verdicts_by_slot,
)

NORMAL_95 = 1.959963984540054


@dataclass(frozen=True)
class ScoreRules:
    """The options of the scoring."""

    seed: int = 0
    """Seed of every bootstrap."""
    order: FoldOrder = "published"
    intervals: bool = True
    """False: only point estimates and the reference's errors."""
    min_scored: float = MIN_SCORED
    """Share of the instructions that must have a verdict for a rate."""


DEFAULT_RULES = ScoreRules()


@dataclass(frozen=True)
class JudgedAnswers:
    """What scoring needs from one model's answers and judgments."""

    lengths: Mapping[str, Sequence[int]]
    """Prompt id -> characters of the candidate's answers."""
    baseline_lengths: Mapping[str, int]
    preferences: Mapping[str, Sequence[float]]
    """Prompt id -> one preference per answer, in the prompts' order, because a seeded bootstrap depends on it."""
    times: int = 1
    """Answers per prompt."""


def score_preferences(
    data: SuiteData,
    prompts: Sequence[Prompt],
    answers: Sequence[Answer],
    judgments: Sequence[Judgment],
    rules: ScoreRules = DEFAULT_RULES,
) -> SuiteScores:
    """Return all metrics of one model; rates in percent, counts and lengths unscaled."""
    return score_judged(data, prompts, judged_of(data, prompts, answers, judgments), rules)


def judged_of(
    data: SuiteData, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]
) -> JudgedAnswers:
    return JudgedAnswers(
        lengths=_lengths(prompts, answers),
        baseline_lengths={prompt_id: len(answer.turns[0]) for prompt_id, answer in data.baseline.items()},
        preferences=_preferences(prompts, answers, judgments),
        times=draws(answers),
    )


def score_judged(data: SuiteData, prompts: Sequence[Prompt], judged: JudgedAnswers, rules: ScoreRules) -> SuiteScores:
    """Return all metrics from lengths and preferences."""
    preferences = judged.preferences
    expected = len(prompts) * judged.times
    units = [Unit(prompt_id, value) for prompt_id, values in preferences.items() for value in values]
    win_rate = _mean(units, expected, rules)
    notes = score_notes(win_rate, "instructions", intervals=rules.intervals)
    scores = {
        "win_rate": win_rate,
        **_counted(units, win_rate, rules),
        "avg_length": _average_length(judged.lengths, win_rate),
    }
    if not win_rate.n or win_rate.n < rules.min_scored * expected:
        rates = ("lc_win_rate", "lc_win_rate_reference", "win_rate", "discrete_win_rate", "standard_error")
        scores |= {name: Score(value=None, n=win_rate.n, unscored=win_rate.unscored) for name in rates}
        lc_notes: tuple[str, ...] = (_too_few(win_rate.n, rules),)
    else:
        lc, lc_notes = _length_controlled(data, prompts, judged, win_rate, rules)
        scores = {**lc, **scores}
    by_category = {
        category: {"win_rate": _win_rate_of(preferences, ids, judged.times, rules)}
        for category, ids in categories(prompts).items()
    }
    return SuiteScores(scores=scores, by_category=by_category, notes=(*notes, *lc_notes))


def _mean(units: Sequence[Unit], expected: int, rules: ScoreRules) -> Score:
    return mean_score(units, expected, scale=100.0, bounds=PREFERENCES, intervals=rules.intervals)


def _win_rate_of(
    preferences: Mapping[str, Sequence[float]], ids: Sequence[str], times: int, rules: ScoreRules
) -> Score:
    units = [Unit(prompt_id, value) for prompt_id in ids for value in preferences.get(prompt_id, ())]
    return _mean(units, len(ids) * times, rules)


def _too_few(scored: int, rules: ScoreRules) -> str:
    if not scored:
        return "no instruction is scored: no win rate is given"
    return f"under {rules.min_scored:.0%} of the instructions are scored: no win rate is given"


def _lengths(prompts: Sequence[Prompt], answers: Sequence[Answer]) -> dict[str, list[int]]:
    prompt_ids = {prompt.id for prompt in prompts}
    lengths: dict[str, list[int]] = defaultdict(list)
    for (prompt_id, _), answer in sorted(latest_answers(answers).items()):
        if prompt_id in prompt_ids and answer.error is None:
            lengths[prompt_id].append(len(answer.turns[0]))
    return lengths


def _preferences(
    prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]
) -> dict[str, list[float]]:
    """Return prompt id -> one preference per answer, in the prompts' order; repeats count as their mean."""
    preferences: dict[str, list[float]] = {prompt.id: [] for prompt in prompts}
    for slot, verdicts in verdicts_by_slot(judgments, answers, ordered=False).items():
        if slot.prompt_id in preferences:
            preferences[slot.prompt_id].append(sum(verdict.value for verdict in verdicts) / len(verdicts))
    return preferences


def _counted(units: Sequence[Unit], win_rate: Score, rules: ScoreRules) -> dict[str, Score]:
    """Return the reference's other metrics (alpaca_eval metrics/winrate.py)."""
    values = [unit.value for unit in units]
    rounded = [Unit(unit.prompt_id, float(unit.value > 0.5) if unit.value != 0.5 else 0.5) for unit in units]
    n, unscored = win_rate.n, win_rate.unscored
    error = 100 * float(np.std(values, ddof=1)) / math.sqrt(n) if n > 1 else None
    counts = {
        "standard_error": error,
        "n_wins": float(sum(value > 0.5 for value in values)),
        "n_wins_base": float(sum(value < 0.5 for value in values)),
        "n_draws": float(sum(value == 0.5 for value in values)),
    }
    scores = {name: Score(value=value if n else None, n=n, unscored=unscored) for name, value in counts.items()}
    return {"discrete_win_rate": _mean(rounded, n + unscored, rules), **scores}


def _average_length(by_prompt: Mapping[str, Sequence[int]], win_rate: Score) -> Score:
    """Return the floor of the mean answer length in characters, over all answers, judged or not."""
    lengths = [length for prompt_lengths in by_prompt.values() for length in prompt_lengths]
    expected = win_rate.n + win_rate.unscored
    value = float(sum(lengths) // len(lengths)) if lengths else None
    return Score(value=value, n=len(lengths), unscored=max(0, expected - len(lengths)))


def _length_controlled(
    data: SuiteData, prompts: Sequence[Prompt], judged: JudgedAnswers, win_rate: Score, rules: ScoreRules
) -> tuple[dict[str, Score], tuple[str, ...]]:
    """Return `lc_win_rate` with the refit interval, `lc_win_rate_reference` with the reference's error, and notes."""
    none = Score(value=None, n=win_rate.n, unscored=win_rate.unscored)
    without = {"lc_win_rate": none, "lc_win_rate_reference": none}
    rows = length_rows(data, prompts, judged)
    if rows is None:
        return without, ("no length-controlled win rate: an instruction has no difficulty",)
    fit = control_length(rows, data.gamed, order=rules.order)
    if fit is None:
        return without, ("no length-controlled win rate: too few verdicts, or all answers equally long",)
    # With a C that gives zero coefficients every refit does the same: the interval would have width zero.
    found_nothing = not any(fit.coefficients)
    skip = found_nothing or not rules.intervals
    interval = None if skip else control_length_interval(rows, data.gamed, fit, seed=rules.seed)
    ours = none.model_copy(update={"value": fit.win_rate}).with_interval(interval)
    notes = ("the length-controlled fit found no pattern (all coefficients 0), so it says 50",) if found_nothing else ()
    return {"lc_win_rate": ours, "lc_win_rate_reference": reference_score(fit, win_rate)}, notes


def reference_score(fit: LengthControl, win_rate: Score) -> Score:
    """Return the length-controlled win rate with the reference's own standard error and the win rate's n."""
    half = NORMAL_95 * fit.reference_se
    return Score(
        value=fit.win_rate,
        ci_low=fit.win_rate - half,
        ci_high=fit.win_rate + half,
        se=fit.reference_se,
        n=win_rate.n,
        unscored=win_rate.unscored,
    )


def length_rows(data: SuiteData, prompts: Sequence[Prompt], judged: JudgedAnswers) -> LengthRows | None:
    """Return one row per prompt that both sides answered, or None if a prompt has no difficulty."""
    rows = []
    for prompt in prompts:
        candidate_lengths, baseline_length = judged.lengths.get(prompt.id), judged.baseline_lengths.get(prompt.id)
        if not candidate_lengths or baseline_length is None:
            continue
        if prompt.id not in data.difficulty:
            return None
        preferences = judged.preferences.get(prompt.id, ())
        preference = sum(preferences) / len(preferences) if preferences else math.nan
        rows.append(
            (preference, baseline_length - sum(candidate_lengths) / len(candidate_lengths), data.difficulty[prompt.id])
        )
    table = np.array(rows, dtype=np.float64).reshape(-1, 3)
    return LengthRows(preference=table[:, 0], length_difference=table[:, 1], difficulty=table[:, 2])


# ------------------------------------------------------------------------------------------------- refits of two models
# Both models are refitted on the same resamples of the instructions.


@dataclass(frozen=True)
class LengthRefits:
    """A length-controlled win rate in percent, and its refits on resampled instructions, shape (refits,)."""

    win_rate: float
    replicates: FloatArray


DrawsRefits = Callable[..., LengthRefits | None]
"""`length_refits`, or the same with a memory."""


def length_refits(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], *, seed: int = 0
) -> LengthRefits | None:
    """Return the fit of one model and its refits.

    None if it cannot be fitted, or if all its coefficients are zero: its refits would be meaningless.
    """
    fit = control_length(rows, gamed)
    if fit is None or not any(fit.coefficients):
        return None
    replicates = control_length_replicates(rows, gamed, fit, seed=seed)
    return None if replicates is None else LengthRefits(fit.win_rate, replicates)


def paired_length_control(
    data: SuiteData,
    prompts: Sequence[Prompt],
    first: RunRows,
    second: RunRows,
    *,
    seed: int = 0,
    draw: DrawsRefits = length_refits,
) -> Refits | None:
    """Return `lc_win_rate` of both models over the instructions judged for both, or None if one has no refits."""
    judged = [judged_of(data, prompts, run.answers, run.judgments) for run in (first, second)]
    both = [
        prompt
        for prompt in prompts
        if all(part.lengths.get(prompt.id) and part.preferences.get(prompt.id) for part in judged)
    ]
    refits = []
    for part in judged:
        rows = length_rows(data, both, part)
        drawn = None if rows is None else draw(rows, data.gamed, seed=seed)
        if drawn is None:
            return None
        refits.append(drawn)
    values, replicates = (refits[0].win_rate, refits[1].win_rate), (refits[0].replicates, refits[1].replicates)
    return Refits("lc_win_rate", values, replicates, len(both))


# --------------------------------------------------------------------------------------------------- refits, remembered
# The refits of a length-controlled win rate, remembered in the cache folder: every board asks for them again.
#
# The key is a digest of all that goes into them, so a file never holds the refits of other rows.


RULES = b"refits 2"
"""To be changed if the fit changes, because files of earlier versions lie in the same folder."""


def remembered_refits(
    rows: LengthRows, gamed: Sequence[tuple[float, float, float]], *, seed: int = 0
) -> LengthRefits | None:
    """Return `length_refits`, from the cache folder if they were drawn before."""
    key = hashlib.sha256(RULES)
    for values in (rows.preference, rows.length_difference, rows.difficulty, np.array(gamed)):
        key.update(np.ascontiguousarray(values, dtype=np.float64).tobytes())
    key.update(f"{seed} {REFITS}".encode())
    with suppress(OSError, ValueError, ConfigError):  # a cache that cannot be read only costs time
        stored: FloatArray = np.load(cache_folder() / "refits" / f"{key.hexdigest()}.npy", allow_pickle=False)
        if stored.shape == (1 + REFITS,):
            return LengthRefits(float(stored[0]), stored[1:])
    refits = length_refits(rows, gamed, seed=seed)
    if refits is not None:
        with suppress(OSError, ConfigError):
            _store(key.hexdigest(), np.append(refits.win_rate, refits.replicates))
    return refits


def _store(key: str, values: FloatArray) -> None:
    folder = cache_folder() / "refits"
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f"{key}.{os.getpid()}"
    with draft.open("wb") as stream:
        np.save(stream, values)
    draft.replace(folder / f"{key}.npy")
