"""Ask one prompt, turn by turn, of an OpenAI-compatible server: messages, seeds, room in the context.

>>> window = ContextWindow(max_model_len=4096)
>>> window.surely_fits([Message("user", "What is the capital of France?")], max_tokens=2048)
True

A prompt is never cut. If its UTF-8 bytes (an upper bound of its tokens) and the answer's limit certainly fit, it is
sent as it is. Otherwise the server counts the prompt's tokens, and the answer's limit is lowered to the room left, down
to MIN_ROOM tokens; below that the answer fails as `context`. An empty text is an answer: the judge sees it. Reasoning
is kept apart from the text and never sent back.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, fields, replace
from typing import Any, Protocol

from pydantic import JsonValue

from ..client import ChatClient, ChatReply, read_chat_reply
from ..records import Answer, Failure, Prompt, Sampling
from ..records.errors import ConfigError, ReplyError
from ..records.protocols import ServeOptions
from .thinking import Thinking, separated

COMMON = frozenset({"log_dir", "start_timeout", "concurrency", "timeout", "seed", "patience"})
"""Fields that every backend takes; `patience` is for a server of others, and for judges."""

MIN_ROOM = 256  # tokens; a shorter answer would not represent the model
TEMPLATE_TOKENS, MESSAGE_TOKENS = 64, 16
"""Tokens, at most, that a template adds to a conversation of one message, and to each further one."""
SEEDS = 1 << 31  # every known server accepts smaller seeds
Post = Callable[[str, dict[str, JsonValue]], Awaitable[dict[str, Any]]]
"""POSTs a JSON body to a path below the server's root and returns the JSON object, or raises ReplyError."""


def changed(options: ServeOptions, names: Iterable[str]) -> dict[str, Any]:
    """Return those of the named options that are not at their default, in the order of `names`."""
    defaults = {entry.name: entry.default for entry in fields(options)}
    return {name: value for name in names if (value := getattr(options, name)) != defaults[name]}


def refuse_unknown(options: ServeOptions, backend: str, understood: Iterable[str]) -> None:
    """Raise ConfigError if a field outside `understood` has another value than its default.

    An option that is silently ignored gives a wrong score.
    """
    supported = (
        COMMON | frozenset(understood) | (frozenset({"reasoning"}) if options.reasoning == "off" else frozenset())
    )
    unknown = [entry.name for entry in fields(options) if entry.name not in supported]
    for name, value in changed(options, unknown).items():
        flag = "--" + name.replace("_", "-")
        raise ConfigError(f"backend {backend!r} cannot honour {flag} {value!r}; leave it out or use --backend vllm")


def engine_settings(options: ServeOptions, names: Iterable[str]) -> dict[str, JsonValue]:
    """Return the changed options and the engine arguments as part of an identity."""
    return changed(options, names) | ({"engine_args": list(options.engine_args)} if options.engine_args else {})


def pairs(engine_args: Iterable[str], backend: str, names: Iterable[str]) -> dict[str, str]:
    """Return the `NAME=VALUE` engine arguments of a backend without a server of its own.

    Raise ConfigError for a name that is not one of `names`.
    """
    values = {}
    for word in engine_args:
        name, sign, value = word.lstrip("-").partition("=")
        if name not in names or not sign:
            raise ConfigError(f"backend {backend!r} has no engine argument {word!r}; it knows: {', '.join(names)}")
        values[name] = value
    return values


@dataclass(frozen=True)
class Message:
    role: str
    content: str


class Dialogue(Protocol):
    """How a list of messages becomes a request: by the server's chat template, or by one of our own."""

    async def complete(self, messages: Sequence[Message], params: dict[str, JsonValue]) -> ChatReply: ...

    async def count(self, messages: Sequence[Message]) -> int | None:
        """Return the prompt's tokens, template included, or None if the server cannot say."""
        ...

    async def count_text(self, text: str) -> int | None:
        """Return the tokens of a text alone, or None if the server cannot say."""
        ...


@dataclass(frozen=True)
class ContextWindow:
    """The room a model has."""

    max_model_len: int | None
    """Tokens, prompt and answer together. None: unknown, so the server has to reject what does not fit."""
    overhead: int = 256
    """Tokens, at most, that the template adds to a conversation of one message."""
    per_message: int = 64
    """Tokens, at most, that it adds for each further message."""

    def surely_fits(self, messages: Sequence[Message], max_tokens: int) -> bool:
        if self.max_model_len is None:
            return True
        # bytes bound the tokens of byte-level tokenizers from above, and counting them asks no server
        size = sum(len(message.content.encode("utf-8", "replace")) for message in messages)
        margin = self.overhead + self.per_message * (len(messages) - 1)
        return size + margin + max_tokens <= self.max_model_len


