"""Split a model's reply into what a reader sees and the reasoning before it.

>>> split_reasoning("<think>Is it 3? No.</think>\\n\\nRating: [[9]]")
Thoughts(visible='Rating: [[9]]', reasoning='Is it 3? No.', closed=True)
>>> split_reasoning("<think>Is it 3?").closed
False

Servers with a reasoning parser send the two apart; this is for replies and files without one. A tag in a code span
or a code block is text about tags, and stays. Any text takes linear time, as models may write anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

TAGS = (
    ("<think>", "</think>"),  # DeepSeek, Qwen 3, GLM, Granite, Olmo 3, MiniMax M2, Step 3, Nemotron, Ernie, Hunyuan
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<mm:think>", "</mm:think>"),  # MiniMax M3
    ("[THINK]", "[/THINK]"),  # Mistral
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Cohere
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""Opening and closing marks, by the parsers of vllm/reasoning."""
HARMONY = ("<|channel|>", "<|message|>", "<|start|>", "<|end|>")
MARKS = (*(mark for pair in TAGS for mark in pair), *HARMONY)
CHANNEL = re.compile(r"<\|channel\|>(\w++)[^<]*+<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)", re.S)
"""One message of gpt-oss's Harmony format; only the `final` channel is for the reader."""
FENCE = re.compile(r"^[ ]{0,3}(```+|~~~+).*?(?:^[ ]{0,3}\1|\Z)", re.S | re.M)
TICKS = re.compile("`+")


@dataclass(frozen=True)
class Thoughts:
    """A reply in two parts. `closed` is False if it ended inside the reasoning, so that no answer came."""

    visible: str
    reasoning: str = ""
    closed: bool = True


def split_reasoning(text: str) -> Thoughts:
    """Return the visible text and the reasoning of a reply; a text without reasoning is returned unchanged.

    Blocks are removed at the start of the text or of a line. What stands before a closing tag without an opening one
    is reasoning too, as some chat templates open the block in the prompt. An opening tag counts as an unclosed block
    only if nothing but white space stands before it.
    """
    if "<|channel|>" in text:
        return _split_channels(text)
    for opening, closing in TAGS:
        if opening in text or closing in text:
            thoughts = _split_tags(text, opening, closing)
            if thoughts.visible != text:
                return thoughts
    return Thoughts(text)


def _split_tags(text: str, opening: str, closing: str) -> Thoughts:
    begin, end = re.escape(opening), re.escape(closing)
    tag = re.compile(rf"(?:\A|(?<=\n)|(?<={end}))[ \t]*{begin}|{end}")
    reasoning: list[str] = []
    visible: list[str] = []
    # a code span before the first closing tag may be an unbalanced backtick of the reasoning itself
    spans = None if text.lstrip().startswith(opening) else _code_spans(text, 0)
    span, position = (0, 0), 0
    for match in tag.finditer(text):
        if match.start() < position:
            continue
        if spans is not None:
            while span[1] <= match.start():
                span = next(spans, (len(text), len(text) + 1))
            if span[0] <= match.start():
                continue
        if match[0].strip() == closing:
            if position:  # a second closing tag without an opening one is text
                break
            reasoning.append(text[: match.start()])
            position = match.end()
        else:
            stop = text.find(closing, match.end())
            if stop < 0:
                if position or text[: match.start()].strip():
                    break
                return Thoughts("", text[match.end() :].replace(opening, "").strip(), closed=False)
            visible.append(text[position : match.start()])
            reasoning.append(text[match.end() : stop].replace(opening, ""))
            position = stop + len(closing)
        if spans is None:
            spans = _code_spans(text, position)
    if not position:
        return Thoughts(text)
    shown = "".join([*visible, text[position:]])
    return Thoughts(shown.strip(), "\n".join(part.strip() for part in reasoning).strip())


def _code_spans(text: str, start: int) -> Iterator[tuple[int, int]]:
    """Yield where code blocks and code spans begin and end from `start` on, in order."""
    for match in FENCE.finditer(text, start):
        yield from _inline_spans(text, start, match.start())
        yield match.span()
        start = match.end()
    yield from _inline_spans(text, start, len(text))


def _inline_spans(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the code spans between two positions: from a run of backticks to the next run of the same length."""
    runs = [match.span() for match in TICKS.finditer(text, start, end)]
    latest: dict[int, int] = {}
    partners: list[int | None] = []  # of the runs from the last to the first
    for number in reversed(range(len(runs))):
        length = runs[number][1] - runs[number][0]
        partners.append(latest.get(length))
        latest[length] = number
    position = start
    for run, partner in zip(runs, reversed(partners), strict=True):
        if partner is not None and run[0] >= position:
            position = runs[partner][1]
            yield run[0], position


def _split_channels(text: str) -> Thoughts:
    messages = CHANNEL.findall(text)
    if not messages:
        return Thoughts(text)
    finals = [content for channel, content in messages if channel == "final"]
    reasoning = "\n".join(content.strip() for channel, content in messages if channel != "final")
    return Thoughts("".join(finals).strip(), reasoning, closed=bool(finals))
