"""The viewer's pages over HTTP: who may see them, what an address can name, what a list shows."""

from __future__ import annotations

import json
import re
import signal
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from harness.pages.text import visible
from harness.pages.viewer.app import build_app, is_loopback
from harness.pages.viewer.listing import Choice, ScoreRange, SuiteTexts, bars, build_index, chosen, pairs
from harness.pages.viewer.question import text_html
from harness.records import Answer, Judgment, Preference, Rating
from harness.store import read_card
from tests.fakes.commands import Done, harness_process
from tests.fakes.made_runs import make_run, pocket

TOKEN = "a-long-enough-token"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    for model, skill in (("strong", 0.8), ("weak", 0.4)):
        make_run(folder, model, pocket("arena_hard"), skill=skill)
    return folder


@pytest.fixture(scope="module")
def client(results: Path) -> Iterator[TestClient]:
    with TestClient(build_app(results), base_url="http://127.0.0.1:8642") as client:
        yield client


def address(results: Path, model: str) -> str:
    (card,) = results.glob(f"runs/{model}/*/*/card.json")
    return "/run/" + "/".join(card.parts[-4:-1])


# ------------------------------------------------------------------------------------------------- who may see them


def test_only_loopback_names_are_answered_without_a_token(client: TestClient) -> None:
    assert client.get("/", headers={"host": "localhost:8642"}).status_code == 200
    assert client.get("/", headers={"host": "[::1]:8642"}).status_code == 200
    for host in ("evil.example:8642", "127.0.0.1.evil.example", "192.168.0.7:8642", ""):
        assert client.get("/", headers={"host": host}).status_code == 421
    assert [is_loopback(name) for name in ("127.8.9.1", "LOCALHOST", "0.0.0.0")] == [True, True, False]


def test_with_a_token_it_is_asked_for_once_and_kept_in_a_cookie(results: Path) -> None:
    with TestClient(build_app(results, TOKEN), base_url="http://box.example") as client:
        assert client.get("/").status_code == 401
        assert client.get("/?token=wrong").status_code == 401
        reply = client.get(f"/?token={TOKEN}&a=1", follow_redirects=False)
        assert (reply.status_code, reply.headers["location"]) == (303, "/?a=1")
        assert "HttpOnly" in reply.headers["set-cookie"]
        assert "SameSite=strict" in reply.headers["set-cookie"]
        assert client.get("/").status_code == 200


def test_nothing_can_be_written_and_nothing_from_elsewhere_loads(client: TestClient) -> None:
    for method in ("post", "put", "patch", "delete"):
        assert getattr(client, method)("/").status_code == 405
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert client.get("/static/view.js").headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/run/../../etc/passwd",
        "/run/%2e%2e/%2e%2e/etc",
        "/run/strong/arena_hard@pocket-1/nothing",
        "/static/..%2f..%2fhtml.py",
        "/static/leaderboard.html",
        "/compare?a=../x&b=../y",
        "/nothing",
    ],
)
def test_an_address_names_runs_never_files(client: TestClient, path: str) -> None:
    reply = client.get(path)

    assert reply.status_code == 404
    assert "root:" not in reply.text


@pytest.mark.slow
def test_the_command_serves_on_loopback_and_refuses_others_without_a_token(
    harness: Callable[..., Done], results: Path, tmp_path: Path
) -> None:
    refused = harness("view", str(results), "--host", "0.0.0.0")
    assert refused.code == 2
    assert "set HARNESS_VIEW_TOKEN to a secret of at least 16 characters" in refused.err
    process = harness_process("view", str(results), "--port", "0", cwd=tmp_path)
    assert process.stdout is not None
    line = process.stdout.readline()
    try:
        assert line.startswith("http://127.0.0.1:")
        with urllib.request.urlopen(line.split()[0], timeout=30) as reply:
            assert reply.status == 200
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


# --------------------------------------------------------------------------------------------------------- the pages


def test_a_run_lists_its_questions_and_filters_them(client: TestClient, results: Path) -> None:
    path = address(results, "strong")

    assert client.get(path).text.count('class="preview"') == 60
    truncated = client.get(path, params={"flag": "truncated"}).text
    assert truncated.count('class="preview"') == 5  # every 12th of 60
    assert client.get(path, params={"flag": "injection"}).text.count('class="preview"') == 2  # every 30th
    assert client.get(path, params={"category": "math"}).text.count('class="preview"') < 60
    found = client.get(path, params={"q": "FUDO IN UPPER"}).text
    assert found.count('class="preview"') == 1
    assert client.get(path, params={"q": "no such words at all"}).text.count("No question matches.") == 1