@dataclass(frozen=True)
class ChatCompletions:
    """`/v1/chat/completions`: the served chat template makes the prompt."""

    post: Post
    model: str
    base: str = "/v1"
    tokenize: bool = False
    """Whether the server has vLLM's /tokenize."""
    counter: Callable[[str], int] | None = None
    """Counts a text's tokens if the server cannot."""
    switches: Mapping[str, JsonValue] = field(default_factory=dict)
    """Fields of every request: `chat_template_kwargs`, `reasoning_effort`."""

    async def complete(self, messages: Sequence[Message], params: dict[str, JsonValue]) -> ChatReply:
        body = {"model": self.model, "messages": _json(messages), **self.switches, **params}
        return read_chat_reply(await self.post(f"{self.base}/chat/completions", body), accept_calls=False)

    async def complete_many(
        self, messages: Sequence[Message], params: dict[str, JsonValue], count: int
    ) -> list[ChatReply | ReplyError]:
        """Return `count` replies of one request, or why one of them is none. vLLM reads the prompt once for all."""
        body = {"model": self.model, "messages": _json(messages), **self.switches, **params}
        # usage counts all replies together; the token ids tell how long each one is
        whole = await self.post(f"{self.base}/chat/completions", {**body, "n": count, "return_token_ids": True})
        return replies_of(whole, count)

    async def count(self, messages: Sequence[Message]) -> int | None:
        if self.tokenize:
            return len((await self.tokens(messages))[0])
        if self.counter is None:
            return None
        texts = sum(self.counter(message.content) for message in messages)
        return texts + TEMPLATE_TOKENS + MESSAGE_TOKENS * (len(messages) - 1)

    async def count_text(self, text: str) -> int | None:
        if self.tokenize:
            return await count_by_server(self.post, self.model, text)
        return self.counter(text) if self.counter is not None else None

    async def perplexity(self, text: str) -> float:
        """Return the perplexity of a text, by the log-probabilities that vLLM gives of prompts.

        Raise ReplyError if the server gives none.
        """
        body: dict[str, JsonValue] = {"model": self.model, "prompt": text, "max_tokens": 1, "temperature": 0.0}
        reply = await self.post(f"{self.base}/completions", body | {"prompt_logprobs": 0})
        return perplexity_in(reply)

    async def tokens(self, messages: Sequence[Message]) -> tuple[list[int], list[str]]:
        """Return (token ids, their texts) of the rendered conversation, by vLLM's /tokenize."""
        body: dict[str, JsonValue] = {"messages": _json(messages), "add_generation_prompt": True}
        variables = self.switches.get("chat_template_kwargs")
        if variables is not None:
            body["chat_template_kwargs"] = variables
        return await tokenized(self.post, {"model": self.model, **body})


def perplexity_in(reply: Mapping[str, Any]) -> float:
    """Return the perplexity of the prompt in a completion with vLLM's `prompt_logprobs`. Raise ReplyError without.

    The first token has no log-probability, as nothing comes before it.

    >>> import math
    >>> round(perplexity_in({"choices": [{"prompt_logprobs": [None, {"17": {"logprob": -math.log(8)}}]}]}), 6)
    8.0
    """
    try:
        entries = reply["choices"][0]["prompt_logprobs"][1:]
        logprobs = [float(next(iter(entry.values()))["logprob"]) for entry in entries]
    except (LookupError, TypeError, ValueError, AttributeError, StopIteration):
        logprobs = []
    if not logprobs:
        raise ReplyError("the server gives no log-probabilities of the prompt, as vLLM's does", reason="other")
    return math.exp(-sum(logprobs) / len(logprobs))


async def tokenized(post: Post, body: dict[str, JsonValue]) -> tuple[list[int], list[str]]:
    """Return (token ids, their texts) from vLLM's /tokenize."""
    reply = await post("/tokenize", {**body, "return_token_strs": True})
    return list(reply["tokens"]), list(reply.get("token_strs") or [])


async def count_by_server(post: Post, model: str, text: str) -> int:
    """Return the tokens of a text alone, by vLLM's /tokenize."""
    return len((await tokenized(post, {"model": model, "prompt": text, "add_special_tokens": False}))[0])


