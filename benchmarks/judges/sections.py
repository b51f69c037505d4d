"""The tables of docs/judges.md, each made from recorded judgments or published boards."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from statistics import mean

import numpy as np

from harness.analysis.judge_measures import people_among_themselves, people_by_ratings, with_people
from harness.analysis.judge_replay import (
    CalibrationSpec,
    chosen_items,
    estimate,
    load_sets,
    published_judgments,
    recorded_verdicts,
    report,
)
from harness.judging.calibrated import Calibration, shown
from harness.pages.judge_text import CalibrationGrid, grids, markdown_grid, remarks
from harness.pages.text import escape_markdown
from harness.records import Score
from harness.records.judge_choice import find_judge, judge_files
from harness.records.protocols import SuiteOptions
from harness.stats.agreement import flip_rate, rank_correlation
from harness.suites.arena_hard.rows import V01_LABELS
from harness.suites.files import read_files
from harness.suites.recorded import DataFolder, side

FEW = 10
"""Questions asked twice below which a judge gets no line."""
LISTED = (
    *("humans", "alpaca_eval_gpt4_fn", "alpaca_eval_llama3_70b_fn", "Self-taught-llama3.1-70B-dpo", "claude", "gpt4"),
    *("weighted_alpaca_eval_gpt4_turbo", "chatgpt_fn", "guanaco_33b", "longest"),
)
"""Evaluators of alpaca-eval's own table that stand for the kinds there are."""


@dataclass(frozen=True)
class Sources:
    """Where the recorded judgments lie."""

    published: Path
    options: SuiteOptions


def recorded(sources: Sources) -> str:
    """The retired judges, from their own records: what `harness judge calibrate --judge recorded` prints."""
    found = _recorded(sources)
    lines = "".join(f"- {escape_markdown(remark)}\n" for remark in remarks(found)[:-1])  # the last names a digest
    return "\n".join(markdown_grid(grid) for grid in grids(found)) + "\n" + lines


def _recorded(sources: Sources) -> Calibration:
    spec = CalibrationSpec(judges=(), suites=published_judgments(), sample=None)
    sets = load_sets(spec.suites, DataFolder(sources.published), sources.options)
    return report(spec, sets, chosen_items(spec, sets), ())


# ------------------------------------------------------------------------------------------------- the same, twice


@dataclass(frozen=True)
class Reply:
    """One recorded reply to one prompt."""

    judge: str
    prompt: str
    text: str
    value: float


def twice(sources: Sources) -> str:
    """Judges that were asked the very same prompt more than once: how often two replies say something else."""
    rows = [
        *_twice("MT-Bench ratings", _ratings(sources.published / "mt_bench/judgments")),
        *_twice("Arena-Hard games", _labels(sources.published / "arena_hard/raw_judgments")),
    ]
    columns = (
        "judge and verdict",
        "prompts asked twice",
        "two replies differ [95 %]",
        "opposite side",
        "mean distance",
    )
    return markdown_grid(
        CalibrationGrid("The same prompt, judged more than once, in other words each time", columns, tuple(rows))
    )


def _ratings(folder: Path) -> Iterable[Reply]:
    for file in read_files(sorted(folder.glob("*single*.xz"))):
        for row in file.rows:
            match row:
                case {"judge": [str(judge), *_], "user_prompt": str(prompt), "judgment": str(text), "score": score}:
                    if isinstance(score, int | float) and 1 <= score <= 10:
                        yield Reply(judge, prompt, text, float(score))


def _labels(folder: Path) -> Iterable[Reply]:
    for file in read_files(sorted(folder.glob("*.jsonl.xz"))):
        for row in file.rows:
            games = row.get("games")
            for game in games if isinstance(games, list) else []:
                match game:
                    case {"user_prompt": str(prompt), "judgment": str(text), "score": str(label)} if prompt:
                        if label in V01_LABELS:
                            yield Reply(str(row["judge"]).removesuffix("_2"), prompt, text, V01_LABELS[label][0])


