"""Serve a checkpoint by `transformers serve`: slower than vLLM, but it runs on machines where vLLM does not.

transformers itself is never imported here. One request is in flight at a time: the seed is global to the process, so
an answer would otherwise depend on what else is asked.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import JsonValue

from ..records import ModelRef, digest
from ..records.errors import CheckpointError, MissingPackageError
from ..records.protocols import ServeOptions
from ..store.files import write_atomic
from ..store.provenance import install_command
from .chat import ContextWindow, Dialogue, changed, engine_settings, refuse_unknown
from .loadable import check_loadable
from .served import ServedBackend
from .server import ServerCommand
from .thinking import lost_mark

NEEDS = ("transformers", "torch", "fastapi", "uvicorn", "openai", "pydantic")
"""What `transformers serve` imports (transformers[serving], is_serve_available)."""
HONOURED = (
    *("chat_template", "devices", "dtype", "quantization"),
    *("max_model_len", "engine_args", "allow_pickle", "trust_remote_code"),
    *("chat_template_kwargs", "reasoning_room"),
)
TOKEN_KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")


class TransformersBackend(ServedBackend):
    name = "transformers"

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        absent = [name for name in NEEDS if importlib.util.find_spec(name) is None]
        if absent:
            raise MissingPackageError(
                f"backend 'transformers' lacks {', '.join(absent)}: {install_command('transformers')}"
            )
        refuse_unknown(options, self.name, HONOURED)
        super().__init__(model, replace(options, concurrency=1))
        if self.checkpoint.is_adapter:
            raise CheckpointError(
                f"{str(self.checkpoint.path)!r} is a PEFT adapter; backend 'transformers' cannot serve one: "
                "use --backend vllm, or merge it into its base"
            )
        mark = lost_mark(self.checkpoint)
        if mark is not None:
            raise CheckpointError(
                f"{model.label!r} marks its reasoning with {mark!r}, which the server of backend 'transformers' leaves "
                "out of its replies, so that reasoning and answer cannot be told apart: use --backend vllm"
            )

    async def __aenter__(self) -> Self:
        await check_loadable(self.checkpoint)
        return await super().__aenter__()

    def engine(self) -> dict[str, JsonValue]:
        return {
            "dtype": self.options.dtype or "auto",
            **engine_settings(self.options, ("quantization", "max_model_len")),
        }

    def launch(self, port: int) -> ServerCommand:
        options = self.options
        # our own interpreter, wherever a `transformers` script on PATH points
        argv = [sys.executable, "-m", "transformers.cli.transformers", "serve", self.served_name]
        argv += ["--host=127.0.0.1", f"--port={port}", f"--default-seed={options.seed}"]
        argv += [f"--{name}={value}" for name, value in changed(options, ("dtype", "quantization")).items()]
        argv += ["--trust-remote-code"] if options.trust_remote_code else []
        self._stage()
        env = self.environment() | {"TRANSFORMERS_VERBOSITY": "error"}
        return ServerCommand((*argv, *options.engine_args), env)

    @property
    def served_name(self) -> str:
        """Return the model's folder, which is its name in requests."""
        folder = self.checkpoint.path
        return str(self._staged) if self.checkpoint.template_source == "--chat-template" else str(folder)

    @property
    def _staged(self) -> Path:
        made_of = digest([self.checkpoint.weights_digest, self.checkpoint.template_digest, str(self.checkpoint.path)])
        return (self.options.log_dir / f"checkpoint-{made_of[:16]}").resolve()

    def _stage(self) -> None:
        """Make a folder of links to the checkpoint's files plus the requested chat template.

        The server has no option for a template.
        """
        if self.checkpoint.template_source != "--chat-template":
            return
        self._staged.mkdir(parents=True, exist_ok=True)
        for file in self.checkpoint.path.iterdir():
            # links, as weights are too large to copy
            link = self._staged / file.name
            if not link.is_symlink() and not file.name.startswith("chat_template"):
                link.symlink_to(file)
        write_atomic(self._staged / "chat_template.jinja", self.checkpoint.template or "")

    def dialogue(self) -> Dialogue:
        return self.counting_here(super().dialogue())

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        return ContextWindow(self.options.max_model_len or self.checkpoint.max_position)

    async def post(self, path: str, body: dict[str, JsonValue]) -> dict[str, Any]:
        return await super().post(path, self.with_sampling(body))

    def with_sampling(self, body: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Return the body with sampling turned on if it has a temperature.

        The server takes a temperature but leaves `do_sample` as the checkpoint has it (mostly off): only a whole
        generation config turns sampling on.
        """
        temperature = body.get("temperature")
        if not isinstance(temperature, int | float) or temperature == 0:
            return body
        config = {**_generation_config(self.checkpoint.path), "do_sample": True}
        return {**body, "generation_config": json.dumps(config)}


def _generation_config(folder: Path) -> dict[str, JsonValue]:
    """Return the checkpoint's generation config; special tokens it does not name come from its config.json."""
    config: dict[str, JsonValue] = {}
    for name, keys in (("config.json", TOKEN_KEYS), ("generation_config.json", None)):
        file = folder / name
        values = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        config.update(
            {key: value for key, value in values.items() if (keys is None or key in keys) and value is not None}
        )
    # a record of who wrote the file, not a parameter
    config.pop("transformers_version", None)
    return {key: value for key, value in config.items() if not key.startswith("_")}