def replies_of(body: Mapping[str, Any], count: int) -> list[ChatReply | ReplyError]:
    """Return the choices of a chat completion in their order, or why one cannot be read.

    A choice has as many tokens as it has `token_ids`; without them all have an equal share of the usage. Raise
    ReplyError if there are not `count` choices.
    """
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != count:
        received = len(choices) if isinstance(choices, list) else 0
        raise ReplyError(f"asked for {count} answers, the server returned {received}", reason="http", status=200)
    usage = body["usage"] if isinstance(body.get("usage"), dict) else {}
    total = usage.get("completion_tokens")
    replies: list[ChatReply | ReplyError] = []
    for number, choice in enumerate(choices):
        ids = choice.get("token_ids") if isinstance(choice, dict) else None
        # rounded so that the shares add up to the total
        share = (total + count - 1 - number) // count if isinstance(total, int) else 0
        tokens = {**usage, "completion_tokens": len(ids) if isinstance(ids, list) else share}
        try:
            replies.append(read_chat_reply({**body, "choices": [choice], "usage": tokens}, accept_calls=False))
        except ReplyError as error:
            replies.append(error)
    return replies


def _json(messages: Sequence[Message]) -> JsonValue:
    return [{"role": message.role, "content": message.content} for message in messages]


def answer_of(
    prompt: Prompt, label: str, replies: Sequence[ChatReply], *, index: int, is_split: bool, seconds: float
) -> Answer:
    """Return the answer that these replies are, one per turn."""
    reasoning = tuple(reply.reasoning for reply in replies)
    counts = [reply.reasoning_tokens for reply in replies]
    counted = tuple(count for count in counts if count is not None)
    return Answer(
        prompt_id=prompt.id,
        model=label,
        index=index,
        turns=tuple(reply.text for reply in replies),
        reasoning=reasoning if any(reasoning) else (),
        finish=tuple(reply.finish for reply in replies),
        prompt_tokens=tuple(reply.prompt_tokens for reply in replies),
        completion_tokens=tuple(reply.completion_tokens for reply in replies),
        reasoning_tokens=counted if any(counted) and len(counted) == len(counts) else (),
        is_split=is_split,
        seconds=seconds,
    )


def request_seed(seed: int, prompt_id: str, turn: int, index: int) -> int:
    """Return the seed of one turn of one draw: the same on every machine, independent for other arguments.

    `turn` is 0-based.
    """
    words = f"{seed}|{prompt_id}|{turn}|{index}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(words).digest()[:8], "big") % SEEDS


