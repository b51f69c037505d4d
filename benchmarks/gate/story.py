"""The story of docs/gate.md: gemma-7b-it is replaced by vicuna-7b-v1.5 on AlpacaEval; which gates see it?"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from harness.analysis.differences import refitted
from harness.analysis.gate.policy import GatePolicy, default_checks
from harness.analysis.gate.sequential import look_result, looks, order_of
from harness.pages.text import markdown_table
from harness.records import Score, ScoreCard
from harness.records.facts import facts_of, load_function
from harness.records.protocols import OwnRunner, RefitsPairs, RunRows, SuiteOptions
from harness.running.plan import load_suite
from harness.stats.paired import ClusteredEstimate, non_inferiority, paired_difference, required_n
from harness.suites.exchange import ImportRequest, with_format
from harness.suites.files import read_files
from harness.suites.scoring import QuestionSums, common, question_sums

from .published import published_root

ALPACA = ("gemma-7b-it", "vicuna-7b-v1.5")
"""Baseline and candidate."""
EARLIER_MARGIN = 4.0
"""Of version 0.2.0's default policy, in points of the length-controlled win rate."""
ORDERS = 200
"""Shuffled orders of the questions in which a sequential gate is replayed."""
HEAD = ("suite", "design", "margin", "difference", "between, 90 %", "verdict", "judge calls")
LEFT = ("suite", "design", "verdict")


@dataclass(frozen=True)
class Design:
    suite: str
    name: str
    margin: float
    calls: int
    strict: bool = False


def story(_: int) -> list[str]:
    return markdown_table(HEAD, _alpaca_rows(), LEFT)


def fixed(design: Design, estimate: ClusteredEstimate) -> list[str]:
    """Return the row of a gate that judges all questions once; `estimate` is candidate minus baseline."""
    judged = non_inferiority(estimate, design.margin, strict=design.strict)
    verdict = {"safe": "PASS", "worse": "FAIL", "undecided": "INCONCLUSIVE"}[judged.answer]
    bounds = f"{judged.lower:+.2f} to {judged.upper:+.2f}"
    margin = f"{design.margin:g}{', strict' if design.strict else ''}"
    return [design.suite, design.name, margin, f"{estimate.value:+.2f}", bounds, verdict, str(design.calls)]


def _alpaca_rows() -> list[list[str]]:
    suite, name = load_suite("alpaca_eval", SuiteOptions()), "alpaca_eval"
    assert not isinstance(suite, OwnRunner), "this suite is judged"
    assert isinstance(suite, RefitsPairs), "its length-controlled rate is refitted in pairs"
    prompts = suite.prompts()
    read = load_function(with_format(name, "read")[0][1].read)
    runs = []
    for model in ALPACA:
        files = list(read_files([published_root() / f"alpaca_eval/annotations/{model}.json.xz"]))
        rows = read(files, ImportRequest(prompts, model, None))
        runs.append(RunRows(model, _card(model), tuple(rows.answers.values()), tuple(rows.judgments)))
    fits = suite.paired_refits(prompts, *runs)
    assert fits is not None
    controlled = refitted(fits).estimate()
    rule, margin = facts_of(name).rules[0], default_checks([name])[0].margin
    first, other = common([question_sums(rule, run.answers, run.judgments) for run in runs])
    raw = _difference(first, other)
    questions = len(first.ids)
    # at a margin of 1, the true drop being what was seen: what a design of more questions would cost
    enough = required_n(questions, controlled.se, -controlled.value - 1)
    strict = Design(name, "length-controlled, any certain drop fails", margin, questions, strict=True)
    return [
        fixed(Design(name, "length-controlled, the default of 0.2.0", EARLIER_MARGIN, questions), controlled),
        fixed(Design(name, "length-controlled, the default now", margin, questions), controlled),
        fixed(Design(name, "length-controlled, a small margin", 1.0, questions), controlled),
        [
            name,
            "the same, with enough questions to fail in 80 %",
            "1",
            f"{controlled.value:+.2f}",
            "-",
            "FAIL",
            f"{enough}",
        ],
        fixed(strict, controlled),
        fixed(replace(strict, name="win rate, any certain drop fails"), raw),
        _sequential(replace(strict, name="the same, sequential"), first, other),
    ]


def _card(model: str) -> ScoreCard:
    return ScoreCard(
        suite="alpaca_eval",
        suite_version="official-1",
        model=model,
        judge="published",
        headline="lc_win_rate",
        complete=True,
        protocol={},
        sampling={},
        scores={"lc_win_rate": Score(value=None, n=0, unscored=0)},
        counts={},
        provenance={},
    )


def _difference(first: QuestionSums, other: QuestionSums) -> ClusteredEstimate:
    estimate = paired_difference((other.above, other.below), (first.above, first.below), scale=first.scale)
    assert estimate is not None
    return estimate


def _sequential(design: Design, first: QuestionSums, other: QuestionSums) -> list[str]:
    """Return the row of a gate that looks early, over `ORDERS` orders of the questions."""
    policy, stops = GatePolicy(strict=design.strict), []
    for seed in range(ORDERS):
        order = order_of(first.ids, design.suite, seed)
        for count in looks(len(order)):
            estimate = _difference(first.of(order[:count]), other.of(order[:count]))
            state = look_result(estimate, design.margin, look=(count, len(order)), policy=policy)
            if state != "open":
                break
        stops.append((state == "worse", count))
    failed, counts = np.mean(stops, axis=0)
    verdict = f"FAIL in {failed:.0%} of the orders"
    return [design.suite, design.name, f"{design.margin:g}, strict", "-", "-", verdict, f"{counts:.0f}"]
