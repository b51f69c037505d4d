"""Juries, repeats and anchors through the real command, with fake judges that count every request."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.store import find_cards
from tests.fakes.commands import Done, harness_process, run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, judge_reply, serving

LIMIT = 10


def rating(value: int) -> Callable[[Request], Reply]:
    return lambda request: Reply(text=f"Rating: [[{value}]]")


def rated_in_turn(*values: int) -> Callable[[Request], Reply]:
    """The n-th time the same is asked gets the n-th value."""
    times: Counter[str] = Counter()

    def reply(request: Request) -> Reply:
        said = json.dumps(request.body, sort_keys=True)
        times[said] += 1
        return Reply(text=f"Rating: [[{values[(times[said] - 1) % len(values)]}]]")

    return reply


class World:
    """A model, two judges a and b, and the command that uses them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = FakeOpenAI()
        self.judges = {"a": FakeOpenAI(reply=rating(4)), "b": FakeOpenAI(reply=rating(8))}

    def words(self, *more: str, suite: str = "mt_bench", results: str = "results") -> tuple[str, ...]:
        lines = [f"  {name}: {{kind: llm, model: {name}, url: '{one.url}'}}" for name, one in self.judges.items()]
        (self.folder / "harness.yaml").write_text("judges:\n" + "\n".join(lines) + "\n")
        model = f"endpoint:fake@{self.model.url}"
        fixed = ("--edition", "pocket", "--limit", str(LIMIT), "--results", results)
        return ("run", "--model", model, "--suite", suite, *fixed, *more)

    def start(self, *more: str, suite: str = "mt_bench", results: str = "results") -> Any:
        """With a reply cache for each results folder."""
        cache = str(self.folder / f"{results}.sqlite")
        words = self.words(*more, suite=suite, results=results)
        return harness_process(*words, cwd=self.folder, HARNESS_REPLY_CACHE=cache)

    def run(self, *more: str, suite: str = "mt_bench", results: str = "results") -> Done:
        words = self.words(*more, suite=suite, results=results)
        return run_command(*words, cwd=self.folder, HARNESS_REPLY_CACHE=str(self.folder / f"{results}.sqlite"))

    def asked(self) -> dict[str, int]:
        return {name: len(one.requests) for name, one in self.judges.items()}

    def card(self, results: str = "results") -> Any:
        (path,) = find_cards(self.folder / results)
        return json.loads(path.read_text())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    with serving(world.model), serving(world.judges["a"]), serving(world.judges["b"]):
        yield world


@pytest.mark.slow
def test_a_jury_scores_the_mean_and_shows_each_member_and_their_disagreement(world: World) -> None:
    done = world.run("--judge", "b+a")

    assert done.code == 0, done.err
    card = world.card()
    assert card["judge"] == "a+b"
    assert card["scores"]["mt_bench"]["value"] == 6.0  # (4 + 8) / 2
    assert (card["scores"]["mt_bench"]["n"], card["scores"]["mt_bench"]["unscored"]) == (2 * LIMIT, 0)
    judging = card["judging"]
    assert {name: score["value"] for name, score in judging["members"].items()} == {"a": 4.0, "b": 8.0}
    assert judging["jury"] == {"questions": 2 * LIMIT, "full": 2 * LIMIT, "part": 0, "short": 0, "undecided": 0}
    assert judging["agreement"][0]["agreement"]["value"] == 0.0
    assert judging["differing"]["value"] == 100.0
    assert card["protocol"]["judge"]["rule"] == "mean"
    assert [member["name"] for member in card["protocol"]["judge"]["members"]] == ["a", "b"]
    assert "mt_bench by one judge" in done.out
    assert "questions on which judges differ" in done.out
    assert world.asked() == {"a": 2 * LIMIT, "b": 2 * LIMIT}
    (path,) = find_cards(world.folder / "results")
    export = run_command("export", str(path), "--format", "fastchat", "--out", "files", cwd=world.folder)
    assert export.code == 2
    assert "a+b is a jury" in export.err


