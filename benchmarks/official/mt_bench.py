"""MT-Bench: the official models' averages, beside what fschat's show_result prints for the same file."""

from __future__ import annotations

import io
import json
import lzma
import re
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

from harness.suites.files import ScoreOptions, read_files
from harness.suites.mt_bench import file_scores as fastchat

from .lines import Line, timed


def measure(published: Path, mirror: Path, work: Path) -> list[Line]:
    """The 23 official models against show_result, and all given single-answer files read and scored."""
    file = work / "official_scores.jsonl"
    file.write_bytes(lzma.decompress((published / "mt_bench" / "official_scores.jsonl.xz").read_bytes()))
    show_result(file)  # pandas is imported before the clock runs
    theirs = timed(lambda: show_result(file))
    options = ScoreOptions(intervals=False, mirror=str(mirror))
    cards = timed(lambda: fastchat.cards(read_files([file]), options))
    values = {card.model: card.scores["mt_bench"].value for card in cards.value}
    gaps = [abs(value - theirs.value[model]) for model, value in values.items() if value is not None]
    board = json.loads((published / "mt_bench" / "published.json").read_text("utf-8"))["official"]
    assert all(abs((values[model] or 0) - row["average"]) < 1e-6 for model, row in board.items() if model in values)
    every = [published / "mt_bench" / "judgments", published / "mt_bench" / "official_scores.jsonl.xz"]
    parsed = timed(lambda: fastchat.cards(read_files(every), options))
    return [
        Line(
            "MT-Bench averages",
            len(gaps),
            f"{max(gaps):.1e} points (6 printed decimals)",
            cards.seconds,
            theirs.seconds,
            "fschat 0.2.36, show_result",
        ),
        Line("MT-Bench, all given files read and scored", len(parsed.value), "-", parsed.seconds),
    ]


def show_result(file: Path) -> dict[str, float]:
    """Model -> the average that the reference prints."""
    from fastchat.llm_judge.show_result import display_result_single

    text = io.StringIO()
    with redirect_stdout(text):
        display_result_single(
            SimpleNamespace(input_file=str(file), model_list=None, bench_name="mt_bench", judge_model="gpt-4")
        )
    average = text.getvalue().split("########## Average ##########")[1]
    return {name: float(value) for name, value in re.findall(r"^(\S+) +([\d.]+)$", average, re.MULTILINE)}
