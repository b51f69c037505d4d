"""Load the target's tokenizer, and render a prompt with its answers as token ids by the model's chat template.

This module decides what is scored and what is truncated. A row has one BOS and one end token per answer; the
assistant's header belongs to the prompt, and each answer is truncated separately. So does an empty reasoning block that
the template puts before every answer. `official_compat` renders as the WRPO release does, including its quirks.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

from jinja2 import TemplateError
from pydantic import JsonValue
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.backends.thinking import block_at_end
from harness.records import ModelRef
from harness.records.errors import CheckpointError, ConfigError, one_line
from harness.records.reasoning import MARKS, TAGS

from ..spec import RecipeSpec

Overlong = Literal["drop", "truncate"]
Messages = Sequence[dict[str, str]]
Row = TypeVar("Row")
UnusableReason = Literal["control_tokens", "surrogates", "changed_by_template"]
"""A text contains tokens that control a conversation, or half characters, or an answer has text that the template
removes."""
CLOSING = tuple(closing for _, closing in TAGS)


def load_tokenizer(
    model: str,
    *,
    chat_template: str | None = None,
    pad_token: str | None = None,
    template_kwargs: Mapping[str, JsonValue] | None = None,
) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder or of hf:ORG/NAME@REVISION. `chat_template` is the path of a Jinja file.

    `template_kwargs` become defaults of the template's variables, saved with it. A tokenizer without a pad token pads
    with its end token, unless `pad_token` names another.

    Raise CheckpointError if there is no tokenizer, and ConfigError if it cannot render preference rows.
    """
    ref = ModelRef.parse(model)
    if ref.scheme == "endpoint":
        raise ConfigError(f"{model!r} is a server, but its tokenizer and weights are needed: give DIR or hf:ORG/NAME")
    location = str(Path(ref.name).expanduser()) if ref.scheme == "path" else ref.name
    if ref.scheme == "path" and not Path(location).is_dir():
        raise CheckpointError(f"no such model folder: {model!r}; give a folder or hf:ORG/NAME")
    try:
        tokenizer = AutoTokenizer.from_pretrained(location, revision=ref.revision)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"no tokenizer in {model!r}: {one_line(error)}") from None
    if chat_template is not None:
        try:
            tokenizer.chat_template = Path(chat_template).expanduser().read_text("utf-8")
        except (OSError, ValueError):
            raise ConfigError(f"chat_template: {chat_template!r} cannot be read; give a Jinja file") from None
    if pad_token is not None:
        if pad_token not in tokenizer.get_vocab():
            raise ConfigError(f"pad_token: {pad_token!r} is not in the vocabulary of {model!r}; name a token that is")
        if pad_token not in {*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens}:
            raise ConfigError(
                f"pad_token: {pad_token!r} is ordinary text for {model!r}, so rows that have it would be dropped; name "
                "a special token, or leave the key out to pad with the end token"
            )
        tokenizer.pad_token = pad_token
    check_tokenizer(tokenizer)
    if template_kwargs:
        tokenizer.chat_template = with_defaults(str(tokenizer.chat_template), template_kwargs)
    if tokenizer.pad_token_id is None:
        # Safe here: labels and masks come from the rows' lengths, so a real end token is never taken for padding.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def target_tokenizer(spec: RecipeSpec, model: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of the recipe's target, at `model`, with what the recipe changes of it."""
    return load_tokenizer(
        model, chat_template=spec.chat_template, pad_token=spec.pad_token, template_kwargs=spec.chat_template_kwargs
    )


def with_defaults(template: str, values: Mapping[str, JsonValue]) -> str:
    """Return a chat template that sets each variable to a value unless its caller sets it.

    >>> with_defaults("...", {"enable_thinking": False})
    '{%- if enable_thinking is not defined %}{% set enable_thinking = false %}{% endif -%}...'
    """
    lines = []
    for name, value in values.items():
        if not name.isidentifier():
            raise ConfigError(f"chat_template_kwargs: {name!r} is not the name of a variable")
        literal = "none" if value is None else json.dumps(value, ensure_ascii=False)
        lines.append(f"{{%- if {name} is not defined %}}{{% set {name} = {literal} %}}{{% endif -%}}")
    return "".join(lines) + template


@dataclass(frozen=True)
class Rendering:
    """How conversations become token ids. Lengths are in tokens."""

    max_length: int = 2048
    """Maximum for prompt and answer together. 2048: WRPO release, llama-3-8b-instruct-sft-wrpo.yaml."""
    max_prompt_length: int = 1800
    """Rows with a longer prompt are dropped. 1800: same file of the WRPO release."""
    overlong: Overlong = "truncate"
    """If an answer does not fit: truncate it but keep its end token (TRL's keep_start loses it), or drop the row."""
    official_compat: bool = False


