"""Write comparisons of runs as tables and sentences: by their scores, and by games between two models.

>>> p_cell(0.0004), p_cell(0.25)
('<0.001', '0.250')
"""

from __future__ import annotations

from collections.abc import Sequence

from ..analysis.best import BestOf, BestRow
from ..analysis.comparison import AnswerShift, Comparison
from ..analysis.differences import Difference, adjustment_line, difference_span
from ..analysis.population import POPULATION_LINES
from ..records import ScoreCard
from .text import FittedTable, escape_markdown, interval, listed, markdown_list, markdown_table, number, rich_table

HEAD = ("metric", "category", "first", "other", "difference [95 %]", "p", "detectable", "questions")
ORDER = ("metric", "category", "difference [95 %]", "p", "first", "other", "detectable")
"""Columns of a comparison from the most important on, for a narrow terminal."""
FLIP_HEAD = ("question", "category", "first", "other", "change")
GAMES_HEAD = (
    *("suite", "model", "against", "category", "win rate [95 %]", "p", "detectable"),
    *("games", "unscored", "won", "tied", "lost"),
)
GAMES_ORDER = ("model", "against", "win rate [95 %]", "p", "suite", "category", "won", "tied", "lost")
BEST_HEAD = ("model", "value", "minus the best other [95 %, all at once]", "result")
BEST_LEFT = ("model", "result")
LEFT = ("metric", "category", "question", "change", "suite", "model", "against")
CAUTIOUS = (
    "p at most 0.05 beside an interval that contains 0: p is exact, the interval is cautious with few questions; a "
    "difference is called shown only if both agree"
)
"""Why an interval may contain 0 beside a small p."""


def rich_comparison(pair: Comparison, *, flips: int) -> list[FittedTable]:
    """Return the table of differences, and one of the `flips` largest flips."""
    tables = [rich_table(title(pair), HEAD, [difference_cells(row) for row in pair.differences], LEFT, ORDER, 4)]
    if cells := flip_cells(pair, flips):
        tables.append(
            rich_table(
                f"largest flips ({len(cells)} of {len(pair.flips)})",
                FLIP_HEAD,
                cells,
                LEFT,
                ("question", "first", "other"),
            )
        )
    return tables


def markdown(comparisons: Sequence[Comparison], *, flips: int) -> str:
    """Return one section per comparison, the verdicts first."""
    parts = ["# Comparison", "", *markdown_list([verdict(pair) for pair in comparisons]), ""]
    for pair in comparisons:
        parts += [f"## {escape_markdown(title(pair))}", ""]
        parts += [POPULATION_LINES[pair.population], ""] if pair.population != "all" else []
        parts += markdown_table(HEAD, [difference_cells(row) for row in pair.differences], LEFT)
        parts += ["", *markdown_list(other_lines(pair)), ""]
        if cells := flip_cells(pair, flips):
            parts += [*markdown_table(FLIP_HEAD, cells, LEFT), ""]
    return "\n".join(parts).rstrip() + "\n"


def title(pair: Comparison) -> str:
    return f"{pair.suite} ({pair.suite_version}), judge {pair.judge}: {pair.other} minus {pair.first}"


def verdict(pair: Comparison) -> str:
    """Return one sentence on the headline, which a person reads first."""
    # a fitted headline may have no difference, for want of refits; the main rate, which comes first, then stands for it
    row = pair.deciding(pair.headline) or next(iter(pair.differences), None)
    if row is None:
        return f"{pair.suite}: nothing to compare"
    # p_shown is the corrected one if several models are compared, so that the sentence agrees with the table
    span = f"{method_span(row)}, p {p_cell(row.p_shown)}"
    if row.is_shown and row.gain is not None:
        word = "better" if row.gain > 0 else "worse"
        less = "" if row.higher_is_better else ", of which less is better"
        return f"{pair.suite}: {pair.other} is {word} than {pair.first} by {row.metric}{less}: {span}"
    if row.is_shown:
        return (
            f"{pair.suite}: {pair.other} and {pair.first} differ by {row.metric}: {span}; it is unknown whether more "
            "or less is better"
        )
    # identical verdicts have no spread, so no interval could be shown
    if row.ci_low is None and row.value == 0:
        return f"{pair.suite}: {pair.other} and {pair.first} have the same verdict on every question, by {row.metric}"
    if row.is_cautious:
        why = CAUTIOUS
    elif row.ci_low is not None:
        why = f"this comparison can only detect differences of {row.detectable:.{row.decimals}f} or more"
    elif row.method == "within":
        why = f"all draws of each of {row.n} questions agree, too few questions to tell how much they vary"
    else:
        why = f"all {row.n} questions have the same difference, too few to tell how much it varies"
    return f"{pair.suite}: no difference shown between {pair.other} and {pair.first} by {row.metric}: {span}; {why}"


