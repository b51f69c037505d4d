"""`python -m benchmarks.scale`: time and memory of large files and folders, each beside its limit; exit 1 if over.

Inputs are made in a temporary folder. Times are those of a whole process, imports included; processor seconds are
printed beside wall seconds because only they mean something on a machine that others use too.

`--only resume` measures one section, and may be repeated.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.records import Score, ScoreCard
from harness.store import dump_json, run_dir, write_atomic
from harness.store.files import write_lines

from .judging.measure import WIDE_COUNT, wide

CARDS = 1000
JUDGMENTS = 100_000
QUESTIONS = 80
REPEATS = JUDGMENTS // (2 * QUESTIONS)
"""Of the judge's questions about MT-Bench's turns, to fill a run's folder with that many rows."""
WORDS = "The second answer names the cause, gives the steps in order and stays with what was asked. " * 8
"""A judge's reply: 730 characters."""


@dataclass(frozen=True)
class Usage:
    """What a process used."""

    wall: float
    cpu: float
    """Seconds, user and system."""
    memory: float
    """Peak, MB."""


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    name: str
    value: float
    unit: str
    limit: float | None
    """None: without a promise, for comparison."""
    detail: str = ""

    @property
    def holds(self) -> bool:
        return self.limit is None or self.value <= self.limit

    def __str__(self) -> str:
        limit = "" if self.limit is None else f"at most {self.limit:g}"
        verdict = "" if self.limit is None else "ok" if self.holds else "NOT"
        return f"{self.name:<52} {self.value:8.2f} {self.unit:<3} {limit:<12} {verdict:<3} {self.detail}".rstrip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", metavar="SECTION", action="append", choices=SECTIONS, help=", ".join(SECTIONS))
    sections = parser.parse_args().only or SECTIONS
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        for section in sections:
            for figure in SECTIONS[section](Path(folder)):
                sys.stdout.write(f"{figure}\n")
                sys.stdout.flush()
                figures.append(figure)
    return 0 if all(figure.holds for figure in figures) else 1


def scored(folder: Path) -> Iterator[Figure]:
    """Yield the memory of scoring one file or folder of each format."""
    for file_format, write in (("fastchat", fastchat), ("alpaca_eval", alpaca_eval), ("arena_hard", arena_hard)):
        source = folder / file_format
        write(source)
        usage = command(folder, "score", str(source), "--format", file_format, "--no-intervals", "--json")
        yield Figure(f"score, {JUDGMENTS:,} judgments: {file_format}", usage.memory, "MB", 300, times(usage))


def ranked(folder: Path) -> Iterator[Figure]:
    """Yield the time of a leaderboard and of its page."""
    many_cards(folder / "cards")
    for name, output_format, limit in (("leaderboard", "md", 4), ("its page", "html", 10)):
        words = ("leaderboard", "--results", "cards", "--format", output_format, "--out", f"board.{output_format}")
        usage = command(folder, *words)
        yield Figure(f"{name}, {CARDS:,} cards", usage.wall, "s", limit, times(usage))


def resumed(folder: Path) -> Iterator[Figure]:
    """Yield the time of a run that has nothing left to ask, and of the same run's first session for comparison."""
    run = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")
    judged = (*run, "--judge", "reference", "--repeats", str(REPEATS))
    usage = command(folder, *judged)
    yield Figure(f"judging {JUDGMENTS:,} rows by rules: processor", usage.cpu, "s", None, times(usage))
    usage = command(folder, *judged)
    yield Figure(f"resume with {JUDGMENTS:,} rows: processor", usage.cpu, "s", 5, times(usage))


def widely_asked(folder: Path) -> Iterator[Figure]:
    """Yield the time of many slow calls in flight, as a multiple of the ideal, and their processor time."""
    promise, _, processor = wide(WIDE_COUNT, times=1)
    yield Figure(promise.name.removesuffix(": wall"), promise.value, "x", promise.limit, f"of {promise.unit[2:]}")
    yield Figure(processor.name, processor.value, "ms", processor.limit, processor.unit)


SECTIONS: dict[str, Callable[[Path], Iterator[Figure]]] = {
    "scores": scored,
    "boards": ranked,
    "resume": resumed,
    "calls": widely_asked,
}


def times(usage: Usage) -> str:
    return f"{usage.wall:.1f} s wall, {usage.cpu:.1f} s of processor, {usage.memory:.0f} MB"


