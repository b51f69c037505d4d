"""The leaderboard page and the viewer in a real browser: Debian's Chromium, driven by Playwright, judged by axe-core.

The screenshots of docs/images are those of this run: HARNESS_SCREENSHOTS=docs/images keeps them.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import harness_process
from made_runs import make_run, pocket, write_run

from harness.leaderboard.board import read_board
from harness.records import Answer, Judgment, Preference, Score, ScoreCard
from harness.report.html import page as leaderboard_page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    not CHROMIUM or find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
    reason="needs Debian's chromium (apt-get install chromium) and the dev packages playwright, axe-playwright-python",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 860}
HOSTILE = (
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 2'>",
    "<svg onload='window.pwned = 3'><script>window.pwned = 4</script></svg>",
    "</pre></div></section></main><h1 id=pwned>out of its box</h1>",
    "<style>* { display: none !important }</style>",
    "<a href='javascript:window.pwned = 5'>press</a> [press](javascript:window.pwned=6) <javascript:window.pwned=7>",
    "<iframe srcdoc='<script>parent.pwned = 8</script>'></iframe><form action='/x'><input autofocus onfocus=pwned=9>",
    "<meta http-equiv=refresh content='0;url=http://127.0.0.1:9/'><base href='http://127.0.0.1:9/'>",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07 \u202eright to left\u202c \u2066isolate \x00 \ud7ff",
    "{{ 7 * 7 }} {% raw %} ${7*7} &lt;script&gt; &#x3c;script&#x3e;",
    "![x](http://127.0.0.1:9/x.png) ![y](data:image/svg+xml;base64,PHN2Zy8+) [r]: http://127.0.0.1:9",
    "W" * 3000 + " " + "\n".join("> " * 200 + "deep" for _ in range(20)),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six models that differ in skill, with cost, dates and fusion data, on two suites; and a hostile one."""
    folder = tmp_path_factory.mktemp("results")
    models: list[tuple[str, float, dict[str, Any] | None]] = [
        ("target-sft", 0.45, {"method": "sft", "target": "Llama-3-8B-Instruct"}),
        ("wrpo-1-source", 0.55, {"method": "wrpo", "sources": ["a"], "alpha": 0.1}),
        ("wrpo-3-sources", 0.62, {"method": "wrpo", "sources": ["a", "b", "c"], "alpha": 0.1}),
        ("wrpo-6-sources", 0.72, {"method": "wrpo", "sources": list("abcdef"), "alpha": 0.1}),
        ("wrpo-6-sources-alpha-0.5", 0.66, {"method": "wrpo", "sources": list("abcdef"), "alpha": 0.5}),
        ("dpo", 0.5, {"method": "dpo", "alpha": 0.0}),
    ]
    for place, (model, skill, fusion) in enumerate(models):
        usage: dict[str, Any] = {"judgment_cost": 1.2 + place / 10, "ended": "2026-11-20"}
        usage["tokens_per_second"] = 3900.0 - 90 * place
        for suite in ("alpaca_eval", "arena_hard"):
            make_run(folder, model, pocket(suite), skill=skill, usage=usage, fusion=fusion)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    suite = pocket("arena_hard")
    answers, judgments = [], []
    for place, prompt in enumerate(suite.prompts()):
        text = HOSTILE[place % len(HOSTILE)] if place else "<script>window.pwned = 1</script>" * 155_000  # 5 MB
        answer = Answer(prompt_id=prompt.id, model=HOSTILE[1], turns=(text,), finish=("stop",))
        answers.append(answer)
        for task in suite.tasks(prompt, answer):
            fields = {"prompt_id": prompt.id, "model": HOSTILE[1], "judge": HOSTILE[2], "template_sha": ""}
            verdict = Preference(value=float(place % 2))
            judgments.append(
                Judgment.model_validate({**fields, "order": task.order, "verdict": verdict, "reply": text})
            )
    write_run(folder, HOSTILE[1], suite, answers, judgments)
    return folder