@dataclass(frozen=True)
class PreferenceRow:
    """One prompt and its three answers. Only the answers' tokens are scored."""

    prompt_ids: tuple[int, ...]
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    truncated: int = 0
    """How many of the three answers were truncated."""

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        return self.source_ids, self.target_ids, self.rejected_ids


@dataclass(frozen=True)
class RenderedAnswers:
    """One prompt and its answers, each ending in one end token."""

    prompt_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    truncated: int = 0
    """How many answers were truncated."""


class UnusableAnswerError(Exception):
    """Internal: a row cannot be trained on because of one of its texts. `reason` is a word for counts."""

    def __init__(self, reason: UnusableReason) -> None:
        super().__init__(reason)
        self.reason: UnusableReason = reason


@dataclass
class Attempts:
    """Render rows one by one, and remember why some of them cannot be trained on."""

    dropped: dict[int, str] = field(default_factory=dict)
    """Place of a row among all, counted from 0 -> the reason, a word for counts."""
    rejection: ConfigError | None = None
    """The last row's fault that may be one of the template."""

    def row(self, index: int, make_row: Callable[[], Row | None]) -> Row | None:
        """Return the row, or None if it is too long, has an unusable text, or its template rejects it."""
        row = None
        try:
            row = make_row()
            if row is None:
                self.dropped[index] = "too_long"
        except UnusableAnswerError as error:
            self.dropped[index] = error.reason
        except ConfigError as error:
            self.rejection = error
            self.dropped[index] = "rejected_by_template"
        except TemplateError:
            self.dropped[index] = "rejected_by_template"
        return row

    def check(self, rows: Sized) -> None:
        """Raise what the template was refused for if no row is left: then it is not one bad row."""
        if self.rejection is not None and not rows:
            raise self.rejection


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise ConfigError if the tokenizer lacks a chat template or an end token."""
    name = tokenizer.name_or_path or "the tokenizer"
    if not tokenizer.chat_template:
        raise ConfigError(f"{name} has no chat template; give one with `chat_template: FILE.jinja`")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{name} has no end-of-sequence token; set eos_token in its tokenizer_config.json")


def render(
    prompt: Messages, answers: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> PreferenceRow | None:
    """Return the row of a prompt and its source, target and rejected answer, or None if it is too long and dropped.

    Raise UnusableAnswerError if one of the texts cannot be trained on, and ConfigError if the chat template cannot be
    used (see `render_answers`).
    """
    if how.official_compat:
        check_prompt(prompt, tokenizer)
        for text in answers:
            _check_text(prompt, text, tokenizer)
        return _render_official(prompt, answers, tokenizer, how)
    rendered = render_answers(prompt, answers, tokenizer, how)
    if rendered is None:
        return None
    source, target, rejected = rendered.answers
    return PreferenceRow(rendered.prompt_ids, source, target, rejected, truncated=rendered.truncated)


def render_answers(
    prompt: Messages, answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> RenderedAnswers | None:
    """Return the prompt and any number of answers as token ids, or None if one is too long and the row is dropped.

    Raise UnusableAnswerError if one of the texts cannot be trained on. Raise ConfigError if the template writes two
    BOS tokens, or renders a prompt differently once it is answered.
    """
    check_prompt(prompt, tokenizer)
    prompt_ids = conversation_ids(tokenizer, prompt, add_generation_prompt=True)
    rendered = [_answered(prompt, prompt_ids, text, tokenizer) for text in answers]
    block = _empty_block(prompt, len(prompt_ids), tokenizer)
    if block and all(full[len(prompt_ids) :][: len(block)] == block for full in rendered):
        prompt_ids += block
    if len(prompt_ids) > min(how.max_prompt_length, how.max_length - 1):
        return None
    room = how.max_length - len(prompt_ids)
    cut, kept = 0, []
    for full in rendered:
        ids = _ended(full[len(prompt_ids) :], tokenizer)
        if len(ids) > room:
            if how.overlong == "drop":
                return None
            cut += 1
            ids = [*ids[: room - 1], ids[-1]]  # the last id is the end token
        kept.append(tuple(ids))
    return RenderedAnswers(tuple(prompt_ids), tuple(kept), truncated=cut)


def _answered(prompt: Messages, prompt_ids: list[int], text: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the prompt and one answer."""
    _check_text(prompt, text, tokenizer)
    full = conversation_ids(tokenizer, _with_answer(prompt, text), add_generation_prompt=False)
    if full[: len(prompt_ids)] == prompt_ids:
        return full
    if (
        conversation_ids(tokenizer, _with_answer(prompt, "x"), add_generation_prompt=False)[: len(prompt_ids)]
        == prompt_ids
    ):
        raise UnusableAnswerError("changed_by_template")
    opened = block_at_end(tokenizer.decode(prompt_ids))
    raise ConfigError(
        f"the chat template of {tokenizer.name_or_path!r} renders a prompt differently once it is answered"
        + (f" (its prompts end in {opened!r}, which answers lack: `keep_reasoning: true` may fit it)" if opened else "")
        + "; preference rows need a template whose generation prompt is a prefix of the answered conversation "
        "(`chat_template: FILE.jinja`)"
    )


