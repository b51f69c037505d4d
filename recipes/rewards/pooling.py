"""Kind `pooling`: score with a sequence-classification reward model behind vLLM's /classify.

`reward: {kind: pooling, model: FOLDER or hf:…}` starts a vLLM server, uses it and stops it. With `url`, a server that
already runs is asked for `model` by its served name. The score is the raw output of the head: every request turns off
the activation, a sigmoid by default. The server applies the chat template. It rejects conversations longer than its
context, and those answers have no reward.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from harness.backends.server import ServerCommand
from harness.backends.vllm import VllmBackend
from harness.client import CallLimits, ChatClient
from harness.records import Failure, ModelRef, base_url
from harness.records.errors import ConfigError, ReplyError
from harness.records.protocols import RewardOptions, ServeOptions
from harness.records.providers import api_key
from harness.records.settings import ServeSpec, checked

from .function import QUEUE, RunsCoroutines, refuse

Messages = Sequence[dict[str, str]]
Post = Callable[[str, dict[str, JsonValue]], Awaitable[dict[str, Any]]]


class PoolingServer(VllmBackend):
    """vLLM with its pooling runner, which classifies instead of generating."""

    name = "vllm-pooling"

    def launch(self, port: int) -> ServerCommand:
        command = super().launch(port)
        return ServerCommand((*command.argv, "--runner=pooling"), command.env)


class PoolingReward(RunsCoroutines):
    """`fusion_harness.rewards` entry point "pooling". `batch_size` is the number of requests in flight.

    Raise ConfigError or CheckpointError on construction if the options or the model cannot work.
    """

    conversational = True

    def __init__(self, options: RewardOptions) -> None:
        if not options.model:
            raise ConfigError("reward kind pooling needs `model`: a folder, hf:ORG/NAME or, with `url`, a served name")
        refuse(options, "params", *(("serve",) if options.url else ("key_env",)))
        self._concurrency = options.batch_size
        self.at_once = QUEUE * options.batch_size
        self._server: PoolingServer | None = None
        self._url, self._key = None, None
        if options.url is not None:
            self._name = options.model
            self._url = base_url(options.url).removesuffix("/v1")  # /classify is at the server's root
            self._key = _key(options.key_env)
        else:
            serve = checked(ServeSpec, {"concurrency": options.batch_size, **options.serve}, "reward: serve")
            log_dir = options.log_dir or Path("logs")
            self._server = PoolingServer(ModelRef.parse(options.model), ServeOptions(log_dir, **serve.model_dump()))
            self._name = self._server.served_name
        self.cacheable = self._server is not None
        """False with `url`: the weights behind another server are unknown and may change."""
        self._stack = AsyncExitStack()
        self._post: Post | None = None

    def identity(self) -> dict[str, JsonValue]:
        return {"model": self._name} if self._server is None else self._server.identity()

    async def _open(self) -> None:
        if self._server is not None:
            await self._stack.enter_async_context(self._server)
            self._post = self._server.post
            return
        assert self._url is not None
        client = ChatClient(self._url, CallLimits(concurrency=self._concurrency), api_key=self._key)
        self._post = (await self._stack.enter_async_context(client)).post

    async def _close(self) -> None:
        await self._stack.aclose()

    def __call__(
        self, prompts: Sequence[Messages], completions: Sequence[Messages], **columns: Sequence[str]
    ) -> list[float | Failure]:
        assert self._runner is not None, "use `with`"
        talks = [[*prompt, *completion] for prompt, completion in zip(prompts, completions, strict=True)]
        return self._runner.run(self._score_all(talks))

    async def _score_all(self, talks: Sequence[Messages]) -> list[float | Failure]:
        return await asyncio.gather(*map(self._score, talks))  # not a TaskGroup, so errors are raised as they are

    async def _score(self, talk: Messages) -> float | Failure:
        """Return the score, or why the server gave none. Raise ConfigError if the model gives several scores."""
        assert self._post is not None
        body: dict[str, JsonValue] = {
            "model": self._name,
            "messages": [dict(message) for message in talk],
            "use_activation": False,  # every server that accepts messages here supports it (vLLM 0.12)
        }
        try:
            reply = await self._post("/classify", body)
        except ReplyError as error:
            return Failure.model_validate({"reason": error.reason, "message": str(error)})
        try:
            (row,) = reply["data"]
            numbers = [float(number) for number in row["probs"]]
        except (KeyError, TypeError, ValueError):
            raise ConfigError(f"{self._name!r} returned no scores from /classify: {str(reply)[:200]}") from None
        if len(numbers) != 1:
            raise ConfigError(f"{self._name!r} gives {len(numbers)} scores per answer; a reward model gives one")
        return numbers[0]


def _key(name: str | None) -> str | None:
    """Return the key in that environment variable. Raise ConfigError if it is not set."""
    key = api_key(name)
    if name is not None and key is None:
        raise ConfigError(f"reward kind pooling needs its API key in the environment variable {name}")
    return key
