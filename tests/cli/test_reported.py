"""What others reported stands apart, with source and protocol; a run of the same model says how far it is from it."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import JsonValue

from harness.analysis.leaderboard import RankOptions, rank
from harness.analysis.reported import ReportedSource, ReportedTable, load_reported, reported_beside
from harness.pages.board import page
from harness.pages.tables import csv_lines, csv_text, markdown_reported
from harness.records import Score, ScoreCard
from harness.records.errors import ConfigError
from harness.store import run_dir, write_atomic
from tests.fakes.commands import Done

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
GPT4 = "gpt-4-1106-preview"


def card(
    model: str = "LLaMA3-8B-Instruct",
    value: float = 27.0,
    *,
    version: str = "official-1",
    judge: str = GPT4,
    complete: bool = True,
    protocol: dict[str, JsonValue] | None = None,
) -> ScoreCard:
    return ScoreCard(
        suite="alpaca_eval",
        suite_version=version,
        model=model,
        judge=judge,
        headline="lc_win_rate",
        complete=complete,
        protocol={"suite": "alpaca_eval", "judge": {"name": "any", "model": judge}, **(protocol or {})},
        sampling={},
        scores={"lc_win_rate": Score(value=value, ci_low=value - 2, ci_high=value + 3, n=805)},
        provenance={"run_id": "run1"},
    )


def source(**changes: object) -> ReportedSource:
    row: dict[str, object] = {
        "source": "A paper",
        "reference": "its table 1",
        "url": "https://example.org",
        "protocols": [{"suite": "alpaca_eval", "suite_version": "official-1", "judge": GPT4, "baseline": "b"}],
        "models": [
            {
                "model": "LLaMA3-8B-Instruct",
                "aliases": ["meta-llama/Meta-Llama-3-8B-Instruct"],
                "scores": {"alpaca_eval": {"lc_win_rate": {"value": 26.0}, "win_rate": {"value": 25.3}}},
            },
            {"model": "=other", "scores": {"alpaca_eval": {"lc_win_rate": {"value": 99.0}}}},
        ],
    }
    return ReportedSource.model_validate(row | changes)


def beside(*cards: ScoreCard) -> ReportedTable:
    (table,) = reported_beside(cards, [source()])
    return table


# ----------------------------------------------------------------------------------------------------- the figures


def test_the_main_table_has_all_its_rows_and_figures() -> None:
    (paper,) = [found for found in load_reported() if found.source.startswith("WRPO")]
    by_name = {model.model: model.scores for model in paper.models}

    assert len(by_name) == 23
    best = by_name["Target-SFT-WRPO"]
    assert best["alpaca_eval"]["lc_win_rate"].value == 55.9
    assert best["alpaca_eval"]["win_rate"].value == 57.6
    assert best["arena_hard"]["arena_hard"].value == 46.2
    assert [best["mt_bench"][name].value for name in ("turn_1", "turn_2", "mt_bench")] == [7.95, 7.31, 7.63]
    assert all(set(scores) == {"alpaca_eval", "arena_hard", "mt_bench"} for scores in by_name.values())


def test_reported_averages_lie_halfway_between_the_turns_but_for_two() -> None:
    """Both turns have 80 ratings, so the average lies halfway, to the hundredth that rounding costs; in the paper's
    picture two rows do not (unscored ratings would explain them). A slip of copying would be a third."""
    (paper,) = [found for found in load_reported() if found.source.startswith("WRPO")]
    off = {
        model.model: round((one.value + two.value) / 2 - mean.value, 3)
        for model in paper.models
        for one, two, mean in [[model.scores["mt_bench"][name] for name in ("turn_1", "turn_2", "mt_bench")]]
    }

    far = {name: by for name, by in off.items() if abs(by) > 0.0101}
    assert far == {"DeepSeek-Coder-V2-Instruct": -0.02, "Target-SimPO": -0.015}


def test_every_source_says_where_and_how() -> None:
    for found in load_reported():
        assert found.url.startswith("https://")
        assert found.reference
        assert {protocol.suite_version for protocol in found.protocols} == {"official-1"}


@pytest.mark.skipif(not PUBLISHED, reason="HARNESS_PUBLISHED names the folder of published files")
def test_the_boards_rows_equal_the_boards() -> None:
    with Path(PUBLISHED or "", "alpaca_eval", "published_leaderboard.csv").open(encoding="utf-8") as file:
        alpaca = {row[""]: row for row in csv.DictReader(file)}
    boards = json.loads(Path(PUBLISHED or "", "arena_hard", "published.json").read_text("utf-8"))["v0.1"]
    arena = {row["model"]: row for row in boards["leaderboard_20240731"]["rows"]}
    sources = {found.source: found for found in load_reported()}

    for model in sources["AlpacaEval 2 leaderboard"].models:
        row, figures = alpaca[model.model], model.scores["alpaca_eval"]
        assert figures["lc_win_rate"].value == float(row["length_controlled_winrate"])
        assert figures["win_rate"].value == float(row["win_rate"])
        assert figures["discrete_win_rate"].value == float(row["discrete_win_rate"])
        assert figures["avg_length"].value == int(row["avg_length"])
    for model in sources["Arena-Hard v0.1 leaderboard, 2024-07-31"].models:
        row, figure = arena[model.model], model.scores["arena_hard"]["arena_hard"]
        assert (figure.value, figure.ci_low, figure.ci_high) == (row["score"], row["lower"], row["upper"])


def test_an_unknown_key_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(
        "source: s\nreference: r\nurl: u\nprotocols: [{suite: x, suite_version: '1', judge: j}]\n"
        "models: [{model: m, scores: {x: {y: {value: 1, mean: 2}}}}]\n"
    )

    with pytest.raises(ConfigError, match=r"a\.yaml: unknown key 'models\.0\.scores\.x\.y\.mean'; known: ci_high"):
        load_reported(tmp_path)


def test_a_score_without_a_protocol_is_refused() -> None:
    with pytest.raises(ValueError, match="scores without a protocol: alpaca_eval"):
        source(protocols=[{"suite": "mt_bench", "suite_version": "official-1", "judge": GPT4}])


# ----------------------------------------------------------------------------------------- beside what was measured


def test_reported_figures_are_never_among_the_ranked() -> None:
    cards = [card("mine", 40.0)]

    (table,) = rank(cards)

    assert [row.model for row in table.rows] == ["mine"]
    assert [row.model for row in beside(*cards).rows] == ["LLaMA3-8B-Instruct", "=other"]


def test_only_suites_and_editions_on_the_board_are_shown() -> None:
    assert reported_beside([card(version="pocket-1")], [source()]) == []
    assert reported_beside([], [source()]) == []


def test_the_same_model_and_protocol_shows_the_difference_with_its_interval() -> None:
    """Measured 27 [25, 30], reported 26: +1 [-1, 4]; the run has no plain win rate, so one difference."""
    (found,) = beside(card(protocol={"baseline": "b"})).rows[0].differences

    assert (found.metric, found.run_id, found.value, found.ci_low, found.ci_high) == ("lc_win_rate", "run1", 1, -1, 4)
    assert found.unstated == ()


@pytest.mark.parametrize("name", ["meta-llama/Meta-Llama-3-8B-Instruct", "llama3-8b-instruct"])
def test_other_names_of_the_same_weights_are_known(name: str) -> None:
    assert len(beside(card(name)).rows[0].differences) == 1


@pytest.mark.parametrize(
    "other",
    [
        card("LLaMA3-70B-Instruct"),
        card(judge="gpt-4.1"),
        card(complete=False),
        card(protocol={"limit": {"n": 20, "seed": 0}}),
        card(protocol={"sampling_deviation": {"temperature": 0.0}}),
        card(protocol={"baseline": "another"}),
    ],
)
def test_another_model_or_protocol_is_not_compared(other: ScoreCard) -> None:
    assert beside(other).rows[0].differences == ()


def test_an_imported_run_is_compared_under_the_original_tools_name_of_the_judge() -> None:
    annotator = "weighted_alpaca_eval_gpt4_turbo"
    (table,) = [
        table
        for table in reported_beside([card(judge=annotator)], load_reported())
        if table.source == "AlpacaEval 2 leaderboard"
    ]

    measured = {row.model: row.differences for row in table.rows if row.differences}
    assert measured["Meta-Llama-3-8B-Instruct"][0].value == pytest.approx(27.0 - 22.91878467313347)


def test_nothing_is_compared_with_a_figure_whose_judge_is_not_stated() -> None:
    silent = source(protocols=[{"suite": "alpaca_eval", "suite_version": "official-1", "judge": None}])

    (table,) = reported_beside([card()], [silent])

    assert table.rows[0].differences == ()
    assert "judge not stated" in table.title


def test_what_the_source_does_not_state_is_said() -> None:
    (found,) = beside(card(protocol={"references": "official"})).rows[0].differences

    assert found.unstated == ("references",)


def test_markdown_has_a_section_that_says_reported() -> None:
    text = markdown_reported([beside(card())])

    assert "## Reported, not measured here: alpaca\\_eval (official-1), judge gpt-4-1106-preview; A paper" in text
    assert "| LLaMA3-8B-Instruct | - | 26 | 25.3 | lc\\_win\\_rate +1.00 \\[-1.00, 4.00\\] in run run1 |" in text
    assert markdown_reported([]) == ""


def test_the_page_has_them_in_a_section_of_their_own() -> None:
    html = page(rank([card()]), [beside(card())])

    assert "Reported" in html
    assert "LLaMA3-8B-Instruct" in html


def test_csv_says_which_lines_are_reported() -> None:
    table = beside(card())

    rows = list(csv.DictReader(io.StringIO(csv_text(rank([card()]), csv_lines([table])))))

    assert [row["source"] for row in rows] == ["measured", *["reported: A paper"] * 3]
    assert rows[0]["rank"] == "1"
    assert [row["rank"] for row in rows[1:]] == [""] * 3
    assert (rows[1]["compared_run"], rows[1]["difference"], rows[1]["difference_low"]) == ("run1", "1.0", "-1.0")
    assert rows[3]["model"] == "'=other"


@pytest.mark.slow
def test_the_command_shows_them_and_can_leave_them_out(harness: Callable[..., Done], tmp_path: Path) -> None:
    folder = run_dir(tmp_path, model="x", suite="alpaca_eval", version="official-1", run_id="run1")
    folder.mkdir(parents=True)
    write_atomic(folder / "card.json", card().model_dump_json())
    call = ("leaderboard", "--results", str(tmp_path))

    shown = json.loads(harness(*call, "--json", "--reported").out)
    assert {found["source"] for found in shown["reported"]} == {
        "WRPO paper, main table",
        "FuseChat-3.0",
        "AlpacaEval 2 leaderboard",
    }
    assert json.loads(harness(*call, "--json", "--no-reported").out)["reported"] == []
    table = harness(*call, "--reported").out
    assert "Reported, not measured here" in table
    assert "Target-SFT-WRPO" in table
    assert "Reported" not in harness(*call, "--no-reported").out
    assert "reported: FuseChat-3.0" in harness(*call, "--reported", "--format", "csv").out
    assert "## Reported" in harness(*call, "--reported", "--format", "md").out


@pytest.mark.slow
@pytest.mark.parametrize("words", [(), ("--format", "md"), ("--format", "csv"), ("--json",)])
def test_figures_of_models_that_were_not_measured_are_shown_only_when_asked_for(
    harness: Callable[..., Done], tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = run_dir(tmp_path, model="x", suite="alpaca_eval", version="official-1", run_id="run1")
    folder.mkdir(parents=True)
    write_atomic(folder / "card.json", card().model_dump_json())
    call = ("leaderboard", "--results", str(tmp_path), *words)

    assert "Qwen2-72B-Instruct" not in harness(*call).out
    assert "Qwen2-72B-Instruct" in harness(*call, "--reported").out


@pytest.mark.parametrize("words", [("--sort", "mt_bnch"), ("--columns", "rnak")])
def test_a_misspelt_name_is_refused_before_models_are_compared(
    harness: Callable[..., Done], tmp_path: Path, words: tuple[str, ...]
) -> None:
    folder = run_dir(tmp_path, model="x", suite="alpaca_eval", version="official-1", run_id="run1")
    folder.mkdir(parents=True)
    write_atomic(folder / "card.json", card().model_dump_json())

    done = harness("leaderboard", "--results", str(tmp_path), *words)

    assert done.code == 2
    assert repr(words[1]) in done.err


def test_only_the_first_rows_are_compared_if_only_those_are_shown() -> None:
    cards = [card().model_copy(update={"model": name, "provenance": {"run_id": name}}) for name in "abcd"]
    pairs = []

    (table,) = rank(cards, options=RankOptions(compared=2, difference=lambda *pair: pairs.append(pair)))

    assert len(pairs) == 1
    assert len(table.rows) == 4
