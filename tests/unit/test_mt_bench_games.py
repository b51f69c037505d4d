"""MT-Bench's pairwise words: equal, byte for byte, to what the original tool sent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.records import Answer
from harness.records.errors import VerdictParseError
from harness.records.protocols import SuiteOptions
from harness.suites.files import read_files
from harness.suites.mt_bench.suite import load_official, pair_tasks, pair_templates
from judges.llm import render
from judges.parsing import pair_letter

PUBLISHED = os.environ.get("HARNESS_PUBLISHED")
needs_published = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")),
    reason="set HARNESS_PUBLISHED and HARNESS_MIRROR to the folders of published judgments and pinned files",
)


def answers_of(path: Path) -> dict[str, Answer]:
    (file,) = read_files([path])
    found = {}
    for row in file.rows:
        match row:
            case {"question_id": question, "choices": [{"turns": [str(first), str(second)]}, *_]}:
                found[str(question)] = Answer(
                    prompt_id=str(question), model=path.name, turns=(first, second), finish=("stop", "stop")
                )
    return found


@needs_published
def test_both_games_are_asked_in_the_very_words_of_the_original_tool() -> None:
    folder = Path(str(PUBLISHED)) / "mt_bench"
    first = answers_of(folder / "model_answer/Stefanstud.phi-3.jsonl.xz")
    second = answers_of(folder / "model_answer/Stefanstud.phi-3-dpo.jsonl.xz")
    options = SuiteOptions()
    prompts = {prompt.id: prompt for prompt in load_official(options).prompts}
    templates = pair_templates(options)
    (file,) = read_files([folder / "judgments/Stefanstud.gpt-4_pair.jsonl.xz"])
    seen = 0
    for row in file.rows:
        question, turn = str(row["question_id"]), int(str(row["turn"]))
        tasks = pair_tasks(prompts[question], second[question], first[question], turn, templates)
        for task, game in zip(tasks, ("g1", "g2"), strict=True):  # model_1, the baseline, is A in the first game
            assert render(task)[-1]["content"] == row[f"{game}_user_prompt"]
            seen += 1
    assert seen == 150


@pytest.mark.parametrize(("reply", "value"), [("so [[A]]", 1.0), ("[[B]] it is, [[B]]", 0.0), ("[[C]]", 0.5)])
def test_a_letter_in_double_brackets_is_the_verdict(reply: str, value: float) -> None:
    assert pair_letter(reply).value == value


@pytest.mark.parametrize("reply", ["", "[A]", "[[D]]", "[[a]]", "[[A]] or [[B]]"])
def test_no_letter_or_two_is_no_verdict(reply: str) -> None:
    with pytest.raises(VerdictParseError):
        pair_letter(reply)