@pytest.mark.slow
def test_what_one_member_cannot_judge_leaves_a_jury_of_two_unscored(world: World) -> None:
    world.judges["b"].reply = lambda request: Reply(text="no comment")

    done = world.run("--judge", "a+b")

    assert done.code == 4
    card = world.card()
    assert card["scores"]["mt_bench"]["value"] is None
    assert card["judging"]["jury"]["short"] == 2 * LIMIT
    world.judges["b"].reply = rating(8)
    assert world.run("--judge", "a+b").code == 0
    assert world.asked() == {"a": 2 * LIMIT, "b": 4 * LIMIT}  # only what failed is asked again


@pytest.mark.slow
def test_repeats_are_asked_apart_averaged_and_their_flips_shown(world: World) -> None:
    world.judges["a"].reply = rated_in_turn(3, 6, 6)

    done = world.run("--judge", "a", "--repeats", "3")

    assert done.code == 0, done.err
    card = world.card()
    assert world.asked()["a"] == 3 * 2 * LIMIT
    assert card["protocol"]["judge_repeats"] == 3
    assert card["scores"]["mt_bench"]["value"] == pytest.approx(5.0)
    assert card["scores"]["mt_bench"]["n"] == 2 * LIMIT
    # of the three pairs of repeats (3,6), (3,6), (6,6) two differ
    assert card["judging"]["repeat_flips"]["a"]["value"] == pytest.approx(200 / 3)
    assert "verdicts that flip when repeated" in done.out
    assert "judge noise share" in done.out


@pytest.mark.slow
@pytest.mark.parametrize("points", [(40,), pytest.param((10, 40, 60), marks=pytest.mark.slow)])
def test_a_killed_jury_with_repeats_ends_as_an_undisturbed_one(world: World, points: tuple[int, ...]) -> None:
    for judge in world.judges.values():
        judge.reply = judge_reply
        judge.latency = 0.01
    words = ("--judge", "a+b", "--repeats", "2", "--jury", "median")
    calls = LIMIT * 2 * 2
    assert world.run(*words, suite="arena_hard", results="undisturbed").code == 0
    assert world.asked() == {"a": calls, "b": calls}
    for judge in world.judges.values():
        judge.requests.clear()
    for point in points:
        process = world.start(*words, suite="arena_hard", results="killed")
        kill_at(world, process, point)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL

    done = world.run(*words, suite="arena_hard", results="killed")

    assert done.code == 0, done.err
    killed, undisturbed = world.card("killed"), world.card("undisturbed")
    for card in (killed, undisturbed):
        del card["usage"], card["provenance"]["git"]
    assert killed == undisturbed
    in_flight = 2 * 32
    assert 2 * calls <= sum(world.asked().values()) <= 2 * calls + len(points) * in_flight


def kill_at(world: World, process: Any, point: int) -> None:
    """Kills the process when the judges have seen so many requests in all."""

    def watch(_: int) -> None:
        if sum(world.asked().values()) >= point and process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)

    for judge in world.judges.values():
        judge.on_request = watch


@pytest.mark.slow
def test_a_run_of_one_judge_is_found_again_by_the_command_without_jury_or_repeats(world: World) -> None:
    assert world.run("--judge", "a").code == 0

    assert world.run("--judge", "a", "--repeats", "1", "--jury", "median").code == 0

    assert world.asked() == {"a": 2 * LIMIT, "b": 0}


@pytest.mark.slow
def test_samples_are_drawn_judged_and_named_in_the_protocol(world: World) -> None:
    number = itertools.count()
    world.model.reply = lambda request: Reply(text=f"answer {next(number)}")

    done = world.run("--judge", "a", "--samples", "2")

    assert done.code == 0, done.err
    card = world.card()
    assert card["protocol"]["sampling_deviation"] == {"n": 2}
    assert card["scores"]["mt_bench"]["n"] == 2 * 2 * LIMIT
    assert world.asked()["a"] == 2 * 2 * LIMIT


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--judge", "a+nobody"), "no judge named 'nobody'"),
        (("--judge", "a+b", "--jury", "best"), "jury = 'best'"),
    ],
)
def test_a_wrong_jury_is_one_sentence_and_nothing_is_written(world: World, words: tuple[str, ...], said: str) -> None:
    done = world.run(*words)

    assert done.code == 2
    assert said in done.err
    assert not (world.folder / "results").exists()


