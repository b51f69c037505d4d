"""Serve a checkpoint by a child process: what `vllm`, `sglang`, `llamacpp` and `transformers` share.

It starts the server and asks it. If the server dies in mid-run, it is restarted and the requests that were in flight
are repeated; a request suspected of killing it goes alone. Checkpoints without a chat template of their own are asked
by fschat's named conversation templates, which are Python, not Jinja: the prompt is rendered here and sent to
/v1/completions with the template's own stop strings.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import aiohttp
from pydantic import JsonValue

from ..client import CallLimits, ChatClient, ChatReply, read_chat_reply
from ..records import ModelRef
from ..records.errors import CheckpointError, ConfigError, ReplyError, ServerError
from ..records.protocols import Served, ServeOptions
from ..store.checkpoint import FASTCHAT, Checkpoint, inspect_checkpoint, resolve
from ..store.files import write_atomic
from .chat import (
    Asker,
    ChatBackend,
    ChatCompletions,
    ContextWindow,
    Dialogue,
    Message,
    Post,
    count_by_server,
    tokenized,
)
from .server import ModelServer, ServerCommand, ServerDiedError
from .thinking import Thinking, opened_block, request_fields, switches

SHOWN = 12  # template names in an error
log = logging.getLogger(__name__)
DEATHS_TO_STOP = 4
"""Deaths in a row, without an answer between them, after which the server counts as beyond repair."""
MAX_RESTARTS = 20
"""Restarts in one run; each costs a start-up. The same command resumes."""
SUSPECT, CULPRIT = 2, 3
"""Deaths during which a request was in flight: after SUSPECT it is sent alone, after CULPRIT it fails."""
ATTEMPTS = 3
"""Times one request is sent to a server that is alive but fails to answer it."""


class Door:
    """A lock for many or one. A request that waits to go alone gets in before others that come later."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._alone = False

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            await self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
            self._alone = True
            self._inside += 1
        try:
            yield
        finally:
            self._alone = False
            await self._leave()

    async def _leave(self) -> None:
        self._inside -= 1
        async with self._changed:
            self._changed.notify_all()


def conversation(name: str) -> Any:
    """Return a new `fastchat.conversation.Conversation`. Raise CheckpointError without fschat or if it is unknown."""
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
        raise CheckpointError(f"fschat's template {name!r} has no text form; choose one of a local model") from None


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
        limit = params.get("max_completion_tokens")  # which text completions do not have
        if limit is not None:
            params = {name: value for name, value in params.items() if name != "max_completion_tokens"}
            params["max_tokens"] = limit
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

    async def count_text(self, text: str) -> int | None:
        return await count_by_server(self.post, self.model, text) if self.tokenize else None

    async def tokens(self, messages: Sequence[Message]) -> tuple[list[int], list[str]]:
        """Return (token ids, their texts) of the rendered conversation, by vLLM's /tokenize."""
        return await tokenized(self.post, {"model": self.model, **self._prompt(messages)})

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


def refuse_ours(engine_args: Iterable[str], ours: Collection[str]) -> None:
    """Raise ConfigError for an engine argument that the harness sets itself, however its words are joined."""
    for word in engine_args:
        if word.partition("=")[0].replace("_", "-") in ours:
            raise ConfigError(f"engine argument {word!r} is set by the harness; leave it out, or use its own flag")


def has_argument(engine_args: Iterable[str], names: Collection[str]) -> bool:
    """Return whether one of the engine arguments has one of these names."""
    return any(word.partition("=")[0].replace("_", "-") in names for word in engine_args)


