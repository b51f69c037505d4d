"""`harness view --export`: the viewer's pages as files."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path
from urllib.parse import unquote

import pytest

from harness.pages.viewer.export import MARKER, export
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

HOSTILE = """</pre><a href="/static/x">y</a> href="/run/x" <script src="/static/view.js"></script>"""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    for model, skill in (("strong", 0.8), ("weak", 0.4), ("weakest", 0.1)):
        make_run(folder, model, pocket("arena_hard"), skill=skill)
    long = HOSTILE + "x" * 30_000
    make_run(folder, "hostile", pocket("mt_bench"), skill=0.5, say=lambda prompt, rng: (long,) * len(prompt.turns))
    return folder


@pytest.fixture(scope="module")
def site(results: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sites") / "site"
    assert export(results, folder).failed == ()
    return folder


def targets(page: str) -> list[str]:
    tags = re.findall(r"<(?:a|link|script)\s[^<>]*>", page)
    return [unescape(target) for tag in tags for target in re.findall(r'\s(?:href|src)="([^"]*)"', tag)]


@pytest.mark.slow
def test_every_link_of_every_page_leads_to_a_file(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))

    for page in pages:
        for target in targets(page.read_text("utf-8")):
            assert not target.startswith(("/", "http:", "https:", "?")), (page, target)
            path = unquote(target.partition("#")[0])
            assert not path or (page.parent / path).is_file(), (page, target)
    assert len(list(site.glob("run/strong/*/*/[0-9]*.html"))) == 2 * 60  # as text and as Markdown
    assert len(list(site.glob("compare/*/index.html"))) == 2  # the first of the table with each other run


@pytest.mark.slow
def test_pages_state_the_policy_and_no_form_asks_a_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert "default-src &#39;none&#39;" in text
        dialog, *others = sorted(re.findall("<form[^>]*>", text), key=len)
        assert dialog == '<form method="dialog">'  # of keys, which closes it
        assert all('action=""' in form and "data-exported" in form for form in others)  # filters of this page
        assert "unsafe" not in text.partition("</head>")[0]


def test_what_a_model_wrote_stays_text_and_its_addresses_stay_as_they_are(site: Path) -> None:
    pages = [page.read_text("utf-8") for page in site.glob("run/hostile/*/*/[0-9]*.html")]

    assert pages
    for page in pages:
        assert '<script src="/static' not in page
        assert page.count("<script") == 2
    assert any('href="/run/x"' in unescape(page) for page in pages)
    (whole,) = list(site.glob("run/hostile/*/*/0001-answer-0-0.txt"))
    assert whole.read_text("utf-8-sig") == HOSTILE + "x" * 30_000


def test_a_folder_that_is_not_an_export_is_left_alone(
    harness: Callable[..., Done], results: Path, site: Path, tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name, reason in (("mine", "is not empty and was not made by harness view"), ("file", "is a file")):
        refused = harness("view", str(results), "--export", str(tmp_path / name))
        assert (refused.code, len(refused.err.splitlines())) == (2, 1)
        assert reason in refused.err
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["index.html"]
    assert (tmp_path / "mine" / "index.html").read_text() == "mine"


@pytest.mark.slow
def test_an_export_is_replaced_by_the_next_and_a_damaged_run_costs_only_its_pages(
    harness: Callable[..., Done], tmp_path: Path
) -> None:
    folder = make_run(tmp_path / "results", "hurt", pocket("arena_hard"), skill=0.5)
    make_run(tmp_path / "results", "sound", pocket("mt_bench"), skill=0.5)
    with (folder / "judgments.jsonl").open("a") as file:
        file.write("{not json}\n")

    for _ in range(2):
        done = harness("view", str(tmp_path / "results"), "--export", str(tmp_path / "site"))
        assert done.code == 0
        assert "judgments.jsonl, line 121 is not a valid Judgment" in done.err

    (page,) = (tmp_path / "site").glob("run/hurt/*/*/index.html")
    assert "This page cannot be shown" in page.read_text("utf-8")
    assert len(list((tmp_path / "site").glob("run/sound/*/*/[0-9]*.html"))) > 50
    assert (tmp_path / "site" / MARKER).is_file()