def _twice(kind: str, replies: Iterable[Reply]) -> list[tuple[str, ...]]:
    """Replies with one text are one reply copied between files, and count once."""
    said: dict[str, dict[str, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    for reply in replies:
        said[reply.judge][reply.prompt][reply.text] = reply.value
    rows: list[tuple[str, ...]] = []
    for judge, prompts in sorted(said.items()):
        repeats = [list(texts.values()) for texts in prompts.values() if len(texts) > 1]
        if len(repeats) < FEW:
            continue
        flips = flip_rate(repeats)
        assert flips.interval is not None, "there are enough"
        share = f"{flips.value:.2f} [{max(0.0, flips.interval.low):.2f}, {flips.interval.high:.2f}]"
        opposite = "-" if "rating" in kind else f"{_opposite(repeats):.2f}"
        distance = mean(abs(one[0] - one[1]) for one in repeats)
        rows.append((f"{judge}, {kind}", str(len(repeats)), share, opposite, f"{distance:.2f}"))
    return rows


def _opposite(repeats: list[list[float]]) -> float:
    """Share of prompts whose replies name both winners."""
    return mean(float({"win", "loss"} <= {side(value) for value in some}) for some in repeats)


# -------------------------------------------------------------------------------------------------- another judge


def boards(sources: Sources) -> str:
    """Arena-Hard v2.0's two boards of one day: the same answers under two judges."""
    published = json.loads((sources.published / "arena_hard/published.json").read_text("utf-8"))
    tables = published["v2.0"]["2025-05-01_HEAD"]
    scores = [
        {row["model"]: float(row["score"]) for row in table["rows"]}
        for judge in ("Gemini-2.5 as Judge", "GPT-4.1 as Judge")
        for table in tables
        if judge in table["title"] and table["title"].startswith("Hard Prompt")
    ]
    gemini, gpt = scores
    models = sorted(gemini.keys() & gpt.keys())
    ours, theirs = np.array([gemini[name] for name in models]), np.array([gpt[name] for name in models])
    ranks = rank_correlation(ours[None, :], np.ones((1, len(models))), theirs)
    apart = sorted(models, key=lambda name: gemini[name] - gpt[name])
    rows = [
        ("models on both boards", str(len(models))),
        ("Spearman", f"{ranks.spearman.value:.3f}"),
        ("Kendall's tau-b", f"{ranks.kendall.value:.3f}"),
        ("mean absolute difference", f"{np.abs(ours - theirs).mean():.1f} points"),
        *((f"{name}: Gemini-2.5, GPT-4.1", f"{gemini[name]:.1f}, {gpt[name]:.1f}") for name in (apart[0], apart[-1])),
    ]
    return markdown_grid(
        CalibrationGrid("Arena-Hard v2.0, hard prompts, 2025-05-01: two judges", ("", "value"), tuple(rows))
    )


def evaluators(sources: Sources) -> str:
    """alpaca-eval's own table of judges: the installed package's, agreement with its human annotations."""
    spec = find_spec("alpaca_eval")
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    assert places, "alpaca-eval is installed"
    path = Path(places[0]) / "leaderboards/evaluators/evaluators_leaderboard.csv"
    with path.open(encoding="utf-8", newline="") as file:
        found = {row[""]: row for row in csv.DictReader(file)}
    rows = []
    for name in sorted(LISTED, key=lambda name: -float(found[name]["Human agreement"])):
        row = found[name]
        price, spearman = row["Price [$/1000 examples]"], float(row["Spearman corr."])
        longer = float(row["Proba. prefer longer"])
        agreed = f"{float(row['Human agreement']):.1f} %"
        rows.append((name, agreed, f"{float(price):.2f}" if price else "-", f"{spearman:.2f}", f"{longer:.2f}"))
    columns = ("evaluator", "agrees with people", "dollars per 1,000", "Spearman of models", "prefers the longer")
    return markdown_grid(CalibrationGrid("alpaca-eval 0.6.6, leaderboards/evaluators", columns, tuple(rows)))


# ------------------------------------------------------------------------------------------------------- and money


def prices(sources: Sources) -> str:
    """What a calibration is estimated to cost with the judges that ship a price."""
    sets = load_sets(published_judgments(), DataFolder(sources.published), sources.options)
    rows = []
    for name in judge_files():
        judge = find_judge(name, {})
        if judge.price_in is None or (judge.retired is not None and judge.retired <= date.today()):
            continue
        cells = []
        for sample in (100, 500, None):
            spec = CalibrationSpec(judges=(judge,), suites=published_judgments(), sample=sample)
            found = estimate(spec, sets, chosen_items(spec, sets))
            cells.append(f"{found.calls:,} calls, ${found.dollars:,.2f}")
        rows.append((name, *cells))
    columns = ("judge", "--sample 100", "--sample 500", "--sample 0: everything")
    return markdown_grid(CalibrationGrid("Estimated calls and cost of a calibration", columns, tuple(rows)))


def headline(sources: Sources) -> str:
    """Who agrees with whom on MT-Bench; pairwise verdicts and single ratings also on the same votes."""
    (one,) = load_sets(["mt_bench"], DataFolder(sources.published), sources.options)
    said = recorded_verdicts([one])
    rated = {item.model for item in one.ratings}
    same = [item for item in one.comparisons if rated.issuperset(item.pair)]
    pairs, singles = with_people(one.comparisons, said), people_by_ratings(same, one.ratings, said)
    people, pairs_there = people_among_themselves(one.comparisons), with_people(same, said)
    rows = [
        _agreements("people and people", people, "agreement_among_people"),
        _agreements("GPT-4's pairwise verdicts and people", pairs, "agreement_people"),
        _agreements("the same, where both answers were also rated alone", pairs_there, "agreement_people"),
        _agreements("GPT-4's ratings there, and people", singles, "agreement_people_by_ratings"),
    ]
    columns = ("", "all votes [95 %]", "n", "neither says tie [95 %]", "n")
    return markdown_grid(CalibrationGrid("MT-Bench: who agrees with whom", columns, tuple(rows)))


def _agreements(text: str, scores: Mapping[str, Score], name: str) -> tuple[str, ...]:
    every, decided = scores[name], scores[f"{name}_decided"]
    return text, shown(every), f"{every.n:,}", shown(decided), f"{decided.n:,}"


SECTIONS = {
    "headline": headline,
    "twice": twice,
    "boards": boards,
    "evaluators": evaluators,
    "prices": prices,
    "recorded": recorded,
}
"""Name in the page's markers -> the table."""
