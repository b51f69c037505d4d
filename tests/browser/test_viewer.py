"""The viewer in a real browser: walked, on a phone, looked at by axe-core, and large."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.pages.viewer.export import export
from harness.records import Score, ScoreCard
from tests.browser.conftest import PHONE, fits, keep, needs_chromium, run_address, serious
from tests.fakes.made_runs import make_run, pocket

pytestmark = needs_chromium


@pytest.mark.slow
def test_a_phone_needs_no_scrolling_sideways(open_page: Any, site: str, results: Path) -> None:
    run = site + run_address(results, "dpo")
    for address in (site, run, f"{run}/question?id=ph-001"):
        assert fits(open_page(address, size=PHONE)), address


def test_questions_are_found_and_walked_by_keyboard(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site)
    page.get_by_role("link", name="wrpo-3-sources").last.click()
    assert page.get_by_role("heading", level=1).inner_text().startswith("wrpo-3-sources")
    page.keyboard.press("/")
    page.keyboard.type("upper case")
    page.keyboard.press("Enter")
    page.wait_for_url("**q=upper+case**")
    shown = page.locator(".questions .id").all_inner_texts()
    assert 1 < len(shown) < 60
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/question?**")
    assert f"1 of {len(shown)}" in page.content()
    page.keyboard.press("j")
    page.wait_for_url(f"**id={shown[1]}**")
    page.keyboard.press("k")
    page.wait_for_url(f"**id={shown[0]}**")
    permalink = open_page(page.url)
    assert shown[0] in permalink.get_by_role("heading", level=1).inner_text()
    page.keyboard.press("u")
    page.wait_for_url("**q=upper+case")
    assert page.complaints == []


def test_the_filter_form_narrows_and_the_question_page_shows_both_sides(
    open_page: Any, site: str, results: Path
) -> None:
    page = open_page(site + run_address(results, "dpo"))
    page.get_by_label("Show").select_option("flip")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**flag=flip**")
    flipped = page.locator(".questions li").count()
    assert 0 < flipped < 60
    page.locator(".questions a").first.click()
    page.wait_for_url("**/question?**")
    assert page.locator(".sides .box").count() == 2
    assert page.locator(".reply").count() == 2
    outcomes = set(page.locator(".outcome").all_inner_texts())
    assert len(outcomes) == 2  # the order flips the verdict
    keep(page, "question.png")


def test_two_runs_are_chosen_and_compared(open_page: Any, site: str, results: Path) -> None:
    page = open_page(site + run_address(results, "dpo"))
    page.get_by_label("Compare with").select_option(run_address(results, "wrpo-6-sources")[5:])
    page.get_by_role("button", name="Compare").click()
    page.wait_for_url("**/compare?**")
    page.get_by_label("Order").select_option("gain")
    page.get_by_label("Show").select_option("changed")
    page.get_by_role("button", name="Apply").click()
    page.wait_for_url("**sort=gain**")
    assert page.locator(".questions li").count() > 3
    keep(page, "compare.png")
    page.locator(".questions a").first.click()
    page.wait_for_url("**/compare/question?**")
    assert page.get_by_role("heading", name="Judgments of").count() == 2


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page: Any, site: str, results: Path, scheme: str) -> None:
    run, other = run_address(results, "dpo"), run_address(results, "wrpo-6-sources")
    two = f"a={run[5:]}&b={other[5:]}"
    addresses = [site + run, f"{site}{run}/question?id=ph-001"]
    if scheme == "light":
        addresses += [site, f"{site}/compare?{two}", f"{site}/compare/question?{two}&id=ph-001", f"{site}/nothing"]

    assert {address: serious(open_page(address, scheme=scheme)) for address in addresses} == {
        address: [] for address in addresses
    }


@pytest.mark.slow
def test_an_export_is_read_from_disk(open_page: Any, tmp_path: Path) -> None:
    for model, skill in (("strong", 0.8), ("weak", 0.4)):
        make_run(tmp_path / "results", model, pocket("arena_hard"), skill=skill)
    export(tmp_path / "results", tmp_path / "site")
    page = open_page((tmp_path / "site" / "index.html").as_uri())
    page.get_by_label("Colours").select_option("dark")
    page.get_by_role("link", name="strong").last.click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"  # kept from page to page
    assert page.locator(".questions li").count() == 60
    page.get_by_label("Lines that contain").fill("ph-002")
    assert page.locator(".questions li:visible").count() == 1
    page.locator(".questions li:visible a").click()
    assert "ph-002" in page.get_by_role("heading", level=1).inner_text()
    keep(page, "export-question.png")
    page.keyboard.press("m")
    page.wait_for_url("**-markdown.html")
    page.keyboard.press("j")
    page.wait_for_url("**/0003-markdown.html")
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