@pytest.fixture(scope="module")
def serve_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Path], str]]:
    """Starts `harness view` on a folder and gives its address."""
    processes: list[subprocess.Popen[str]] = []

    def start(folder: Path) -> str:
        process = harness_process("view", str(folder), "--port", "0", cwd=tmp_path_factory.mktemp("cwd"))
        processes.append(process)
        assert process.stdout is not None
        return process.stdout.readline().split()[0].rstrip("/")

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@pytest.fixture(scope="module")
def site(serve_results: Callable[[Path], str], results: Path) -> str:
    return serve_results(results)


@pytest.fixture(scope="module")
def report(results: Path) -> str:
    """The address, on disk, of the leaderboard page."""
    board = read_board(results)
    file = results / "board.html"
    file.write_text(leaderboard_page(list(board.tables), board.reported))
    return file.as_uri()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Any]]:
    """A page of its own context; what it asked for and complained of lies in `page.asked` and `page.complaints`."""
    contexts = []

    def opened(address: str, *, size: dict[str, int] = DESK, scheme: str = "light") -> Any:
        context = browser.new_context(viewport=size, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        page.asked, page.complaints = [], []
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("console", lambda message: page.complaints.append(message.text))
        page.on("pageerror", lambda error: page.complaints.append(str(error)))
        page.on("dialog", lambda dialog: page.complaints.append("dialog"))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()


def first(page: Any, table: str = "arena-hard") -> str:
    return str(
        page.locator(f"table[id^=t-{table}] tbody tr th a, table[id^=t-{table}] tbody tr th bdi").first.inner_text()
    )


def run_address(folder: Path, model: str, suite: str = "arena_hard") -> str:
    (card,) = folder.glob(f"runs/{model}/{suite}@*/*/card.json")
    return "/run/" + "/".join(card.parts[-4:-1])


def keep(page: Any, name: str) -> None:
    """A screenshot in $HARNESS_SCREENSHOTS, where that is set."""
    folder = os.environ.get("HARNESS_SCREENSHOTS")
    if folder:
        page.screenshot(path=str(Path(folder) / name))


def serious(page: Any) -> list[str]:
    """axe-core's violations that are serious or critical, as `rule: first element`."""
    import axe_playwright_python

    script = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
    page.evaluate(script)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{one['id']}: {one['nodes'][0]['html'][:160]}" for one in found if one["impact"] in ("serious", "critical")
    ]


