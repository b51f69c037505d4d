"""What a terminal of 80, 100, 120 or 200 columns shows: complete numbers, names short in the middle, no broken line."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
import termios
from collections.abc import Callable
from dataclasses import replace
from fcntl import ioctl
from pathlib import Path
from struct import pack

import pytest

from harness.pages.progress import StageTally
from harness.pages.summary import summary, summary_table
from harness.pages.tables import rich_tables
from harness.pages.text import FittedTable, middle_elided
from harness.records import Preference, Rating
from harness.running.pipeline import Progress
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

MODELS = {"fused-of-four-sources-8b-instruct-v2": 0.8, "fused-of-four-sources-8b-instruct-v1": 0.7, "base": 0.3}
WIDTHS = (80, 100, 120, 200)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    for model, skill in MODELS.items():
        for suite in ("mt_bench", "arena_hard"):
            make_run(folder, model, pocket(suite), skill=skill)
    return folder


def on_terminal(width: int, *words: str) -> str:
    """Return what a command writes to a terminal of this width, without its colours."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", raw_terminal(width, *words))


def raw_terminal(width: int, *words: str, **environment: str) -> str:
    ours, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, pack("HHHH", 40, width, 0, 0))
    env = (
        {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        | {"TERM": "xterm"}
        | environment
    )
    command = [sys.executable, "-m", "harness.cli.main", *words]
    with subprocess.Popen(command, stdout=theirs, stderr=subprocess.DEVNULL, env=env) as process:
        os.close(theirs)
        content = b""
        while True:
            try:
                block = os.read(ours, 65_536)
            except OSError:  # Linux: the other end is closed
                break
            if not block:
                break
            content += block
    os.close(ours)
    assert process.returncode == 0
    return content.decode().replace("\r\n", "\n")


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_a_board_fits_the_terminal_and_keeps_whole_numbers(results: Path, width: int) -> None:
    shown = on_terminal(width, "leaderboard", "--results", str(results), "--suite", "mt_bench")

    assert max(map(len, shown.splitlines())) <= width
    head = next(line for line in shown.splitlines() if line.lstrip().startswith("rank"))
    names = re.split(r" {2,}", head.strip())
    assert names[:3] == ["rank", "model", "mt_bench [95 %]"]
    assert {"difference", "p"} <= set(names)
    rows = [line for line in shown.splitlines() if re.match(r" *\d \(\d-\d\)", line)]
    assert len(rows) == 3
    for row in rows:  # the score with both ends of its interval, on the line of its model
        assert re.search(r"\d\.\d\d \[\d\.\d\d, \d+\.\d\d\]", row)
    assert ("--wide shows all columns" in shown) == (width < 200)
    if width == 200:
        assert names[-1] == "run"
        assert "fused-of-four-sources-8b-instruct-v2" in shown


@pytest.mark.slow
def test_no_color_leaves_no_escape_in(results: Path) -> None:
    words = ("leaderboard", "--results", str(results), "--suite", "mt_bench")

    assert "\x1b[" in raw_terminal(100, *words)
    assert "\x1b[" not in raw_terminal(100, *words, NO_COLOR="1")


def test_two_names_that_differ_at_the_end_stay_different() -> None:
    first, second = (middle_elided(name, 20) for name in list(MODELS)[:2])

    assert first.endswith("v2")
    assert second.endswith("v1")
    assert len(first) == len(second) == 20


def test_a_name_in_wide_letters_takes_two_cells_each() -> None:
    assert middle_elided("模型模型模型模型", 9) in ("模型…型模", "模型…模型")


@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_the_summary_shows_every_suite_at_every_width(results: Path, harness: Callable[..., Done], width: int) -> None:
    shown = on_terminal(width, "leaderboard", "--summary", "--results", str(results))

    assert max(map(len, shown.splitlines())) <= width
    assert re.search(r"model +arena_hard +(95 % +)?mt_bench", shown)
    assert re.search(r"base +\d+\.\d\d \(3\)", shown)


def test_a_pipe_gets_all_columns(results: Path, harness: Callable[..., Done]) -> None:
    shown = harness("leaderboard", "--results", str(results), "--suite", "mt_bench").out

    (head,) = [line for line in shown.splitlines() if line.lstrip().startswith("rank ")]
    assert head.rstrip().endswith("run")
    assert "not shown" not in shown
    assert "fused-of-four-sources-8b-instruct-v2" in shown


def test_columns_leave_by_priority() -> None:
    table = FittedTable(
        "", ("model", "a", "b", "score"), [("m", "1", "2", "3.00")], ("model",), ("model", "score", "b")
    )

    # model 5, score 5, b 1, a 1, two spaces between: 5 + 2 + 5 = 12, 15 with b, 18 with a
    assert [list(table.layout(width)) for width in (12, 15, 18)] == [[0, 3], [0, 2, 3], [0, 1, 2, 3]]
    assert table.hidden(12) == ["a", "b"]


@pytest.mark.slow
def test_a_board_can_be_cut_and_ordered(results: Path, harness: Callable[..., Done]) -> None:
    folder = ("--results", str(results), "--suite", "mt_bench", "--json")

    def names(*words: str) -> list[str]:
        (table,) = json.loads(harness("leaderboard", *folder, *words).out)["tables"]
        return [row["model"] for row in table["rows"]]

    first, second, last = names()
    assert names("--filter", "FUSED*") == [first, second]
    assert names("--top", "1") == [first]
    assert names("--sort", "model") == sorted(MODELS)
    done = harness("leaderboard", *folder, "--sort", "speed")
    assert done.code == 2
    assert "turn_1" in done.err
    (table,) = json.loads(harness("leaderboard", *folder, "--baseline", last).out)["tables"]
    assert table["baseline"] == last
    assert [row["above"] is None for row in table["rows"]] == [False, False, True]
    assert harness("leaderboard", *folder, "--baseline", "nobody").code == 2
    assert harness("leaderboard", *folder[:2], "--columns", "n,run").out.count("turn_1") == 0
    assert "tonight" in harness("leaderboard", *folder[:2], "--title", "tonight").out


@pytest.mark.slow
def test_a_summary_in_every_format(results: Path, harness: Callable[..., Done]) -> None:
    words = ("leaderboard", "--summary", "--results", str(results), "--format")

    records = json.loads(harness(*words, "json").out)["summary"]
    assert [record["model"] for record in records][-1] == "base"
    assert [score["rank"] for score in records[-1]["scores"]] == [3, 3]
    assert harness(*words, "csv").out.splitlines()[0] == "model," + ",".join(
        f"{suite}{part}" for suite in ("arena_hard", "mt_bench") for part in ("", " low", " high")
    )
    assert "| model | arena\\_hard \\[95 %\\] |" in harness(*words, "md").out
    assert harness(*words, "html").code == 2


@pytest.mark.slow
def test_a_results_folder_of_harness_yaml_is_every_commands(
    results: Path, harness: Callable[..., Done], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HARNESS_RESULTS", raising=False)
    Path("harness.yaml").write_text(f"results: {results}\n")

    for words in (("leaderboard", "--summary"), ("ls", "runs"), ("compare", "base", next(iter(MODELS)))):
        done = harness(*words)
        assert done.code == 0, done.err
        assert f"results folder {results}, from ./harness.yaml" in done.err


def test_runs_are_listed_finished_or_not(results: Path, harness: Callable[..., Done], tmp_path: Path) -> None:
    folder = make_run(tmp_path, "stopped", pocket("mt_bench"), skill=0.5)
    (folder / "card.json").rename(folder / "manifest.json")
    make_run(tmp_path, "done", pocket("mt_bench"), skill=0.5)

    listed = json.loads(harness("ls", "--results", str(tmp_path), "--json").out)["runs"]

    assert {run["model"]: run["state"] for run in listed} == {"stopped": "unfinished", "done": "finished"}
    assert "2 runs, 1 not finished" in harness("ls", "runs", "--results", str(tmp_path)).out
    shutil.rmtree(tmp_path / "runs" / "done")
    assert "\n1 run, 1 not finished" in harness("ls", "runs", "--results", str(tmp_path)).out


def test_a_tally_states_rate_time_left_score_and_dollars() -> None:
    """Five rows, two seconds apart: 4 in 8 s are 30 per minute, and 5 more take 10 s."""
    now = 0.0
    tally = StageTally("mt_bench judgments", 10, clock=lambda: now)
    for rating in (6.0, 8.0, 7.0, 9.0):
        tally.add(Progress("mt_bench", "judgments", ok=True, verdict=Rating(value=rating), paid=0.25))
        now += 2.0
    tally.add(Progress("mt_bench", "judgments", ok=False))

    assert str(tally) == "mt_bench judgments 5/10 (1 failed, 30.0/min, 0:10 left, mean rating 7.50, $1.00)"


def test_rows_that_arrive_together_have_no_rate() -> None:
    """Three rows within a thousandth of a second say nothing of the speed: their calls began before the clock."""
    now = 0.0
    tally = StageTally("mt_bench judgments", 3, clock=lambda: now)
    for _ in range(3):
        tally.add(Progress("mt_bench", "judgments", ok=False))
        now += 0.0005

    assert str(tally) == "mt_bench judgments 3/3 (3 failed)"


def test_a_tally_of_preferences_is_a_percentage() -> None:
    tally = StageTally("arena_hard judgments", 2, clock=lambda: 0.0)
    for value in (1.0, 0.5):
        tally.add(Progress("arena_hard", "judgments", ok=True, verdict=Preference(value=value)))

    assert str(tally) == "arena_hard judgments 2/2 (wins 75.0 %)"


def test_a_tally_of_ratings_is_named_by_the_headline() -> None:
    tally = StageTally("custom:polite judgments", 1, clock=lambda: 0.0)
    step = Progress("custom:polite", "judgments", ok=True, verdict=Rating(value=33.333, low=0, high=100))
    tally.add(replace(step, headline="rubric"))

    assert str(tally) == "custom:polite judgments 1/1 (share of the rubric's points 33.3 %)"


@pytest.mark.slow
def test_help_is_grouped_and_everywhere(harness: Callable[..., Done]) -> None:
    shown = harness("-h").out

    assert shown.index("Evaluate:") < shown.index("Read and decide:") < shown.index("Set up:")
    assert re.search(r"train +Fuse models", shown)
    for words in (("run",), ("judge", "list"), ("gate", "promote"), ("train",)):
        assert harness(*words, "-h").code == 0
    assert "Serving:" in harness("run", "-h").out


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("leaderbord",), "did you mean 'leaderboard'"),
        (("run", "--model", "m", "--suite", "mtbench"), "did you mean 'mt_bench'"),
        (("run", "--model", "m", "--suite", "mt_bench", "--judge", "gpt4.1"), "did you mean 'gpt-4.1'"),
        (("run", "--model", "org/name", "--suite", "mt_bench"), "--model hf:org/name"),
    ],
)
def test_a_misspelt_name_gets_a_suggestion(harness: Callable[..., Done], words: tuple[str, ...], hint: str) -> None:
    done = harness(*words)

    assert done.code == 2
    assert hint in done.err


