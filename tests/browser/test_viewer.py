"""The viewer in a real browser: walked, on a phone, looked at by axe-core, and large."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.pages.viewer.export import export
from harness.records import Score, ScoreCard
from tests.browser.conftest import PHONE, fits, keep, needs_chromium, next_page, run_address, serious
from tests.fakes.made_runs import make_run, pocket

pytestmark = needs_chromium


@pytest.mark.slow
def test_a_phone_needs_no_scrolling_sideways(open_page: Any, site: str, results: Path) -> None:
    run = site + run_address(results, "dpo")
    for address in (site, run, f"{run}/question?id=ph-001"):
        assert fits(open_page(address, size=PHONE)), address


@pytest.mark.slow
def test_questions_are_found_and_walked_by_keyboard(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site)
    with next_page(page):
        page.get_by_role("link", name="wrpo-3-sources").last.click()
    assert page.get_by_role("heading", level=1).inner_text().startswith("wrpo-3-sources")
    page.keyboard.press("/")
    page.keyboard.type("upper case")
    page.keyboard.press("Enter")
    page.locator(".questions li a:focus").wait_for()  # the list is there, its first line next
    assert page.url.endswith("?q=upper+case")
    shown = page.locator(".questions .id").all_text_contents()
    assert 1 < len(shown) < 60
    assert page.locator(".questions mark").all_text_contents() == ["upper case"] * len(shown)
    with next_page(page):
        page.keyboard.press("Enter")
    assert "/question?" in page.url
    assert f"1 of {len(shown)}" in page.content()
    with next_page(page):
        page.keyboard.press("j")
    assert f"id={shown[1]}" in page.url
    with next_page(page):
        page.keyboard.press("k")
    assert f"id={shown[0]}" in page.url
    page.keyboard.press("n")
    assert page.locator("mark.current").inner_text() == "upper case"
    permalink = open_page(page.url)
    assert shown[0] in permalink.get_by_role("heading", level=1).inner_text()
    with next_page(page):
        page.keyboard.press("u")
    assert page.url.endswith("q=upper+case")
    assert page.complaints == []


def test_filters_apply_at_once_and_the_question_page_shows_both_sides(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site + run_address(results, "dpo"))
    assert not page.get_by_role("button", name="Apply").is_visible()
    page.get_by_label("Show").select_option("flip")
    page.wait_for_url("**?flag=flip")
    flipped = page.locator(".questions li").count()
    assert 0 < flipped < 60
    assert page.get_by_role("status").inner_text().startswith(f"{flipped} of 60 questions")
    with next_page(page):
        page.locator(".questions a").first.click()
    assert page.locator(".sides .box").count() == 2
    assert page.locator(".reply").count() == 2
    outcomes = set(page.locator(".outcome").all_inner_texts())
    assert len(outcomes) == 2  # the order flips the verdict
    keep(page, "question.png")


def test_a_bar_of_the_histogram_filters_and_lets_go(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site + run_address(results, "dpo"))
    bar = page.get_by_role("link", name=re.compile(r"questions: 100$"))
    count = int((bar.get_attribute("aria-label") or "").split()[0])
    bar.focus()
    page.keyboard.press("Enter")
    page.wait_for_url("**?score=100")
    assert page.locator(".questions .score").all_text_contents() == ["100.0"] * count
    assert page.get_by_label("Score", exact=True).input_value() == "100"
    keep(page, "run.png")
    page.get_by_role("link", name=re.compile(r"questions: 100$")).click()
    page.wait_for_url(lambda url: "score" not in url)
    assert page.locator(".questions li").count() == 60
    assert page.complaints == []


@pytest.mark.slow
def test_without_scripts_the_filters_have_a_button(browser: Any, site: str, results: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(site + run_address(results, "dpo"))
    page.get_by_label("Show").select_option("truncated")
    with page.expect_navigation():
        page.get_by_role("button", name="Apply").click()
    assert page.locator(".questions li").count() == 5  # every 12th of 60
    context.close()


@pytest.mark.slow
def test_two_runs_are_chosen_and_compared(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site + run_address(results, "dpo"))
    page.get_by_label("Compare with").select_option(run_address(results, "wrpo-6-sources")[5:])
    with next_page(page):
        page.get_by_role("button", name="Compare").click()
    assert "/compare?" in page.url
    page.get_by_label("Order").select_option("gain")
    page.wait_for_url("**sort=gain**")
    page.get_by_label("Show").select_option("changed")
    page.wait_for_url("**flag=changed**")
    assert page.locator(".questions li").count() > 3
    keep(page, "compare.png")
    with next_page(page):
        page.locator(".questions a").first.click()
    assert "/compare/question?" in page.url
    assert page.get_by_role("heading", name="Judgments of").count() == 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_every_page_fits_and_axe_finds_no_serious_violation(
    open_page: Any, report: str, site: str, results: Path, width: int, scheme: str
) -> None:
    run, other = run_address(results, "dpo"), run_address(results, "wrpo-6-sources")
    two = f"a={run[5:]}&b={other[5:]}"
    pages = {
        "board": report,
        "home": site,
        "run": site + run,
        "search": f"{site}{run}?q=upper+case&score=100",
        "question": f"{site}{run}/question?id=ph-001&q=upper+case",
        "markdown": f"{site}{run}/question?id=ph-001&q=upper+case&as=markdown",
        "compare": f"{site}/compare?{two}",
        "compare-question": f"{site}/compare/question?{two}&id=ph-001",
        "error": f"{site}/nothing",
    }
    faults = {}
    page = open_page(site, size={"width": width, "height": 900}, scheme=scheme)
    for name, address in pages.items():
        page.goto(address)
        for details in page.locator("details").all():
            details.evaluate("element => element.open = true")  # what is folded is looked at too
        keep(page, f"{name}-{width}-{scheme}.png")
        faults[name] = [*serious(page), *([] if fits(page) else ["needs scrolling sideways"])]

    assert faults == {name: [] for name in pages}


@pytest.mark.slow
def test_every_page_of_the_viewer_is_walked_by_tab_alone(open_page: Any, site: str, results: Path) -> None:
    """Whatever acts can be focused, is seen when it is, and the skip link comes first."""
    run, other = run_address(results, "dpo"), run_address(results, "wrpo-6-sources")
    two = f"a={run[5:]}&b={other[5:]}"
    addresses = ("", run, f"{run}/question?id=ph-001", f"/compare?{two}", f"/compare/question?{two}&id=ph-001")
    for address in addresses:
        page = open_page(site + address)
        acting = page.evaluate(
            "[...document.querySelectorAll('a, button, input, select, summary, [tabindex=\"0\"]')]"
            ".filter(one => one.checkVisibility({visibilityProperty: true}) && one.type !== 'hidden').length"
        )
        reached = 0
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        while page.evaluate("document.activeElement !== document.body") and reached <= acting:
            outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", page.evaluate("document.activeElement.outerHTML")
            reached += 1
            page.keyboard.press("Tab")
        assert reached >= acting, address


def lines(page: Any, count: int) -> None:
    """Wait until the list shows so many lines."""
    from playwright.sync_api import expect

    expect(page.locator(".questions li:not([hidden])")).to_have_count(count)


@pytest.mark.slow
def test_an_export_is_read_from_disk(open_page: Any, tmp_path: Path) -> None:
    for model, skill in (("strong", 0.8), ("weak", 0.4)):
        make_run(tmp_path / "results", model, pocket("arena_hard"), skill=skill)
    export(tmp_path / "results", tmp_path / "site")
    page = open_page((tmp_path / "site" / "index.html").as_uri())
    page.get_by_label("Colours").select_option("dark")
    with next_page(page):
        page.get_by_role("link", name="strong").last.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # kept from page to page
    assert page.locator(".questions li").count() == 60
    page.get_by_label("Lines that contain").fill("ph-002")
    lines(page, 1)
    assert page.get_by_role("status").inner_text().startswith("1 of 60 questions")
    page.get_by_label("Lines that contain").fill("")
    page.get_by_label("Show").select_option("truncated")
    lines(page, 5)
    page.get_by_label("Order").select_option("score")
    page.get_by_label("Show").select_option("")
    lines(page, 60)
    scores = [float(text) for text in page.locator(".questions .score").all_text_contents()]
    assert scores == sorted(scores)
    page.get_by_label("Lines that contain").fill("ph-002")
    lines(page, 1)
    with next_page(page):
        page.locator(".questions li:visible a").click()
    assert "ph-002" in page.get_by_role("heading", level=1).inner_text()
    keep(page, "export-question.png")
    with next_page(page):
        page.keyboard.press("m")
    assert page.url.endswith("-markdown.html")
    with next_page(page):
        page.keyboard.press("j")
    assert page.url.endswith("/0003-markdown.html")
    page.keyboard.press("?")
    assert page.get_by_role("dialog").is_visible()
    page.get_by_role("button", name="Close").click()
    assert not page.get_by_role("dialog").is_visible()
    page.locator(".verdicts a").first.click()
    assert page.url.endswith("#reply-1")
    page.goto((tmp_path / "site" / "compare" / "1" / "index.html").as_uri())
    assert page.locator(".by-category tbody tr").count() > 1
    keep(page, "export-compare.png")
    assert page.complaints == []
    assert serious(page) == []  # last: axe asks for style sheets, which the policy refuses


@pytest.mark.slow
def test_eight_hundred_questions_of_twenty_models_open(
    open_page: Any, serve_results: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """20 runs of 800 questions, both orders, 2 kB an answer and 1.5 kB a reply: 80 MB."""
    folder = tmp_path_factory.mktemp("large")
    big_results(folder, models=20, questions=800)
    site = serve_results(folder)
    page = open_page(site)

    cards = sorted(folder.glob("runs/*/*/*/card.json"))
    runs = ["/run/" + "/".join(card.parts[-4:-1]) for card in cards[:3]]
    page.goto(site)
    page.goto(site + runs[0])
    assert page.locator(".questions li").count() == 800
    for address in (f"{runs[0]}/question?id=q0100", f"/compare?a={runs[0][5:]}&b={runs[2][5:]}"):
        reply = page.goto(site + address)
        assert reply.ok, address


def big_results(folder: Path, *, models: int, questions: int) -> None:
    lines = "\n".join("A line of an answer that is about eighty characters long, as most lines are." for _ in range(26))
    for number in range(models):
        place = folder / "runs" / f"model-{number:02}" / "arena_hard@pocket-1" / f"{number:012x}"
        place.mkdir(parents=True)
        with (place / "answers.jsonl").open("w") as answers, (place / "judgments.jsonl").open("w") as judgments:
            for question in range(questions):
                name = f"q{question:04}"
                row = {"prompt_id": name, "model": f"model-{number:02}", "turns": [lines], "finish": ["stop"]}
                answers.write(json.dumps(row) + "\n")
                for order in ("ab", "ba"):
                    verdict = {"kind": "preference", "value": (question + number) % 3 / 2, "strength": 1}
                    row = {
                        "prompt_id": name,
                        "model": f"model-{number:02}",
                        "judge": "j",
                        "template_sha": "",
                        "order": order,
                    }
                    judgments.write(json.dumps({**row, "verdict": verdict, "reply": lines[:1500]}) + "\n")
        score = Score(value=50.0 + number, ci_low=48.0 + number, ci_high=52.0 + number, se=1.0, n=1600)
        card = ScoreCard(
            suite="arena_hard",
            suite_version="pocket-1",
            model=f"model-{number:02}",
            judge="j",
            headline="arena_hard",
            complete=True,
            protocol={},
            sampling={},
            scores={"arena_hard": score},
            provenance={"run_id": place.name},
        )
        (place / "card.json").write_text(card.model_dump_json())