@dataclass(frozen=True)
class Asker:
    """Asks prompts of one model. `label` is the model's name in the answers."""

    dialogue: Dialogue
    context: ContextWindow
    label: str
    seed: int | None = None
    """Used if the sampling has none. None: send no seed."""
    thinking: Thinking = field(default_factory=Thinking)

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        """Ask all turns of one prompt; a ReplyError becomes the answer's error."""
        begin = time.monotonic()
        try:
            turns = await self._turns(prompt, sampling, index)
        except ReplyError as error:
            failure = Failure(reason=error.reason, message=str(error))
            seconds = time.monotonic() - begin
            return Answer(prompt_id=prompt.id, model=self.label, index=index, seconds=seconds, error=failure)
        seconds, is_split = time.monotonic() - begin, any(is_split for _, is_split in turns)
        replies = [reply for reply, _ in turns]
        return answer_of(prompt, self.label, replies, index=index, is_split=is_split, seconds=seconds)

    async def answer_group(self, prompt: Prompt, sampling: Sampling, indices: Sequence[int]) -> list[Answer]:
        """Return several draws of a prompt of one turn, by one request without a seed if the dialogue allows it."""
        if not isinstance(self.dialogue, ChatCompletions) or len(prompt.turns) != 1:
            return [await self.answer(prompt, sampling, index) for index in indices]
        begin = time.monotonic()
        messages = [Message("system", prompt.system)] if prompt.system is not None else []
        messages.append(Message("user", prompt.turns[0]))
        replies: Sequence[ChatReply | ReplyError]
        try:
            room = await self.room(messages, sampling.max_tokens + self.thinking.room)
            params = self._params(sampling, room, prompt.id, 0, 0)
            params.pop("seed", None)
            replies = await self.dialogue.complete_many(messages, params, len(indices))
        except ReplyError as error:
            replies = [error] * len(indices)
        seconds = (time.monotonic() - begin) / len(indices)
        return [await self._drawn(prompt, reply, index, seconds) for index, reply in zip(indices, replies, strict=True)]

    async def _drawn(self, prompt: Prompt, whole: ChatReply | ReplyError, index: int, seconds: float) -> Answer:
        if isinstance(whole, ReplyError):
            failure = Failure(reason=whole.reason, message=str(whole))
            return Answer(prompt_id=prompt.id, model=self.label, index=index, seconds=seconds, error=failure)
        reply, is_split = separated(whole, self.thinking)
        reply = replace(reply, reasoning_tokens=await self._reasoning_tokens(reply))
        return answer_of(prompt, self.label, [reply], index=index, is_split=is_split, seconds=seconds)

    async def _turns(self, prompt: Prompt, sampling: Sampling, index: int) -> list[tuple[ChatReply, bool]]:
        """Return a reply per turn, and whether its reasoning was split off here."""
        messages = [Message("system", prompt.system)] if prompt.system is not None else []
        turns: list[tuple[ChatReply, bool]] = []
        for turn, words in enumerate(prompt.turns):
            messages.append(Message("user", words))
            if turn < len(prompt.answered):
                messages.append(Message("assistant", prompt.answered[turn]))
                continue
            room = await self.room(messages, sampling.max_tokens + self.thinking.room)
            params = self._params(sampling, room, prompt.id, turn, index)
            reply, is_split = separated(await self.dialogue.complete(messages, params), self.thinking)
            turns.append((replace(reply, reasoning_tokens=await self._reasoning_tokens(reply)), is_split))
            messages.append(Message("assistant", reply.text))
        return turns

    async def _reasoning_tokens(self, reply: ChatReply) -> int | None:
        """Return the tokens spent on reasoning, or None if nobody can count them.

        vLLM counts those after an opening mark in the reply: none if the prompt has it.
        """
        if not reply.reasoning:
            return reply.reasoning_tokens or 0
        count = reply.reasoning_tokens or await self.dialogue.count_text(reply.reasoning)
        return None if count is None else min(count, reply.completion_tokens)

    async def room(self, messages: Sequence[Message], max_tokens: int) -> int:
        """Return the answer's limit in tokens, at most `max_tokens`. Raise ReplyError if there is no room."""
        if self.context.max_model_len is None or self.context.surely_fits(messages, max_tokens):
            return max_tokens
        count = await self.dialogue.count(messages)
        if count is None:
            return max_tokens
        room = self.context.max_model_len - count
        if room < min(max_tokens, MIN_ROOM):
            raise ReplyError(
                f"the prompt's {count} tokens leave {max(room, 0)} of {self.context.max_model_len} for an answer",
                reason="context",
            )
        return min(max_tokens, room)

    def _params(self, sampling: Sampling, room: int, prompt_id: str, turn: int, index: int) -> dict[str, JsonValue]:
        params: dict[str, JsonValue] = {sampling.token_limit: room}
        if sampling.temperature is not None:
            params["temperature"] = sampling.temperature
        if sampling.top_p is not None:
            params["top_p"] = sampling.top_p
        if sampling.stop:
            params["stop"] = list(sampling.stop)
        # a seed per draw, so that an answer does not depend on the order of the questions
        seed = sampling.seed if sampling.seed is not None else self.seed
        if seed is not None:
            params["seed"] = request_seed(seed, prompt_id, turn, index)
        params |= sampling.extra
        return {name: value for name, value in params.items() if name not in sampling.omits}


class ChatBackend:
    """A backend that asks through an `Asker`, which a subclass makes in `__aenter__`.

    A subclass puts what it opens there on the stack, which is closed at the end.
    """

    takes_parameters = True  # any request parameter of `sampling:`

    def __init__(self) -> None:
        self._client: ChatClient | None = None
        self._asker: Asker | None = None
        self._stack = AsyncExitStack()

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def answer(self, prompt: Prompt, sampling: Sampling, index: int = 0) -> Answer:
        """Return the answer to all turns. A ReplyError becomes its error."""
        assert self._asker is not None, "use `async with`"
        return await self._asker.answer(prompt, sampling, index)

    async def perplexity(self, text: str) -> float:
        """Return the perplexity of a text. Raise ReplyError if the server gives no log-probabilities of prompts."""
        assert self._asker is not None, "use `async with`"
        dialogue = self._asker.dialogue
        if not isinstance(dialogue, ChatCompletions):
            raise ReplyError("no log-probabilities of prompts with a template of fschat", reason="other")
        return await dialogue.perplexity(text)