def test_a_question_shows_both_answers_both_orders_and_its_neighbours(client: TestClient, results: Path) -> None:
    text = client.get(address(results, "strong") + "/question?id=ph-002").text

    for part in ("boban in upper case", "baseline pocket-baseline", "baseline shown first", "candidate shown first"):
        assert part in text
    assert 'rel="prev" href="' in text
    assert "question?id=ph-001" in text
    assert "question?id=ph-003" in text
    assert "2 of 60" in text
    assert client.get(address(results, "strong") + "/question?id=none").status_code == 404


def test_a_search_shows_where_the_words_are_and_marks_them(client: TestClient, results: Path) -> None:
    path = address(results, "strong")
    page = client.get(path, params={"q": "Final Verdict"}).text

    assert page.count('class="preview"') == 60
    assert page.count('<span class="match">reply: <bdi>') == 60
    assert "My <mark>final verdict</mark> is [[A" in page
    texts = client.get(path + "/question", params={"id": "ph-002", "q": "final verdict"}).text
    assert texts.count("My <mark>final verdict</mark> is") == 2
    assert 'href="' + path + '/question?id=ph-002">Without marks' in texts
    hostile = client.get(path, params={"q": '"><script>'}).text
    assert "<script>" not in hostile


def test_a_histogram_has_a_bar_per_score_that_lists_its_questions(client: TestClient, results: Path) -> None:
    path = address(results, "strong")
    links = re.findall(r'href="([^"]*)" aria-label="(\d+) questions?: (\S+)"', client.get(path).text)

    assert [label for _, _, label in links] == ["0", "25", "50", "75", "100"]
    assert sum(int(count) for _, count, _ in links) == 60
    for link, count, _ in links:
        assert client.get(link).text.count('class="preview"') == int(count)
    assert client.get(path, params={"score": "nan"}).text.count('class="preview"') == 60


def test_scores_that_differ_much_are_counted_in_round_ranges() -> None:
    """0.0, 0.1, ..., 10.0: ten ranges of width 1, the last of which has both its limits."""
    scores = [step / 10 for step in range(101)]
    spread = bars([*scores, None], signed=False)

    assert [bar.label for bar in spread] == [f"{low} to {low + 1}" for low in range(10)]
    assert [bar.count for bar in spread] == [10] * 9 + [11]
    assert str(spread[-1].range) == "9..10"
    assert ScoreRange.of("9..10") == spread[-1].range
    assert [bar.label for bar in bars([-0.5, 0.0, 1.0], signed=True)] == ["-0.5", "0", "+1"]
    assert bars([None], signed=False) == []


def test_verdicts_come_first_and_text_is_what_the_judge_read(client: TestClient, results: Path) -> None:
    path = address(results, "strong") + "/question?id=ph-002"
    text = client.get(path).text

    assert text.index('class="verdicts"') < text.index('<pre class="text"') < text.index('id="reply-1"')
    assert text.count('href="#reply-') == 2
    assert '<div class="text"' not in text
    markdown = client.get(path + "&as=markdown").text
    assert '<div class="text"' in markdown
    # the choice stays while one moves among questions and goes back to the list
    assert re.search(r'rel="next" href="[^"]*id=ph-003&amp;as=markdown"', markdown)
    assert re.search(r'rel="up" href="[^"]*as=markdown"', markdown)
    assert re.search(r'id="switch" href="[^"]*id=ph-002"', markdown)


def test_the_protocol_is_a_folded_table(client: TestClient, results: Path) -> None:
    page = client.get(address(results, "strong")).text
    (table,) = re.findall(r"<caption>Protocol</caption>.*?</table>", page, re.DOTALL)

    assert '<th scope="row">suite</th><td>arena_hard</td>' in table
    assert "{" not in re.sub(r"<td>.*?</td>", "", table, flags=re.DOTALL)
    assert '<details class="card"><summary>Protocol, settings and provenance</summary>' in page


