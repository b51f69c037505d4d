"""`harness report`: which of a few models is better, as a message, a page, or results in a model card."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from harness.pages.report import edited_card, github_text, slack_text
from harness.records import Score
from harness.records.errors import ConfigError
from harness.store import run_dir
from harness.suites import pocket
from tests.browser.conftest import needs_chromium
from tests.fakes.commands import Done
from tests.fakes.deciding import mixed, toy_run, write_run
from tests.fakes.hub_server import FakeHub

HOSTILE = "<!channel>|`*@here*`</td><script>alert(1)</script>\x1b[31m"


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """A baseline that wins 10 of 40 questions, and two candidates that win 12 and 35."""
    for model, wins in (("base", 10), ("fused-1", 12), ("fused-2", 35)):
        write_run(tmp_path / "results", toy_run(model, mixed(wins, 40 - wins)))
    return tmp_path


def write_judgments(file: Path, model: str, right_every: int) -> None:
    """Ratings of the pocket questions as FastChat's files have them: 9 for every so-manieth question, else 3."""
    ratings = {
        prompt.id: 3 if number % right_every else 9 for number, prompt in enumerate(pocket.load("mt_bench").prompts)
    }
    turns = ((1, "single-v1"), (2, "single-v1-multi-turn"))
    rows = [
        {"question_id": prompt_id, "model": model, "judge": ["gpt-4", template], "score": rating, "turn": turn}
        for prompt_id, rating in ratings.items()
        for turn, template in turns
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.slow
def test_which_of_three_do_we_ship_tonight(tmp_path: Path, harness: Callable[..., Done]) -> None:
    for model, right_every in (("base", 3), ("fused-1", 3), ("fused-2", 1)):
        write_judgments(tmp_path / f"{model}.jsonl", model, right_every)
    files = ("base.jsonl", "fused-1.jsonl", "fused-2.jsonl")

    imported = harness("import", *files, "--format", "fastchat", "--edition", "pocket")
    done = harness("report", "base", "fused-1", "fused-2", "--to", "slack")

    assert (imported.code, done.code) == (0, 0), imported.err + done.err
    first, *rest = done.out.splitlines()
    assert first == "*mt_bench: fused-2 is the best of 3 by mt_bench; the others are shown to be worse*"
    assert any(line.startswith("• mt_bench: no difference shown between fused-1 and base") for line in rest)
    # 27 of 80 questions are right, so base has (27 * 9 + 53 * 3) / 80 = 5.025 and fused-2 has 3.975 more
    assert any(line.startswith("• mt_bench: fused-2 is better than base by mt_bench: +3.97 [") for line in rest)
    table = done.out.split("```")[1].strip("\n").splitlines()
    assert [line.split()[:2] for line in table[1:]] == [["base", "5.03"], ["fused-1", "5.03"], ["fused-2", "9.00"]]
    assert len({len(unescape(line)) for line in table}) == 1  # aligned
    assert "_p over all questions: corrected by Holm over 2 models_" in rest
    assert any(line.startswith("• fused-2: `results/runs/fused-2/mt_bench@pocket-1/") for line in rest)


def test_the_baseline_comes_first_and_need_not_be_named_twice(three: Path, harness: Callable[..., Done]) -> None:
    done = harness("report", "fused-2", "--baseline", "base", "--to", "github")

    assert done.code == 0, done.err
    rows = [line for line in done.out.splitlines() if line.startswith("| ")]
    assert [row.split(" | ")[0] for row in rows] == ["| model", "| ---", "| base", "| fused-2"]
    assert "| - | - |" in rows[2]
    assert "+62.50" in rows[3]


def test_what_is_unscored_or_left_out_is_stated(tmp_path: Path, harness: Callable[..., Done]) -> None:
    write_run(tmp_path / "results", toy_run("base", mixed(10, 30)))
    write_run(tmp_path / "results", toy_run("new", mixed(20, 15), unscored=10))  # 5 questions, in both orders

    done = harness("report", "base", "new", "--to", "github")

    assert done.code == 0, done.err
    assert "- new: 70 scored, 10 unscored" in done.out.splitlines()
    left_out = "- left out because only one run has a score: 5 questions of base, 0 of new"
    assert left_out in done.out.splitlines()


@pytest.mark.slow
def test_the_numbers_are_those_of_compare(three: Path, harness: Callable[..., Done]) -> None:
    compared = json.loads(harness("compare", "base", "fused-1", "fused-2", "--json").out)["comparisons"]
    page = harness("report", "base", "fused-1", "fused-2", "--to", "html").out

    for pair in compared:
        row = pair["differences"][0]
        assert f"{row['value']:+.2f} [{row['ci_low']:+.2f}, {row['ci_high']:+.2f}]" in page


def test_a_suite_that_cannot_be_ranked_says_why_and_the_others_are_reported(
    three: Path, harness: Callable[..., Done]
) -> None:
    for model in ("base", "fused-1", "fused-2"):
        card = toy_run(model, mixed(10, 30)).card
        score = Score(value=25.0, n=80)  # without a standard error
        bare = card.model_copy(update={"suite": "lm_eval:tally", "headline": "mean", "scores": {"mean": score}})
        folder = run_dir(three / "results", model=model, suite="lm_eval:tally", version="toy-1", run_id=f"t-{model}")
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(bare.model_dump_json(), "utf-8")

    done = harness("report", "base", "fused-1", "fused-2", "--to", "github")

    assert done.code == 0, done.err
    assert "fused-2 is the best of 3 by arena\\_hard" in done.out
    section = done.out.split("#### lm\\_eval:tally")[1]
    assert "no standard error of mean for base, fused-1, fused-2" in section


def test_one_model_is_reported_without_differences(three: Path, harness: Callable[..., Done]) -> None:
    done = harness("report", "base", "--to", "slack")

    assert done.code == 0, done.err
    assert "base" in done.out
    assert "+0.00" not in done.out


@pytest.mark.slow
def test_links_lead_to_the_viewer(three: Path, harness: Callable[..., Done]) -> None:
    address = "http://board:7000/run/fused-2/arena_hard@toy-1/id-fused-2"
    words = ("report", "base", "fused-2", "--viewer", "http://board:7000/")

    assert f"<{address}|fused-2>" in harness(*words, "--to", "slack").out
    assert f"[fused-2]({address})" in harness(*words, "--to", "github").out
    assert f'<a href="{address}">fused-2</a>' in harness(*words, "--to", "html").out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--to", "slak"), "no format 'slak' (did you mean 'slack'?)"),
        (("--viewer", "javascript:alert(1)"), "is not an address that begins with http://"),
        (("--push-to-hub", "org/name"), "writes the card of one model, got 2"),
    ],
)
def test_wrong_flags_are_one_sentence(
    three: Path, harness: Callable[..., Done], words: tuple[str, ...], sentence: str
) -> None:
    done = harness("report", "base", "fused-1", *words)

    assert done.code == 2
    assert sentence in done.err


