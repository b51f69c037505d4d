"""`harness judge calibrate` on recorded judgments: the published agreement figures, and judges that follow a rule."""

from __future__ import annotations

import json
import os
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from harness.cli.calibrate import calibrate
from harness.records.errors import UsageError
from tests.fakes.commands import Done, harness_process, run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
pytestmark = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
    reason="set HARNESS_PUBLISHED and HARNESS_MIRROR to the folders of published judgments and pinned files",
)
Harness = Callable[..., Done]
Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]


def calibrated(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    found: dict[str, Any] = json.loads(done.out)
    return found


# ----------------------------------------------------------------------------------------- the recorded judge


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("recorded")
    words = ("--judge", "recorded", "--suite", "mt_bench,arena_hard", "--json")
    return calibrated(run_command("judge", "calibrate", *words, cwd=folder))


NAMES = {
    "gpt4-pair_vs_human": ("agreement_people", "agreement_people_decided"),
    "human_vs_human": ("agreement_among_people", "agreement_among_people_decided"),
}


@pytest.mark.parametrize("who", NAMES)
@pytest.mark.parametrize("turn", [1, 2])
@pytest.mark.parametrize("ties", ["with_tie", "without_tie"])
def test_every_published_figure_of_agreement_with_people_comes_out(
    recorded: dict[str, Any], who: str, turn: int, ties: str
) -> None:
    published = json.loads((Path(str(PUBLISHED)) / "mt_bench/published.json").read_text())["human_agreement"]
    agree, total = published[who][f"turn{turn}_{ties}"]

    score = recorded["suites"]["mt_bench"]["by_turn"][f"turn {turn}"][NAMES[who][ties == "without_tie"]]

    assert score["n"] == total
    assert round(score["value"] * total) == agree
    assert score["value"] == pytest.approx(agree / total, abs=1e-12)
    assert score["ci_low"] < score["value"] < score["ci_high"]


def test_the_recorded_judge_is_what_its_records_say(recorded: dict[str, Any]) -> None:
    suites = recorded["suites"]

    assert suites["mt_bench"]["scores"]["position_consistency"]["value"] == 1 - 380 / 2400
    assert suites["arena_hard"]["scores"]["position_consistency"]["value"] == 329 / 500
    assert recorded["usage"]["judgments"] == 0


@pytest.mark.slow
def test_recorded_annotations_rank_models_as_the_board_does(harness: Harness) -> None:
    found = calibrated(harness("judge", "calibrate", "--judge", "recorded", "--suite", "alpaca_eval", "--json"))
    part = found["suites"]["alpaca_eval"]

    assert part["scores"]["spearman_board"]["value"] == 1
    assert part["items"]["comparisons"] == 13 * 805 + 803


def test_corrections_move_the_judges_win_rates_towards_peoples(recorded: dict[str, Any]) -> None:
    for rates in recorded["suites"]["mt_bench"]["win_rates"].values():
        people, judge = rates["people"]["value"], rates["judge"]["value"]
        assert abs(rates["prediction_powered"]["value"] - people) <= abs(judge - people)
        assert rates["prediction_powered"]["ci_low"] <= people <= rates["prediction_powered"]["ci_high"]


# ------------------------------------------------------------------------------------------ judges that follow a rule

SHOWN = re.compile(
    r"(?:<\||\[)The Start of Assistant A's (?:Answer|Conversation with User)(?:\|>|\])(.*)"
    r"(?:<\||\[)The Start of Assistant B's (?:Answer|Conversation with User)(?:\|>|\])(.*)",
    re.DOTALL,
)


def reply_with(first_wins: Callable[[str, str], bool]) -> Callable[[Request], Reply]:
    """A judge by rule, in the words of whichever suite asks; the rule sees both answers as shown."""

    def reply(request: Request) -> Reply:
        if request.body.get("logprobs"):
            a, b = re.findall(r'"output": """(.*?)"""', request.last, re.DOTALL)[:2] or ("", "")
            won = first_wins(a, b)
            tops = (("m", -0.01), ("M", -5.0)) if won else (("M", -0.01), ("m", -5.0))
            return Reply(text=tops[0][0], tops=tops)
        found = SHOWN.search(request.last)
        if found is None:
            return Reply(text=f"Rating: [[{1 + len(request.last) % 10}]]")
        won = first_wins(found[1], found[2])
        if "[[A>>B]]" in request.messages[0]["content"]:
            return Reply(text="[[A>B]]" if won else "[[B>A]]")
        return Reply(text="[[A]]" if won else "[[B]]")

    return reply


Rule = Callable[[str, str], bool]
RunRule = Callable[[Rule, str, int], tuple[dict[str, Any], FakeOpenAI]]


@pytest.fixture
def run_rule(serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> RunRule:
    """calibration.json of a judge by rule on a sample of some suites, and the server that spoke for it."""

    def run(rule: Rule, suite: str, sample: int) -> tuple[dict[str, Any], FakeOpenAI]:
        with serve(FakeOpenAI(reply=reply_with(rule))) as fake:
            judge = f"endpoint:ruler@{fake.url}"
            calibrate(judge=[judge], suite=suite, sample=sample, results=tmp_path, as_json=True)
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found, fake

    return run


@pytest.mark.slow
def test_a_judge_that_always_takes_the_first_is_found_out(run_rule: RunRule) -> None:
    found, fake = run_rule(lambda a, b: True, "mt_bench,arena_hard", 240)

    for suite in ("mt_bench", "arena_hard"):
        part = found["suites"][suite]
        assert part["scores"]["position_consistency"]["value"] == 0
        assert part["scores"]["points_of_first_shown"]["value"] == 1
        assert any("the order decides" in finding for finding in part["findings"])
    people = found["suites"]["mt_bench"]["scores"]
    assert abs(people["kappa_people"]["value"]) < 0.05  # all ties: it agrees with people's ties alone
    assert "agreement_people_decided" not in people
    assert set(found["sample"]["items"].values()) == {80}  # MT-Bench's comparisons and ratings, Arena-Hard's
    assert 390 <= len(fake.requests) <= 80 * 2 + 80 + 80 * 2  # equal questions, of equal answers, are asked once


@pytest.mark.slow
def test_a_judge_that_prefers_the_longer_is_consistent_and_flagged_for_length(run_rule: RunRule) -> None:
    found, _ = run_rule(lambda a, b: len(a) > len(b), "mt_bench", 400)

    part = found["suites"]["mt_bench"]
    assert part["scores"]["position_consistency"]["value"] > 0.95  # but for answers of one length
    assert part["scores"]["length_bias_people"]["ci_low"] > 0
    assert part["scores"]["length_log_odds"]["value"] > 3
    assert any(finding.startswith("prefers longer answers more than people") for finding in part["findings"])


@pytest.mark.slow
def test_a_judge_that_throws_a_coin_agrees_by_chance(run_rule: RunRule) -> None:
    coin = random.Random(7)
    found, _ = run_rule(lambda a, b: coin.random() < 0.5, "mt_bench", 400)

    part = found["suites"]["mt_bench"]
    assert part["scores"]["kappa_people"]["ci_low"] < 0.05
    assert 0.35 < part["scores"]["position_consistency"]["value"] < 0.65
    assert any("not shown to be above chance" in finding for finding in part["findings"])


@pytest.mark.slow
def test_a_calibration_resumes_counts_its_failures_and_scores_none(
    harness: Harness, serve: Serve, tmp_path: Path
) -> None:
    words = ("--suite", "mt_bench", "--sample", "60", "--json", "--out", "mine.json")
    broken = reply_with(lambda a, b: len(a) > len(b))
    with serve(FakeOpenAI(reply=broken)) as fake:
        judge = ("judge", "calibrate", "--judge", f"endpoint:ruler@{fake.url}")
        first = calibrated(harness(*judge, *words))
        asked = len(fake.requests)
        rows = next(tmp_path.glob("results/calibrations/ruler/*/judgments.jsonl"))
        lines = rows.read_text().splitlines(keepends=True)
        rows.write_text("".join(lines[:-5]))  # as if it had been killed
        second = calibrated(harness(*judge, *words))
        assert len(fake.requests) == asked  # the replies are in the cache

        fake.reply = lambda request: "I cannot say."
        failed = calibrated(harness(*judge, *words, "--suite", "all", "--no-cache"))
    assert json.loads((tmp_path / "mine.json").read_text()) == failed
    assert {key: first[key] for key in ("suites", "judge", "data")} == {
        key: second[key] for key in ("suites", "judge", "data")
    }
    assert sum(first["sample"]["items"].values()) == 60
    for part in failed["suites"].values():
        assert part["failures"]
        assert all(score["value"] is None for name, score in part["scores"].items() if name.startswith("kappa"))
        assert any("have no verdict" in finding for finding in part["findings"])


@pytest.mark.slow
def test_a_card_of_the_judge_cites_its_calibration(harness: Harness, serve: Serve, tmp_path: Path) -> None:
    with serve(FakeOpenAI(reply=reply_with(lambda a, b: len(a) > len(b)))) as fake:
        judge = ("--judge", f"endpoint:fake@{fake.url}")
        calibrated(harness("judge", "calibrate", *judge, "--suite", "mt_bench", "--sample", "60", "--json"))
        model = ("--model", f"endpoint:fake@{fake.url}", "--suite", "mt_bench", "--limit", "8")
        done = harness("run", *model, *judge, "--json")
    (card,) = calibrated(done)["cards"]
    assert any(note.startswith("judge calibrated on ") for note in card["notes"])
    assert len(card["provenance"]["calibration"]["sha"]) == 12


@pytest.mark.slow
def test_a_killed_calibration_goes_on_and_asks_only_what_was_in_flight_again(
    harness: Harness, serve: Serve, tmp_path: Path
) -> None:
    words = ("--suite", "mt_bench", "--sample", "100", "--json", "--repeats", "2")
    with serve(FakeOpenAI(reply=reply_with(lambda a, b: len(a) > len(b)), latency=0.1)) as fake:
        command = ("judge", "calibrate", "--judge", f"endpoint:ruler@{fake.url}", *words)
        process = harness_process(*command, cwd=tmp_path)
        while len(fake.requests) < 120:
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
        process.communicate()
        found = calibrated(harness(*command))
        bodies = Counter(json.dumps(request.body, sort_keys=True) for request in fake.requests)
    asked = found["usage"]["judgments"]
    assert asked == 2 * (2 * 50 + 50)
    assert sum(bodies.values()) <= asked + 32  # calls in flight, at most: JudgeSpec.concurrency
    assert found["suites"]["mt_bench"]["scores"]["flips_between_repeats"]["value"] == 0


@pytest.mark.slow
def test_max_cost_stops_before_it_is_crossed_and_a_higher_one_goes_on(
    harness: Harness, serve: Serve, tmp_path: Path
) -> None:
    with serve(FakeOpenAI(reply=reply_with(lambda a, b: len(a) > len(b)))) as fake:
        priced = f"kind: llm\nmodel: m\nurl: {fake.url}\nprice_in: 100\nprice_out: 0\n"
        (tmp_path / "ruler.yaml").write_text(priced)
        words = ("judge", "calibrate", "--judge", "ruler.yaml", "--suite", "arena_hard", "--sample", "20", "--json")
        stopped = harness(*words, "--max-cost", "1.5")
        assert stopped.code == 4
        assert "--max-cost $1.50" in stopped.err
        found = calibrated(harness(*words, "--max-cost", "100"))
        assert len(fake.requests) == 40
    assert found["usage"]["paid"] == found["usage"]["cost"] > 1


@pytest.mark.slow
def test_several_judges_end_in_one_table(harness: Harness, serve: Serve, tmp_path: Path) -> None:
    with (
        serve(FakeOpenAI(reply=reply_with(lambda a, b: len(a) > len(b)))) as longest,
        serve(FakeOpenAI(reply=reply_with(lambda a, b: True))) as first,
    ):
        for name, fake in (("longest", longest), ("first", first)):
            prices = "price_in: 1\nprice_out: 1\n" if name == "first" else ""
            (tmp_path / f"{name}.yaml").write_text(f"kind: llm\nmodel: m\nurl: {fake.url}\n{prices}")
        judges = ("--judge", "longest.yaml", "--judge", "first.yaml")
        words = ("judge", "calibrate", *judges, "--suite", "mt_bench", "--sample", "20")
        table = harness(*words).out
        reports = json.loads(harness(*words, "--json").out)["calibrations"]

    assert table.count("mt_bench") == 1, "one table per suite"
    rows = [line for line in table.splitlines() if re.search(r"\b(longest|first)\b", line)]
    assert ["longest" in row for row in rows] == [True, False]
    assert [report["judge"]["name"] for report in reports] == ["longest", "first"]
    scores = [report["suites"]["mt_bench"]["scores"]["position_consistency"]["value"] for report in reports]
    assert scores[0] >= 0.9  # answers of one length are the exception
    assert scores[1] == 0.0


@pytest.mark.slow
def test_a_judge_that_only_compares_is_calibrated_on_comparisons(harness: Harness) -> None:
    done = harness("judge", "calibrate", "--judge", "longest", "--suite", "mt_bench", "--sample", "60", "--json")

    part = calibrated(done)["suites"]["mt_bench"]
    assert part["items"]["comparisons"] == 60
    assert part["items"]["ratings"] == 0
    assert part["scores"]["position_consistency"]["value"] == 1.0
    assert done.err.count("items are left out: judge 'longest' only compares two answers by length") == 2  # per turn


@pytest.mark.slow
def test_an_estimate_needs_no_key(harness: Harness) -> None:
    words = ("judge", "calibrate", "--judge", "gpt-5.4", "--suite", "mt_bench", "--sample", "60", "--dry-run")
    done = harness(*words)

    assert done.code == 0, done.err
    assert "nothing was asked, nothing written" in done.out
    [row] = json.loads(harness(*words, "--json").out)["dry_run"]
    assert f"{row['items']} items, {row['judge_calls']} judge calls, about ${row['judge_cost']:.2f};" in done.out


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"judge": ["gpt9"]}, "no judge named 'gpt9'"),
        ({"suite": "lm_eval"}, "no recorded judgments of suite 'lm_eval'; known: mt_bench"),
        ({"data": Path("none")}, "no such folder of recorded judgments: 'none'"),
        ({"sample": -1}, "--sample -1 is below 0"),
        ({"jury": "loudest"}, "no jury rule 'loudest'; known: mean, majority, median"),
        ({"judge": ["endpoint:m@http://127.0.0.1:1/v1"], "max_cost": 1.0}, "--max-cost needs the price of judge 'm'"),
        ({"max_cost": -1.0}, "--max-cost -1 is not above 0"),
        ({"suite": "own"}, "--judge recorded has no verdicts on your own comparisons"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flags: dict[str, Any], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UsageError, match=re.escape(sentence)):
        calibrate(**({"judge": ["recorded"]} | flags))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_command_ends_with_2_on_bad_input(harness: Harness, tmp_path: Path) -> None:
    done = harness("judge", "calibrate", "--judge", "recorded", "--suite", "mtbench")

    assert (done.code, done.out) == (2, "")
    assert "no recorded judgments of suite 'mtbench'" in done.err
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- comparisons of one's own


