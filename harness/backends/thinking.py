"""Handle models that think: find their parser, how their prompts open the reasoning, and their switches.

>>> template = "{% for message in messages %}{{ message.content }}{% endfor %}<think>\\n"
>>> opened_block(template)
'<think>'
>>> choose_parser(template + "{# </think> #}", "llama")
'deepseek_r1'

A reply becomes what a reader sees and the reasoning before it, whichever way the server sends the two (`separated`).
"""

from __future__ import annotations

import importlib.util
import json
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
"""Marks that are control tokens, which servers leave out of a text unless the parser asks for them -> that parser."""
TAGGED = {"<seed:think>": "seed_oss", "<mm:think>": "minimax_m3"}
BY_TYPE = {
    "glm4": "glm45",
    "minimax": "minimax_m2",
    "hunyuan": "hunyuan_a13b",
    "granite": "granite_thinking_parser",
    "ernie4": "ernie45",
    "nemotron": "nemotron_v3",
    "olmo3": "olmo3",
    "step3p5": "step3p5",
    "step3": "step3",
    "kimi_k2": "kimi_k2",
    "mimo": "mimo",
    "deepseek_v41": "deepseek_v41",
    "deepseek_v4": "deepseek_v4",
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
    "step3p5": "step3p5",
    "kimi_k2": "kimi_k2",
    "mimo": "mimo",
    "deepseek_v4": "deepseek-v4",
    "deepseek_v41": "deepseek-v41",
    "minimax_m3": "minimax-m3",
    "granite_thinking_parser": "granite_thinking_parser",
}
"""vLLM's parser -> SGLang's of the same marks (`DetectorMap` of sglang/srt/parser/reasoning_parser.py, whose names
are listed in reasoning_parser_names.py; read there in November 2026)."""
BOTH = ("<think>", "</think>")
NEEDED = {
    "deepseek_r1": BOTH,
    "deepseek_v3": BOTH,
    "ernie45": BOTH,
    "minimax_m3": ("<mm:think>", "</mm:think>"),
    "mistral": ("[TOOL_CALLS]",),
    "olmo3": ("</", "\u0120</", "think", ">"),  # its vocabulary has no token for a whole mark
}
"""vLLM's parser (0.32) -> tokens without which it does not start. The others read the text."""
TEXT_ALONE = frozenset({"deepseek_r1", "deepseek_v3", "ernie45", "granite", "hunyuan_a13b", "step3"})
"""Parsers that read the text as it is shown to users, without special tokens; the others ask for these, too (0.32)."""
PARSER_PACKAGES = {"cohere_command3": ("cohere_melody", "cohere-melody>=0.14.0")}
"""vLLM's parser -> the package that it imports, and its requirement for pip (vllm/parser/cohere_command.py)."""
GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
"""transformers' own tags around an answer; jinja2 does not know them."""
BLANKS = "\\s\u010a\u0120\u2581"
"""White space in a text, and as byte-level and SentencePiece vocabularies write it."""


def choose_parser(template: str, model_type: str) -> str | None:
    """Return the vLLM reasoning parser for a chat template, or None if it has no marks of reasoning."""
    for marks in (SPECIAL_MARKS, TAGGED):
        for mark, parser in marks.items():
            if mark in template:
                return parser
    if "</think>" not in template and "<think>" not in (opened_block(template) or ""):
        return None
    for beginning, parser in BY_TYPE.items():
        # DeepSeek-R1 has the type of V3, whose parser divides nothing unless a request says `thinking`
        if model_type.startswith(beginning) and (parser != "deepseek_v3" or re.search(r"\bthinking\b", template)):
            return parser
    return "qwen3" if "enable_thinking" in template else "deepseek_r1"


def chosen_for(checkpoint: Checkpoint) -> str | None:
    """Return the vLLM reasoning parser for a checkpoint, installed or not, or None if it has no marks of reasoning."""
    if checkpoint.template is None:
        return None
    return choose_parser(checkpoint.template, model_type(checkpoint))