def token_counter(file: Path) -> Callable[[str], int]:
    """Return a counter of a text's tokens by the checkpoint's tokenizer.json."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


class _RevivedError(Exception):
    """Internal: the server died while a request was in flight, and was started again."""


class ServedBackend(ChatBackend, ABC):
    """Subclasses define how the server is launched (`launch`) and how much room it has (`context_window`)."""

    name = "served"
    has_tokenize = False

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        super().__init__()
        if model.scheme == "endpoint":
            raise ConfigError(f"{str(model)!r} is served already: use --backend endpoint, not {self.name}")
        self.checkpoint: Checkpoint = self.inspect(model, options)
        self.label = model.label
        self.options = options
        self.server = ModelServer(
            f"{self.name} server of {model.label}",
            self.launch,
            log_file=options.log_dir / f"{self.name}.log",
            start_timeout=options.start_timeout,
        )
        self.restarts = 0
        self._started: float | None = None
        self._reviving = asyncio.Lock()
        self._door = Door()
        self._epoch = 0
        self._deaths = 0

    def logs_to(self, folder: Path) -> None:
        """Write the log, and whatever the server needs as a file, to `folder`. Only before the server starts."""
        self.options = replace(self.options, log_dir=folder)
        self.server.log_file = folder / f"{self.name}.log"

    def started(self) -> float | None:
        return self._started

    def place(self, devices: str) -> None:
        """Serve on these GPUs, as in CUDA_VISIBLE_DEVICES. Only before the server starts."""
        self.options = replace(self.options, devices=devices)

    def parts(self) -> dict[str, JsonValue]:
        """Return the digests of an adapter and of its base, for the card, or nothing for a model of one folder."""
        checkpoint = self.checkpoint
        return {"adapter": checkpoint.adapter_digest, "base": checkpoint.base_digest} if checkpoint.is_adapter else {}

    # what a subclass defines

    def inspect(self, model: ModelRef, options: ServeOptions) -> Checkpoint:
        """Return what is in the model's folder. Raise CheckpointError if it cannot be served as it is."""
        folder = resolve(model, allow_pickle=options.allow_pickle)
        template = options.chat_template
        checkpoint = inspect_checkpoint(folder, allow_pickle=options.allow_pickle, chat_template=template)
        if template is not None and template.startswith(FASTCHAT):
            if request_fields(options):
                raise ConfigError(
                    f"--chat-template {template!r} has no variables: leave out "
                    + " and ".join("--" + name.replace("_", "-") for name in request_fields(options))
                )
            checkpoint = checkpoint.model_copy(update={"template_digest": template_digest(template[len(FASTCHAT) :])})
        return checkpoint

    @abstractmethod
    def launch(self, port: int) -> ServerCommand:
        """Return the command that serves on 127.0.0.1:`port`."""

    @abstractmethod
    def engine(self) -> dict[str, JsonValue]:
        """Return what can change an answer besides weights and template: part of the run's id."""

    @abstractmethod
    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        """Ask the fresh server how much room there is. Raise CheckpointError if the template is wrong."""

    # the Backend protocol

    def identity(self) -> dict[str, JsonValue]:
        facts = {"backend": self.name, **self.checkpoint.identity(), "engine": self.engine()}
        return facts | ({"thinking": switches(self.options)} if switches(self.options) else {})

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.server.leave)
            try:
                self._started = await self.server.enter()
            except ServerDiedError as error:
                raise CheckpointError(str(error)) from None
            concurrency, timeout = self.options.concurrency, self.options.timeout
            # `post` decides whether the server died, so the client gives up early and never learns limits
            limits = CallLimits(concurrency=concurrency, timeout=timeout, attempts=2, patience=None)
            client = ChatClient(self.server.root_url, limits)
            self._client = await stack.enter_async_context(client)
            dialogue = self.dialogue()
            context = await self.context_window(dialogue)
            self._asker = Asker(dialogue, context, self.label, seed=self.options.seed, thinking=self.thinking())
            self._stack = stack.pop_all()
        return self

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        """Answer a chat-completions body from another client with this model, under its own name.

        `max_tokens` is lowered to the room left. Raise ReplyError ("context") if there is too little.
        """
        assert self._asker is not None, "use `async with`"
        entries = body["messages"]
        assert isinstance(entries, list)
        messages = [Message(str(entry["role"]), str(entry["content"])) for entry in entries if isinstance(entry, dict)]
        params = {name: value for name, value in body.items() if name not in ("model", "messages")}
        limit = params.get("max_tokens")
        if isinstance(limit, int):
            params["max_tokens"] = await self._asker.room(messages, limit)
        return await self._asker.dialogue.complete(messages, params)

    def served(self) -> Served:
        """Return how other clients can reach this model while it is up."""
        checkpoint = self.checkpoint
        folder = (
            checkpoint.path
            if checkpoint.base is None or (checkpoint.path / "tokenizer_config.json").is_file()
            else checkpoint.base
        )
        return Served(
            self.served_name,
            self.server.root_url + "/v1",
            tokenizer=folder.resolve(),
            max_model_len=self.options.max_model_len or checkpoint.max_position,
            concurrency=self.options.concurrency,
        )

    def thinking(self) -> Thinking:
        """Return what the checkpoint's template says about its reasoning."""
        template, room = self.checkpoint.template, self.options.reasoning_room or 0
        opens = "" if template is None else opened_block(template, self.options.chat_template_kwargs)
        return Thinking(room, opens)

    # staying alive

    async def revive(self) -> bool:
        return await self._restart_if_dead(self._epoch)

    def dialogue(self) -> Dialogue:
        """Return how this server is asked: by its own chat template, or by one of fschat's."""
        source = self.checkpoint.template_source
        if not source.startswith(FASTCHAT):
            fields = request_fields(self.options)
            return ChatCompletions(self.post, self.served_name, tokenize=self.has_tokenize, switches=fields)
        return FastChatCompletions(
            self.post,
            self.served_name,
            source[len(FASTCHAT) :],
            bos_token=self.checkpoint.bos_token,
            tokenize=self.has_tokenize,
        )

    def counting_here(self, dialogue: Dialogue) -> Dialogue:
        """Return the dialogue with a counter of tokens, for a server that counts none, if the checkpoint has one."""
        file = (self.checkpoint.base or self.checkpoint.path) / "tokenizer.json"
        if not isinstance(dialogue, ChatCompletions) or not file.is_file():
            return dialogue
        return replace(dialogue, counter=token_counter(file))

    @property
    def served_name(self) -> str:
        """Return the name of the model in requests."""
        return self.label

    # what subclasses share of a server's start

    def template_file(self) -> Path:
        """Write the template in use beside the log and return the file: an adapter's may be inside a JSON file."""
        file = (self.options.log_dir / f"chat_template-{self.checkpoint.template_digest[:16]}.jinja").resolve()
        write_atomic(file, self.checkpoint.template or "")
        return file

    def environment(self) -> dict[str, str | None]:
        """Return the variables that every server of a folder gets: its GPUs, and no way to the Hub unless asked."""
        env: dict[str, str | None] = {"HF_HUB_OFFLINE": os.environ.get("HF_HUB_OFFLINE", "1")}  # all files are here
        if self.options.devices is not None:
            env["CUDA_VISIBLE_DEVICES"] = self.options.devices
        return env

    async def listed_models(self) -> dict[str, dict[str, Any]]:
        """Return name -> entry of /v1/models."""
        limit = aiohttp.ClientTimeout(total=60)
        url = self.server.root_url + "/v1/models"
        async with aiohttp.ClientSession(timeout=limit) as session, session.get(url) as reply:
            listing = await reply.json()
        return {entry["id"]: entry for entry in listing.get("data", [])}

    async def listed_length(self) -> int | None:
        """Return the context length that /v1/models states, else the checkpoint's. Raise ServerError for another model.

        vLLM and SGLang state it.
        """
        models = await self.listed_models()
        if self.served_name not in models:
            raise ServerError(f"port {self.server.port} answers for {sorted(models)}, not for {self.served_name!r}")
        lengths = [entry["max_model_len"] for entry in models.values() if entry.get("max_model_len")]
        return min(lengths, default=self.checkpoint.max_position)

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        """Send a POST below the server's root. If the server dies, restart it and repeat the request.

        Raise ReplyError for a request that a live server rejects or that kills it each time, ServerError if the server
        cannot be restarted.
        """
        attempt, deaths = 1, 0
        while True:
            async with self._door.alone() if deaths >= SUSPECT else self._door.together():
                try:
                    return await self._send(path, body)
                except _RevivedError:
                    deaths += 1
                except ReplyError as error:
                    attempt += 1
                    if attempt > ATTEMPTS or (error.reason != "transport" and (error.status or 0) < 500):
                        raise
            if deaths >= CULPRIT:
                raise ReplyError(f"this request killed the server {deaths} times, the last time alone", reason="other")

    async def _send(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        """Send the request once. Raise _RevivedError if the server died meanwhile and is up again."""
        assert self._client is not None, "use `async with`"
        epoch = self._epoch
        try:
            reply = await self._client.post(path, body)
        except ReplyError as error:
            lost = error.reason == "transport" or (error.status or 0) >= 500
            if lost and await self._restart_if_dead(epoch):
                raise _RevivedError from None
            raise
        self._deaths = 0
        return reply

    async def _restart_if_dead(self, epoch: int) -> bool:
        """Return True if this or another request restarted the server since `epoch`, or False if it is healthy."""
        async with self._reviving:
            if self._epoch != epoch:
                return True
            if await self.server.healthy():
                return False
            self._deaths += 1
            if self._deaths >= DEATHS_TO_STOP or self.restarts >= MAX_RESTARTS:
                raise ServerError(self.server.obituary(f"died {self.restarts + 1} times"))
            self.restarts += 1
            log.warning("%s; restart %d of at most %d", self.server.obituary("died"), self.restarts, MAX_RESTARTS)
            await self.server.stop()
            await self.server.start()
            self._epoch += 1
            return True
