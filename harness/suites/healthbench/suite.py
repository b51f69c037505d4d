"""Ask HealthBench's 5,000 conversations about health; physicians' criteria give and take points.

Source: openai/simple-evals healthbench_eval.py. The score of an answer is the sum of the points of the criteria it
meets over the sum of the positive points; the benchmark's score is the mean, in percent. Two deviations, which the
protocol names: the judge scores all criteria of an answer in one request (the original: one request per criterion, in
its own words), and a conversation with earlier answers of an assistant is shown as one message, because this product's
candidates answer every turn themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from ...records import Prompt, Sampling
from ...records.errors import ConfigError, DataError, one_line
from ...records.facts import Facts
from ...records.protocols import SuiteOptions
from ..custom.definition import Definition, Item, OwnJudging
from ..custom.suite import DefinedSuite
from ..files import official_files, pinned, read_json_lines
from .facts import HARD, HEALTHBENCH

MAX_TOKENS = 2048  # simple-evals simple_evals.py, chatgpt models
JUDGE_TOKENS = 4096
"""A reply has a line per criterion; conversations have up to 48."""
THEME = "theme:"


def build(options: SuiteOptions) -> HealthBench:
    """Build the suite (`fusion_harness.suites` entry point). Raise DataError without data."""
    return _build(HEALTHBENCH, options)


def build_hard(options: SuiteOptions) -> HealthBench:
    """Build the hard subset (`fusion_harness.suites` entry point). Raise DataError without data."""
    return _build(HARD, options)


def _build(facts: Facts, options: SuiteOptions) -> HealthBench:
    if options.edition != "official":
        raise ConfigError(f"{facts.name} has no edition {options.edition!r}; editions: official")
    names = [file.name for file in facts.files]
    [path] = official_files(options, names).values()
    return HealthBench(read_conversations(path, facts.name), facts, pinned(names))


class HealthBench(DefinedSuite):
    """The suite over any suitable data."""

    def __init__(self, definition: Definition, facts: Facts, files: Mapping[str, str]) -> None:
        super().__init__(definition, facts.name, "official-1")
        self.official_judges = facts.official_judges
        self._files = dict(files)

    def protocol(self) -> dict[str, JsonValue]:
        """Return the protocol, with both deviations from the original."""
        deviations = ["all criteria in one request", "earlier turns shown in one message"]
        return {**super().protocol(), "data": dict(self._files), "deviations": list(deviations)}


def read_conversations(path: Path, name: str) -> Definition:
    """Return the conversations of a HealthBench file with their rubrics. Raise DataError for another file."""
    prompts, items = [], {}
    for number, row in enumerate(read_json_lines(path), start=1):
        try:
            prompt, own_items = _conversation(row)
        except (KeyError, TypeError, ValueError) as error:
            why = one_line(error) if isinstance(error, ValidationError) else repr(error)
            raise DataError(f"{path}, line {number} is not a conversation of HealthBench: {why}") from None
        prompts.append(prompt)
        items[prompt.id] = own_items
    return Definition(
        name=name,
        prompts=tuple(prompts),
        judge=OwnJudging(kind="rubric", max_tokens=JUDGE_TOKENS),
        sampling=Sampling(temperature=0.5, max_tokens=MAX_TOKENS),  # simple-evals chat_completion_sampler.py
        items=items,
    )


def _conversation(row: Mapping[str, Any]) -> tuple[Prompt, tuple[Item, ...]]:
    messages = row["prompt"]
    tags = [str(tag) for tag in row.get("example_tags", ())]
    theme = next((tag.removeprefix(THEME) for tag in tags if tag.startswith(THEME)), "all")
    items = tuple(
        Item(name=f"{number:02d}", text=str(item["criterion"]), weight=float(item["points"]))
        for number, item in enumerate(row["rubrics"], start=1)
    )
    return Prompt(id=str(row["prompt_id"]), turns=(_turn(messages),), category=theme), items


def _turn(messages: list[dict[str, str]]) -> str:
    """Return the user's only message, or the conversation up to the user's last one."""
    if len(messages) == 1:
        return str(messages[0]["content"])
    lines = [f"{message['role']}: {message['content']}" for message in messages]
    return "\n\n".join(["Answer the last message of this conversation.", *lines])
