"""Serve a GGUF file by llama.cpp as a child process: `llama-server`, or the same server inside `xllamacpp`.

The samplers that llama.cpp turns on by itself (top-k 40, top-p 0.95, min-p 0.05) are turned off, so that an answer
depends on the benchmark's settings alone.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from pydantic import JsonValue

from ..records import ModelRef
from ..records.errors import ConfigError, MissingPackageError
from ..records.protocols import Served, ServeOptions
from ..store.checkpoint import Checkpoint, resolve
from ..store.gguf import inspect_gguf
from ..store.provenance import install_command
from .chat import ChatCompletions, ContextWindow, Dialogue, Message, engine_settings, refuse_unknown
from .served import ServedBackend, refuse_ours
from .server import ServerCommand
from .thinking import request_fields

PROGRAM = "llama-server"
HONOURED = ("chat_template", "devices", "max_model_len", "engine_args", "chat_template_kwargs", "reasoning_room")
SLOTS = 4
"""Requests that are answered at once; each has a context of its own in memory."""
CONTEXT = 8192
"""Tokens of a request and its answer, at most, unless --max-model-len says otherwise: llama.cpp allocates them all."""
OURS = ("-m", "--model", "--host", "--port", "-a", "--alias", "-c", "--ctx-size", "-np", "--parallel", "--api-key")
"""Arguments that the harness sets, or that would hide the server from it."""
RENAMED = {"repetition_penalty": "repeat_penalty"}
"""vLLM's name of a request field -> llama.cpp's."""
NEUTRAL = ("--top-k=0", "--top-p=1", "--min-p=0")


@dataclass(frozen=True)
class LlamaCppCompletions(ChatCompletions):
    """Chat completions of llama.cpp, which counts tokens in two steps: the rendered prompt, then its tokens."""

    async def count(self, messages: Sequence[Message]) -> int | None:
        entries: list[JsonValue] = [{"role": message.role, "content": message.content} for message in messages]
        rendered = await self.post("/apply-template", {"messages": entries, **self.switches})
        return await self.count_text(str(rendered["prompt"]))

    async def count_text(self, text: str) -> int | None:
        reply = await self.post("/tokenize", {"content": text, "add_special": True, "parse_special": True})
        return len(reply["tokens"])


class LlamaCppBackend(ServedBackend):
    name = "llamacpp"

    def __init__(self, model: ModelRef, options: ServeOptions, *, context: int = CONTEXT) -> None:
        """`context`: tokens of a request and its answer, at most, unless the options or the model say otherwise."""
        self.usual_context = context
        self.program = shutil.which(PROGRAM)
        if self.program is None and importlib.util.find_spec("xllamacpp") is None:
            raise MissingPackageError(
                f"backend 'llamacpp' needs {PROGRAM} on PATH, or xllamacpp: {install_command('llamacpp')}"
            )
        refuse_unknown(options, self.name, HONOURED)
        if self.program is None and options.engine_args:
            raise ConfigError(f"engine argument {options.engine_args[0]!r} needs {PROGRAM} on PATH; leave it out")
        refuse_ours(options.engine_args, OURS)
        super().__init__(model, replace(options, concurrency=min(options.concurrency, SLOTS)))

    def inspect(self, model: ModelRef, options: ServeOptions) -> Checkpoint:
        if model.scheme == "hf":
            raise ConfigError(f"backend 'llamacpp' needs a GGUF file or a folder with one, not {str(model)!r}")
        return inspect_gguf(resolve(model), chat_template=options.chat_template)

    @property
    def context(self) -> int:
        """Return the tokens of a request and its answer together, at most."""
        return self.options.max_model_len or min(self.checkpoint.max_position or self.usual_context, self.usual_context)

    def engine(self) -> dict[str, JsonValue]:
        return {**engine_settings(self.options, ()), "max_model_len": self.context}

    def launch(self, port: int) -> ServerCommand:
        options = self.options
        begin = (self.program,) if self.program is not None else (sys.executable, "-m", "harness.backends.xllamacpp")
        argv = [f"--model={self.checkpoint.path}", f"--alias={self.label}", "--host=127.0.0.1", f"--port={port}"]
        argv += [f"--parallel={options.concurrency}", f"--ctx-size={self.context * options.concurrency}"]
        argv += [f"--seed={options.seed}", "--jinja", *NEUTRAL]
        if self.checkpoint.template_source == "--chat-template":
            argv.append(f"--chat-template-file={self.template_file()}")
        if self.program is not None:
            # its parser knows no `--name=value`
            argv = [part for word in argv for part in word.split("=", 1)]
        # a key for another server would lock us out of this one
        env = self.environment() | {"LLAMA_API_KEY": None}
        return ServerCommand((*begin, *argv, *options.engine_args), env)

    def dialogue(self) -> Dialogue:
        return LlamaCppCompletions(self.post, self.served_name, switches=request_fields(self.options))

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        return ContextWindow(self.context)

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        return await super().post(path, self.renamed(body))

    def renamed(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Return the body with llama.cpp's own names, as it ignores fields that it does not know."""
        return {RENAMED.get(name, name): value for name, value in body.items()}

    def served(self) -> Served:
        return replace(super().served(), tokenizer=None, max_model_len=self.context)
