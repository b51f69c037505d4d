"""Cases of files: results of lm-eval, judgments of FastChat, annotations of AlpacaEval."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.records.protocols import SuiteOptions, load_plugin

from .case import Case, Done, harness

SCORE_JSON = ("--no-intervals", "--json")
LENGTH_CONTROLLED = "lc_win_rate"


def write(path: Path, value: object) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return str(path)


def write_rows(path: Path, rows: Iterable[object]) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


# ------------------------------------------------------------------------------------------------------------- lm-eval


def lm_eval(results: dict[str, dict[str, Any]], **changes: Any) -> dict[str, Any]:
    """Return a results file; `"acc": (value, stderr)` becomes lm-eval's keys."""
    written: dict[str, dict[str, Any]] = {}
    for task, metrics in results.items():
        written[task] = {"alias": task}
        for name, (value, error) in metrics.items():
            written[task] |= {f"{name},none": value, f"{name}_stderr,none": error}
    counts = {task: {"original": 500, "effective": 500} for task in results}
    return {"results": written, "n-samples": counts, "config": {"model": "hf", "limit": None}} | changes


def imported(folder: Path, model: str, content: object) -> Done:
    file = write(folder / f"{model}.json", content)
    return harness(folder, "import", file, "--format", "lm_eval", "--model", model, "--json")


def board(folder: Path) -> list[dict[str, Any]]:
    """Return the rows of all tables, best first."""
    content = json.loads(harness(folder, "leaderboard", "--no-reported", "--json").out)
    return [row for table in content["tables"] for row in table["rows"]]


def first_ranked(folder: Path) -> str:
    ranked = [row for row in board(folder) if row["rank"] is not None]
    return f"{ranked[0]['model']} first" if ranked else "nobody ranked"


def less_is_better(folder: Path) -> str:
    for model, value in (("good", 0.10), ("bad", 0.30)):
        direction = {"harm": {"rate": False}}
        imported(folder, model, lm_eval({"harm": {"rate": (value, 0.003)}}, higher_is_better=direction))
    return first_ranked(folder)


def metric_order(folder: Path) -> str:
    imported(folder, "A", lm_eval({"quiz": {"acc": (0.4, 0.01), "em": (0.2, 0.01)}}))
    imported(folder, "B", lm_eval({"quiz": {"em": (0.6, 0.01), "acc": (0.3, 0.01)}}))
    return first_ranked(folder)


def group_without_metric(folder: Path) -> str:
    content = lm_eval({"part_a": {"acc": (0.4, 0.01)}, "rest": {"acc": (0.7, 0.01)}})
    content["results"]["group"] = {" ": " ", "alias": "group"}
    done = imported(folder, "m", content | {"group_subtasks": {"group": ["part_a"], "rest": []}})
    return f"{len(done.cards)} cards" if done.code == 0 else done.ending


def two_models(folder: Path) -> str:
    for name, day in (("large", 2), ("small", 1)):
        content = lm_eval({"quiz": {"acc": (0.5, 0.01)}}, model_name=f"org/{name}")
        write(folder / "two" / f"org__{name}" / f"results_2026-01-0{day}T00-00-00.000000.json", content)
    done = harness(folder, "import", "two", "--format", "lm_eval", "--model", "mine", "--json")
    names = {card["model"] for card in done.cards} if done.code == 0 else set()
    return "one name" if len(names) == 1 else "refused or a name each"


def predict_only(folder: Path) -> str:
    imported(folder, "m", lm_eval({"sums": {"bypass": (999, "N/A")}}))
    cards = [json.loads(path.read_text("utf-8")) for path in folder.glob("results/runs/*/*/*/card.json")]
    values = [score["value"] for card in cards for score in card["scores"].values() if score["value"] is not None]
    return f"{values[0]:g}" if values else "no score"


