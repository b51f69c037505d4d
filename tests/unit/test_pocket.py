"""The pocket edition: committed files are what make.py makes, complete, short and free of doubt."""

from __future__ import annotations

import random
import statistics
import string
from collections import Counter

import pytest

from harness.records.errors import DataError
from harness.suites import pocket
from harness.suites.pocket.make import DATA, bare, files, mistaken
from harness.suites.pocket.skills import SKILLS, Skill, follow_up


def test_committed_files_are_what_make_makes() -> None:
    made = files()

    assert {path.name for path in DATA.iterdir()} == set(made)
    for name, text in made.items():
        assert (DATA / name).read_bytes().decode() == text, f"{name}: run python -m harness.suites.pocket.make"


def test_mt_bench_has_ten_two_turn_prompts_in_each_category_with_gold_for_both() -> None:
    data = pocket.load("mt_bench")

    categories = ("writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities")
    assert Counter(prompt.category for prompt in data.prompts) == dict.fromkeys(categories, 10)
    assert all(len(prompt.turns) == len(prompt.reference) == 2 for prompt in data.prompts)
    assert data.version == "pocket-1"


def test_alpaca_eval_has_what_length_control_needs() -> None:
    data = pocket.load("alpaca_eval")
    ids = {prompt.id for prompt in data.prompts}

    assert len(ids) == 120
    assert set(data.baseline) == set(data.difficulty) == ids
    assert len(data.gamed) == 240
    assert all(0 <= preference <= 1 for preference, _, _ in data.gamed)
    for rows in (data.gamed[:120], data.gamed[120:]):
        assert statistics.stdev(length for _, length, _ in rows) == pytest.approx(1, abs=1e-5)
    assert all(length < 0 for _, length, _ in data.gamed[:120])  # the verbose variant is longer than the baseline


def test_arena_hard_has_thirty_clusters_of_two() -> None:
    data = pocket.load("arena_hard")

    assert len(data.prompts) == len(data.baseline) == 60
    clusters = Counter(prompt.cluster for prompt in data.prompts)
    assert len(clusters) == 30
    assert set(clusters.values()) == {2}


def test_baselines_are_right_about_half_the_time_and_not_all_of_one_length() -> None:
    for suite in ("alpaca_eval", "arena_hard"):
        data = pocket.load(suite)
        right = [bare(data.baseline[p.id].turns[0]) == p.reference[0] for p in data.prompts]
        assert 0.4 <= sum(right) / len(right) <= 0.6
        assert len({len(answer.turns[0]) for answer in data.baseline.values()}) > 5


def test_no_first_question_occurs_twice() -> None:
    assert len(pocket.first_questions()) == 80 + 120 + 60


@pytest.mark.parametrize("suite", ["mt_bench", "alpaca_eval", "arena_hard"])
def test_digests_name_every_file_read(suite: pocket.SuiteName) -> None:
    found = pocket.load(suite).files

    assert set(found) == {path.name for path in DATA.iterdir() if path.name.startswith(suite)}
    assert all(len(sha) == 64 for sha in found.values())


def test_templates_hold_the_official_slots() -> None:
    def slots(template: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(template) if name}

    rating = pocket.load("mt_bench").templates
    assert {name: slots(template.user) for name, template in rating.items()} == {
        "single-v1": {"question", "answer"},
        "single-math-v1": {"question", "answer", "ref_answer_1"},
        "single-v1-multi-turn": {"question_1", "answer_1", "question_2", "answer_2"},
        "single-math-v1-multi-turn": {
            "question_1",
            "answer_1",
            "question_2",
            "answer_2",
            "ref_answer_1",
            "ref_answer_2",
        },
    }
    letter = pocket.load("alpaca_eval").templates["alpaca_eval_clf"]
    assert slots(letter.user) == {"instruction", "output_1", "output_2"}
    arena = pocket.load("arena_hard").templates["arena-hard-v0.1"]
    assert slots(arena.user) == {"question_1", "answer_1", "answer_2"}
    assert arena.reask


def test_a_suite_without_pocket_edition_lists_those_with_one() -> None:
    with pytest.raises(DataError, match="mt_bench, alpaca_eval, arena_hard"):
        pocket.load("lm_eval")  # type: ignore[arg-type]  # what a caller with a free string does


@pytest.mark.parametrize("skill", SKILLS, ids=lambda skill: skill.name)
def test_tasks_are_short_ascii_and_decided_by_the_question(skill: Skill) -> None:
    rng = random.Random(7)
    gold: dict[str, str] = {}
    for _ in range(500):
        task = skill.make(rng)
        assert len(task.question) <= 64
        assert 1 <= len(task.gold) <= 12
        assert (task.question + task.gold).isascii()
        assert gold.setdefault(task.question, task.gold) == task.gold
        second = follow_up(rng, task.gold)
        assert 1 <= len(second.gold) <= 12


def test_a_mistake_is_never_the_gold_answer() -> None:
    rng = random.Random(7)
    for skill in SKILLS:
        for _ in range(100):
            task = skill.make(rng)
            assert mistaken(rng, task.question, task.gold) not in ("", task.gold)