def fits(page: Any) -> bool:
    """Whether the page needs no scrolling sideways."""
    return bool(page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth"))


# -------------------------------------------------------------------------------------------- the leaderboard's page


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


def test_a_phone_needs_no_scrolling_sideways(open_page: Any, report: str, site: str, results: Path) -> None:
    page = open_page(report, size=PHONE)
    assert fits(page)
    keep(page, "leaderboard-phone.png")
    page.get_by_label("Sort by").first.select_option(label="model")
    assert re.search(r"#sort=t-[\w-]+\.1\.ascending$", page.url)  # a link shows what was seen, here too
    assert first(page, "alpaca-eval") == "dpo"
    run = site + run_address(results, "dpo")
    for address in (site, run, f"{run}/question?id=ph-001"):
        assert fits(open_page(address, size=PHONE)), address


def test_dark_follows_the_system_and_the_choice(open_page: Any, report: str) -> None:
    def brightness(page: Any) -> int:
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    page = open_page(report, scheme="dark")
    assert brightness(page) < 150
    page.get_by_label("Colours").select_option("light")
    assert brightness(page) > 600
    assert brightness(open_page(page.url, scheme="dark")) > 600


# ------------------------------------------------------------------------------------------------------- the viewer


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


def test_hostile_texts_change_nothing_outside_their_boxes(
    open_page: Any, serve_results: Callable[[Path], str], hostile: Path
) -> None:
    site = serve_results(hostile)
    (card,) = hostile.glob("runs/*/*/*/card.json")
    run = site + "/run/" + "/".join(card.parts[-4:-1])
    ids = [prompt.id for prompt in pocket("arena_hard").prompts()][: len(HOSTILE) + 1]
    pages = [
        site,
        run,
        *(f"{run}/question?id={one}" for one in ids),
        *(f"{run}/question?id={one}&as=text" for one in ids),
    ]
    page = open_page(site)
    frame = None
    for address in pages:
        started = time.perf_counter()
        page.goto(address)
        assert time.perf_counter() - started < 10, address
        assert page.evaluate("window.pwned") is None
        assert page.locator("#pwned, main iframe, main img, main style, main script, main form form, base").count() == 0
        assert page.locator(".text a, .text svg, .text input").count() == 0
        assert page.locator("meta[http-equiv=refresh]").count() == 0
        assert fits(page), address
        if "/question" in address:
            box = page.locator(".crumbs").bounding_box()
            frame = frame or box
            assert box == frame  # what surrounds the text stays where it is
        assert "\u202e" not in page.content()
        assert "\x1b" not in page.content()
    assert page.complaints == []
    assert all(url.startswith(site) for url in page.asked)


def test_a_hostile_name_changes_nothing_on_the_leaderboards_page(open_page: Any, hostile: Path, tmp_path: Path) -> None:
    board = read_board(hostile)
    file = tmp_path / "hostile.html"
    file.write_text(leaderboard_page(list(board.tables), board.reported))
    page = open_page(file.as_uri())

    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main iframe").count() == 0
    assert page.locator("tr[data-model] bdi").first.inner_text() == HOSTILE[1]
    assert page.complaints == []


def test_the_pages_policy_holds_even_if_markup_got_in(open_page: Any, site: str) -> None:
    page = open_page(site)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned=1\">')")
    page.evaluate(
        "{ const s = document.createElement('script'); s.textContent = 'window.pwned=2'; document.body.append(s) }"
    )
    page.wait_for_timeout(100)

    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in text or "Content-Security-Policy" in text for text in page.complaints)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_violation(open_page: Any, report: str, site: str, results: Path, scheme: str) -> None:
    run, other = run_address(results, "dpo"), run_address(results, "wrpo-6-sources")
    two = f"a={run[5:]}&b={other[5:]}"
    addresses = [report, site + run, f"{site}{run}/question?id=ph-001"]
    if scheme == "light":
        addresses += [site, f"{site}/compare?{two}", f"{site}/compare/question?{two}&id=ph-001", f"{site}/nothing"]

    assert {address: serious(open_page(address, scheme=scheme)) for address in addresses} == {
        address: [] for address in addresses
    }


def test_eight_hundred_questions_of_twenty_models_open_in_a_second(
    open_page: Any, serve_results: Callable[[Path], str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """20 runs of 800 questions, both orders, 2 kB an answer and 1.5 kB a reply: 80 MB. The best of three runs that were
    never opened before, as the machine may be busy."""
    folder = tmp_path_factory.mktemp("large")
    big_results(folder, models=20, questions=800)
    site = serve_results(folder)
    page = open_page(site)

    def seconds(address: str) -> float:
        started = time.perf_counter()
        page.goto(address)
        return time.perf_counter() - started

    cards = sorted(folder.glob("runs/*/*/*/card.json"))
    runs = ["/run/" + "/".join(card.parts[-4:-1]) for card in cards[:3]]
    assert min(seconds(site) for _ in range(3)) < 1
    assert min(seconds(site + run) for run in runs) < 1
    assert page.locator(".questions li").count() == 800
    assert min(seconds(f"{site}{run}/question?id=q0100") for run in runs) < 1
    assert min(seconds(f"{site}/compare?a={runs[0][5:]}&b={runs[2][5:]}") for _ in range(3)) < 1
    page.goto(site + runs[0])
    frames = page.evaluate(
        """() => new Promise(done => {
            const times = []; let last = performance.now();
            const step = (now) => {
                times.push(now - last); last = now; scrollBy(0, 400);
                if (times.length < 60) requestAnimationFrame(step); else done(times.sort((a, b) => a - b));
            };
            requestAnimationFrame(step);
        })"""
    )
    assert frames[30] < 50, frames  # milliseconds a frame, the median


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
