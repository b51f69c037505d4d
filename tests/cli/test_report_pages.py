"""What the leaderboard is written as: page, figures, Markdown that a check holds to; nothing in it acts."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pydantic import JsonValue

from harness.analysis.leaderboard import rank
from harness.analysis.read_board import BoardOptions, read_board
from harness.pages import charts
from harness.pages.board import figures, page, png
from harness.pages.charts import Axis, Drawing
from harness.records import ScoreCard
from harness.records.errors import ConfigError
from harness.store.checkpoint import read_checkpoint_fusion, read_fusion
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket
from tests.unit.test_leaderboard import card

EVIL = "=cmd|'/c calc'!A1<script>alert(1)</script>"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("board")
    fused: dict[str, JsonValue] = {"method": "wrpo", "sources": ["a", "b"], "alpha": 0.1}
    usage: dict[str, JsonValue] = {"judgment_cost": 1.25, "tokens_per_second": 3900.0, "ended": "2026-11-20T10:00:00Z"}
    make_run(folder, "fused", pocket("arena_hard"), skill=0.8, fusion=fused, usage=usage)
    make_run(folder, EVIL, pocket("arena_hard"), skill=0.4)
    (folder / "fusion.yaml").write_text(f"{json.dumps(EVIL)}: {{method: wrpo, sources: [a], alpha: 0.5}}\n")
    return folder


def test_the_page_is_one_file_whose_policy_allows_its_own_script_and_style_alone(results: Path) -> None:
    board = read_board(results)
    text = page(list(board.tables), board.reported)

    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]+)"', text)
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{directive} &#39;sha256-{digest}&#39;" in policy or f"{directive} 'sha256-{digest}'" in policy
    assert "default-src" in policy
    assert "unsafe" not in policy
    assert not re.findall(r"""(?:src|href)=["'](?!#)""", text)
    assert "<script>alert" not in text
    assert 'style="' not in text


def test_the_page_says_what_a_row_cost_when_and_how_it_was_fused(results: Path) -> None:
    board = read_board(results)
    text = page(list(board.tables), board.reported)

    for part in ("wrpo, 2 sources, alpha 0.1", "wrpo, 1 source, alpha 0.5", "1.25", "3900", "2026-11-20"):
        assert part in text
    assert text.count("<figure>") == 2  # scaling with sources and with alpha; the script draws the others


def test_rows_are_paired_where_their_files_are_there_and_say_so_where_not(results: Path) -> None:
    def above(paired: bool) -> bool:
        (table,) = read_board(results, BoardOptions(paired=paired)).tables
        assert table.rows[1].above is not None
        return table.rows[1].above.paired

    assert above(True)
    assert not above(False)


def test_csv_holds_the_new_columns_on_the_headlines_line_and_no_formula(
    harness: Callable[..., Done], results: Path
) -> None:
    done = harness("leaderboard", "--results", str(results), "--format", "csv")

    rows = [row for row in csv.DictReader(io.StringIO(done.out)) if row["metric"] == "arena_hard"]
    assert (rows[0]["model"], rows[0]["cost"], rows[0]["date"], rows[0]["above"]) == ("fused", "1.25", "2026-11-20", "")
    assert float(rows[1]["above"]) < 0
    assert rows[1]["above_paired"] == "1"
    assert rows[1]["model"].startswith("'=cmd")
    assert all(row["rank_low"] for row in rows)


@pytest.mark.slow
def test_a_stale_leaderboard_fails_the_check(harness: Callable[..., Done], results: Path, tmp_path: Path) -> None:
    file, words = tmp_path / "LEADERBOARD.md", ("leaderboard", "--results", str(results))
    assert harness(*words, "--format", "md", "--out", str(file)).code == 0
    text = file.read_text()
    assert "&lt;script>" in text

    assert harness(*words, "--check", str(file)).code == 0
    file.write_text(text.replace("fused", "faked"))
    stale = harness(*words, "--check", str(file))
    assert (stale.code, f"is stale: harness leaderboard --results {results} --format md --out" in stale.err) == (
        4,
        True,
    )
    assert "faked" in file.read_text()  # the check writes nothing


