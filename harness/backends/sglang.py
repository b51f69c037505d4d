"""Serve a checkpoint by SGLang: `python -m sglang.launch_server` as a child process on a free loopback port.

sglang itself is never imported here. The harness's options become these flags of SGLang's server:

>>> FLAGS["data_parallel"], FLAGS["max_model_len"]
('--data-parallel-size', '--context-length')

A request's seed counts only with SGLang's deterministic inference: `--engine-arg=--enable-deterministic-inference`.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import Self

from pydantic import JsonValue

from ..records import ModelRef
from ..records.errors import CheckpointError, ConfigError, MissingPackageError
from ..records.protocols import ServeOptions
from ..store.checkpoint import FASTCHAT, Checkpoint
from .chat import ContextWindow, Dialogue, changed, engine_settings
from .loadable import check_loadable
from .served import ServedBackend, has_argument, refuse_ours
from .server import ServerCommand
from .thinking import SPECIAL_MARKS, installed_sglang_parsers, lost_mark, parser_in_use, sglang_parser_for

FLAGS = {
    "tensor_parallel": "--tensor-parallel-size",
    "pipeline_parallel": "--pipeline-parallel-size",
    "data_parallel": "--data-parallel-size",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "max_model_len": "--context-length",
}
"""Serve option -> SGLang's flag (docs/advanced_features/server_arguments.md). Options at their default are left out."""
OURS = (
    *("--host", "--port", "--model", "--model-path", "--served-model-name", "--api-key", "--fastapi-root-path"),
    *("--tokenizer-path", "--chat-template", "--reasoning-parser", "--random-seed", "--trust-remote-code"),
    *("--tp", "--tp-size", "--pp-size", "--dp-size", "--lora-paths", "--grpc-mode", "--config"),
)
"""Arguments that would hide the server from the harness, or make the card's digests wrong."""
OTHER_WEIGHTS = ("--json-model-override-args", "--load-format", "--model-impl")
"""Arguments with which SGLang loads something else than config.json and the safetensors files say."""


class SglangBackend(ServedBackend):
    name = "sglang"

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        if importlib.util.find_spec("sglang") is None:
            raise MissingPackageError(
                "backend 'sglang' needs the package sglang (docs.sglang.io, GPU); without it use --backend vllm, or "
                "endpoint:NAME@URL for a server that runs elsewhere"
            )
        refuse_ours(options.engine_args, (*OURS, *FLAGS.values()))
        super().__init__(model, options)
        self.parser = self._reasoning_parser()

    def inspect(self, model: ModelRef, options: ServeOptions) -> Checkpoint:
        if (options.chat_template or "").startswith(FASTCHAT):
            raise ConfigError(
                f"backend 'sglang' cannot use --chat-template {options.chat_template!r}; give a Jinja file"
            )
        checkpoint = super().inspect(model, options)
        if checkpoint.is_adapter:
            raise CheckpointError(
                f"{str(checkpoint.path)!r} is a PEFT adapter; backend 'sglang' cannot serve one: use --backend vllm, "
                "or merge it into its base"
            )
        return checkpoint

    def _reasoning_parser(self) -> str | None:
        """Return the parser in use. Raise CheckpointError if reasoning and answer could not be told apart without."""
        setting = self.options.reasoning
        chosen = sglang_parser_for(self.checkpoint) if setting == "auto" else None
        installed = installed_sglang_parsers()
        parser = parser_in_use(setting, self.label, server="SGLang", installed=installed, chosen=chosen)
        mark = lost_mark(self.checkpoint)
        # its parsers of `</think>` read texts, in which a special token does not appear
        if mark is not None and (parser is None or (setting == "auto" and mark not in SPECIAL_MARKS)):
            raise CheckpointError(
                f"{self.label!r} marks its reasoning with {mark!r}, which SGLang leaves out of its replies unless a "
                "parser reads it: give one with --reasoning PARSER, or use --backend vllm"
            )
        return parser

    async def __aenter__(self) -> Self:
        if not has_argument(self.options.engine_args, OTHER_WEIGHTS):
            await check_loadable(self.checkpoint)
        return await super().__aenter__()

    def engine(self) -> dict[str, JsonValue]:
        settings = {"seed": self.options.seed, **engine_settings(self.options, FLAGS)}
        return settings | ({} if self.parser is None else {"reasoning_parser": self.parser})

    def launch(self, port: int) -> ServerCommand:
        options, checkpoint = self.options, self.checkpoint
        argv = [f"--model-path={checkpoint.path}", f"--served-model-name={self.label}"]
        argv += ["--host=127.0.0.1", f"--port={port}", f"--random-seed={options.seed}"]
        argv.append("--log-level-http=warning")  # a line per request would be half of the log
        argv += [f"{FLAGS[name]}={value}" for name, value in changed(options, FLAGS).items()]
        argv += [] if self.parser is None else [f"--reasoning-parser={self.parser}"]
        argv += ["--trust-remote-code"] if options.trust_remote_code else []
        if checkpoint.template_source == "--chat-template":
            argv.append(f"--chat-template={self.template_file()}")
        argv += options.engine_args
        if checkpoint.has_pickles and not options.allow_pickle:
            argv.append("--load-format=safetensors")  # last, so that it takes effect: the pickles are never opened
        return ServerCommand((sys.executable, "-m", "sglang.launch_server", *argv), self.environment())

    def dialogue(self) -> Dialogue:
        return self.counting_here(super().dialogue())

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        return ContextWindow(await self.listed_length())
