"""Export a run of AlpacaEval as `model_outputs.json`, `annotations.json` and a row of the leaderboard.

Rows have the form of alpaca_eval's PairwiseAnnotator: a preference is 1 (the baseline) to 2 (the model), null if the
judge gave none. The extra key `index` is the instruction's position in the suite. With it alpaca_eval's metrics find
the difficulty of the instruction even if earlier rows are missing, instead of counting rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator

from pydantic import JsonValue

from ...records import Answer, Judgment, Preference
from ..exporting import FinishedRun, Line

COLUMNS = {  # of the published leaderboard -> metric of the card
    "win_rate": "win_rate",
    "standard_error": "standard_error",
    "n_wins": "n_wins",
    "n_wins_base": "n_wins_base",
    "n_draws": "n_draws",
    "n_total": None,
    "discrete_win_rate": "discrete_win_rate",
    "mode": None,
    "avg_length": "avg_length",
    "length_controlled_winrate": "lc_win_rate",
    "lc_standard_error": None,
}
COUNTS = ("n_wins", "n_wins_base", "n_draws", "avg_length")
MODE = "community"  # alpaca_eval main.evaluate, current_leaderboard_mode


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text."""
    return {
        "model_outputs.json": _dump(list(_outputs(run))),
        "annotations.json": _dump(list(_annotations(run))),
        "leaderboard.csv": _leaderboard(run),
    }


def _dump(rows: list[Line]) -> str:
    return json.dumps(rows, indent=2) + "\n"


def _outputs(run: FinishedRun) -> Iterator[Line]:
    """Yield the answers; a missing answer gets no row, because alpaca_eval joins on the instruction."""
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            if answer.error is None:
                yield {
                    "dataset": prompt.category,
                    "instruction": prompt.turns[0],
                    "output": answer.turns[0],
                    "generator": run.card.model,
                }


def _annotations(run: FinishedRun) -> Iterator[Line]:
    positions = {prompt.id: position for position, prompt in enumerate(run.suite.prompts())}
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            for task, judgments in run.judged(prompt, answer):
                if task.baseline is not None:
                    facts: Line = {"instruction": prompt.turns[0], "dataset": prompt.category}
                    yield (
                        facts
                        | _pair(run, task.baseline, answer)
                        | _verdict(judgments)
                        | {"index": positions[prompt.id]}
                    )


def _pair(run: FinishedRun, baseline: Answer, answer: Answer) -> Line:
    return {
        "output_1": baseline.turns[0],
        "generator_1": baseline.model,
        "output_2": answer.turns[0],
        "generator_2": run.card.model,
        "annotator": run.card.judge,
    }


def _verdict(judgments: list[Judgment]) -> Line:
    """Return the verdict; repeats count as their mean, as on the card."""
    values = [row.verdict.value for row in judgments if isinstance(row.verdict, Preference)]
    costs = [row.cost for row in judgments if row.cost is not None]
    return {
        "preference": 1 + sum(values) / len(values) if values else None,
        "price_per_example": sum(costs) if costs else None,
        "time_per_example": sum(row.seconds for row in judgments) if judgments else None,
        "raw_completion": _raw(judgments[0]) if judgments else None,
    }


def _raw(judgment: Judgment) -> JsonValue:
    """Return the part of the judge's completion that `logprob_parser` reads."""
    tops: list[JsonValue] = [{"token": top.token, "logprob": top.logprob} for top in judgment.logprobs]
    return {"text": judgment.reply, "logprobs": {"content": [{"top_logprobs": tops}]}} if tops else judgment.reply


def _leaderboard(run: FinishedRun) -> str:
    """Return a header and one line with the columns of alpaca_eval's own leaderboards."""
    scores = run.card.scores
    cells: dict[str, float | int | str | None] = {}
    for column, metric in COLUMNS.items():
        value = scores[metric].value if metric in scores else None
        cells[column] = int(value) if value is not None and column in COUNTS else value
    cells["n_total"] = scores["win_rate"].n
    cells["mode"] = MODE
    reference = scores.get("lc_win_rate_reference")
    cells["lc_standard_error"] = reference.se if reference is not None else None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *cells])
    writer.writerow([run.card.model, *("" if value is None else value for value in cells.values())])
    return text.getvalue()