def test_two_runs_are_compared_question_by_question(client: TestClient, results: Path) -> None:
    names = {"a": address(results, "strong")[5:], "b": address(results, "weak")[5:]}
    page = client.get("/compare", params=names).text

    assert "paired by question" in page
    assert "60 of 60 common questions" in page
    changed = client.get("/compare", params={**names, "flag": "changed", "sort": "drop"}).text
    assert 0 < changed.count('class="preview"') < 60
    one = client.get("/compare/question", params={**names, "id": "ph-002"}).text
    assert "Judgments of <bdi>weak</bdi>" in one


def test_the_first_page_has_scores_and_leaves_differences_to_the_board(client: TestClient) -> None:
    """From the cards alone they would not be those of `harness leaderboard` and `harness compare`."""
    home = client.get("/").text
    assert "weak" in home
    assert "95 % interval" in home
    assert "against the row above" not in home
    assert not re.search(r'class="number rank">\s*1 <span', home)


def test_a_damaged_file_is_said_and_breaks_no_other_page(client: TestClient, results: Path, tmp_path: Path) -> None:
    folder = make_run(tmp_path, "hurt", pocket("arena_hard"), skill=0.5)
    with (folder / "judgments.jsonl").open("a") as file:
        file.write("{not json}\n")
    (folder.parents[2] / "other" / "x@1" / "y").mkdir(parents=True)
    (folder.parents[2] / "other" / "x@1" / "y" / "card.json").write_text("{}")
    with TestClient(build_app(tmp_path), base_url="http://127.0.0.1", raise_server_exceptions=False) as other:
        home = other.get("/")
        assert home.status_code == 200
        assert "is not a score card: suite: is missing" in home.text
        page = other.get(address(tmp_path, "hurt"))
        assert page.status_code == 500
        assert "judgments.jsonl, line 121 is not a valid Judgment" in page.text


def test_the_whole_of_a_long_text_is_plain_text(tmp_path: Path) -> None:
    long = "<b>x</b>" * 20_000
    make_run(tmp_path, "long", pocket("arena_hard"), skill=0.5, say=lambda prompt, rng: (long,))
    with TestClient(build_app(tmp_path), base_url="http://127.0.0.1") as client:
        page = client.get(address(tmp_path, "long") + "/question?id=ph-001").text
        assert len(page) < 200_000
        whole = client.get(address(tmp_path, "long") + "/text?id=ph-001&part=answer-0-0")
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert whole.text == long


# ------------------------------------------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;"),
        ("[x](javascript:alert(1))", "[x](javascript:alert(1))"),
        ("![x](http://evil.example/a.png)", "![x](http://evil.example/a.png)"),
        ("<http://evil.example>", "&lt;http://evil.example&gt;"),
        ("<svg onload=alert(1)>", "&lt;svg onload=alert(1)&gt;"),
        ("[a]: http://evil.example\n\n[a]", "[a]: http://evil.example"),
    ],
)
def test_markdown_of_a_model_makes_no_element_that_acts(text: str, literal: str) -> None:
    html = str(text_html(text, markdown=True))

    assert literal in html
    for tag in ("<a", "<img", "<svg", "<script", "<style", "href="):
        assert tag not in html


def test_markdown_formats_and_headings_are_none_of_the_pages() -> None:
    html = str(text_html("# Title\n\n**bold** `code`\n\n| a | b |\n| - | - |\n| 1 | 2 |", markdown=True))

    assert '<div class="heading">Title</div>' in html
    assert "<strong>bold</strong>" in html
    assert "<td>1</td>" in html
    assert "<h1" not in html


def test_what_cannot_be_seen_is_shown() -> None:
    assert visible("a\x1b[31mb\u202ec\r\nd\te\x00") == "a␛[31mb⟨U+202E⟩c\nd\te␀"
    assert "\u202e" not in str(text_html("\u202eevil", markdown=False))


# ------------------------------------------------------------------------------------------------------------- lists


def row(prompt_id: str, value: float, order: str | None = None, **more: object) -> Judgment:
    fields = {"prompt_id": prompt_id, "model": "m", "judge": "j", "template_sha": "", "order": order}
    return Judgment.model_validate({**fields, "verdict": Preference(value=value), **more})


