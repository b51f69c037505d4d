"""Models that think: the server's parser for a checkpoint, whether its prompts open the reasoning, and the switches.

>>> template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\\n"
>>> opened_block(template)
'<think>'
>>> choose_parser(template + "{# </think> #}", "llama")
'deepseek_r1'

A reply becomes what a reader sees and the reasoning before it, whichever way the server sends the two (`separated`).
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..client import ChatReply
from ..records.errors import ConfigError
from ..records.protocols import ServeOptions
from ..records.reasoning import TAGS, split_reasoning
from ..store.checkpoint import Checkpoint
from ..store.weights import read_object

log = logging.getLogger(__name__)
SPECIAL_MARKS = {
    "<|channel|>": "openai_gptoss",
    "<|channel>": "gemma4",
    "[THINK]": "mistral",
    "<|START_THINKING|>": "cohere_command3",
}
"""Marks that are control tokens, which servers leave out of a text, -> the parser that reads them as token ids."""
TAGGED = {"<seed:think>": "seed_oss", "<mm:think>": "minimax_m3"}
BY_TYPE = {
    "glm4": "glm45",
    "minimax": "minimax_m2",
    "hunyuan": "hunyuan_a13b",
    "granite": "granite_thinking_parser",
    "ernie4": "ernie45",
    "nemotron": "nemotron_v3",
    "olmo3": "olmo3",
    "step3": "step3",
    "kimi_k2": "kimi_k2",
    "mimo": "mimo",
    "deepseek_v3": "deepseek_v3",
}
"""Beginning of a `model_type` -> parser, for templates with `</think>`. Names: vllm/reasoning/__init__.py (0.32)."""
SGLANG_NAMES = {
    "deepseek_r1": "deepseek-r1",
    "deepseek_v3": "deepseek-v3",
    "qwen3": "qwen3",
    "openai_gptoss": "gpt-oss",
    "gemma4": "gemma4",
    "mistral": "mistral",
    "glm45": "glm45",
    "minimax_m2": "minimax",
    "hunyuan_a13b": "hunyuan",
    "nemotron_v3": "nemotron_3",
    "step3": "step3",
    "kimi_k2": "kimi_k2",
    "mimo": "mimo",
}
"""vLLM's parser -> SGLang's of the same marks (`DetectorMap` of sglang/srt/parser/reasoning_parser.py)."""
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""transformers' own tags around an answer; jinja2 does not know them."""
BLANKS = "\\s\u010a\u0120\u2581"
"""White space in a text, and as byte-level and SentencePiece vocabularies write it."""


def choose_parser(template: str, model_type: str) -> str | None:
    """Return the vLLM reasoning parser for a chat template; None if it has no marks of reasoning."""
    for marks in (SPECIAL_MARKS, TAGGED):
        for mark, parser in marks.items():
            if mark in template:
                return parser
    if "</think>" not in template and "<think>" not in (opened_block(template) or ""):
        return None
    for beginning, parser in BY_TYPE.items():
        if model_type.startswith(beginning):
            return parser
    return "qwen3" if "enable_thinking" in template else "deepseek_r1"


def chosen_for(checkpoint: Checkpoint) -> str | None:
    """Return the vLLM reasoning parser for a checkpoint, installed or not; None if it has no marks of reasoning."""
    if checkpoint.template is None:
        return None
    config = read_object((checkpoint.base or checkpoint.path) / "config.json") or {}
    return choose_parser(checkpoint.template, str(config.get("model_type", "")))


def parser_for(checkpoint: Checkpoint) -> str | None:
    """Return the parser that the installed vLLM can use for this checkpoint; None if it needs none or has none.

    Parsers of `<think>` look their marks up in the vocabulary, and fail without them.
    """
    parser, folder = chosen_for(checkpoint), checkpoint.base or checkpoint.path
    known = installed_parsers()
    if parser is None or (known and parser not in known):
        return None
    needs_token = parser not in SPECIAL_MARKS.values() and parser not in TAGGED.values()
    if needs_token and not any(_has_token(source, "</think>") for source in (checkpoint.path, folder)):
        return None
    return parser


def sglang_parser_for(checkpoint: Checkpoint) -> str | None:
    """Return SGLang's parser for this checkpoint; None if it needs none or the installed SGLang has none.

    Its parsers read texts, so no vocabulary is asked.
    """
    parser = SGLANG_NAMES.get(chosen_for(checkpoint) or "")
    known = installed_sglang_parsers()
    return None if known and parser not in known else parser


