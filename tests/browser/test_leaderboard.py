"""The leaderboard page in a real browser: what it shows, what a reader can do, and what the address keeps."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.read_board import BoardOptions, read_board
from harness.pages.board import PageFacts
from harness.pages.board import page as leaderboard_page
from harness.store import read_card
from tests.browser.conftest import DESK, PHONE, first, fits, keep, needs_chromium, serious
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_games, make_run, pocket

pytestmark = needs_chromium
TABLET = {"width": 1024, "height": 800}
WIDE = {"width": 1440, "height": 900}


def open_tab(page: Any, name: str = "arena_hard") -> None:
    page.get_by_role("tab", name=name).click()


def box_of(page: Any, model: str) -> Any:
    return page.get_by_label(f"choose {model}", exact=True).locator("visible=true")


@pytest.mark.slow
def test_the_page_works_from_disk_and_asks_for_nothing_else(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)

    assert page.asked == [report]
    assert page.complaints == []
    assert first(page) == "wrpo-6-sources"
    headings = page.locator("figure h3:visible").all_text_contents()
    assert headings[1:] == ["arena_hard by category", "Every model against every other"]
    assert page.locator(".facts").inner_text() == (
        "6 models, 2 suites · made 2026-11-27 by harness 1.0 · newest run 2026-11-20"
    )
    assert page.get_by_text("Reported elsewhere, not measured here").count() == 0  # nothing is reported of pocket
    page.set_viewport_size({"width": 1280, "height": 1195})
    keep(page, "leaderboard.png")


def test_without_a_script_all_tables_are_there(browser: Any, report: str) -> None:
    context = browser.new_context(java_script_enabled=False, viewport=DESK)
    page = context.new_page()
    page.goto(report)

    assert page.locator("table:visible").count() == 3  # two suites, and all suites
    assert page.locator("tr[data-model]:visible").count() == 18
    assert page.locator("#filter, button#copy-csv, select:visible").locator("visible=true").count() == 0
    context.close()


def test_tabs_are_walked_by_keyboard_and_kept_in_the_address(open_page: Any, report: str) -> None:
    page = open_page(report)
    tab = page.get_by_role("tab", name="All suites")
    assert tab.get_attribute("aria-selected") == "true"
    assert page.locator("#t-overview tbody tr").count() == 6
    tab.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")

    assert page.locator("h2:visible").inner_text().startswith("arena_hard")
    assert page.evaluate("document.activeElement.textContent").startswith("arena_hard")
    assert open_page(page.url).locator("h2:visible").inner_text().startswith("arena_hard")
    anchor = page.get_by_role("tab", name="alpaca_eval").get_attribute("href")
    assert open_page(report + anchor).locator("h2:visible").inner_text().startswith("alpaca_eval")  # as links of old


def test_a_column_sorts_both_ways_and_the_address_remembers(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)
    header = page.locator("table[id^=t-arena-hard] thead th.number[data-col=arena_hard]")
    values = "[...document.querySelectorAll('table[id^=t-arena-hard] tbody td.score')].map(x => +x.dataset.key)"
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "descending"
    assert page.evaluate(values) == sorted(page.evaluate(values), reverse=True)
    header.get_by_role("button").click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(values) == sorted(page.evaluate(values))
    again = open_page(page.url)
    assert again.evaluate(values) == page.evaluate(values)
    page.locator("table[id^=t-arena-hard] thead th.model button").focus()
    page.keyboard.press("Enter")
    assert first(page) == "dpo"
    page.keyboard.press("Space")
    assert first(page) == "wrpo-6-sources-alpha-0.5"


def test_a_filter_reaches_the_figures_counts_models_and_is_a_deep_link(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)
    squares = page.locator("rect[data-pair]:visible")
    assert squares.count() == 6 * 5
    page.get_by_label("Models that contain").fill("WRPO")

    assert page.get_by_role("status").inner_text() == "4 of 6 models"
    assert page.locator("tr[data-model]:visible").count() == 4
    assert squares.count() == 4 * 3
    ranked = page.locator("tr[data-model]:visible").evaluate_all("(rows) => rows.map((row) => row.dataset.model)")
    assert page.locator(".legend li:visible").all_text_contents() == ranked
    again = open_page(page.url)
    assert again.locator("tr[data-model]:visible").count() == 4
    assert again.get_by_label("Models that contain").input_value() == "WRPO"
    page.get_by_label("Models that contain").fill("wrpo-?-source*")
    assert page.get_by_role("status").inner_text() == "4 of 6 models"
    page.get_by_role("tab", name="All suites").click()
    assert page.get_by_role("status").inner_text() == "4 of 6 models"  # not 12 of 18 rows


def test_a_filter_without_a_match_says_so_and_is_cleared(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)
    page.get_by_label("Models that contain").fill("<b>nobody")

    assert page.locator(".empty").inner_text().startswith("No model here matches “<b>nobody”.")
    assert page.locator("figure:visible, table:visible").count() == 0
    page.get_by_role("button", name="Clear the filter").click()
    assert page.locator("tr[data-model]:visible").count() == 6
    assert page.locator(".empty").count() == 0
    assert page.evaluate("document.activeElement.id") == "filter"


def test_two_chosen_models_show_the_difference_that_compare_states(open_page: Any, report: str, results: Path) -> None:
    page = open_page(report)
    open_tab(page)
    box_of(page, "target-sft").check()
    box_of(page, "wrpo-6-sources").check()

    board = read_board(results, BoardOptions(suites=("arena_hard",), matching="w", baseline="target-sft"))
    (row,) = [row for row in board.tables[0].rows if row.model == "wrpo-6-sources"]
    assert row.above is not None
    panel = page.get_by_role("region", name="Chosen models").locator("visible=true")
    cells = panel.locator("tbody tr").first.locator("th, td").all_text_contents()
    assert cells[:3] == [
        "wrpo-6-sources",
        f"{row.above.difference:+.2f}",
        f"[{row.above.ci_low:+.2f}, {row.above.ci_high:+.2f}]",
    ]
    assert cells[3] == ("< 0.001 *" if row.above.p < 0.001 else f"{row.above.p:.3f}" + " *" * row.above.significant)
    assert panel.locator("code").inner_text() == "harness compare target-sft wrpo-6-sources --suite arena_hard"
    address = panel.get_by_role("link", name="questions").get_attribute("href")
    assert re.match(r"http://viewer\.test/compare\?a=target-sft%2Farena_hard%40pocket-1%2F\w+&b=wrpo-6", address)
    assert open_page(page.url).locator(".picked").count() == 2
    page.get_by_role("button", name="Clear").locator("visible=true").click()
    assert page.locator(".picked").count() == 0


def test_three_chosen_models_are_corrected_as_compare_does(open_page: Any, report: str, results: Path) -> None:
    from harness.analysis.finished_runs import PairOptions, compare_models

    names = ["dpo", "wrpo-1-source", "wrpo-3-sources"]
    page = open_page(report)
    open_tab(page)
    for model in names:
        box_of(page, model).check()

    panel = page.get_by_role("region", name="Chosen models").locator("visible=true")
    shown = [row.locator("td").nth(2).inner_text() for row in panel.locator("tbody tr").all()]
    pairs = compare_models(names, results, PairOptions(["arena_hard"]))
    adjusted = [pair.differences[0].p_adjusted or 0.0 for pair in pairs]
    assert [text.removesuffix(" *") for text in shown] == ["< 0.001" if p < 0.001 else f"{p:.3f}" for p in adjusted]
    assert "corrected by Holm over 2 models" in panel.inner_text()
    assert page.locator(".legend li:visible").all_text_contents() == names  # the dot plot shows the chosen ones
    keep(page, "leaderboard-chosen.png")


def test_a_cell_of_the_matrix_chooses_its_two_models(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)
    cell = page.locator("rect[data-pair]:visible").first
    cell.hover()
    assert page.locator(".readout:visible").inner_text().startswith("wrpo-6-sources minus wrpo-6-sources-alpha-0.5: +")
    cell.click()
    assert page.locator("tr.picked").count() == 2
    page.get_by_label("Cells").locator("visible=true").select_option("difference")
    assert page.evaluate("document.activeElement.ariaLabel") == "Cells"
    assert "matrix=difference" in page.url


def test_direct_games_are_outlined_in_the_matrix_and_stated(
    open_page: Any, harness: Callable[..., Done], tmp_path: Path
) -> None:
    results = tmp_path / "results"
    for model, skill in (("low", 0.3), ("middle", 0.5), ("high", 0.9)):
        make_run(results, model, pocket("arena_hard"), skill=skill)
    make_games(results, "high", "low", pocket("arena_hard"), skill=0.95)
    file = tmp_path / "board.html"
    assert harness("leaderboard", "--results", str(results), "--format", "html", "--out", str(file)).code == 0
    (card,) = results.glob("runs/high/head_to_head_arena_hard@*/*/card.json")
    scores = read_card(card).scores
    page = open_page(file.as_uri() + "#tab=" + read_board(results).tables[0].anchor)

    outlined = page.locator("rect.direct:visible")
    assert outlined.evaluate_all("(cells) => cells.map((cell) => cell.dataset.pair)") == ["0 2", "2 0"]
    outlined.first.hover()
    games = (
        f"Direct games: high against low, {scores['win_rate'].value:.2f} % of the points "
        f"[{scores['win_rate'].ci_low:.2f}, {scores['win_rate'].ci_high:.2f}], p < 0.001 *; "
        + " / ".join(f"{scores[name].value:.0f}" for name in ("n_won", "n_tied", "n_lost"))
        + " questions won / tied / lost, judge reference"
    )
    assert page.locator(".readout:visible").inner_text().split("\n")[1] == games
    outlined.first.click()
    assert page.locator(".chosen .games:visible").inner_text() == games
    page.get_by_label("Cells").locator("visible=true").select_option("difference")
    assert outlined.count() == 0


def test_columns_are_chosen_and_kept(open_page: Any, report: str) -> None:
    page = open_page(report)
    open_tab(page)
    head = page.locator("table[id^=t-arena-hard] thead")
    assert not head.locator("[data-col=run]").is_visible()
    page.locator("#columns summary").click()
    page.get_by_label("run", exact=True).check()
    page.get_by_label("cost $").uncheck()
    page.keyboard.press("Escape")

    assert head.locator("[data-col=run]").is_visible()
    assert not head.locator("[data-col='cost $']").is_visible()
    assert not page.get_by_label("cost $").is_visible()
    assert not open_page(page.url).locator("table[id^=t-arena-hard] thead [data-col='cost $']").is_visible()


def test_rows_are_copied_as_markdown_and_csv(open_page: Any, report: str) -> None:
    page = open_page(report)
    page.evaluate("navigator.clipboard.writeText = async (text) => { window.copied = text; }")
    open_tab(page)
    page.get_by_label("Models that contain").fill("wrpo-6")
    page.get_by_role("button", name="Copy as Markdown").click()
    markdown = page.evaluate("window.copied").splitlines()
    page.get_by_role("button", name="Copy as CSV").click()
    csv = page.evaluate("window.copied").splitlines()

    assert markdown[0].startswith("| rank | model | arena\\_hard | against the row above |")
    assert len(markdown) == 2 + 2 + 2
    assert markdown[2].startswith("| 1 ")
    assert "| wrpo-6-sources wrpo, 6 sources, alpha 0.1 |" in markdown[2]
    assert markdown[-1].startswith("arena\\_hard pocket-1, judge reference, 6 models, 2 suites")
    assert csv[0].startswith("rank,model,arena_hard,")
    assert csv[0].endswith(",95 % low,95 % high")
    assert csv[1].startswith("1,wrpo-6-sources,")
    assert len(csv) == 3
    assert page.get_by_role("status").inner_text() == "copied 2 rows as CSV"


@pytest.mark.slow
def test_head_and_model_stay_in_sight(open_page: Any, tmp_path: Path) -> None:
    page = open_page(large_board(tmp_path), size={"width": 700, "height": 600}, scheme="light")
    page.set_viewport_size({"width": 800, "height": 600})
    scroll = page.locator(".board:visible")
    before = [
        page.locator(f".board:visible {cell}").first.bounding_box() for cell in ("thead th.model", "tbody th.model")
    ]
    scroll.evaluate("(box) => box.scrollTo(300, 400)")
    after = page.locator(".board:visible thead th.model").bounding_box()

    assert scroll.evaluate("(box) => [box.scrollLeft > 0, box.scrollTop]") == [True, 400]
    assert after["y"] == pytest.approx(before[0]["y"], abs=1)
    frame = scroll.bounding_box()
    assert after["x"] == pytest.approx(frame["x"], abs=2)


@pytest.mark.parametrize(
    ("higher", "css", "cells"), [(True, "good", "plus"), (False, "bad", "minus"), (None, "", "even")]
)
def test_a_difference_is_good_only_in_a_direction_that_is_known(
    open_page: Any, tmp_path: Path, higher: bool | None, css: str, cells: str
) -> None:
    for model, skill in (("low", 0.1), ("middle", 0.5), ("high", 0.95)):
        make_run(tmp_path / "results", model, pocket("mt_bench"), skill=skill)
    board = read_board(tmp_path / "results", BoardOptions(pairs=True))
    tables = [table.model_copy(update={"higher_is_better": higher}) for table in board.tables]
    file = tmp_path / "board.html"
    file.write_text(leaderboard_page(tables, board.reported, PageFacts(pairs=board.pairs)))
    page = open_page(file.as_uri())
    for model in ("low", "high"):
        box_of(page, model).check()

    row = page.locator("[id^=c-].some tbody tr")
    difference = row.locator("td.number").first
    assert row.locator("th").inner_text() == "high"
    assert difference.inner_text().startswith("+")
    assert (row.locator("td.number").last.inner_text() == "-") == (higher is None)  # questions won, tied, lost
    assert set((difference.get_attribute("class") or "").split()) == {"number", css} - {""}
    shown = {mark.get_attribute("class") for mark in page.locator("svg rect[fill-opacity]").all()}
    assert shown == ({"plus", "minus"} if higher is not None else {cells})


@pytest.mark.slow
def test_thirty_models_take_less_than_8000_pixels_on_a_phone(open_page: Any, tmp_path: Path) -> None:
    page = open_page(large_board(tmp_path), size=PHONE)

    assert page.locator("tr[data-model]:visible").count() == 30
    assert page.evaluate("document.documentElement.scrollHeight") < 8000
    assert fits(page)
    page.get_by_label("Sort by").select_option(label="model")
    assert re.search(r"sort=t-[\w-]+\.ascending\.model", page.url)
    keep(page, "leaderboard-phone.png")


def large_board(folder: Path) -> str:
    """The address of a page on thirty models with long names."""
    for number in range(30):
        model = f"llama-3-8b-instruct-wrpo-alpha-0.1-beta-0.01-seed-{number:02}"
        make_run(folder / "results", model, pocket("mt_bench"), skill=0.2 + number / 50)
    board = read_board(folder / "results", BoardOptions(paired=False, pairs=True))
    file = folder / "board.html"
    file.write_text(leaderboard_page(list(board.tables), board.reported, PageFacts(pairs=board.pairs)))
    return file.as_uri()


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [PHONE, TABLET, WIDE], ids=["390", "1024", "1440"])
def test_axe_finds_nothing_serious_and_nothing_scrolls_sideways(
    open_page: Any, report: str, size: dict[str, int], scheme: str
) -> None:
    page = open_page(report, size=size, scheme=scheme)
    assert serious(page) == []
    open_tab(page)
    for model in ("dpo", "wrpo-3-sources"):
        box_of(page, model).check()

    assert fits(page)
    assert serious(page) == []
    assert page.complaints == []
    keep(page, f"leaderboard-{size['width']}-{scheme}.png")


@pytest.mark.slow
def test_dark_follows_the_system_and_the_choice(open_page: Any, report: str) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    page = open_page(report, scheme="dark")
    assert brightness(page) < 150
    page.get_by_label("Colours").select_option("light")
    assert brightness(page) > 600
    assert brightness(open_page(page.url, scheme="dark")) > 600
