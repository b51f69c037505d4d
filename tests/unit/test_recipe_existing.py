"""Source answers that exist already: in our form and in those of released data sets, found by their prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Answer, Prompt
from harness.records.errors import ConfigError
from harness.store import JsonlRows
from recipes.layout import Counts, Part, PromptRow, StepRecord
from recipes.stages.answers import source_steps
from recipes.steps import Step, run_step
from tests.fakes.recipe_files import prompts_step, recipe

ASKED: dict[str, tuple[str, Part]] = {
    "p1": ("Name a tree.", "preference"),
    "p2": ("Name a\n river.", "sft"),
    "p3": ("Name a stone.", "preference"),
    "t1": ("Name a cloud.", "test"),
}


def step_of(folder: Path, rows: Sequence[Mapping[str, object]]) -> Step:
    path = folder / "answers-of-a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"name": "a", "answers": str(path)}
    made = recipe(folder / "out", {"kind": "function"}, sources=[source])
    asked = [
        PromptRow(prompt=Prompt(id=one, turns=(text,), category="c"), part=part) for one, (text, part) in ASKED.items()
    ]
    (step,) = source_steps(made, prompts_step(made, asked))
    return step


def taken(folder: Path, rows: Sequence[Mapping[str, object]]) -> tuple[dict[str, str], StepRecord]:
    """(key -> text, None left out) and the record of the step."""
    step = step_of(folder, rows)
    record = run_step(step)
    found = JsonlRows(step.folder / "answers.jsonl", Answer).read()
    assert {answer.model for answer in found} == {"a"}
    return {answer.key: answer.turns[0] for answer in found if answer.error is None}, record


def test_rows_as_simpo_releases_them_give_all_their_answers(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {
            "prompt_id": "9f",
            "prompt": "Name a tree.",
            "all_generated_responses": ["oak", "elm", "oak"],
            "all_rm_scores": [0.1, 0.2, 0.1],
            "chosen": [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "elm"}],
            "rejected": [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "oak"}],
        },
        {"prompt": "Name a river.", "all_generated_responses": ["Po", "Po"]},
        {"prompt": "Name a cloud.", "all_generated_responses": ["cirrus"]},
        {"prompt": "Name a king.", "all_generated_responses": ["Lear", "John"]},
    ]
    found, record = taken(tmp_path, rows)

    assert found == {"p1#0": "oak", "p1#1": "elm", "p1#2": "oak", "p2#0": "Po", "p2#1": "Po"}
    # of the held-out prompt one, of the unknown one two; p3 has none; p2's are alike
    assert record.counts["not_among_the_prompts"] == 3
    assert record.counts["prompts_without_answer"] == 1
    assert record.counts["identical"] == 1
    assert record.settings == {"answers": "answers-of-a.jsonl", "split": "train"}


def test_rows_as_wrpo_releases_them_give_the_sources_best_answer(tmp_path: Path) -> None:
    row = {
        "prompt_id": "3e",
        "prompt": {"role": "user", "content": "Name a tree."},
        "chosen": [{"role": "assistant", "content": "oak"}, {"role": "assistant", "content": "elm"}],
        "rejected": [{"role": "assistant", "content": "grass"}],
    }
    assert taken(tmp_path, [row])[0] == {"p1#0": "oak"}


def test_rows_as_trl_knows_them_give_the_chosen_answer(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "Name a tree."}, {"role": "assistant", "content": "oak"}]
    rows: list[dict[str, object]] = [
        {"prompt": "Name a tree.", "chosen": talk, "rejected": talk},
        {"prompt": "Name a stone.", "chosen": "flint", "rejected": "wood"},
    ]
    assert taken(tmp_path, rows)[0] == {"p1#0": "oak", "p3#0": "flint"}


def test_our_own_rows_are_found_by_id_and_several_rows_of_a_prompt_are_several_draws(tmp_path: Path) -> None:
    answer = Answer(prompt_id="p1", model="other name", index=7, turns=("oak",), finish=("stop",))
    rows: list[dict[str, object]] = [
        json.loads(answer.model_dump_json()),
        {"prompt_id": "p1", "turns": ["elm"]},
        {"prompt_id": "x", "turns": ["?"]},
    ]
    found, record = taken(tmp_path, rows)

    assert found == {"p1#0": "oak", "p1#1": "elm"}
    assert record.counts["not_among_the_prompts"] == 1


def test_half_a_character_in_an_answer_is_a_question_mark_as_in_sampled_ones(tmp_path: Path) -> None:
    found, _ = taken(tmp_path, [{"prompt": "Name a tree.", "all_generated_responses": ["oak \ud83d"]}])

    assert found == {"p1#0": "oak ?"}


def test_an_empty_answer_is_a_failure_and_counted(tmp_path: Path) -> None:
    found, record = taken(tmp_path, [{"prompt": "Name a tree.", "all_generated_responses": ["oak", " "]}])

    assert found == {"p1#0": "oak"}
    assert (record.counts["answers"], record.counts["failed_empty"]) == (1, 1)


def test_a_killed_step_goes_on_where_it_was(tmp_path: Path) -> None:
    rows = [{"prompt": "Name a tree.", "all_generated_responses": ["oak", "elm"]}]
    step = step_of(tmp_path, rows)
    first = Answer(prompt_id="p1", model="a", turns=("oak",), finish=("stop",)).model_dump_json()

    def killed(folder: Path) -> Counts:
        (folder / "answers.jsonl").write_text(f'{first}\n{{"prompt_id": "p1", "mod')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_step(replace(step, work=killed))
    run_step(step)

    text = (step.folder / "answers.jsonl").read_text()
    assert text.startswith(first + "\n")
    assert text.count("\n") == 2


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            {"prompt": "Name a tree.", "output": "oak"},
            "row 1 has no answers; expected `prompt_id` and `turns` (our format)",
        ),
        ({"prompt": "Name a king.", "chosen": "Lear"}, "none of its 1 answers matches one of this recipe's 3 prompts"),
    ],
)
def test_answers_that_cannot_be_used_are_one_sentence(tmp_path: Path, row: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        run_step(step_of(tmp_path, [row]))

    assert sentence in str(raised.value)