def test_a_misspelt_key_of_a_gate_policy_is_named(harness: Callable[..., Done], tmp_path: Path) -> None:
    policy = tmp_path / "gate.yaml"
    policy.write_text("checks: [{suite: mt_bench, margn: 1}]\n")

    done = harness("gate", "--candidate", "a", "--policy", str(policy))

    assert done.code == 2
    assert "unknown key 'checks.0.margn'; known: category, " in done.err
    assert "(did you mean 'margin'?)" in done.err


@pytest.mark.skipif("HARNESS_MIRROR" not in os.environ, reason="HARNESS_MIRROR has MT-Bench's questions")
def test_one_command_imports_every_model_of_a_file(harness: Callable[..., Done], tmp_path: Path) -> None:
    rows = [
        {"question_id": question, "model": model, "judge": ["gpt-4", "single-v1"], "score": 7, "turn": 1}
        for model in ("m1", "m2", "m3")
        for question in range(81, 161)
    ]
    file = tmp_path / "gpt-4_single.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = harness("import", str(file), "--format", "fastchat", "--results", str(tmp_path / "results"))

    assert "imported 3 runs of 3 models" in done.out


@pytest.mark.skipif("HARNESS_MIRROR" not in os.environ, reason="HARNESS_MIRROR has MT-Bench's questions")
def test_an_incomplete_import_of_several_models_says_whose(harness: Callable[..., Done], tmp_path: Path) -> None:
    rows = [
        {"question_id": question, "model": model, "judge": ["gpt-4", "single-v1"], "score": 7, "turn": turn}
        for model, last in (("m1", 161), ("m2", 91))
        for question in range(81, last)
        for turn in (1, 2)
    ]
    file = tmp_path / "gpt-4_single.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))

    done = harness("import", str(file), "--format", "fastchat", "--results", str(tmp_path / "results"))

    text = " ".join(done.out.split())
    assert "mt_bench, m2: incomplete: 20 of 160 scored; never ranked" in text
    assert "m1: incomplete" not in text


@pytest.mark.slow
@pytest.mark.parametrize("words", [("leaderboard",), ("ls", "runs"), ("leaderboard", "--format", "csv")])
def test_a_reader_that_leaves_early_is_no_error(results: Path, words: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "harness.cli.main", *words, "--results", str(results)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        process.wait()

    assert process.returncode in (0, 141)


def test_models_of_a_summary_without_a_suite_come_last(results: Path) -> None:
    assert summary_table(summary(())).rows == []
    assert rich_tables([]) == []


def test_suites_are_listed_with_the_benchmark_that_each_is(harness: Callable[..., Done]) -> None:
    lines = [line.split() for line in harness("ls", "suites").out.splitlines()]

    assert lines[0] == ["suite", "benchmark", "headline", "questions", "package"]
    assert ["mt_bench", "MT-Bench", "mt_bench", "80", "llm-fusion-harness"] in lines
