"""Split a model's reply into what a reader sees and the reasoning before it. Pure.

>>> split_reasoning("<think>Is it 3? No.</think>\\n\\nRating: [[9]]")
Thoughts(visible='Rating: [[9]]', reasoning='Is it 3? No.', closed=True)
>>> split_reasoning("<think>Is it 3?").closed
False

Servers with a reasoning parser send the two apart; this is for replies and files without one. A tag in a code span
or a code block is text about tags, and stays.
"""

from __future__ import annotations

import re
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
CHANNEL = re.compile(r"<\|channel\|>(\w+)[^<]*<\|message\|>(.*?)(?=<\|(?:end|return|call|start|channel)\|>|\Z)", re.S)
"""One message of gpt-oss's Harmony format; only the `final` channel is for the reader."""
CODE = re.compile(r"^[ ]{0,3}(```+|~~~+).*?(?:^[ ]{0,3}\1|\Z)|(`+)(?!`).*?(?<!`)\2(?!`)", re.S | re.M)


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
    # a code span before the first closing tag may be an unbalanced backtick of the reasoning itself
    tag = re.compile(rf"(?:\A|(?<=\n))[ \t]*{re.escape(opening)}|{re.escape(closing)}")
    reasoning: list[str] = []
    visible: list[str] = []
    rest, first = text, True
    while True:
        match = _outside_code(tag, rest, anywhere=first and rest.lstrip().startswith(opening))
        if match is None:
            break
        before, after = rest[: match.start()], rest[match.end() :]
        if match.group().strip() == closing:
            if not first:  # a second closing tag without an opening one is text
                break
            reasoning.append(before)
            rest = after
        else:
            end = after.find(closing)
            if end < 0:
                if before.strip() or not first:
                    break
                return Thoughts("", after.replace(opening, "").strip(), closed=False)
            visible.append(before)
            reasoning.append(after[:end].replace(opening, ""))
            rest = after[end + len(closing) :]
        first = False
    if first:
        return Thoughts(text)
    shown = "".join([*visible, rest])
    return Thoughts(shown.strip(), "\n".join(part.strip() for part in reasoning).strip())


def _outside_code(tag: re.Pattern[str], text: str, *, anywhere: bool) -> re.Match[str] | None:
    if anywhere:
        return tag.search(text)
    spans = [match.span() for match in CODE.finditer(text)]
    for match in tag.finditer(text):
        if not any(start <= match.start() < end for start, end in spans):
            return match
    return None


def _split_channels(text: str) -> Thoughts:
    messages = CHANNEL.findall(text)
    if not messages:
        return Thoughts(text)
    finals = [content for channel, content in messages if channel == "final"]
    reasoning = "\n".join(content.strip() for channel, content in messages if channel != "final")
    return Thoughts("".join(finals).strip(), reasoning, closed=bool(finals))
