"""A user's own preference pairs: every form that TRL and ShareGPT data sets have, read as one."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.trl_pairs import UnreadablePairError, read_pair, trl_row

USER, GOOD, BAD = ({"role": role, "content": text} for role, text in
                   (("user", "2 + 2?"), ("assistant", "4"), ("assistant", "5")))  # fmt: skip
SYSTEM = {"role": "system", "content": "be brief"}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"question": "2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [GOOD], "rejected": [BAD]},
        {"prompt": "2 + 2?", "chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
        {"chosen": "2 + 2?\n4", "rejected": "2 + 2?\n5"},
        {"chosen": "\n\nHuman: 2 + 2?\n\nAssistant: 4", "rejected": "\n\nHuman: 2 + 2?\n\nAssistant: 5"},
        {
            "conversations": [{"from": "human", "value": "2 + 2?"}],
            "chosen": {"from": "gpt", "value": "4"},
            "rejected": {"from": "gpt", "value": "5"},
        },
    ],
)
def test_every_form_is_the_same_pair(row: dict[str, Any]) -> None:
    pair = read_pair(row, 1)

    assert pair.messages == [USER]
    assert (pair.source.text, pair.target.text, pair.rejected.text) == ("4", "4", "5")


def test_a_system_message_and_earlier_turns_stay_in_front_of_the_prompt() -> None:
    turns = [SYSTEM, {"role": "user", "content": "hi"}, {"role": "assistant", "content": "hello"}, USER]
    pair = read_pair({"prompt": turns, "chosen": [GOOD], "rejected": [BAD]}, 1)

    assert pair.messages == turns
    assert pair.prompt.turns == ("2 + 2?",)
    assert type(pair).model_validate_json(pair.model_dump_json()).messages == turns
    assert read_pair({"system": "be brief", "prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, 1).messages == [
        SYSTEM,
        USER,
    ]


def test_two_chosen_answers_are_the_sources_and_the_targets_as_the_release_has_them() -> None:
    better = {"role": "assistant", "content": "four"}
    pair = read_pair({"prompt": [USER], "chosen": [better, GOOD], "rejected": [BAD]}, 1)

    assert (pair.source.text, pair.target.text, pair.rejected.text) == ("four", "4", "5")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "2 + 2?", "chosen": "4"}, "no_answer"),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": " "}, "no_answer"),
        ({"prompt": "2 + 2?", "chosen": "4", "rejected": "4"}, "identical"),
        ({"chosen": "yes", "rejected": "no"}, "no_prompt"),
        ({"prompt": [GOOD], "chosen": "4", "rejected": "5"}, "no_prompt"),
        ({"prompt": 7, "chosen": "4", "rejected": "5"}, "unknown_form"),
        ({"prompt": "2 + 2?", "chosen": ["4"], "rejected": ["5"]}, "unknown_form"),
        ({"prompt": "2 + 2?", "chosen": [], "rejected": []}, "unknown_form"),
        ({"prompt": "2 + 2?", "chosen": "4 \ud83d", "rejected": "5"}, "surrogates"),
        ({"prompt": "2 + 2?", "system": "\ud83d", "chosen": "4", "rejected": "5"}, "surrogates"),
        ({"prompt": {"role": ["user"], "content": "2 + 2?"}, "chosen": "4", "rejected": "5"}, "unknown_form"),
    ],
)
def test_a_row_that_is_no_pair_has_a_reason(row: dict[str, Any], reason: str) -> None:
    with pytest.raises(UnreadablePairError) as raised:
        read_pair(row, 1)

    assert raised.value.reason == reason


def test_what_is_exported_reads_back_as_the_same_pair() -> None:
    row = {"prompt": [SYSTEM, USER], "chosen": [GOOD], "rejected": [BAD], "score_chosen": 0.75, "score_rejected": 0.25}
    pair = read_pair(row, 1)
    exported = trl_row(pair)

    assert {key: exported[key] for key in row} == row
    assert read_pair(exported, 1) == pair
