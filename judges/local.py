"""`--judge local:PATH`: judge with a checkpoint that our own vLLM backend serves.

This is an LLM judge that starts its server on entry and stops it on exit; the server is watched, restarted and
identified like the candidate's. Without its own devices it waits until the candidate's server has stopped.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import JsonValue

from harness.backends.vllm import VllmBackend
from harness.client import ChatReply
from harness.config import ServeSpec, checked
from harness.errors import ConfigError
from harness.protocols import ServeOptions
from harness.records import JudgeSpec, ModelRef, digest

from .llm import LlmJudge


class ServedClient:
    """Sends the judge's calls to our own server, which runs inside the `async with`."""

    def __init__(self, backend: VllmBackend) -> None:
        self.backend = backend

    async def __aenter__(self) -> Self:
        await self.backend.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.backend.__aexit__(*exc)

    async def chat(self, body: dict[str, JsonValue]) -> ChatReply:
        return await self.backend.chat(body)


class LocalJudge(LlmJudge):
    """`fusion_harness.judges` entry point "local". Raises ConfigError or CheckpointError if it cannot be served."""

    local = True

    def __init__(self, spec: JudgeSpec) -> None:
        if not spec.model:
            raise ConfigError(f"judge {spec.name!r} needs `model`: a folder, or hf:ORG/NAME@REVISION")
        self._ref = ModelRef.parse(spec.model)
        serving = checked(ServeSpec, spec.serve, f"judge {spec.name!r}: serve")
        self._options = ServeOptions(log_dir=Path("logs"), **serving.model_dump())
        self._served = ServedClient(VllmBackend(self._ref, self._options))
        self.beside = serving.devices is not None
        free = {"price_in": spec.price_in or 0.0, "price_out": spec.price_out or 0.0}
        named = spec.model_copy(update={"model": self._ref.label, **free})  # keeps local paths out of the cards
        super().__init__(named, self._served, endpoint=f"local:{digest(self._served.backend.identity())}")

    def logs_to(self, folder: Path) -> None:
        """Write the server's logs to a folder for this judge below `folder`."""
        self._options = replace(self._options, log_dir=folder / f"judge-{self._ref.slug}")
        self._served.backend = VllmBackend(self._ref, self._options)

    def identity(self) -> dict[str, JsonValue]:
        """Return weights, chat template and engine as for a candidate; the folder appears by name, without its path."""
        return {**super().identity(), "served": self._served.backend.identity()}
