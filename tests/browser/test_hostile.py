"""Hostile texts and names in the viewer and on the leaderboard page, in a real browser."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.read_board import BoardOptions, read_board
from harness.pages.board import PageFacts
from harness.pages.board import page as leaderboard_page
from harness.records import Answer, Judgment, Preference
from tests.browser.conftest import fits, needs_chromium
from tests.fakes.made_runs import make_run, pocket, write_run

pytestmark = needs_chromium
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


@pytest.mark.slow
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
        *(f"{run}/question?id={one}&as=markdown" for one in ids),
    ]
    page = open_page(site)
    frame = None
    for address in pages:
        page.goto(address)
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


@pytest.mark.slow
def test_a_hostile_name_changes_nothing_on_the_leaderboards_page(open_page: Any, hostile: Path, tmp_path: Path) -> None:
    shutil.copytree(hostile, tmp_path / "results")
    for model, skill in ((HOSTILE[0], 0.8), (HOSTILE[3] + HOSTILE[9], 0.3)):
        make_run(tmp_path / "results", model, pocket("arena_hard"), skill=skill)
    board = read_board(tmp_path / "results", BoardOptions(pairs=True))
    about = PageFacts(title=HOSTILE[1], pairs=board.pairs, folders=board.folders, viewer="http://viewer.test")
    file = tmp_path / "hostile.html"
    file.write_text(leaderboard_page(list(board.tables), board.reported, about))
    page = open_page(file.as_uri())
    for name in (HOSTILE[0], HOSTILE[1]):
        page.get_by_label(f"choose {name}", exact=True).check()  # the names now are in the panel and the figures too

    assert page.evaluate("window.pwned") is None
    assert page.locator("main img, main script, main iframe, #pwned").count() == 0
    assert sorted(page.locator("tr[data-model] bdi").all_text_contents()) == sorted(
        [*HOSTILE[:2], HOSTILE[3] + HOSTILE[9]]
    )
    assert page.get_by_role("region", name="Chosen models").get_by_text(HOSTILE[1]).count() > 0
    assert page.complaints == []


@pytest.mark.slow
def test_the_pages_policy_holds_even_if_markup_got_in(open_page: Any, site: str) -> None:
    page = open_page(site)
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"window.pwned=1\">')")
    page.evaluate(
        "{ const s = document.createElement('script'); s.textContent = 'window.pwned=2'; document.body.append(s) }"
    )
    page.wait_for_timeout(100)

    assert page.evaluate("window.pwned") is None
    assert any("Content Security Policy" in text or "Content-Security-Policy" in text for text in page.complaints)