def _check_text(prompt: Messages, text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UnusableAnswerError if the text would not be trained on as it is."""
    _check_letters(text, tokenizer)
    if any(mark in text for mark in MARKS):
        shown = tokenizer.apply_chat_template(list(_with_answer(prompt, text)), tokenize=False)
        if text.strip() not in shown:
            raise UnusableAnswerError("changed_by_template")


def check_prompt(prompt: Messages, tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise UnusableAnswerError if a message would not be read as it is: its text would end turns, or begin some."""
    for message in prompt:
        _check_letters(message["content"], tokenizer)


def _check_letters(text: str, tokenizer: PreTrainedTokenizerBase) -> None:
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise UnusableAnswerError("surrogates")
    added = tokenizer.added_tokens_decoder.values()
    control = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    if any(token in text for token in control - {tokenizer.unk_token}):
        raise UnusableAnswerError("control_tokens")


def _with_answer(prompt: Messages, text: str) -> Messages:
    return [*prompt, {"role": "assistant", "content": text}]


def _empty_block(prompt: Messages, start: int, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids of the reasoning block that the template puts before any answer to this prompt; [] without one.

    Qwen 3's template does. A model trained to write it would skip its reasoning whenever it is asked to think.
    """
    if not any(closing in str(tokenizer.chat_template) for closing in CLOSING):
        return []
    first, second = (
        conversation_ids(tokenizer, _with_answer(prompt, text), add_generation_prompt=False)[start:]
        for text in ("x", "y")
    )
    same = next((at for at, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), 0)
    block = first[:same]
    return block if any(closing in tokenizer.decode(block) for closing in CLOSING) else []


def conversation_ids(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool
) -> list[int]:
    """Return a conversation as token ids. Raise ConfigError if the template writes two BOS tokens."""
    encoded = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    ids = list(encoded["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        name = tokenizer.name_or_path
        raise ConfigError(f"the chat template of {name!r} renders two BOS tokens; remove one from the template")
    return ids


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the answer with exactly one end token: the template's, or EOS if the template writes none."""
    special = set(tokenizer.all_special_ids)
    end = len(ids)
    while end and ids[end - 1] not in special and not tokenizer.decode(ids[end - 1]).strip():
        end -= 1  # the line break that ChatML writes after its end token is not part of the answer
    if end and ids[end - 1] in special:
        return ids[:end]
    return [*ids, tokenizer.eos_token_id]


def _render_official(
    prompt: Messages, answers: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> PreferenceRow:
    """Return the row as the WRPO release renders it.

    The prompt has no generation prompt. Each answer's turn is rendered alone, without BOS, with its header scored and
    with a second end token. If the longest answer overflows, the prompt loses tokens at its front; if that is not
    enough, every answer is truncated to `max_length - max_prompt_length`, even those that fit.
    """
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    head = _rendered(tokenizer, prompt)
    alone = []
    for text in answers:
        ids = _rendered(tokenizer, [{"role": "assistant", "content": text}])
        alone.append([*(ids[1:] if bos is not None and ids[:1] == [bos] else ids), eos])
    longest = max(map(len, alone))
    if len(head) + longest > how.max_length:
        head = head[-how.max_prompt_length :]  # truncation_mode keep_end, the release's default
    cut = 0
    if len(head) + longest > how.max_length:
        room = how.max_length - how.max_prompt_length
        cut = sum(len(ids) > room for ids in alone)
        alone = [ids[:room] for ids in alone]
    return PreferenceRow(tuple(head), tuple(alone[0]), tuple(alone[1]), tuple(alone[2]), truncated=cut)


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages) -> list[int]:
    encoded = tokenizer.apply_chat_template(list(messages), tokenize=True, return_dict=True)
    return list(encoded["input_ids"])
