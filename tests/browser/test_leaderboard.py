"""The leaderboard page in a real browser."""

from __future__ import annotations

from typing import Any

from tests.browser.conftest import first, keep, needs_chromium

pytestmark = needs_chromium


def test_the_page_works_from_disk_and_asks_for_nothing_else(open_page: Any, report: str) -> None:
    page = open_page(report)

    assert page.asked == [report]
    assert page.complaints == []
    assert first(page) == "wrpo-6-sources"
    assert page.locator("figure svg").count() >= 6
    assert page.get_by_text("Reported elsewhere, not measured here").count() == 0  # nothing is reported of pocket
    page.set_viewport_size({"width": 1280, "height": 1380})
    keep(page, "leaderboard.png")


def test_a_column_sorts_both_ways_and_the_address_remembers(open_page: Any, report: str) -> None:
    page = open_page(report)
    button = page.locator("table[id^=t-arena-hard] thead button", has_text="arena_hard")
    header = page.locator("table[id^=t-arena-hard] thead th", has_text="arena_hard")
    values = "[...document.querySelectorAll('table[id^=t-arena-hard] tbody td:nth-child(3)')].map(x => +x.dataset.key)"
    button.click()
    assert header.get_attribute("aria-sort") == "descending"
    assert page.evaluate(values) == sorted(page.evaluate(values), reverse=True)
    button.click()
    assert header.get_attribute("aria-sort") == "ascending"
    assert page.evaluate(values) == sorted(page.evaluate(values))
    again = open_page(page.url)
    assert again.evaluate(values) == page.evaluate(values)


def test_filtering_hides_rows_says_so_and_is_a_deep_link(open_page: Any, report: str) -> None:
    page = open_page(report)
    page.get_by_label("Models that contain").fill("WRPO-6")

    assert page.locator("tr[data-model]:visible").count() == 4  # two models, two suites
    assert page.get_by_role("status").inner_text() == "4 of 12 rows"
    again = open_page(page.url)
    assert again.locator("tr[data-model]:visible").count() == 4
    assert again.get_by_label("Models that contain").input_value() == "WRPO-6"
    anchor = page.locator("nav a").nth(1).get_attribute("href")
    deep = open_page(report + anchor)
    assert deep.evaluate(f"document.querySelector('{anchor}').getBoundingClientRect().top") < 200


def test_the_keyboard_alone_sorts(open_page: Any, report: str) -> None:
    page = open_page(report)
    page.locator("table[id^=t-arena-hard] thead button", has_text="model").focus()
    page.keyboard.press("Enter")

    assert first(page) == "dpo"
    page.keyboard.press("Space")
    assert first(page) == "wrpo-6-sources-alpha-0.5"


def test_dark_follows_the_system_and_the_choice(open_page: Any, report: str) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    page = open_page(report, scheme="dark")
    assert brightness(page) < 150
    page.get_by_label("Colours").select_option("light")
    assert brightness(page) > 600
    assert brightness(open_page(page.url, scheme="dark")) > 600