def own_row(number: int, *, better: str, votes: int) -> dict[str, Any]:
    """The better answer is the longer one; people, where asked, see that in three of four."""
    words = {"candidate": "word " * (30 if better == "candidate" else 10), "baseline": "word " * 20}
    seen = better if number % 4 else ("baseline" if better == "candidate" else "candidate")
    sides = {side: {"model": f"{side}-7b", "answer": text} for side, text in words.items()}
    return {"question": f"Question {number}?", "votes": [seen] * votes, **sides}


def test_own_comparisons_are_judged_whole_and_corrected_by_the_votes_on_a_part(
    run_rule: RunRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [own_row(n, better="baseline" if n % 3 else "candidate", votes=n < 60) for n in range(120)]
    (tmp_path / "mine/own").mkdir(parents=True)
    (tmp_path / "mine/own/rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setenv("HARNESS_PUBLISHED", str(tmp_path / "mine"))

    found, fake = run_rule(lambda a, b: len(a) > len(b), "own", 0)

    assert len(fake.requests) == 240  # all of them, in both orders
    rates = found["suites"]["own"]["win_rates"]["candidate-7b"]
    assert rates["judge"]["value"] == pytest.approx(100 / 3)
    # people: of 20 that the judge calls wins 15, of the 40 losses 10 are wins to them: 25 of 60; all alike, so 5/12
    assert rates["people"]["value"] == pytest.approx(100 * 25 / 60)
    assert rates["prediction_powered"]["value"] == pytest.approx(100 * 5 / 12)
    assert rates["rogan_gladen"]["value"] == pytest.approx(100 * (1 / 3 + 30 / 35 - 1) / (30 / 35 + 15 / 25 - 1))


def test_a_folder_without_a_suites_records_is_named(tmp_path: Path) -> None:
    (tmp_path / "mt_bench/human").mkdir(parents=True)
    (tmp_path / "mt_bench/human/gpt4_pair.jsonl").write_text("")
    (tmp_path / "mt_bench/human/human.jsonl").write_text(json.dumps({"judge": "expert_1", "winner": "tie"}))

    with pytest.raises(UsageError, match="no recorded judgments in"):
        calibrate(judge=["recorded"], suite="arena_hard", data=tmp_path)
    with pytest.raises(UsageError, match=r"mt_bench: a row of the recorded judgments in .* has no key 'model_a'"):
        calibrate(judge=["recorded"], suite="mt_bench", data=tmp_path)


def test_a_row_of_another_form_is_named(run_rule: RunRule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own/rows.jsonl").write_text(json.dumps({"question": "?", "candidate": {"model": "m"}}))
    monkeypatch.setenv("HARNESS_PUBLISHED", str(tmp_path))

    with pytest.raises(UsageError, match=r"rows\.jsonl, row 1 is not a comparison \('answer'\)"):
        run_rule(lambda a, b: True, "own", 0)
