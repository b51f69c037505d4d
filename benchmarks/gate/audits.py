"""Audits and cyclic juries on recorded pairs of judges: `python -m benchmarks.gate.audits`; needs HARNESS_PUBLISHED.

MT-Bench's pairwise comparisons have three judges: expert people, GPT-4's pairwise verdicts, and GPT-4's single ratings,
compared. AlpacaEval's have two: weighted_alpaca_eval_gpt4_turbo, and the rule that the longer answer wins. A benchmark
is simulated by drawing N questions with replacement from the recorded ones, whose score by the expensive judge is the
truth; of these N the expensive judge sees n, drawn without replacement.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np

from harness.pages.text import markdown_table
from harness.records.protocols import SuiteOptions
from harness.stats.intervals import FloatArray
from harness.suites.files import read_files
from harness.suites.mt_bench.recorded import load
from harness.suites.recorded import DataFolder, RecordedComparison
from harness.suites.scoring import PREFERENCES, QuestionSums, audited_sums, sums_difference

from .published import published_root

DATA_SETS = 1000
DESIGNS = ((80, 50), (500, 50), (500, 100), (500, 200))
"""Questions, and those that the expensive judge sees."""
CYCLIC_SETS, CYCLIC_QUESTIONS = 2000, 480
Sums = tuple[FloatArray, FloatArray]
"""Above and below of each question."""
Table = dict[str, dict[str, Sums]]
"""Judge -> model -> its terms over the recorded questions, in one order."""
HEAD = (
    *("cheap judge", "expensive judge", "questions", "audited", "models", "score covered", "worst model"),
    *("worth", "pairs", "difference covered", "worth"),
)
CYCLIC_HEAD = ("who judges 480 questions", "verdicts", "score: error", "of it bias", "difference: error", "of it bias")


def audit_lines(_: int) -> list[str]:
    """Audits of `DATA_SETS` data sets per model or pair."""
    games, pairs = mt_bench(published_root()), alpaca_eval(published_root())
    rng = np.random.default_rng(0)
    chosen = [("gpt-4 pairs", "people"), ("gpt-4 ratings", "people"), ("gpt-4 ratings", "gpt-4 pairs")]
    rows = [row for cheap, dear in chosen for row in audit_rows((cheap, dear), games, DESIGNS, rng)]
    rows += audit_rows(("longest", "gpt-4-turbo"), pairs, ((805, 50), (805, 100), (805, 200)), rng)
    lines = [*markdown_table(HEAD, rows, HEAD[:2]), ""]
    lines += ["### Cyclic jury of people, gpt-4 pairs and gpt-4 ratings; errors against the mean of all three", ""]
    return lines + markdown_table(CYCLIC_HEAD, cyclic_rows(games, rng), CYCLIC_HEAD[:1])


def mt_bench(root: Path) -> Table:
    """Return each judge's points of each model against the others, of the comparisons that all three judged."""
    data = load(DataFolder(root), SuiteOptions(mirror=os.environ.get("HARNESS_MIRROR")))
    ratings = {(row.prompt.id, row.turn, row.model): row.recorded for row in data.ratings}

    def rated(row: RecordedComparison) -> float | None:
        values = [ratings.get((row.prompt.id, row.turn or 1, model)) for model in (row.candidate, row.baseline)]
        return None if values[0] is None or values[1] is None else 0.5 + 0.5 * float(np.sign(values[0] - values[1]))

    judges: Mapping[str, Callable[[RecordedComparison], float | None]] = {
        "people": lambda row: float(np.mean(row.people)) if row.people else None,
        "gpt-4 pairs": lambda row: row.recorded,
        "gpt-4 ratings": rated,
    }
    points: dict[str, dict[str, dict[str, list[float]]]] = {
        name: defaultdict(lambda: defaultdict(list)) for name in judges
    }
    for row in data.comparisons:
        verdicts = {name: judge(row) for name, judge in judges.items()}
        for name, verdict in verdicts.items():
            if verdict is not None and None not in verdicts.values():
                points[name][row.candidate][row.prompt.id].append(verdict)
                points[name][row.baseline][row.prompt.id].append(1 - verdict)
    return {name: _sums(by_model) for name, by_model in points.items()}


def alpaca_eval(root: Path) -> Table:
    """Return the two judges' preferences for each model over the baseline."""
    points: dict[str, dict[str, dict[str, list[float]]]] = {
        name: defaultdict(lambda: defaultdict(list)) for name in ("longest", "gpt-4-turbo")
    }
    for file in read_files([root / "alpaca_eval/annotations"]):
        for row in file.rows:
            match row:
                case {"generator_2": str(model), "instruction": str(question), "preference": float(preference)}:
                    longer = 0.5 + 0.5 * float(np.sign(len(str(row["output_2"])) - len(str(row["output_1"]))))
                    points["gpt-4-turbo"][model][question].append(preference - 1)
                    points["longest"][model][question].append(longer)
    return {name: _sums(by_model) for name, by_model in points.items()}


