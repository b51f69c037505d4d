"""Load AlpacaEval's recorded judgments: gpt-4-1106-preview's published annotations, with both answers' texts."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence

from ...records import JudgeTask, Prompt
from ...records.protocols import SuiteOptions
from ..files import only_template, pinned
from ..recorded import CalibrationSet, DataFolder, Item, RecordedComparison, RecordedRating, stored_answer
from .rows import Row, read_annotation
from .suite import NAMES, load_official, preference_task

SUITE = "alpaca_eval"
RETIRED = "gpt-4-1106-preview"


def load(folder: DataFolder, options: SuiteOptions) -> CalibrationSet:
    """Return the annotations of the folder's files, one model per file; each file has the baseline's answers."""
    data = load_official(options)
    template = only_template(data)

    def tasks(item: Item) -> Sequence[JudgeTask]:
        if isinstance(item, RecordedRating) or item.answers is None:
            return []
        candidate, baseline = item.answers
        return [preference_task(item.prompt, candidate, baseline, order, template) for order in ("ab", "ba")]

    return CalibrationSet(
        suite=SUITE,
        retired=RETIRED,
        rule="mean",
        comparisons=_comparisons(folder, {prompt.turns[0]: prompt for prompt in data.prompts}),
        tasks=tasks,
        board=_board(folder),
        board_name="AlpacaEval 2 leaderboard, win rate without length control",
        files={**folder.files, **pinned(NAMES)},
    )


def _comparisons(folder: DataFolder, prompts: Mapping[str, Prompt]) -> tuple[RecordedComparison, ...]:
    comparisons = []
    for file in folder.matching(f"{SUITE}/annotations/*.json*"):
        model = file.name.removesuffix(".json")
        for row in file.rows:
            annotation, texts = read_annotation(row), (row.get("output_1"), row.get("output_2"))
            prompt = prompts.get(annotation.instruction)
            if prompt is None or not isinstance(texts[0], str) or not isinstance(texts[1], str):
                continue
            candidate = stored_answer(model, prompt.id, texts[1])
            baseline = stored_answer(_baseline_name(row), prompt.id, texts[0])
            comparisons.append(
                RecordedComparison(
                    id=f"{SUITE}/{prompt.id}/{model}",
                    suite=SUITE,
                    prompt=prompt,
                    candidate=model,
                    baseline=_baseline_name(row),
                    recorded=annotation.stored,
                    answers=(candidate, baseline) if candidate and baseline else None,
                )
            )
    return tuple(comparisons)


def _baseline_name(row: Row) -> str:
    name = row.get("generator_1")
    return name if isinstance(name, str) else "baseline"


def _board(folder: DataFolder) -> dict[str, float]:
    """Return model -> published win rate, percent."""
    path = folder.find(f"{SUITE}/published_leaderboard.csv")
    if path is None:
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {row[""]: float(row["win_rate"]) for row in csv.DictReader(file)}