def old_version(folder: Path) -> str:
    """lm-eval 0.3: no counts, no directions, perplexity beside accuracy."""
    for model, (perplexity, accuracy) in {"good": (5.0, 0.7), "bad": (9.0, 0.7)}.items():
        metrics = {"ppl": perplexity, "ppl_stderr": 0.05, "acc": accuracy, "acc_stderr": 0.006}
        imported(folder, model, {"results": {"words": metrics}, "versions": {"words": 0}, "config": {"model": "x"}})
    rows = board(folder)
    if any(row["rank"] is not None and row["score"]["n"] == 0 and row["score"]["se"] is None for row in rows):
        return "ranked with n 0, no error"
    return "errors kept, or unranked"


# --------------------------------------------------------------------------------------------------- FastChat's ratings


def rating(question: int, turn: int, words: str, stored: float | None) -> dict[str, Any]:
    names = {"question_id": question, "model": "m", "judge": ["j", "single-v1"], "turn": turn}
    return names | {"judgment": words, "score": stored}


def thinking_judge(folder: Path, stored: float | None) -> str:
    words = "<think>Perhaps [[2]]? No.</think> Everything is right: [[8]]"
    rows = [rating(question, turn, words, stored) for question in range(81, 91) for turn in (1, 2)]
    return scored_mt_bench(folder, write_rows(folder / "j.jsonl", rows))


def scored_mt_bench(folder: Path, path: str) -> str:
    card = harness(folder, "score", path, "--format", "fastchat", *SCORE_JSON).cards[0]
    score = card["scores"]["mt_bench"]
    return "unscored" if score["value"] is None else f"{score['value']:.2f}"


def stale_copy(folder: Path) -> str:
    fresh = [rating(question, turn, "[[7]]", 7) for question in range(81, 131) for turn in (1, 2)]
    stale = [rating(question, turn, "[[1]]", 1) for question in range(81, 161) for turn in (1, 2)]
    write_rows(folder / "j" / "m.jsonl", fresh)
    write_rows(folder / "j" / ".ipynb_checkpoints" / "m-checkpoint.jsonl", stale)
    return scored_mt_bench(folder, str(folder / "j"))


# ----------------------------------------------------------------------------------------------------------- AlpacaEval


def tops(win: float) -> dict[str, Any]:
    """Return a judge's completion that prefers the second answer with this probability."""
    first = [{"token": "m", "logprob": math.log(1 - win)}, {"token": "M", "logprob": math.log(win)}]
    content = [{"token": "M", "logprob": math.log(win), "top_logprobs": first}]
    return {"finish_reason": "length", "message": {"content": "M"}, "logprobs": {"content": content}}


def annotation(instruction: str, **changes: Any) -> dict[str, Any]:
    texts = {"instruction": instruction, "dataset": "toy", "output_1": "some words", "output_2": "other words here"}
    return texts | {"generator_1": "base", "generator_2": "m", "annotator": "j"} | changes


def scored_alpaca(folder: Path, rows: list[dict[str, Any]], metric: str = "win_rate") -> str:
    done = harness(folder, "score", write(folder / "annotations.json", rows), "--format", "alpaca_eval", *SCORE_JSON)
    score = done.cards[0]["scores"][metric]
    return f"{score['value']:.2f}" if score["value"] is not None else "unscored"


def raw_completion(folder: Path) -> str:
    """The stored preference contradicts the judge's log-probabilities, under both keys for these."""
    values = []
    for key in ("raw_completion", "preference_raw_completion"):
        rows = [annotation(f"Task {number}", preference=1.9, **{key: tops(0.2)}) for number in range(12)]
        values.append(scored_alpaca(folder, rows))
    return "same" if values[0] == values[1] else " and ".join(values)


def pocket_instructions() -> list[str]:
    suite = load_plugin("suites", "alpaca_eval")(SuiteOptions(edition="pocket"))
    return [prompt.turns[0] for prompt in suite.prompts()]


def imported_alpaca(folder: Path, rows: list[dict[str, Any]], *words: str) -> dict[str, Any]:
    file = write(folder / "annotations.json", rows)
    return harness(folder, "import", file, "--format", "alpaca_eval", "--model", "m", *words, "--json").cards[0]


