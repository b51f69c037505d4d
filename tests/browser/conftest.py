"""Debian's Chromium, driven by Playwright and judged by axe-core: fixtures and looks that the browser tests share.

The screenshots of docs/images are those of these tests: HARNESS_SCREENSHOTS=docs/images keeps them.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.read_board import BoardOptions, read_board
from harness.pages.board import PageFacts
from harness.pages.board import page as leaderboard_page
from tests.fakes.commands import harness_process
from tests.fakes.made_runs import make_run, pocket

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
needs_chromium = pytest.mark.skipif(
    not CHROMIUM or find_spec("playwright") is None or find_spec("axe_playwright_python") is None,
    reason="needs Debian's chromium (apt-get install chromium) and the dev packages playwright, axe-playwright-python",
)
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 860}


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
    board = read_board(results, BoardOptions(pairs=True))
    about = PageFacts(
        made="2026-11-27", version="1.0", viewer="http://viewer.test", pairs=board.pairs, folders=board.folders
    )
    file = results / "board.html"
    file.write_text(leaderboard_page(list(board.tables), board.reported, about))
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


@contextmanager
def next_page(page: Any) -> Iterator[None]:
    """Wait until the page that the body leads to has loaded and answers keys."""
    with page.expect_navigation():
        yield
    page.locator("html[data-keys=ready]").wait_for(state="attached")


def first(page: Any, table: str = "arena-hard") -> str:
    return str(
        page.locator(f"table[id^=t-{table}] tbody tr th bdi, table[id^=t-{table}] tbody tr th a").first.text_content()
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