@pytest.mark.slow
def test_a_hostile_name_stays_a_name(tmp_path: Path, harness: Callable[..., Done]) -> None:
    write_run(tmp_path / "results", toy_run("base", mixed(10, 10)))
    run = toy_run("bad", mixed(10, 10))
    folder = write_run(tmp_path / "results", run)
    renamed = run.card.model_copy(update={"model": HOSTILE})  # as a card from elsewhere may be
    (folder / "card.json").write_text(renamed.model_dump_json(), "utf-8")
    words = ("report", "base", HOSTILE, "--viewer", "http://v")

    message = harness(*words, "--to", "slack").out
    assert "<!channel>" not in message
    assert "@here" not in message.split("```")[0]
    assert message.count("```") == 2

    comment = harness(*words, "--to", "github").out
    assert "@here" not in comment
    assert "<script" not in comment
    (row,) = [line for line in comment.splitlines() if "channel" in line and line.startswith("| ")]
    assert row.replace("\\|", "").count("|") == 5

    page = harness(*words, "--to", "html").out
    tags: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)  # type: ignore[method-assign]
    parser.feed(page)
    assert "script" not in tags
    assert "\x1b" not in message + comment + page

    (model,) = yaml.safe_load(harness("report", HOSTILE, "--to", "hf").out)["model-index"]
    assert model["name"] == HOSTILE


def test_slack_and_github_escapes() -> None:
    assert slack_text("a_b & <c> *d*") == "a_b &amp; &lt;c&gt; *\u2060d*\u2060"
    assert github_text("@org/team #12") == "@&#8203;org/team \\#&#8203;12"


def test_figures_are_written_beside_the_report(three: Path, harness: Callable[..., Done]) -> None:
    done = harness("report", "base", "fused-2", "--to", "html", "--out", "report.html", "--figures", "figures")

    assert done.code == 0, done.err
    assert (three / "report.html").read_text("utf-8").startswith("<!doctype html>")
    svg = (three / "figures" / "arena_hard-toy-1-differences.svg").read_text("utf-8")
    assert "arena_hard, difference from base" in svg
    assert "+62.50" in svg


@pytest.mark.slow
@needs_chromium
def test_a_pdf_is_printed_by_the_browser_that_is_here(three: Path, harness: Callable[..., Done]) -> None:
    done = harness("report", "base", "fused-1", "fused-2", "--to", "pdf", "--out", "report.pdf")

    assert done.code == 0, done.err
    assert "wrote report.pdf" in done.out
    content = (three / "report.pdf").read_bytes()
    assert content.startswith(b"%PDF-")
    assert len(content) > 10_000