def parser_in_use(wanted: str, label: str, *, server: str, known: Collection[str], chosen: str | None) -> str | None:
    """Return the parser that `--reasoning` asks for, and print one that was chosen.

    `chosen`: that of the checkpoint, for "auto". Raise ConfigError if the installed server has none of that name.
    """
    if wanted == "off":
        return None
    if wanted != "auto":
        if known and wanted not in known:
            raise ConfigError(
                f"--reasoning {wanted!r} is not a reasoning parser of this {server}; give auto, off or one of: "
                + ", ".join(sorted(known))
            )
        return wanted
    if chosen is not None:
        log.info("%s: reasoning parser %s, by its chat template (--reasoning off for none)", label, chosen)
    return chosen


def _has_token(folder: Path, token: str) -> bool:
    files = (folder / name for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"))
    return any(f'"{token}"'.encode() in file.read_bytes() for file in files if file.is_file())


def installed_parsers() -> frozenset[str]:
    """Return the names of the installed vLLM's reasoning parsers, without importing it; empty if unknown."""
    return _names_in("vllm", "reasoning/__init__.py", r'^    "(\w+)": \(')


def installed_sglang_parsers() -> frozenset[str]:
    """Return the names of the installed SGLang's reasoning parsers, without importing it; empty if unknown."""
    return _names_in("sglang", "srt/parser/reasoning_parser.py", r'^        "([\w-]+)": \w+Detector,')


def _names_in(package: str, path: str, pattern: str) -> frozenset[str]:
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
        file = Path(folder) / path
        if file.is_file():
            return frozenset(re.findall(pattern, file.read_text("utf-8"), re.M))
    return frozenset()


def opened_block(template: str, variables: Mapping[str, JsonValue] | None = None) -> str | None:
    """Return the opening mark of the reasoning block in which a rendered prompt ends, "" if it ends in none.

    None if the template cannot be rendered here. `variables` are those of `chat_template_kwargs`.
    """
    prompt = _rendered(template, variables or {})
    return None if prompt is None else block_at_end(prompt)


def block_at_end(prompt: str) -> str:
    """Return the opening mark at the end of a prompt's text, or ""."""
    return next((opening for opening, _ in TAGS if re.search(rf"{re.escape(opening)}[{BLANKS}]*\Z", prompt)), "")


def _rendered(template: str, variables: Mapping[str, JsonValue]) -> str | None:
    import jinja2  # deferred, so that a command's help does not wait for it
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    # as transformers renders: chat_template_utils._cached_compile_jinja_template
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    values: dict[str, Any] = {"bos_token": "", "eos_token": "", "add_generation_prompt": True, **variables}
    try:
        compiled = environment.from_string(GENERATION.sub("", template))
        return compiled.render(messages=[{"role": "user", "content": "x"}], **values)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError):
        return None  # a template is somebody else's program; what it opens then stays unknown


def switches(options: ServeOptions) -> dict[str, JsonValue]:
    """Return what the user changed about the reasoning: part of an identity, and named on the card."""
    chosen: dict[str, JsonValue] = {
        "chat_template_kwargs": dict(options.chat_template_kwargs) if options.chat_template_kwargs else None,
        "reasoning_effort": options.reasoning_effort,
        "reasoning_room": options.reasoning_room,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def request_fields(options: ServeOptions) -> dict[str, JsonValue]:
    """Return the fields that every chat request carries."""
    return {name: value for name, value in switches(options).items() if name != "reasoning_room"}


@dataclass(frozen=True)
class Thinking:
    """What is known about a model's reasoning when its replies are read."""

    room: int = 0
    """Tokens for reasoning, besides the answer's limit."""
    opens: str | None = None
    """Mark with which every prompt ends; "": prompts open no block; None: unknown."""


def separated(reply: ChatReply, thinking: Thinking) -> tuple[ChatReply, bool]:
    """Return the reply with its reasoning apart, and whether it was split here, by its marks.

    A block that never ends leaves no text, and the finish "length".
    """
    if reply.reasoning and not reply.text.strip() and reply.finish == "stop" and thinking.opens == "":
        # parsers take a text without any mark for reasoning, but nothing had opened a block: it is the answer
        return replace(reply, text=reply.reasoning, reasoning="", reasoning_tokens=0), False
    goes_on = not reply.reasoning and _goes_on(reply.text, thinking)
    # models that think twice leave marks behind a parser too
    thoughts = split_reasoning(f"{thinking.opens}{reply.text}" if goes_on else reply.text)
    if thoughts.visible == reply.text:
        return reply, False
    reasoning = "\n".join(part for part in (reply.reasoning, thoughts.reasoning) if part)
    finish = reply.finish if thoughts.closed else "length"
    return replace(reply, text=thoughts.visible, reasoning=reasoning, reasoning_tokens=None, finish=finish), True


def _goes_on(text: str, thinking: Thinking) -> bool:
    """Return whether the text is the rest of a block that the prompt has opened."""
    return bool(thinking.opens) and bool(text.strip()) and not text.lstrip().startswith(str(thinking.opens))
