"""The world of the recipe `smollm2`: constraints that can be verified, its prompts, and the suite that asks others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records import Answer, Prompt
from harness.records.protocols import load_plugin
from harness.suites.custom.definition import read_definition
from recipes.spec import CONFIGS
from recipes.worlds.constraints import CREDITS, credits, followed
from recipes.worlds.smollm2_task import (
    ASKED_FOR,
    COMMON,
    FAMILIES,
    HELD_OUT_TOPICS,
    OPENINGS,
    TOPICS,
    answer_reward,
    prompts,
    reward,
    suite_prompts,
)

SUITE = CONFIGS / "suites" / "constraints.yaml"


@pytest.mark.parametrize(
    ("constraint", "text", "credit"),
    [
        ({"words_at_most": 4}, "Bees can't really fly.", 1),  # "can't" is one word
        ({"words_at_most": 4}, "Bees fly from flower to flower.", 0.5),  # 6 words: half the limit too many
        ({"words_at_most": 2}, "Bees fly from flower to flower.", 0),
        ({"words_at_least": 4}, "Bees fly.", 0.5),
        ({"words_at_least": 2}, "Bees fly.", 1),
        ({"bullets": 2}, "- bees\n- more bees", 1),
        ({"bullets": 2}, "* bees", 0.5),
        ({"bullets": 2}, "Well-known bees - all of them", 0),
        ({"bullets": 2}, "- bee\n- bee\n- bee\n- bee\n- bee", 0),
        ({"paragraphs": 2}, "Bees.\n\nBees.\n", 1),
        ({"paragraphs": 2}, "Bees.\nBees.", 0.5),
        ({"heading": True}, "# Bees\nThey fly.", 1),
        ({"heading": True}, "#bees fly", 0),
        ({"json_keys": ["name", "use"]}, '{"name": "bee", "use": "honey"}', 1),
        ({"json_keys": ["name", "use"]}, '```json\n{"name": "bee", "use": "honey"}\n```', 1),
        ({"json_keys": ["name", "use"]}, '{"name": "bee"}', 0.75),
        ({"json_keys": ["name", "use"]}, '["bee"]', 0),
        ({"json_keys": ["name", "use"]}, 'Here: {"name": "bee", "use": "honey"}', 0),
        ({"includes": ["old", "today"]}, "Bees are OLD and golden.", 0.5),
        ({"avoids": ["very", "many"]}, "Everyone likes very many bees.", 0),
        ({"avoids": ["very", "many"]}, "Everyone likes bees.", 1),  # "Everyone" is another word
        ({"no_commas": True}, "Bees, wasps", 0),
        ({"opens_with": "In short:"}, "\nIn short: bees.", 1),
        ({"opens_with": "In short:"}, "in short: bees.", 0),
        ({"ends_with": "That is all."}, "Bees. That is all.\n", 1),
        ({"case": "lower"}, "bees fly 3 times", 1),
        ({"case": "upper"}, "BEES FLY, AND A BEe", 0),
    ],
)
def test_a_constraint_gives_credit(constraint: dict[str, object], text: str, credit: float) -> None:
    (value,) = credits(text, {"about": ["bee"], **constraint}).values()

    assert value == pytest.approx(credit)
    assert followed(text, {"about": ["bee"], **constraint}) == (credit == 1)


def test_an_answer_about_something_else_follows_nothing() -> None:
    constraints = {"about": ["bee"], "words_at_most": 9, "no_commas": True}

    assert [answer_reward(text, constraints) for text in ("", "Wasps sting.", "A frisbee.", "The beekeeper.")] == [
        0,
        0,
        0,
        1,
    ]


def test_the_reward_is_the_mean_credit_and_the_check_counts_what_is_followed() -> None:
    wanted = json.dumps({"about": ["bee"], "words_at_most": 4, "no_commas": True})
    text = "Bees fly from flower to flower."
    prompt = Prompt(id="1", turns=("Bees?",), category="all", reference=(wanted,))
    answer = Answer(prompt_id="1", model="m", turns=(text,), finish=("stop",))

    assert reward(["Bees?"], [text], [wanted]) == [0.75]
    assert load_plugin("checks", "constraints")(prompt, answer) == 0.5


def test_prompts_are_always_the_same_none_twice_and_every_constraint_occurs() -> None:
    rows = prompts()
    wanted = [json.loads(row["reference"]) for row in rows]

    assert rows == prompts()
    assert len({row["prompt"] for row in rows}) == len(rows) == 6000
    assert {row["category"] for row in rows} == set(FAMILIES)
    assert {name for constraints in wanted for name in constraints} == {"about", *CREDITS}
    assert all(2 <= len(constraints) <= 3 for constraints in wanted)


def test_no_prompt_asks_for_what_another_of_its_constraints_forbids() -> None:
    assert not set(COMMON) & {word.strip(":").lower() for phrase in OPENINGS for word in phrase.split()}
    assert not set(COMMON) & set(ASKED_FOR)
    for row in prompts():
        names = set(json.loads(row["reference"]))
        assert not ("case" in names and names & {"opens_with", "ends_with", "includes", "json_keys"}), row
        assert not ("opens_with" in names and names & {"heading", "bullets", "json_keys"}), row
        assert not ("json_keys" in names and names & {"no_commas", "words_at_most", "words_at_least"}), row


def test_the_suites_file_is_what_its_world_writes_and_asks_about_other_topics() -> None:
    definition, baseline = read_definition(str(SUITE))
    written = [json.loads(line) for line in SUITE.with_suffix(".jsonl").read_text().splitlines()]

    assert written == suite_prompts()
    assert (len(definition.prompts), baseline) == (80, None)
    assert not {topic for topic, _ in TOPICS} & {topic for topic, _ in HELD_OUT_TOPICS}
    asked = {row["prompt"] for row in prompts()}
    assert not asked & {prompt.turns[0] for prompt in definition.prompts}
    assert Path(SUITE).read_text().count("constraints.jsonl") == 1
