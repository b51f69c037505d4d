"""Read preference pairs as TRL and other trainers store them, and write ours for them.

A row has `prompt`, `chosen` and `rejected`: texts, messages, or whole conversations that begin alike, from which the
prompt is taken if there is none. ShareGPT's `conversations` with `from` and `value` is read too. A prompt may have
earlier turns, answers included.

>>> pair = read_pair({"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}, 1)
>>> pair.target.text, pair.rejected.text
('4', '5')
>>> trl_row(pair)["chosen"]
[{'role': 'assistant', 'content': '4'}]
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from harness.records import Prompt, digest

from .layout import Chosen, PreferencePair

Row = Mapping[str, Any]
Messages = list[dict[str, str]]
PROMPT_KEYS = ("prompt", "question", "instruction", "conversations", "messages")
TRANSCRIPT = re.compile(r"\n\n(Human|Assistant):")
ROLES = {"human": "user", "gpt": "assistant", "user": "user", "assistant": "assistant", "system": "system"}
"""Names of roles, ShareGPT's included -> ours."""
FORMS = "`chosen` and `rejected` (texts, messages or conversations), and `prompt` or the part that both begin with"


class UnreadablePairError(Exception):
    """Internal: a row is not a pair that can be trained on. `reason` is a word for counts."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def read_pair(row: Row, number: int) -> PreferencePair:
    """Return the pair of a row, whose id is a digest of its prompt and its number in the file.

    y_ws is the row's first chosen answer if it has two, as in the WRPO release, else the chosen one, so that alpha has
    no effect. Raise UnreadablePairError if the row has another form, or no answer, or two equal ones.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    if chosen is None or rejected is None:
        raise UnreadablePairError("no_answer")
    history = _prompt(row)
    if history is None:
        history, chosen, rejected = _split(chosen, rejected)
    answers = _answers(chosen, history)
    (worst,) = _answers(rejected, history)[-1:]
    source, target = answers[0], answers[-1]
    if not (source.strip() and target.strip() and worst.strip()):
        raise UnreadablePairError("no_answer")
    if target == worst:
        raise UnreadablePairError("identical")
    if not history or history[-1]["role"] != "user" or not history[-1]["content"].strip():
        raise UnreadablePairError("no_prompt")
    system = history.pop(0)["content"] if history[0]["role"] == "system" else row.get("system")
    system = system if isinstance(system, str) and system.strip() else None
    everything = "".join([*(message["content"] for message in history), system or "", source, target, worst])
    if any("\ud800" <= letter <= "\udfff" for letter in everything):
        raise UnreadablePairError("surrogates")
    prompt = Prompt(
        id=f"{digest([system, history])[:16]}-{number}",
        turns=(history[-1]["content"],),
        category="all",
        system=system,
    )
    best, low = _score(row, "chosen", 1.0), _score(row, "rejected", 0.0)
    return PreferencePair(
        prompt=prompt,
        source=Chosen(text=source, model="chosen", index=0, reward=best),
        target=Chosen(text=target, model="chosen", index=0, reward=best),
        rejected=Chosen(text=worst, model="rejected", index=1, reward=low),
        history=tuple(history[:-1]),
    )


def trl_row(pair: PreferencePair) -> dict[str, JsonValue]:
    """Return the target's pair in TRL's conversational form, with y_ws and the rewards in further columns."""
    messages: list[JsonValue] = [dict(message) for message in pair.messages]
    return {
        "prompt": messages,
        "chosen": _assistant_message(pair.target.text),
        "rejected": _assistant_message(pair.rejected.text),
        "source": _assistant_message(pair.source.text),
        "source_model": pair.source.model,
        "score_chosen": pair.target.reward,
        "score_rejected": pair.rejected.reward,
        "score_source": pair.source.reward,
    }


def _assistant_message(text: str) -> list[JsonValue]:
    return [{"role": "assistant", "content": text}]


def _prompt(row: Row) -> Messages | None:
    for key in PROMPT_KEYS:
        value = row.get(key)
        if isinstance(value, str) and value:
            return [{"role": "user", "content": value}]
        if value:
            return _messages(value)
    return None


def _messages(value: Any) -> Messages:
    """Return messages, or the single one of a mapping. Raise UnreadablePairError if they are something else."""
    listed = [value] if isinstance(value, Mapping) else value
    if isinstance(listed, str) or not isinstance(listed, Sequence):
        raise UnreadablePairError("unknown_form")
    messages = []
    for message in listed:
        if not isinstance(message, Mapping):
            raise UnreadablePairError("unknown_form")
        role, content = message.get("role", message.get("from")), message.get("content", message.get("value"))
        if not isinstance(role, str) or role not in ROLES or not isinstance(content, str):
            raise UnreadablePairError("unknown_form")
        messages.append({"role": ROLES[role], "content": content})
    return messages


def _split(chosen: Any, rejected: Any) -> tuple[Messages, Any, Any]:
    """Return the prompt that two conversations, or two texts, begin with, and what is left of each."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        talks = _transcript(chosen), _transcript(rejected)
        if all(talks):
            return _split(*talks)
        letters = enumerate(zip(chosen, rejected, strict=False))
        end = next((at for at, (first, second) in letters if first != second), min(len(chosen), len(rejected)))
        shared = chosen[:end]
        cut = shared.rfind("\n") + 1 or shared.rfind(" ") + 1  # never within a word of the answers
        return [{"role": "user", "content": chosen[:cut].rstrip()}], chosen[cut:].lstrip(), rejected[cut:].lstrip()
    first, second = _messages(chosen), _messages(rejected)
    same = 0
    while same < min(len(first), len(second)) and first[same] == second[same]:
        same += 1
    return first[:same], first[same:], second[same:]


def _transcript(text: str) -> Messages:
    """Return the messages of a text like "Human: … Assistant: …", as in Anthropic's hh-rlhf; empty for another text."""
    empty, *parts = TRANSCRIPT.split(f"\n\n{text.lstrip()}")
    if empty or not parts or parts[0] != "Human":
        return []
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [{"role": ROLES[name.lower()], "content": words.strip()} for name, words in turns]


def _answers(value: Any, history: Messages) -> list[str]:
    """Return an answer's text, or the texts of two answers. A conversation may repeat the prompt before its answer."""
    if isinstance(value, str):
        return [value]
    messages = _messages(value)
    if messages[: len(history)] == history:
        messages = messages[len(history) :]
    if not messages or any(message["role"] != "assistant" for message in messages) or len(messages) > 2:
        raise UnreadablePairError("unknown_form")
    return [message["content"] for message in messages]


def _score(row: Row, name: str, default: float) -> float:
    for key in (f"score_{name}", f"{name}_score"):
        value = row.get(key)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    return default