def test_a_pdf_without_a_file_or_a_browser_is_one_sentence(
    three: Path, harness: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("report", "base", "fused-1", "--to", "pdf")
    done = harness(*words)
    assert (done.code, done.err.strip()) == (2, "harness: --to pdf is a file: add --out report.pdf")
    monkeypatch.setitem(sys.modules, "playwright", None)
    done = harness(*words, "--out", "report.pdf")
    assert done.code == 2
    assert "pip install playwright && playwright install chromium; or write --to html" in done.err
    assert not (three / "report.pdf").exists()


def test_model_index_of_a_checkpoint(three: Path, harness: Callable[..., Done]) -> None:
    (model,) = yaml.safe_load(harness("report", "fused-2", "--to", "hf").out)["model-index"]

    (result,) = model["results"]
    assert model["name"] == "fused-2"
    assert result["task"] == {"type": "text-generation", "name": "Text generation"}
    assert (result["dataset"]["type"], result["dataset"]["name"]) == ("arena_hard", "arena_hard toy-1, judge toy")
    assert result["metrics"] == [{"type": "arena_hard", "value": 87.5, "args": {"n": 80}}]


CARD = """---
# chosen by legal
license: apache-2.0   # do not change
model-index:
- name: mine
  results:
  - task: {type: text-generation}
    dataset: {type: gsm8k, name: GSM8K}
    metrics: [{type: acc, value: 71.5}]
# languages
language: [en, de]
---
# Mine

Text with --- in it.
"""
RESULT = {"task": {"type": "t"}, "dataset": {"type": "s", "config": "p"}, "metrics": [{"type": "m", "value": 1.5}]}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_everything_else_of_a_card_stays(newline: str) -> None:
    text = CARD.replace("\n", newline)
    edited = edited_card(text, "name", [RESULT])  # type: ignore[list-item]

    before, after = text.split("model-index:")[0], text.split("# languages")[1]
    assert edited.startswith(before)
    assert edited.endswith("# languages" + after)
    (model,) = yaml.safe_load(edited.split("---")[1])["model-index"]
    assert model["name"] == "mine"
    assert [result["dataset"]["type"] for result in model["results"]] == ["gsm8k", "s"]


def test_a_result_replaces_the_same_measurement_only() -> None:
    newer = RESULT | {"metrics": [{"type": "m", "value": 2.5}]}
    rejudged = newer | {"dataset": {"type": "s", "config": "another protocol"}}
    card = edited_card("# Mine\n", "mine", [RESULT])  # type: ignore[list-item]
    card = edited_card(card, "mine", [newer, rejudged])  # type: ignore[list-item]

    (model,) = yaml.safe_load(card.split("---")[1])["model-index"]
    assert [result["metrics"][0]["value"] for result in model["results"]] == [2.5, 2.5]
    assert edited_card(card, "mine", [newer, rejudged]) == card  # type: ignore[list-item]
    assert card.endswith("---\n\n# Mine\n")


@pytest.mark.parametrize(
    "card",
    ["---\nlicense: mit\n", "---\n- a\n---\n", "---\nmodel-index: 3\n---\n", '---\n"model-index": [{name: a}]\n---\n'],
)
def test_a_card_that_cannot_be_edited_safely_is_refused(card: str) -> None:
    with pytest.raises(ConfigError):
        edited_card(card, "name", [RESULT])  # type: ignore[list-item]


@pytest.mark.slow
def test_push_shows_the_diff_and_needs_a_yes(
    three: Path, harness: Callable[..., Done], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # `make test` sets it
    hub = FakeHub()
    hub.files["org/fused"] = {"README.md": CARD.encode()}
    words = ("report", "fused-2", "--push-to-hub", "org/fused")
    with hub.serving():
        where = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_secret"}
        refused = harness(*words, **where)
        unchanged = hub.files["org/fused"]["README.md"]
        pushed = harness(*words, "--yes", **where)
        again = harness(*words, "--yes", **where)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "the Hub is switched off by HF_HUB_OFFLINE" in harness(*words, "--yes", **where).err
    assert refused.code == 2
    assert "nothing was pushed" in refused.err
    assert unchanged == CARD.encode()
    assert "+  - task:" in refused.out
    assert pushed.code == 0, pushed.err
    assert b"arena_hard" in hub.files["org/fused"]["README.md"]
    assert b"# do not change" in hub.files["org/fused"]["README.md"]
    assert "has these results already" in again.out
    assert hub.parents == ["0" * 40]


def test_push_without_a_token_asks_for_one(three: Path, harness: Callable[..., Done]) -> None:
    done = harness("report", "fused-2", "--push-to-hub", "org/fused", HF_TOKEN="")

    assert done.code == 2
    assert "HF_TOKEN" in done.err
