"""Visible text and reasoning are told apart by the marks that models write."""

from __future__ import annotations

import pytest

from harness.records.reasoning import Thoughts, split_reasoning


@pytest.mark.parametrize(
    ("text", "visible", "reasoning"),
    [
        ("<think>\nhmm\n</think>\n\nThe answer is 42.", "The answer is 42.", "hmm"),
        ("The user wants it.\n</think>\n\nThe answer is 42.", "The answer is 42.", "The user wants it."),
        ("<think></think>\n\nyes", "yes", ""),
        ("<think>a\n<think>b</think>yes", "yes", "a\nb"),
        ("<think>one ` tick</think>yes", "yes", "one ` tick"),
        ("<think>a</think>first\n<think>b</think>second", "first\nsecond", "a\nb"),
        ("[THINK]a[/THINK]yes", "yes", "a"),
        ("◁think▷a◁/think▷yes", "yes", "a"),
        ("<seed:think>a</seed:think>yes", "yes", "a"),
        ("<|START_THINKING|>a<|END_THINKING|>yes", "yes", "a"),
        ("<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>yes", "yes", "a"),
    ],
)
def test_reasoning_is_split_off(text: str, visible: str, reasoning: str) -> None:
    assert split_reasoning(text) == Thoughts(visible, reasoning)


@pytest.mark.parametrize(
    "text",
    [
        "yes",
        "  spaces stay  ",
        "Write `</think>` to close the block.",
        "The tag is `<think>` and ends with `</think>`.",
        "For example:\n```\n<think>a</think>\n```\nand so on.",
        "A sentence with <think> inside.",
        "An answer.\n<think>never closed",
    ],
)
def test_a_text_about_tags_is_unchanged(text: str) -> None:
    assert split_reasoning(text) == Thoughts(text)


@pytest.mark.parametrize("text", ["<think>hmm", "\n<think>\nhmm\n", "<|channel|>analysis<|message|>hmm"])
def test_a_block_that_never_ends_leaves_no_answer(text: str) -> None:
    assert split_reasoning(text) == Thoughts("", "hmm", closed=False)
