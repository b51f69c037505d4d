"""The Batch and Files API of one endpoint, through the openai package. Its errors become one sentence."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass
from pathlib import Path
from typing import Self, TypeVar

from openai import APIStatusError, AsyncOpenAI, OpenAIError

from ..client import server_sentence
from ..errors import JudgeUnavailableError
from .lines import PATH

METADATA = "fusion_harness"
T = TypeVar("T")


@dataclass(frozen=True)
class BatchState:
    """How far a batch is."""

    status: str
    done: int
    total: int
    files: tuple[str, ...]
    """Ids of output and error file, those that exist."""
    problem: str | None
    """Why the server rejected the whole batch."""

    @property
    def ended(self) -> bool:
        return self.status in ("completed", "failed", "expired", "cancelled")


class BatchServer:
    """A connection for the duration of an `async with`. Errors become JudgeUnavailableError in the server's own
    words."""

    def __init__(self, url: str, key: str | None) -> None:
        self._url = url
        self._key = key

    async def __aenter__(self) -> Self:
        self._client = AsyncOpenAI(base_url=self._url, api_key=self._key or "none", max_retries=5, timeout=600.0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._client.close()

    async def upload(self, path: Path) -> str:
        """Upload a file under `path`'s name and return its id."""
        request = self._client.files.create(file=path, purpose="batch")
        return (await self._call(request, "take the file of a batch")).id

    async def create(self, file_id: str, name: str) -> str:
        # once: a second try after a lost reply would be a second batch, paid for; the next session looks for the first
        request = self._client.with_options(max_retries=0).batches.create(
            input_file_id=file_id, endpoint=PATH, completion_window="24h", metadata={METADATA: name}
        )
        return (await self._call(request, "start a batch")).id

    async def state(self, batch_id: str) -> BatchState:
        batch = await self._call(self._client.batches.retrieve(batch_id), f"report on batch {batch_id}")
        counts, errors = batch.request_counts, batch.errors.data if batch.errors is not None else None
        return BatchState(
            status=batch.status,
            done=counts.completed + counts.failed if counts is not None else 0,
            total=counts.total if counts is not None else 0,
            files=tuple(name for name in (batch.output_file_id, batch.error_file_id) if name),
            problem="; ".join(str(error.message) for error in errors[:3]) if errors else None,
        )

    async def lines(self, file_id: str) -> list[bytes]:
        content = await self._call(self._client.files.content(file_id), f"hand out file {file_id}")
        return [line + b"\n" for line in content.content.splitlines() if line.strip()]

    async def find_file(self, filename: str) -> str | None:
        """Return the id of an upload whose reply was lost, if there is one."""

        async def search() -> str | None:
            async for file in self._client.files.list(purpose="batch"):
                if file.filename == filename:
                    return file.id
            return None

        return await self._call(search(), "list its files")

    async def find_batch(self, name: str) -> str | None:
        """Return the id of a batch whose creation was not recorded here, if there is one."""

        async def search() -> str | None:
            async for batch in self._client.batches.list(limit=100):
                if (batch.metadata or {}).get(METADATA) == name:
                    return batch.id
            return None

        return await self._call(search(), "list its batches")

    async def _call(self, job: Awaitable[T], action: str) -> T:
        try:
            return await job
        except APIStatusError as error:
            sentence = server_sentence(error.response.content)
            sentence = sentence.replace(self._key, "***") if self._key else sentence
            hint = "; if the endpoint has no Batch API, use --transport live"
            tail = hint if error.status_code in (404, 405, 501) else ""
            raise JudgeUnavailableError(
                f"{self._url} did not {action}: HTTP {error.status_code}: {sentence}{tail}"
            ) from None
        except OpenAIError as error:
            raise JudgeUnavailableError(
                f"{self._url} did not {action}: {error}; what was sent continues there; the same command collects it"
            ) from None