# --------------------------------------------------------------------------------------------------------- anchors


def frozen(world: World, *words: str, suite: str = "mt_bench") -> str:
    """The anchor file of the finished run."""
    (path,) = find_cards(world.folder / "results")
    done = run_command("judge", "anchors", str(path), "--n", "8", "--out", "anchors.json", cwd=world.folder)
    assert done.code == 0, done.err
    assert "8 answers of fake" in done.out
    return "anchors.json"


@pytest.mark.slow
def test_a_frozen_set_is_never_written_over_another_file(world: World) -> None:
    world.judges["a"].reply = judge_reply
    assert world.run("--judge", "a").code == 0
    frozen(world)
    frozen(world)  # the same content again
    other_file = world.folder / "notes.json"
    other_file.write_text("mine")

    (path,) = find_cards(world.folder / "results")
    done = run_command("judge", "anchors", str(path), "--n", "8", "--out", "notes.json", cwd=world.folder)

    assert done.code == 2
    assert "notes.json exists and differs; move it away, or give another --out" in done.err
    assert other_file.read_text() == "mine"


@pytest.mark.slow
def test_anchors_are_judged_again_by_fresh_calls_and_a_judge_that_stayed_is_not_said_to_have_moved(
    world: World,
) -> None:
    world.judges["a"].reply = judge_reply
    assert world.run("--judge", "a").code == 0
    file = frozen(world)
    asked = world.asked()["a"]

    done = world.run("--judge", "a", "--anchors", file)

    assert done.code == 0, done.err
    assert world.asked()["a"] == asked + 2 * 8  # the run itself is there; replies of anchors are never cached
    card = world.card()  # one card: anchors are no part of the protocol
    check = card["judging"]["anchors"]["a"]
    assert (check["drifted"], check["n"], check["changed"], check["p"]) == (False, 8, 0.0, 1.0)
    assert card["provenance"]["anchors"] == check["anchors"]
    assert "no drift seen" in done.out
    assert world.run("--judge", "a", "--anchors", file).code == 0
    assert world.asked()["a"] == asked + 2 * 8


@pytest.mark.slow
def test_a_judge_that_moved_is_said_to_have_drifted(world: World) -> None:
    assert world.run("--judge", "a+b").code == 0
    file = frozen(world)
    world.judges["b"].reply = rating(7)

    done = world.run("--judge", "a+b", "--anchors", file, results="later")

    assert done.code == 0, done.err
    checks = world.card("later")["judging"]["anchors"]
    assert (checks["a"]["drifted"], checks["b"]["drifted"]) == (False, True)
    assert checks["b"]["shift"]["value"] == -1.0
    assert "judge b drifted" in done.out


@pytest.mark.slow
def test_a_judge_the_anchors_do_not_know_is_not_asked_and_that_is_said(world: World) -> None:
    assert world.run("--judge", "a").code == 0
    file = frozen(world)

    done = world.run("--judge", "b", "--anchors", file, results="later")

    assert done.code == 0, done.err
    assert world.asked()["b"] == 2 * LIMIT
    assert world.card("later")["judging"]["anchors"]["b"]["drifted"] is None
    assert "judge b: drift is unknown: the anchors contain verdicts of a only" in done.out


@pytest.mark.slow
def test_anchors_are_named_in_the_file_and_counted_in_the_estimate(world: World) -> None:
    assert world.run("--judge", "a").code == 0
    file = frozen(world)
    words = world.words("--judge", "a", "--dry-run", "--json", results="later")
    with (world.folder / "harness.yaml").open("a") as yaml:
        yaml.write(f"anchors: {file}\n")
    done = run_command(*words, cwd=world.folder, HARNESS_REPLY_CACHE=str(world.folder / "other.sqlite"))

    assert done.code == 0, done.err
    assert json.loads(done.out)["dry_run"][0]["judge_calls"] == 2 * LIMIT + 2 * 8
