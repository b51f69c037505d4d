"""A preference row as token ids: one prompt, three answers, each rendered by the model's own chat template.

It owns what is scored and what is cut. One BOS, one end token after an answer, the assistant's header inside the
prompt, every answer cut for itself; `official_compat` renders as the WRPO release does, quirks and all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from transformers import PreTrainedTokenizerBase

from harness.errors import ConfigError

Overlong = Literal["drop", "truncate"]
Messages = Sequence[dict[str, str]]


@dataclass(frozen=True)
class Rendering:
    """How conversations become ids. Lengths in tokens."""

    max_length: int = 2048
    """Prompt and answer together. 2048: WRPO release, llama-3-8b-instruct-sft-wrpo.yaml."""
    max_prompt_length: int = 1800
    """A row with a longer prompt is dropped. Same source."""
    overlong: Overlong = "truncate"
    """An answer that does not fit: cut, keeping its end token (TRL's keep_start loses it), or the row is dropped."""
    official_compat: bool = False


@dataclass(frozen=True)
class PreferenceRow:
    """One prompt and its three answers; what follows the prompt is scored."""

    prompt_ids: tuple[int, ...]
    source_ids: tuple[int, ...]
    target_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    truncated: int = 0
    """How many of the three were cut."""

    @property
    def answers(self) -> tuple[tuple[int, ...], ...]:
        return self.source_ids, self.target_ids, self.rejected_ids


@dataclass(frozen=True)
class RenderedAnswers:
    """One prompt and answers to it, each ending in one end token."""

    prompt_ids: tuple[int, ...]
    answers: tuple[tuple[int, ...], ...]
    truncated: int = 0
    """How many answers were cut."""


def check_tokenizer(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raises ConfigError for a tokenizer that cannot render a preference row."""
    name = tokenizer.name_or_path or "the tokenizer"
    if not tokenizer.chat_template:
        raise ConfigError(f"{name} has no chat template; give one with `chat_template: FILE.jinja`")
    if tokenizer.pad_token_id is None:
        raise ConfigError(f"{name} has no pad token; name one with `pad_token: TOKEN` (not the end token)")
    if tokenizer.eos_token_id is None:
        raise ConfigError(f"{name} has no end-of-sequence token")


def render(
    prompt: Messages, answers: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> PreferenceRow | None:
    """The row (source, target, rejected answer), or None where it must be dropped: too long a prompt or answer."""
    if how.official_compat:
        return _render_official(prompt, answers, tokenizer, how)
    rendered = render_answers(prompt, answers, tokenizer, how)
    if rendered is None:
        return None
    source, target, rejected = rendered.answers
    return PreferenceRow(rendered.prompt_ids, source, target, rejected, truncated=rendered.truncated)


def render_answers(
    prompt: Messages, answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> RenderedAnswers | None:
    """The prompt and any number of answers, or None where it must be dropped: too long a prompt or answer."""
    prompt_ids = _ids(tokenizer, prompt, add_generation_prompt=True)
    if len(prompt_ids) > min(how.max_prompt_length, how.max_length - 1):
        return None
    room = how.max_length - len(prompt_ids)
    cut, kept = 0, []
    for text in answers:
        full = _ids(tokenizer, [*prompt, {"role": "assistant", "content": text}], add_generation_prompt=False)
        ids = _ended(full[_common(prompt_ids, full, tokenizer) :], tokenizer)
        if len(ids) > room:
            if how.overlong == "drop":
                return None
            cut += 1
            ids = [*ids[: room - 1], ids[-1]]  # the last id is the end token
        kept.append(tuple(ids))
    return RenderedAnswers(tuple(prompt_ids), tuple(kept), truncated=cut)


def _ids(tokenizer: PreTrainedTokenizerBase, messages: Messages, *, add_generation_prompt: bool) -> list[int]:
    encoded = tokenizer.apply_chat_template(
        list(messages), tokenize=True, add_generation_prompt=add_generation_prompt, return_dict=True
    )
    ids = list(encoded["input_ids"])
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:2] == [bos, bos]:
        raise ConfigError(f"the chat template of {tokenizer.name_or_path!r} renders two BOS tokens")
    return ids


def _ended(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The answer with exactly one end token: the template's own, or EOS where it writes none."""
    special = set(tokenizer.all_special_ids)
    end = len(ids)
    while end and ids[end - 1] not in special and not tokenizer.decode(ids[end - 1]).strip():
        end -= 1  # the line break that ChatML writes after its end token belongs to the next turn
    if end and ids[end - 1] in special:
        return ids[:end]
    return [*ids, tokenizer.eos_token_id]


def _common(prompt_ids: list[int], full: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
    """Where the answer begins. Raises ConfigError where the template renders the prompt otherwise with an answer."""
    if full[: len(prompt_ids)] != prompt_ids:
        raise ConfigError(
            f"the chat template of {tokenizer.name_or_path!r} renders a prompt differently once it is answered; "
            "preference rows need a template whose generation prompt is a prefix of the answered conversation"
        )
    return len(prompt_ids)


def _render_official(
    prompt: Messages, answers: tuple[str, str, str], tokenizer: PreTrainedTokenizerBase, how: Rendering
) -> PreferenceRow:
    """As the release: the prompt without its generation prompt, each answer's turn rendered alone (header scored,
    BOS taken off), a second end token, and every answer cut to `max_length - max_prompt_length` where the longest
    overflows, even those that fit; the prompt is then cut from its front."""
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