def test_an_order_that_flips_the_verdict_and_repeats_that_disagree_are_flagged(results: Path) -> None:
    card = read_card(next(results.glob("runs/strong/*/*/card.json")))
    rows = [
        row("both", 1.0, "ab"),
        row("both", 1.0, "ba"),
        row("flip", 1.0, "ab"),
        row("flip", 0.0, "ba"),
        row("torn", 1.0, "ab"),
        row("torn", 0.0, "ab", repeat=1),
    ]

    index = build_index(card, [], rows, SuiteTexts())

    assert {line.id: set(line.flags) for line in index.lines} == {
        "both": set(),
        "flip": {"flip"},
        "torn": {"disagreement"},
    }
    assert [line.score for line in index.lines] == [100.0, 50.0, 50.0]
    assert [line.id for line in chosen(index, Choice(flag="flip"), None)] == ["flip"]
    assert [line.id for line in chosen(index, Choice(sort="-score"), None)] == ["both", "flip", "torn"]
    other = build_index(card, [], [row("both", 0.0, "ab"), row("both", 0.0, "ba")], SuiteTexts())
    (pair,) = pairs(index, other, middle=50.0)
    assert (pair.difference, pair.changed) == (-100.0, True)


def test_ratings_two_points_apart_flip_as_compare_counts_them(results: Path) -> None:
    card = read_card(next(results.glob("runs/strong/*/*/card.json"))).model_copy(update={"suite": "mt_bench"})
    rated = [
        build_index(card, [], [row("q", 0, turn=1, verdict=Rating(value=value))], SuiteTexts()) for value in (4, 6, 7)
    ]

    assert [pairs(rated[0], other, middle=None)[0].changed for other in rated] == [False, True, True]


def test_ratings_two_points_apart_are_a_disagreement(results: Path) -> None:
    card = read_card(next(results.glob("runs/strong/*/*/card.json"))).model_copy(update={"suite": "mt_bench"})
    rows = [
        row(name, 0, turn=1, repeat=repeat, verdict=Rating(value=value))
        for name, values in (("near", (7, 8)), ("far", (6, 8)))
        for repeat, value in enumerate(values)
    ]

    flags = {line.id: set(line.flags) for line in build_index(card, [], rows, SuiteTexts()).lines}

    assert flags == {"near": set(), "far": {"disagreement"}}


def test_several_answers_to_a_question_are_shown_one_at_a_time(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "draws", pocket("arena_hard"), skill=0.5)
    first = json.loads((folder / "answers.jsonl").read_text().splitlines()[0])
    with (folder / "answers.jsonl").open("a") as file:
        file.write(json.dumps({**first, "index": 1, "turns": ["the second answer"]}) + "\n")
    with TestClient(build_app(tmp_path), base_url="http://127.0.0.1") as client:
        path = address(tmp_path, "draws") + "/question?id=ph-001"
        assert "the second answer" not in client.get(path).text
        assert "the second answer" in client.get(path + "&draw=1").text
        assert client.get(path + "&draw=../1").status_code == 200


def test_text_nested_too_deep_for_markdown_is_shown_as_it_is() -> None:
    assert "<blockquote>" in text_html("> " * 5 + "inside", markdown=True)
    deep = text_html("> " * 25 + "inside", markdown=True)

    assert deep.startswith("<pre")
    assert "inside" in deep


def test_a_part_with_thousands_of_digits_is_not_found(client: TestClient, results: Path) -> None:
    wanted = address(results, "weak") + "/text?id=x&part=answer-0-" + "9" * 5000

    assert client.get(wanted).status_code == 404


# ------------------------------------------------------------------------------------------------------------ reasoning


def test_reasoning_is_folded_and_literal(tmp_path: Path) -> None:
    folder = make_run(tmp_path, "thinker", pocket("arena_hard"), skill=0.8)
    file = next(folder.rglob("answers.jsonl"))
    answers = [Answer.model_validate_json(line) for line in file.read_text("utf-8").splitlines()]
    thoughts = "</details><script>alert(1)</script>"
    changed = [answer.model_copy(update={"reasoning": (thoughts,), "reasoning_tokens": (5,)}) for answer in answers]
    file.write_text("".join(answer.model_dump_json() + "\n" for answer in changed), "utf-8")

    with TestClient(build_app(tmp_path), base_url="http://127.0.0.1:8642") as client:
        page = client.get(f"{address(tmp_path, 'thinker')}/question", params={"id": answers[0].prompt_id}).text

    assert '<details class="reasoning"><summary>Reasoning, not judged (5 tokens)</summary>' in page
    assert "alert(1)" in page
    assert "<script>alert" not in page
    assert "</details><script>" not in page