def model_type(checkpoint: Checkpoint) -> str:
    """Return the `model_type` of the checkpoint's config.json, or ""."""
    config = read_object((checkpoint.base or checkpoint.path) / "config.json") or {}
    return str(config.get("model_type", ""))


def parser_for(checkpoint: Checkpoint) -> str | None:
    """Return the parser that the installed vLLM can use for this checkpoint, or None if it needs none or has none.

    Some parsers do not start without their marks in the vocabulary, and some never see marks that are special tokens.
    """
    parser, installed = chosen_for(checkpoint), installed_parsers()
    if parser == "openai_gptoss" and model_type(checkpoint) != "gpt_oss":
        return None  # vLLM reads channels for models of that type alone; for others its parser fails at each reply
    if parser in TEXT_ALONE and is_special_token(checkpoint, "</think>"):
        parser = "qwen3"  # reads the same marks, and asks for special tokens
    if parser is None or (installed and parser not in installed):
        return None
    folders = {checkpoint.path, checkpoint.base or checkpoint.path}
    needed = NEEDED.get(parser, ("</think>",) if parser not in {*SPECIAL_MARKS.values(), *TAGGED.values()} else ())
    return parser if all(any(_has_token(folder, token) for folder in folders) for token in needed) else None


def lost_mark(checkpoint: Checkpoint) -> str | None:
    """Return the mark of a checkpoint's reasoning that a server without a parser leaves out of its replies, if any."""
    template = checkpoint.template or ""
    special = next((mark for mark in SPECIAL_MARKS if mark in template), None)
    if special is None and chosen_for(checkpoint) is not None and is_special_token(checkpoint, "</think>"):
        return "</think>"
    return special


def is_special_token(checkpoint: Checkpoint, token: str) -> bool:
    """Return whether a token of the vocabulary is a special one, which servers leave out of texts."""
    entry = re.compile(rb'"content":\s*"' + re.escape(token).encode() + rb'"[^{}]*"special":\s*true')
    folders = (checkpoint.path, checkpoint.base or checkpoint.path)
    files = (folder / name for folder in folders for name in ("tokenizer.json", "tokenizer_config.json"))
    return any(entry.search(file.read_bytes()) is not None for file in files if file.is_file())


def sglang_parser_for(checkpoint: Checkpoint) -> str | None:
    """Return SGLang's parser for this checkpoint, or None if it needs none or the installed SGLang has none.

    Its parsers read texts, so no vocabulary is asked.
    """
    parser = SGLANG_NAMES.get(chosen_for(checkpoint) or "")
    installed = installed_sglang_parsers()
    return None if installed and parser not in installed else parser


def parser_in_use(
    setting: str, label: str, *, server: str, installed: Collection[str], chosen: str | None
) -> str | None:
    """Return the parser that `--reasoning` asks for, and print one that was chosen.

    `chosen`: that of the checkpoint, for "auto". Raise ConfigError if the installed server has none of that name.
    """
    if setting == "off":
        return None
    if setting != "auto":
        if installed and setting not in installed:
            raise ConfigError(
                f"--reasoning {setting!r} is not a reasoning parser of this {server}; give auto, off or one of: "
                + ", ".join(sorted(installed))
            )
        return setting
    if chosen is not None:
        log.info("%s: reasoning parser %s, by its chat template (--reasoning off for none)", label, chosen)
    return chosen


def _has_token(folder: Path, token: str) -> bool:
    files = (folder / name for name in ("tokenizer.json", "tokenizer_config.json", "added_tokens.json"))
    spellings = {json.dumps(token).encode(), json.dumps(token, ensure_ascii=False).encode()}
    texts = (file.read_bytes() for file in files if file.is_file())
    return any(spelling in text for text in texts for spelling in spellings)


def installed_parsers() -> frozenset[str]:
    """Return the names of the installed vLLM's reasoning parsers, without importing it, or nothing if unknown."""
    return _names_in("vllm", "reasoning/__init__.py", r'^    "(\w+)": \(')


def installed_sglang_parsers() -> frozenset[str]:
    """Return the names of the installed SGLang's reasoning parsers, without importing it, or nothing if unknown."""
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
