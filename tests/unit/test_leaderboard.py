"""Cards of one protocol are ranked together, of two never; what is printed cannot be markup or a formula."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from harness.analysis.finished_runs import StoredRun, refuse_two_models, shown_names
from harness.analysis.leaderboard import rank
from harness.pages.board import figures, page
from harness.pages.summary import summary, summary_markdown, summary_table
from harness.pages.tables import count_line, csv_text, harmless, markdown, rich_tables
from harness.pages.text import escape_markdown
from harness.records import Score, ScoreCard
from harness.records.errors import ConfigError
from harness.store import read_card


def card(model: str, value: float | None, *, judge: str = "j", complete: bool = True, n: int = 10) -> ScoreCard:
    return ScoreCard(
        suite="toy",
        suite_version="1",
        model=model,
        judge=judge,
        headline="mean",
        complete=complete,
        protocol={"suite": "toy", "judge": judge},
        sampling={},
        scores={"mean": Score(value=value, ci_low=value, ci_high=value, n=n), "other": Score(value=1.0, n=n)},
        counts={"answers": n, "truncated": 2},
        provenance={"run_id": f"run-{model}"},
    )


def test_the_best_comes_first_and_equal_values_share_a_rank() -> None:
    (table,) = rank([card("low", 1.0), card("high", 3.0), card("tie", 3.0)])

    assert [(row.rank, row.model) for row in table.rows] == [(1, "high"), (1, "tie"), (3, "low")]


def of_model(row: ScoreCard, run_id: str, **identity: str) -> ScoreCard:
    return row.model_copy(update={"provenance": {"run_id": run_id, "model": identity}})


def test_two_models_of_one_name_are_told_apart_and_two_runs_of_one_model_are_not() -> None:
    first = of_model(card("ckpt", 3.0), "r1", weights="aaaaaaaa11")
    again = of_model(card("ckpt", 1.0), "r2", weights="aaaaaaaa11", engine="other")
    second = of_model(card("ckpt", 2.0), "r3", weights="bbbbbbbb22")

    assert [row.model for row in rank([first, again])[0].rows] == ["ckpt", "ckpt"]
    assert [row.model for row in rank([first, second, card("base", 1.0)])[0].rows] == [
        *("ckpt (weights aaaaaaaa)", "ckpt (weights bbbbbbbb)", "base")
    ]
    endpoint = of_model(card("ckpt", 1.0), "r4", host="10.0.0.1")
    assert rank([first, endpoint])[0].rows[1].model == "ckpt (at 10.0.0.1)"


def test_a_name_of_two_models_is_refused_where_one_run_is_meant() -> None:
    runs = [
        StoredRun(of_model(card("ckpt", 1.0), run_id, weights=weights), Path(run_id))
        for run_id, weights in (("r1", "a1"), ("r2", "a1"), ("r3", "b2"))
    ]

    refuse_two_models("ckpt", runs[:2])
    with pytest.raises(ConfigError, match="is the name of 2 models with different weights: name a run of r1, r3"):
        refuse_two_models("ckpt", runs)
    assert shown_names([runs[0], runs[2]]) == ["ckpt (r1)", "ckpt (r3)"]


def test_two_protocols_are_two_tables_that_say_how_they_differ() -> None:
    tables = rank([card("a", 1.0, judge="x"), card("b", 2.0, judge="y")])

    assert [[row.model for row in table.rows] for table in tables].count(["a"]) == 1
    assert sorted(str(table.differs["judge"]) for table in tables) == ["x", "y"]


def test_an_incomplete_card_is_listed_last_without_a_rank() -> None:
    (table,) = rank([card("broken", 100.0, complete=False), card("none", None, complete=False), card("good", 5.0)])

    assert [(row.rank, row.model) for row in table.rows] == [(1, "good"), (None, "broken"), (None, "none")]


def test_a_card_without_its_headline_is_no_card() -> None:
    with pytest.raises(ValidationError, match="headline"):
        ScoreCard.model_validate(card("a", 1.0).model_dump() | {"headline": "other-metric"})


def test_a_models_name_is_literal_in_markdown() -> None:
    text = markdown(rank([card("<script>|[x](y)*b*", 1.0)]))

    assert "&lt;script>" in text
    assert r"\|\[x\](y)\*b\*" in text
    assert escape_markdown("a\x1b[31m\u202eb") == "a \\[31m b"


def test_no_csv_cell_is_a_formula() -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(rank([card("=HYPERLINK(1)", 1.5)])))))

    assert rows[0]["model"] == "'=HYPERLINK(1)"
    assert [(row["metric"], row["value"]) for row in rows] == [("mean", "1.5"), ("other", "1.0")]
    assert harmless("-1") == "'-1"


@pytest.mark.parametrize("text", ["=1", " =1", "\t=1", "+1", "@SUM(1)", "＝1"])
def test_a_cell_that_a_spreadsheet_would_run_starts_with_an_apostrophe(text: str) -> None:
    assert harmless(text).startswith("'")


def test_a_date_or_metric_that_is_a_formula_reaches_no_csv_cell() -> None:
    made = card("a", 1.5)
    hostile = made.model_copy(
        update={"usage": {"ended": "=1+1"}, "scores": made.scores | {"=evil()": Score(value=1.0, n=1)}}
    )
    text = csv_text(rank([hostile]))

    assert ",=" not in text
    assert "'=evil()" in text


def test_numbers_that_are_none_are_left_out_of_a_row() -> None:
    usage = {"judgment_cost": float("nan"), "tokens_per_second": float("inf"), "ended": {"a": 1}}
    ((row,),) = [table.rows for table in rank([card("a", 1.0).model_copy(update={"usage": usage})])]

    assert (row.cost, row.tokens_per_second, row.date) == (None, None, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308])
def test_a_card_with_a_number_that_is_none_is_named_with_its_metric(tmp_path: Path, value: float) -> None:
    made = card("a", 1.0)
    wrong = made.model_copy(update={"scores": made.scores | {"mean": Score(value=value, n=1)}})
    file = tmp_path / "card.json"
    file.write_text(json.dumps(wrong.model_dump()))

    with pytest.raises(ConfigError, match="mean: not a finite number"):
        read_card(file)


def test_a_torn_card_says_where_it_is_torn(tmp_path: Path) -> None:
    file = tmp_path / "card.json"
    file.write_text(card("a", 1.0).model_dump_json()[:40])

    with pytest.raises(ConfigError, match="is not a score card: Invalid JSON: EOF"):
        read_card(file)


def test_a_figure_of_any_name_is_well_formed() -> None:
    for figure in figures(rank([card("x\uffff\ufffe\x00<&", 1.0)])):
        ElementTree.fromstring(figure.drawing.standalone())


def test_a_judges_name_cannot_command_the_terminal() -> None:
    (shown,) = rich_tables(rank([card("a", 1.0, judge="\x1b[31mj")]))

    assert "\x1b" not in str(shown.title)


def test_a_board_says_what_is_counted_if_it_is_not_questions() -> None:
    suites = ("mt_bench", "mt_bench_pairs", "arena_hard", "alpaca_eval", "custom:mine")
    tables = rank([card("a", 1.0).model_copy(update={"suite": suite}) for suite in suites])

    assert {table.suite: count_line(table) for table in tables} == {
        "mt_bench": "n: scored turns, 2 per question",
        "mt_bench_pairs": "n: scored turns, 2 per question",
        "arena_hard": "n: scored games, 2 per question",
        "alpaca_eval": "",
        "custom:mine": "",
    }
    assert "n: scored games, 2 per question." in page(tables, [])


def test_a_table_may_have_no_ranked_card() -> None:
    (table,) = rank([card("part", 1.0, complete=False)])

    assert [(row.rank, row.above) for row in table.rows] == [(None, None)]


# ------------------------------------------------------------------------------------------------------ all suites


def in_suite(suite: str, values: dict[str, float]) -> list[ScoreCard]:
    return [
        card(model, value).model_copy(update={"suite": suite, "protocol_sha": f"{suite}-1"})
        for model, value in values.items()
    ]


def test_a_model_of_one_suite_does_not_pass_those_of_two() -> None:
    # of four models a is 1st and 4th: (1/4 + 4/4) / 2; b 3rd and 1st: (3/4 + 1/4) / 2; "only" is 2nd in one suite
    first = in_suite("mt_bench", {"a": 9.0, "only": 8.0, "b": 7.0, "c": 6.0})
    second = in_suite("arena_hard", {"b": 9.0, "c": 8.0, "d": 7.0, "a": 6.0})

    content = summary(rank([*first, *second]))

    assert content.models == ("b", "a", "c", "only", "d")
    assert content.coverage == ("2 of 2", "2 of 2", "2 of 2", "1 of 2", "1 of 2")
    assert "| only | 1 of 2 |" in summary_markdown(content)
    assert summary_table(content).head[:2] == ["model", "suites"]
    assert "data-opens" not in page(rank([*first, *second]), [])


def test_a_rank_counts_by_the_models_that_are_ranked() -> None:
    # a is 1 of 2 ranked models and 2 of 4; b is 2 of 2 and 1 of 4, though its first table lists four models, too
    cards = in_suite("mt_bench", {"a": 9.0, "b": 8.0}) + in_suite(
        "arena_hard", {"b": 9.0, "a": 8.0, "c": 7.0, "d": 6.0}
    )
    left_out = [card("c", 1.0, complete=False), card("d", 1.0, complete=False)]
    cards += [row.model_copy(update={"suite": "mt_bench", "protocol_sha": "mt_bench-1"}) for row in left_out]

    content = summary(rank(cards))

    assert content.models == ("a", "b", "c", "d")  # (1/2 + 2/4) / 2 = 0.5 before (2/2 + 1/4) / 2 = 0.625
    assert content.coverage == ("2 of 2", "2 of 2", "1 of 2", "1 of 2")


def test_suites_without_a_model_in_common_open_the_first_suite() -> None:
    tables = rank(in_suite("mt_bench", {"a": 9.0}) + in_suite("arena_hard", {"b": 9.0}))

    html = page(tables, [])

    assert html.count(" data-opens>") == 1
    assert f'<a href="#{tables[0].anchor}" data-opens>' in html


def test_models_of_all_suites_have_no_column_for_it() -> None:
    content = summary(rank(in_suite("mt_bench", {"a": 9.0}) + in_suite("arena_hard", {"a": 9.0})))

    assert content.coverage == ()
    assert content.title == "All suites: score (rank), models by their mean rank"
    assert "suites" not in summary_table(content).head