def import_believes(folder: Path) -> str:
    """`harness import` reads the judge's own words, as `harness score` does."""
    rows = [annotation(text, preference=1.9, raw_completion=tops(0.2)) for text in pocket_instructions()]
    return f"n {imported_alpaca(folder, rows, '--edition', 'pocket')['scores']['win_rate']['n']}"


def other_baseline(folder: Path) -> str:
    """A file against another baseline than the edition's: `score` and `import` give one length-controlled rate."""
    rows = [
        annotation(text, preference=1.01 + number % 2 * 0.98, output_1="x " * 50, output_2="y " * (20 + number % 9))
        for number, text in enumerate(pocket_instructions())
    ]
    card = imported_alpaca(folder, rows, "--edition", "pocket")
    return compared(scored_alpaca(folder, rows, LENGTH_CONTROLLED), card["scores"][LENGTH_CONTROLLED]["value"])


def compared(scored: str, value: float | None) -> str:
    return "same" if value is not None and scored == f"{value:.2f}" else "different"


def official_instructions() -> list[tuple[str, str]]:
    """Return (instruction, data set) in the file's order."""
    suite = load_plugin("suites", "alpaca_eval")(SuiteOptions(mirror=os.environ["HARNESS_MIRROR"]))
    return [(prompt.turns[0], prompt.category) for prompt in suite.prompts()]


def stripped_instructions(folder: Path) -> str:
    """White space lost at the ends of official instructions changes no length-controlled rate."""
    rates = []
    for strip in (False, True):
        rows = [
            annotation(
                text.strip() if strip else text,
                dataset=dataset,
                generator_1="gpt4_1106_preview",
                preference=1 + (number * 7 % 10) / 10,
                output_1="x " * 60,
                output_2="y " * (30 + number % 60),
            )
            for number, (text, dataset) in enumerate(official_instructions())
        ]
        rates.append(scored_alpaca(folder, rows, LENGTH_CONTROLLED))
    return "same" if len(set(rates)) == 1 and "unscored" not in rates else " and ".join(rates)


def first_edition(folder: Path) -> str:
    """A file of AlpacaEval 1, with its own baseline: `score` and `import` give one length-controlled rate."""
    rows = [
        annotation(
            text,
            dataset=dataset,
            generator_1="text_davinci_003",
            preference=1 + number % 2,
            output_1="x " * (10 + number % 7),
            output_2="y " * (30 + number % 60),
        )
        for number, (text, dataset) in enumerate(official_instructions())
    ]
    card = imported_alpaca(folder, rows, "--mirror", os.environ["HARNESS_MIRROR"])
    return compared(scored_alpaca(folder, rows, LENGTH_CONTROLLED), card["scores"][LENGTH_CONTROLLED]["value"])


FILES = (
    Case("lm-eval: less is better", "bad first", "good first", less_is_better),
    Case("lm-eval: metrics in another order", "B first", "A first", metric_order),
    Case("lm-eval: group without a metric", "exit 2", "2 cards", group_without_metric),
    Case("lm-eval: two models in a folder", "one name", "refused or a name each", two_models),
    Case("lm-eval: predict only", "999", "no score", predict_only),
    Case("lm-eval 0.3", "ranked with n 0, no error", "errors kept, or unranked", old_version),
    Case("FastChat: thoughts, nothing stored", "2.00", "8.00", lambda folder: thinking_judge(folder, None)),
    Case("FastChat: thoughts, 8 stored", "unscored", "8.00", lambda folder: thinking_judge(folder, 8)),
    Case("FastChat: a stale hidden copy", "4.75", "7.00", stale_copy),
    Case("AlpacaEval: new key, contradiction", "unscored and 90.00", "same", raw_completion),
    Case("AlpacaEval: import of contradictions", "n 120", "n 0", import_believes),
    Case("AlpacaEval: another baseline", "different", "same", other_baseline),
    Case("AlpacaEval: stripped instructions", "45.22 and unscored", "same", stripped_instructions, needs_mirror=True),
    Case("AlpacaEval 1: score and import", "different", "same", first_edition, needs_mirror=True),
)