def command(folder: Path, *words: str) -> Usage:
    """Run `harness` in a folder, with compiled modules, as an installed package has them.

    Raise RuntimeError, with what it printed, if it fails.
    """
    started = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness.cli.main", *words],
            cwd=folder,
            env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            raise RuntimeError(f"harness {' '.join(words)} failed: {output.read()[-2000:].decode('utf-8', 'replace')}")
    return Usage(wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


# ------------------------------------------------------------------------------------------------------------- inputs


def many_cards(results: Path) -> None:
    """Write cards of one table, as `harness import` leaves them: with everything that a board shows, without rows."""
    rng = random.Random(0)
    for number in range(CARDS):
        rate = 20 + 60 * number / CARDS + rng.gauss(0, 2)
        score = Score(value=rate, ci_low=rate - 3, ci_high=rate + 3, se=1.5, n=805)
        length = Score(value=rng.uniform(800, 3000), n=805)
        model, run_id = f"model-{number:04d}", f"{number:012x}"
        card = ScoreCard(
            suite="alpaca_eval",
            suite_version="official-1",
            model=model,
            judge="judge",
            headline="lc_win_rate",
            complete=True,
            protocol={"suite": "alpaca_eval", "suite_version": "official-1"},
            sampling={},
            scores={"lc_win_rate": score, "win_rate": score, "avg_length": length},
            by_category={name: {"win_rate": score} for name in ("helpful_base", "koala", "oasst")},
            counts={"answers": 805},
            provenance={"run_id": run_id},
            usage={"judgment_cost": rng.uniform(1, 9), "tokens_per_second": 90.0, "ended": "2026-11-02T10:00:00Z"},
        )
        folder = run_dir(results, model=model, suite=card.suite, version=card.suite_version, run_id=run_id)
        write_atomic(folder / "card.json", dump_json(card.model_dump(mode="json")))


def fastchat(folder: Path) -> None:
    """Write MT-Bench ratings into one file, as FastChat appends them."""
    rng = random.Random(1)

    def row(number: int) -> str:
        model, rest = divmod(number, 2 * QUESTIONS)
        rating = rng.randint(1, 10)
        return json.dumps(
            {
                "question_id": 81 + rest // 2,
                "model": f"model-{model}",
                "judge": ["gpt-4", "single-v1"],
                "user_prompt": f"[Question]\n{number} {WORDS}\n[The Start of Assistant's Answer]\n{WORDS}",
                "judgment": f"{WORDS} Rating: [[{rating}]]",
                "score": rating,
                "turn": 1 + rest % 2,
                "tstamp": 1_700_000_000 + number,
            }
        )

    write_lines(folder / "gpt-4_single.jsonl", map(row, range(JUDGMENTS)))


def alpaca_eval(folder: Path) -> None:
    """Write annotations of 805 instructions per model, one indented JSON array each."""
    rng = random.Random(2)
    for model in range(-(-JUDGMENTS // 805)):
        rows = [
            {
                "instruction": f"Instruction {number}: {WORDS[:150]}",
                "output_1": f"{number} {WORDS}",
                "generator_1": "gpt4_1106_preview",
                "output_2": f"{model} {number} {WORDS}{WORDS[: rng.randrange(700)]}",
                "generator_2": f"model-{model}",
                "annotator": "weighted_alpaca_eval_gpt4_turbo",
                "preference": 1 + rng.random(),
            }
            for number in range(min(805, JUDGMENTS - 805 * model))
        ]
        write_atomic(folder / f"model-{model}" / "annotations.json", json.dumps(rows, indent=4))


def arena_hard(folder: Path) -> None:
    """Write two games per question and model, one file per model: a game is a judgment."""
    rng = random.Random(3)
    labels = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
    for model in range(JUDGMENTS // 1000):
        rows = []
        for number in range(500):
            games = []
            for _ in range(2):
                label = rng.choice(labels)
                text = f"{WORDS}\nMy final verdict is: [[{label}]]"
                games.append({"user_prompt": f"{number} {WORDS}{WORDS}", "judgment": text, "score": label})
            names = {"question_id": f"{number:032x}", "model": f"model-{model}", "judge": "gpt-4-1106-preview"}
            rows.append(json.dumps(names | {"games": games}))
        write_lines(folder / f"model-{model}.jsonl", rows)


if __name__ == "__main__":
    sys.exit(main())