def _sums(points: Mapping[str, Mapping[str, list[float]]]) -> dict[str, Sums]:
    """Return model -> terms, over the questions that every model has."""
    shared = sorted(set.intersection(*(set(by_question) for by_question in points.values())))
    return {
        model: (
            np.array([sum(by_question[question]) for question in shared]),
            np.array([float(len(by_question[question])) for question in shared]),
        )
        for model, by_question in sorted(points.items())
    }


def audit_rows(
    judges: tuple[str, str], table: Table, designs: tuple[tuple[int, int], ...], rng: np.random.Generator
) -> Iterator[list[str]]:
    """Yield one row per design: shares of 95 % intervals that hold the truth, and what the audit was worth."""
    cheap, dear = (table[name] for name in judges)
    models = list(dear)
    truths = {model: float(dear[model][0].sum() / dear[model][1].sum()) for model in models}
    pairs = list(combinations(models, 2))
    recorded = len(dear[models[0]][0])
    for questions, audited in designs:
        covered = dict.fromkeys(models, 0)
        both, worth, pair_worth = 0, [], []
        for _ in range(DATA_SETS):
            drawn, at = rng.integers(recorded, size=questions), rng.permutation(questions)[:audited]
            estimates, plain = {}, {}
            ids = np.array(list(map(str, range(questions))))
            for model in models:
                sides = [(above[drawn], below[drawn]) for above, below in (cheap[model], dear[model])]
                above, below = sides[1][0][at], sides[1][1][at]
                audit = QuestionSums("win_rate", 1.0, tuple(ids[at]), above, below, PREFERENCES)
                estimate = audited_sums(QuestionSums("win_rate", 1.0, tuple(ids), *sides[0], PREFERENCES), audit)
                assert estimate is not None, "there are fifty audited questions"
                estimates[model] = estimate.sums
                ratio = float(above.sum() / below.sum())
                plain[model] = (above - ratio * below) / below.mean()
                interval = estimate.ratio.interval(0.0, 1.0)
                covered[model] += interval.low <= truths[model] <= interval.high
                worth.append(estimate.ratio.effective)
            for first, second in pairs:
                apart = estimates[second].above - estimates[first].above
                both += _holds(estimates[first], estimates[second], truths[second] - truths[first])
                spread = float((plain[second] - plain[first]).std(ddof=1))
                pair_worth.append((spread / float(apart.std(ddof=1) / questions**0.5)) ** 2)
        shares = [hits / DATA_SETS for hits in covered.values()]
        yield [
            *judges,
            *(str(questions), str(audited), str(len(models)), f"{np.mean(shares):.3f}", f"{min(shares):.3f}"),
            *(f"{np.median(worth):.0f}", str(len(pairs)), f"{both / len(pairs) / DATA_SETS:.3f}"),
            f"{np.median(pair_worth):.0f}",
        ]


def _holds(first: QuestionSums, second: QuestionSums, truth: float) -> bool:
    estimate = sums_difference(second, first)
    assert estimate is not None, "there are fifty questions at least"
    low, high = estimate.interval()
    return low <= truth <= high


def cyclic_rows(table: Table, rng: np.random.Generator) -> list[list[str]]:
    """Return the root mean squared error of each design in percent points, over models and pairs of models."""
    judges, models = list(table), list(table["people"])
    above = np.array([[table[judge][model][0] for model in models] for judge in judges])
    below = np.array([[table[judge][model][1] for model in models] for judge in judges])
    truth = 100 * (above.sum(axis=2) / below.sum(axis=2)).mean(axis=0)
    errors: dict[str, list[FloatArray]] = defaultdict(list)
    members = np.arange(CYCLIC_QUESTIONS) % len(judges)
    for _ in range(CYCLIC_SETS):
        drawn = rng.integers(above.shape[2], size=CYCLIC_QUESTIONS)
        part = above[:, :, drawn], below[:, :, drawn]
        scores = 100 * part[0].sum(axis=2) / part[1].sum(axis=2)
        for judge, score in zip(judges, scores, strict=True):
            errors[f"{judge} alone"].append(score - truth)
        turn = rng.permutation(members)
        asked = [side[turn, :, np.arange(CYCLIC_QUESTIONS)].sum(axis=0) for side in part]
        errors["cyclic jury"].append(100 * asked[0] / asked[1] - truth)
        errors["jury, mean"].append(scores.mean(axis=0) - truth)
    ends = np.array(list(combinations(range(len(models)), 2)))
    rows = []
    for name, per_set in errors.items():
        score = np.array(per_set)
        difference = score[:, ends[:, 1]] - score[:, ends[:, 0]]
        cells = [f"{_rms(side):.1f}" for values in (score, difference) for side in (values, values.mean(axis=0))]
        rows.append([name, str(CYCLIC_QUESTIONS * (len(judges) if name == "jury, mean" else 1)), *cells])
    return rows


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(values**2)))
