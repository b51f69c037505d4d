"""Audits and cyclic juries through the real command, with fake judges that count every request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from harness.store import find_cards
from tests.fakes.commands import Done, run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, chat_reply, judge_reply, serving

QUESTIONS, TURNS, AUDITED = 80, 2, 50


def rated(lower: int) -> Callable[[Request], Reply]:
    """A rating of 3 to 9 by the request's text; `lower` is taken off."""

    def reply(request: Request) -> Reply:
        text = "\n".join(message["content"] for message in request.messages)
        return Reply(text=f"Rating: [[{3 + hashlib.sha256(text.encode()).digest()[0] % 7 - lower}]]")

    return reply


def other_reply(request: Request) -> Reply:
    return Reply(text="Another " + chat_reply(request).text)


class World:
    """Two models, a cheap and an expensive judge, and the command that uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = {"old": FakeOpenAI(model="old"), "new": FakeOpenAI(model="new", reply=other_reply)}
        self.judges = {"cheap": FakeOpenAI(reply=rated(0)), "dear": FakeOpenAI(reply=rated(2))}

    def settings(self) -> None:
        prices = {"cheap": 0.1, "dear": 10.0}
        rest = "kind: llm, price_out: 0"
        lines = [
            f"  {name}: {{{rest}, model: {name}, url: '{server.url}', price_in: {prices.get(name, 1.0)}}}"
            for name, server in self.judges.items()
        ]
        (self.folder / "harness.yaml").write_text("judges:\n" + "\n".join(lines) + "\n")

    def harness(self, *words: str) -> Done:
        self.settings()
        return run_command(*words, cwd=self.folder, HARNESS_REPLY_CACHE=str(self.folder / "replies.sqlite"))

    def words(self, model: str, *more: str, suite: str = "mt_bench") -> tuple[str, ...]:
        served = f"endpoint:{model}@{self.models[model].url}"
        return ("run", "--model", served, "--suite", suite, "--edition", "pocket", *more)

    def run(self, model: str, *more: str, suite: str = "mt_bench") -> Done:
        return self.harness(*self.words(model, *more, suite=suite))

    def asked(self) -> dict[str, int]:
        return {name: len(server.requests) for name, server in self.judges.items()}

    def card(self, model: str = "old") -> Any:
        (path,) = [path for path in find_cards(self.folder / "results") if f"/{model}/" in str(path)]
        return json.loads(path.read_text())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with ExitStack() as stack:
        for server in (*world.models.values(), *world.judges.values()):
            stack.enter_context(serving(server))
        yield world


AUDIT = ("--judge", "cheap", "--audit", f"dear:{AUDITED}")


@pytest.mark.slow
def test_an_audited_card_is_on_the_expensive_judges_scale_and_nothing_is_asked_twice(world: World) -> None:
    plan = json.loads(world.run("old", *AUDIT, "--dry-run", "--json").out)["dry_run"][0]
    assert plan["judge_calls"] == TURNS * (QUESTIONS + AUDITED)
    assert {name: part["calls"] for name, part in plan["by_judge"].items()} == {
        "cheap": TURNS * QUESTIONS,
        "dear": TURNS * AUDITED,
    }
    assert plan["by_judge"]["dear"]["cost"] > plan["by_judge"]["cheap"]["cost"]
    assert world.asked() == {"cheap": 0, "dear": 0}

    done = world.run("old", *AUDIT)

    assert done.code == 0, done.err
    card = world.card()
    audit = card["judging"]["audit"]
    assert world.asked() == {"cheap": TURNS * QUESTIONS, "dear": TURNS * AUDITED}
    assert card["judge"] == "cheap audited by dear"
    assert (audit["drawn"], audit["judged"], audit["of"]) == (AUDITED, AUDITED, QUESTIONS)
    # the expensive judge takes 2 points off everywhere, so that its 50 questions tell all that 80 would
    cheap = audit["cheap"]["mt_bench"]
    assert card["scores"]["mt_bench"]["value"] == pytest.approx(cheap["value"] - 2)
    assert card["scores"]["mt_bench"]["se"] == pytest.approx(cheap["se"], rel=0.15)  # whose interval adds two questions
    assert audit["gains"]["mt_bench"]["correlation"] == pytest.approx(1.0)
    assert audit["gains"]["mt_bench"]["slope"] == pytest.approx(1.0)
    assert {name: part["calls"] for name, part in audit["spending"].items()} == world.asked()
    assert audit["spending"]["dear"]["paid"] > audit["spending"]["cheap"]["paid"] > 0
    assert card["by_category"] == {}
    assert "mt_bench, not audited" in done.out
    assert "audited: scores are on the scale of dear, which judged 50 of 80 questions" in done.out

    assert world.run("old", *AUDIT).code == 0
    assert world.asked() == {"cheap": TURNS * QUESTIONS, "dear": TURNS * AUDITED}


@pytest.mark.slow
def test_audited_runs_are_compared_gated_and_ranked_on_that_scale(world: World) -> None:
    for model in world.models:
        assert world.run(model, *AUDIT).code == 0
    means = {model: world.card(model)["scores"]["mt_bench"]["value"] for model in world.models}

    compared = json.loads(world.harness("compare", "old", "new", "--json").out)
    gate = json.loads(world.harness("gate", "--baseline", "old", "--candidate", "new", "--json").out)
    board = json.loads(world.harness("leaderboard", "--json").out)

    rows = {row["metric"]: row for row in compared["comparisons"][0]["differences"]}
    assert rows["mt_bench"]["value"] == pytest.approx(means["new"] - means["old"])
    assert rows["mt_bench"]["method"] == "paired"
    assert {row["category"] for row in rows.values()} == {None}
    assert any("scale of the audit's judge" in note for note in compared["comparisons"][0]["notes"])
    assert gate["checks"][0]["difference"]["value"] == pytest.approx(means["new"] - means["old"])
    (table,) = board["tables"]
    assert {row["model"]: row["score"]["value"] for row in table["rows"]} == pytest.approx(means)
    assert table["rows"][1]["above"]["paired"] is True


@pytest.mark.slow
def test_a_live_gate_audits_the_candidate_and_needs_a_baseline_with_the_same_audit(world: World) -> None:
    assert world.run("old", *AUDIT).code == 0
    served = f"endpoint:new@{world.models['new'].url}"
    words = ("gate", "--baseline", "old", "--candidate", served, "--live", "--sequential", "--edition", "pocket")

    refused = world.harness(*words, "--judge", "cheap")
    done = world.harness(*words, *AUDIT, "--json")

    assert refused.code == 2
    assert "audit: {" in refused.err
    assert "and None" in refused.err
    report = json.loads(done.out)
    expected = world.card("new")["scores"]["mt_bench"]["value"] - world.card("old")["scores"]["mt_bench"]["value"]
    assert report["checks"][0]["difference"]["value"] == pytest.approx(expected)
    assert "the judge is audited" in report["sequential"][0]["note"]


@pytest.mark.slow
def test_a_rate_that_is_fitted_stays_the_cheap_judges(world: World) -> None:
    for judge in world.judges.values():
        judge.reply = judge_reply
    done = world.run("old", "--judge", "cheap", "--audit", "dear:60", suite="alpaca_eval")

    assert done.code == 0, done.err
    card = world.card()
    assert card["headline"] == "win_rate"
    assert set(card["scores"]) == {"win_rate", "avg_length"}
    assert "lc_win_rate" in card["judging"]["audit"]["cheap"]
    assert any("lc_win_rate cannot be audited" in note for note in card["notes"])


@pytest.mark.slow
def test_an_audit_without_verdicts_is_incomplete_and_asked_again(world: World) -> None:
    world.judges["dear"].reply = lambda request: Reply(text="no comment")

    assert world.run("old", *AUDIT).code == 4
    card = world.card()
    assert (card["complete"], card["scores"]["mt_bench"]["value"]) == (False, None)
    world.judges["dear"].reply = rated(2)
    assert world.run("old", *AUDIT).code == 0

    assert world.card()["complete"] is True
    assert world.asked()["cheap"] == TURNS * QUESTIONS


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--judge", "cheap", "--audit", "dear:80"), "mt_bench asks only 80 questions"),
        (("--judge", "cheap", "--audit", "dear:50", "--limit", "40"), "mt_bench asks only 40 questions"),
        (("--judge", "cheap", "--audit", "dear:20"), "20 questions are too few"),
        (("--judge", "cheap", "--jury", "cyclic"), "--jury cyclic needs several judges that take turns"),
    ],
)
def test_a_wrong_design_is_one_sentence_and_nothing_is_written(
    world: World, words: tuple[str, ...], sentence: str
) -> None:
    done = world.run("old", *words)

    assert done.code == 2
    assert sentence in done.err
    assert not (world.folder / "results").exists()


@pytest.mark.slow
def test_an_audited_run_is_not_exported(world: World) -> None:
    assert world.run("old", *AUDIT).code == 0

    done = world.harness("export", "old", "--format", "fastchat", "--out", "files")

    assert done.code == 2
    assert "estimates from two judges (cheap audited by dear)" in done.err


@pytest.mark.slow
def test_a_cyclic_jury_asks_each_question_of_one_judge(world: World) -> None:
    words = ("--judge", "cheap+dear", "--jury", "cyclic")
    plan = json.loads(world.run("old", *words, "--dry-run", "--json").out)["dry_run"][0]
    assert {name: part["calls"] for name, part in plan["by_judge"].items()} == {"cheap": QUESTIONS, "dear": QUESTIONS}

    done = world.run("old", *words)

    assert done.code == 0, done.err
    card = world.card()
    assert world.asked() == {"cheap": TURNS * QUESTIONS // 2, "dear": TURNS * QUESTIONS // 2}
    assert card["protocol"]["judge"]["rule"] == "cyclic"
    assert card["scores"]["mt_bench"]["n"] == TURNS * QUESTIONS
    members = card["judging"]["members"]
    assert card["scores"]["mt_bench"]["value"] == pytest.approx(sum(score["value"] for score in members.values()) / 2)
    assert "one in turn 160, none 0" in done.out
    assert world.run("new", *words).code == 0
    gate = world.harness("gate", "--baseline", "old", "--candidate", "new", "--json")
    assert json.loads(gate.out)["checks"][0]["difference"]["n"] == QUESTIONS
    judged = {model: judges_by_question(world, model) for model in world.models}
    assert judged["old"] == judged["new"]


def judges_by_question(world: World, model: str) -> dict[str, str]:
    (file,) = (world.folder / "results").glob(f"runs/*{model}*/mt_bench@*/*/judgments.jsonl")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return {row["prompt_id"]: row["judge"] for row in rows}


@pytest.mark.slow
def test_an_audit_of_a_cyclic_jury(world: World) -> None:
    with serving(FakeOpenAI(reply=rated(1))) as third:
        world.judges["third"] = third
        done = world.run("old", "--judge", "cheap+third", "--jury", "cyclic", "--audit", f"dear:{AUDITED}")

        assert done.code == 0, done.err
        assert world.asked() == {"cheap": QUESTIONS, "third": QUESTIONS, "dear": TURNS * AUDITED}
        card = world.card()
        assert card["judge"] == "cheap+third audited by dear"
        # cheap is 2 points and third 1 point above dear
        bias = card["judging"]["audit"]["cheap"]["mt_bench"]["value"] - card["scores"]["mt_bench"]["value"]
        assert bias == pytest.approx(1.5, abs=0.15)
