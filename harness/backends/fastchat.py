"""Prompts from fschat's named conversation templates, for checkpoints without a chat template of their own.

Those templates are Python, not Jinja: the prompt is rendered here and sent to /v1/completions with the template's own
stop strings. Blanks around the answer are removed, as fschat does. fschat is imported only when it is used.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from ..client import ChatReply, read_chat_reply
from ..errors import CheckpointError
from .chat import Message, Post

SHOWN = 12  # template names in an error


def conversation(name: str) -> Any:
    """Return a fresh `fastchat.conversation.Conversation`. Raise CheckpointError for an unknown name or without
    fschat."""
    try:
        from fastchat.conversation import conv_templates, get_conv_template
    except ImportError:
        raise CheckpointError(f"--chat-template fastchat:{name} needs fschat: pip install fschat==0.2.36") from None
    if name not in conv_templates:
        examples = ", ".join(sorted(conv_templates)[:SHOWN])
        raise CheckpointError(
            f"fschat has no conversation template {name!r}; some of its {len(conv_templates)}: {examples}; all: "
            "python -c 'from fastchat.conversation import conv_templates as c; print(*sorted(c))'"
        )
    return get_conv_template(name)


def render(name: str, messages: Sequence[Message]) -> str:
    """Return the prompt's text, ending where the model's answer starts."""
    dialogue = conversation(name)
    for message in messages:
        if message.role == "system":
            dialogue.set_system_message(message.content)
        else:
            # an empty message means "the model's turn" to fschat: an empty earlier answer becomes a blank
            dialogue.append_message(dialogue.roles[message.role == "assistant"], message.content or " ")
    dialogue.append_message(dialogue.roles[1], None)
    try:
        return str(dialogue.get_prompt())
    except ValueError:  # fschat keeps some names for hosted models only, without a text form
        raise CheckpointError(
            f"fschat's template {name!r} has no text form; choose one made for a local model"
        ) from None


def template_digest(name: str) -> str:
    """Return the sha256 of the template's rendering of a fixed two-turn conversation and of its stops.

    It identifies the wording, not fschat's version.
    """
    probe = [Message("system", "s"), Message("user", "u"), Message("assistant", "a"), Message("user", "v")]
    template = conversation(name)
    words = [render(name, probe[1:]), render(name, probe), template.stop_str, template.stop_token_ids]
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@dataclass(frozen=True)
class FastChatCompletions:
    """`/v1/completions` with prompts of a FastChat template."""

    post: Post
    model: str
    template: str
    bos_token: str | None
    """No second one is added if the template's text begins with it."""
    tokenize: bool = True
    """Whether the server is vLLM: has /tokenize, `add_special_tokens` and `stop_token_ids`."""

    async def complete(self, messages: Sequence[Message], params: dict[str, JsonValue]) -> ChatReply:
        body = {"model": self.model, **self._prompt(messages), **params}
        template = conversation(self.template)
        stop_str = [template.stop_str] if isinstance(template.stop_str, str) else list(template.stop_str or ())
        sampling_stops = params.get("stop")
        stops = [*(sampling_stops if isinstance(sampling_stops, list) else []), *stop_str]
        if stops:
            body["stop"] = stops
        if template.stop_token_ids and self.tokenize:
            body["stop_token_ids"] = list(template.stop_token_ids)
        return read_completion(await self.post("/v1/completions", body))

    async def count(self, messages: Sequence[Message]) -> int | None:
        return len((await self.tokens(messages))[0]) if self.tokenize else None

    async def tokens(self, messages: Sequence[Message]) -> tuple[list[int], list[str]]:
        """Return (token ids, their texts) of the rendered conversation, by vLLM's /tokenize."""
        body = {"model": self.model, "return_token_strs": True, **self._prompt(messages)}
        reply = await self.post("/tokenize", body)
        return list(reply["tokens"]), list(reply.get("token_strs") or [])

    def _prompt(self, messages: Sequence[Message]) -> dict[str, JsonValue]:
        text = render(self.template, messages)
        if not self.tokenize:
            return {"prompt": text}
        has_bos = self.bos_token is not None and text.startswith(self.bos_token)
        return {"prompt": text, "add_special_tokens": not has_bos}


def read_completion(body: dict[str, Any]) -> ChatReply:
    """Return the first choice of a text completion, stripped of blanks. Raise ReplyError if there is none."""
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    as_chat = {"message": {"content": first["text"]} if "text" in first else None, **first, "logprobs": None}
    reply = read_chat_reply({**body, "choices": [as_chat]})
    return replace(reply, text=reply.text.strip())