@pytest.mark.slow
def test_figures_are_svg_and_png_files(harness: Callable[..., Done], results: Path, tmp_path: Path) -> None:
    done = harness("leaderboard", "--results", str(results), "--figures", str(tmp_path / "plots"))

    assert done.code == 0, done.err
    files = sorted((tmp_path / "plots").iterdir())
    assert [file.name.split("-", 3)[-1] for file in files if file.suffix == ".svg"] == [
        "categories.svg",
        "differences.svg",
        "forest.svg",
        "scaling-1.svg",
        "scaling-2.svg",
    ]
    for file in files:
        if file.suffix == ".svg":
            root = ElementTree.fromstring(file.read_text())
            assert root.tag.endswith("svg")
            assert "<script>alert" not in file.read_text()
        else:
            assert file.read_bytes().startswith(b"\x89PNG")
    assert any(file.suffix == ".png" for file in files)


def test_a_forest_plot_has_a_row_a_model_and_its_interval_where_it_belongs(results: Path) -> None:
    (table,) = read_board(results).tables
    drawing = charts.forest(table)
    assert drawing is not None
    root = ElementTree.fromstring(drawing.inline())
    marks = root.findall(".//{*}circle")
    assert len(marks) == 2
    assert float(marks[0].attrib["cx"]) > float(marks[1].attrib["cx"])  # the better one lies further right
    assert len(png(drawing)) > 1000
    assert {figure.name.split("-")[0] for figure in figures([table])} == {"arena"}


def test_a_scaling_line_joins_models_that_are_alike_in_the_rest() -> None:
    def fused(model: str, sources: int, alpha: float) -> ScoreCard:
        fusion: dict[str, JsonValue] = {"method": "wrpo", "sources": list("abcdef"[:sources]), "alpha": alpha}
        return card(model, sources + alpha).model_copy(update={"provenance": {"run_id": model, "fusion": fusion}})

    (table,) = rank([fused("a", 1, 0.1), fused("b", 3, 0.1), fused("c", 6, 0.1), fused("d", 6, 0.5)])
    by_sources, by_alpha = charts.scaling(table)

    for drawing, lines in ((by_sources, {3: 1, 1: 1}), (by_alpha, {2: 1, 1: 2})):
        root = ElementTree.fromstring(drawing.inline())
        drawn = [len(line.attrib["points"].split()) for line in root.findall("{*}polyline")]
        assert {length: drawn.count(length) for length in drawn} == lines
    assert "wrpo, alpha 0.1" in by_sources.inline()
    assert "wrpo, 6 sources" in by_alpha.inline()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 100, [0, 20, 40, 60, 80, 100]), (6.9, 8.1, [7.0, 7.5, 8.0]), (-1, 1, [-1, -0.5, 0, 0.5, 1])],
)
def test_ticks_are_round_numbers(low: float, high: float, ticks: list[float]) -> None:
    assert Axis(low, high, 0, 1).ticks() == ticks


def test_a_texts_characters_are_literal_in_a_drawing() -> None:
    drawing = Drawing(10, 10, 'a"<b>')
    drawing.text(0, 0, "<script>\x1b")
    drawing.mark(1, 1, hint="&<")

    root = ElementTree.fromstring(drawing.standalone())
    assert root.attrib["aria-label"] == 'a"<b>'
    assert [text.text for text in root.findall("{*}text")] == ["<script>␛"]


def test_fusion_metadata_is_read_strictly(tmp_path: Path) -> None:
    assert read_checkpoint_fusion(tmp_path) is None
    (tmp_path / "fusion.json").write_text('{"method": "wrpo", "sources": ["a"], "alpha": 0.1}')
    found = read_checkpoint_fusion(tmp_path)
    assert found is not None
    assert (found.method, found.sources, found.alpha) == ("wrpo", ("a",), 0.1)
    for wrong in ('{"method": "wrpo", "alpha": 2}', '{"methd": "wrpo"}', "[]", "{"):
        (tmp_path / "fusion.json").write_text(wrong)
        with pytest.raises(ConfigError, match=r"keys: method, sources, alpha, target|is not JSON"):
            read_checkpoint_fusion(tmp_path)
    (tmp_path / "fusion.yaml").write_text("model: wrpo\n")
    with pytest.raises(ConfigError, match=r"fusion.yaml: .*must be keys and values; expected MODEL"):
        read_fusion(tmp_path)