def method_span(row: Difference) -> str:
    """Return `adjusted +0.23 [+0.22, +0.24]`; the word only if the difference is adjusted."""
    return ("adjusted " if row.method == "adjusted" else "") + difference_span(row)


def p_cell(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def difference_cells(row: Difference) -> list[str]:
    """Return the row's texts under `HEAD`."""
    return [
        row.metric + {True: "", False: " (less is better)", None: " (unranked)"}[row.higher_is_better],
        row.category or "all",
        f"{row.first:.{row.decimals}f}",
        f"{row.other:.{row.decimals}f}",
        method_span(row),
        p_cell(row.p_shown),
        "-" if row.ci_low is None else f"{row.detectable:.{row.decimals}f}",
        str(row.n or "-"),
    ]


def other_lines(pair: Comparison) -> list[str]:
    """Return what a reader should know besides the differences."""
    lines = [f"compared although different: {difference}" for difference in pair.forced]
    lines += list(pair.notes)
    lines += correction_lines(pair)
    for row in pair.adjusted:
        plain = pair.difference(row.difference.metric)
        if plain is not None:
            lines.append(f"{row.difference.metric}: {adjustment_line(row, plain)}")
    lines += [CAUTIOUS] if any(row.is_cautious for row in pair.differences) else []
    lines += left_out_lines(pair)
    if any(row.method != "unpaired" for row in pair.differences) or pair.flips:
        gained = sum(flip.kind == "gained" for flip in pair.flips)
        lost = len(pair.flips) - gained
        lines.append(f"{len(pair.flips)} questions flipped: {gained} in favour of {pair.other}, {lost} against it")
    if (orders := pair.orders) is not None:
        doubtful = sum(flip.doubtful for flip in pair.flips)
        without = "" if orders.without is None else f"; without them the difference is {orders.without:+.2f}"
        lines.append(
            f"of {orders.judged_twice} questions judged in both orders, the judge contradicted itself on "
            f"{orders.first} of {pair.first} and {orders.other} of {pair.other}, {doubtful} flips among them{without}"
        )
    return lines + [shift_line(shift) for shift in pair.shifts]


def left_out_lines(pair: Comparison) -> list[str]:
    """Return how many questions of each run the comparison does not count, if any."""
    if not (pair.only_first or pair.only_other):
        return []
    return [
        f"left out because only one run has a score: {pair.only_first} questions of {pair.first}, "
        f"{pair.only_other} of {pair.other}"
    ]


def models_correction_lines(pair: Comparison) -> list[str]:
    """Return over how many models the p-values over all questions are corrected, if they are."""
    models = _most_tests(pair, by_category=False)
    return [f"p over all questions: corrected by Holm over {models} models"] if models > 1 else []


def _most_tests(pair: Comparison, *, by_category: bool) -> int:
    rows = [row for row in pair.differences if (row.category is not None) == by_category]
    return max((row.tests or 1 for row in rows), default=1)


def correction_lines(pair: Comparison) -> list[str]:
    """Return which p-values are corrected, and over how many tests."""
    models, tests = _most_tests(pair, by_category=False), _most_tests(pair, by_category=True)
    lines = models_correction_lines(pair)
    if tests > 1:
        family = f"{tests} categories" if models == 1 else f"{tests} tests, the categories of {models} models"
        lines.append(f"p of categories: corrected by Holm over {family}")
    return lines


def shift_line(shift: AnswerShift) -> str:
    span = "" if shift.ci_low is None else f" [{shift.ci_low:+.1f}, {shift.ci_high:+.1f}]"
    return f"{shift.name}: {shift.first:.1f} -> {shift.other:.1f}, {shift.value:+.1f}{span}"


def flip_cells(pair: Comparison, limit: int) -> list[list[str]]:
    """Return the texts of the largest flips under `FLIP_HEAD`."""
    return [
        [
            flip.prompt_id,
            flip.category or "-",
            f"{flip.first:.1f}",
            f"{flip.other:.1f}",
            flip.kind + (", judge contradicted itself" if flip.doubtful else ""),
        ]
        for flip in pair.flips[:limit]
    ]


def rich_games(cards: Sequence[ScoreCard], pairs: Sequence[Comparison]) -> FittedTable:
    return rich_table("Games, answer against answer", GAMES_HEAD, games_cells(cards, pairs), LEFT, GAMES_ORDER, 5)


def games_markdown(cards: Sequence[ScoreCard], pairs: Sequence[Comparison]) -> str:
    verdicts = [games_verdict(card, pair) for card, pair in zip(cards, pairs, strict=True)]
    lines = ["# Head to head", "", *markdown_list(verdicts), ""]
    return "\n".join(lines + markdown_table(GAMES_HEAD, games_cells(cards, pairs), LEFT)) + "\n"


def games_verdict(card: ScoreCard, pair: Comparison) -> str:
    """Return one sentence on who wins, if that is certain; with several models, after Holm's correction."""
    score, row = card.scores["win_rate"], pair.difference("win_rate")
    if score.value is None or score.ci_low is None or score.ci_high is None or row is None:
        return f"{card.suite}: too few games to say who wins"
    span = f"{score.value:.1f} % of the points [{score.ci_low:.1f}, {score.ci_high:.1f}], p {p_cell(row.p_shown)}"
    if row.is_shown and row.value:
        verb = "beats" if row.value > 0 else "loses to"
        return f"{card.suite}: {card.model} {verb} {pair.first}: {span}"
    why = f"these games can only detect a win rate {row.detectable:.1f} points from 50"
    return (
        f"{card.suite}: no winner shown between {card.model} and {pair.first}: {span}; "
        f"{CAUTIOUS if row.is_cautious else why}"
    )


def games_cells(cards: Sequence[ScoreCard], pairs: Sequence[Comparison]) -> list[list[str]]:
    """Return rows under `GAMES_HEAD`: all questions of a suite, then its categories."""
    rows = []
    for card, pair in zip(cards, pairs, strict=True):
        total, row = card.scores["win_rate"], pair.difference("win_rate")
        tested = ["-", "-"] if row is None else [p_cell(row.p_shown), f"{row.detectable:.{row.decimals}f}"]
        questions = [number(card.scores.get(name), 0) for name in ("n_won", "n_tied", "n_lost")]
        fixed = [card.suite, card.model, pair.first]
        rows.append([*fixed, "all", interval(total), *tested, str(total.n), str(total.unscored), *questions])
        for name, scores in card.by_category.items():
            part = scores["win_rate"]
            rows.append(["", "", "", name, interval(part), "", "", str(part.n), str(part.unscored), "", "", ""])
    return rows


def best_sentence(best: BestOf) -> str:
    """Return which models are not shown to be worse than the best, as one sentence."""
    worse = len(best.models) - len(best.tied)
    by = f"by {best.metric}" + ("" if best.higher_is_better else ", of which less is better")
    if len(best.tied) == 1:
        others = "the other is" if worse == 1 else "the others are"
        return f"{best.suite}: {best.tied[0]} is the best of {len(best.models)} {by}; {others} shown to be worse"
    rest = f"; {worse} of {len(best.models)} {'is' if worse == 1 else 'are'} shown to be worse" if worse else ""
    return f"{best.suite}: {listed(best.tied)} are tied for the best {by}{rest}"


def best_lines(best: BestOf) -> list[str]:
    """Return one sentence per model, then the notes."""
    alone = len(best.tied) == 1
    return [f"{row.model}: {row.value:.2f}, {_against_best(row, alone)}" for row in best.models] + list(best.notes)


def _against_best(row: BestRow, alone: bool) -> str:
    if row.low is None or row.high is None:
        return "not distinguished from a model with the same verdicts"
    if not row.may_be_best:
        return f"worse than the best, by at most {-row.low:.2f}"
    if alone:
        return f"the best, ahead of the next by at most {row.high:.2f}"
    return f"at most {row.high:.2f} better and at most {-row.low:.2f} worse than the best other model"


def best_cells(best: BestOf) -> list[list[str]]:
    """Return the models' texts under `BEST_HEAD`."""
    return [
        [
            row.model,
            f"{row.value:.2f}",
            "-" if row.low is None or row.high is None else f"[{row.low:+.2f}, {row.high:+.2f}]",
            "may be the best" if row.may_be_best else "worse than the best",
        ]
        for row in best.models
    ]


def best_title(best: BestOf) -> str:
    questions = f", {best.n} questions" if best.n else ""
    return f"{best.suite} ({best.suite_version}), judge {best.judge}, {best.metric}{questions}"


def rich_best(best: BestOf) -> FittedTable:
    return rich_table(best_title(best), BEST_HEAD, best_cells(best), BEST_LEFT, ("model", "result", "value"), 3)


def best_markdown(answers: Sequence[BestOf]) -> str:
    """Return one section per suite, the sentences on the sets first."""
    lines = ["# Best of several", "", *markdown_list([best_sentence(best) for best in answers]), ""]
    for best in answers:
        lines += [f"## {escape_markdown(best_title(best))}", ""]
        lines += [*markdown_table(BEST_HEAD, best_cells(best), BEST_LEFT), "", *markdown_list(best_lines(best)), ""]
    return "\n".join(lines).rstrip() + "\n"
