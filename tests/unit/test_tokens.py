"""Tokens for estimates: by OpenAI's own table where it is here, else four characters a token; and which it was."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from harness.judging import cost as tokens
from harness.judging.cost import TokenMeter, meter
from harness.store.official import ensure, pinned_files


def test_without_a_table_it_is_four_characters_a_token_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))

    found = meter("gpt-4.1")

    assert found.name.startswith("4 characters per token")
    assert found.count("x" * 100) == 25


def test_after_the_first_texts_the_rest_goes_by_their_characters_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "EXACT", 2)
    found = TokenMeter("words", lambda text: [0] * len(text.split()))

    assert [found.count("one two"), found.count("three of them")] == [2, 3]
    assert found.count("x" * 40) == 40 / ((7 + 13) / 5)


def test_openais_tables_count_as_its_own_tool_does() -> None:
    names = ["tokenizer/cl100k_base", "tokenizer/o200k_base"]
    mirror = Path(os.environ.get("HARNESS_MIRROR", "none"))
    if not all((mirror / pinned_files()[name].path).is_file() for name in names):
        pytest.skip("OpenAI's tables are not in HARNESS_MIRROR")
    ensure(names)
    # openai-cookbook, How to count tokens with tiktoken: "tiktoken is great!" has 6 tokens in both
    assert [meter(model).count("tiktoken is great!") for model in ("gpt-4", "gpt-4.1", "some-other")] == [6, 6, 6]
    assert meter("gpt-4-1106-preview").name == meter("some-other").name == "cl100k_base (tiktoken)"
    assert meter("gpt-4.1-2025-04-14").name == "o200k_base (tiktoken)"
