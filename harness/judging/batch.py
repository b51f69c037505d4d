"""Send a judge's calls as batches of the Batch API, at half the price, and resume those of a crashed session.

>>> call = Call(key=bytes(2), body={"model": "gpt-4.1", "messages": []})
>>> request_line(call)[:32]
b'{"custom_id": "0000", "method": '

Calls wait until no new one has come for a while, then all of them go out together. Calls that expired, and those that
judges make after reading their replies, go into the next round. Each batch is recorded before and after every step, so
that a crash costs no second upload:

RUN/batches/NAME.jsonl           the requests; NAME is ours, and the batch's metadata and file name carry it
RUN/batches/NAME.json            the `BatchRecord`
RUN/batches/NAME.results.jsonl   output and error file, once the batch has ended

A custom id is the hex key that the reply is cached under. Format: platform.openai.com/docs/guides/batch.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from openai import APIStatusError, AsyncOpenAI, OpenAIError
from openai.types import Batch, FileObject
from pydantic import ValidationError

from ..client import ChatReply, error_inside, read_chat_reply, refusal_reason, server_codes, server_sentence
from ..records import Access, JudgeSpec, Record
from ..records.errors import ConfigError, JudgeUnavailableError, ReplyError, StoreError
from ..records.providers import api_key
from ..store.files import dump_json, write_atomic, write_chunks
from .calls import Call

log = logging.getLogger(__name__)

PATH: Literal["/v1/chat/completions"] = "/v1/chat/completions"
PRICE_SHARE = 0.5  # platform.openai.com/docs/guides/batch: 50 % of the synchronous price
MAX_REQUESTS = 50_000
MAX_BYTES = 200_000_000
"""Largest input file; same page."""
METADATA = "fusion_harness"
T = TypeVar("T")
Entry = TypeVar("Entry", FileObject, Batch)
QUIET = 1.0
"""Seconds without a new call after which a round goes out: calls come at once or after a cache lookup."""
FIRST_WAIT, MAX_WAIT = 1.0, 60.0
"""Seconds between two polls of a batch, growing by half each time."""
ROUNDS = 3
"""Batches in which a call may expire before it counts as a failure."""


class BatchRecord(Record):
    name: str
    judge: str
    endpoint: str
    """Base URL it was sent to."""
    keys: tuple[str, ...]
    """Custom ids in it."""
    file_id: str | None = None
    """Set once the requests are uploaded."""
    batch_id: str | None = None
    """Set once the batch is created."""
    ended: str | None = None
    """Its last status, set once its results are in NAME.results.jsonl."""
    dropped: tuple[str, ...] = ()
    """Custom ids whose reply had no verdict: they are asked again."""


class BatchFolder:
    """The records of one run."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def requests(self, name: str) -> Path:
        return self.path / f"{name}.jsonl"

    def results(self, name: str) -> Path:
        return self.path / f"{name}.results.jsonl"

    def load(self, judge: str, endpoint: str) -> list[BatchRecord]:
        """Return this judge's records, oldest first. An unreadable one is skipped and its requests are sent again."""
        records = []
        for path in sorted(self.path.glob("*.json"), key=lambda path: path.stat().st_mtime_ns):
            try:
                records.append(BatchRecord.model_validate_json(path.read_bytes()))
            except ValidationError:
                log.warning("%s is not a batch record; skipped", path)
        return [record for record in records if (record.judge, record.endpoint) == (judge, endpoint)]

    def save(self, record: BatchRecord) -> BatchRecord:
        write_atomic(self.path / f"{record.name}.json", dump_json(record.model_dump(mode="json")))
        return record

    def read_results(self, name: str) -> list[bytes]:
        """Return the lines of a batch's results. Raise StoreError if they cannot be read."""
        try:
            return self.results(name).read_bytes().splitlines()
        except OSError as error:
            raise StoreError(f"cannot read {self.results(name)}: {error.strerror}") from error

    def remove(self, record: BatchRecord) -> None:
        for path in (self.path / f"{record.name}.json", self.requests(record.name), self.results(record.name)):
            path.unlink(missing_ok=True)


class AskAgainError(Exception):
    """Internal: the request expired or met a passing error, so another batch may answer it."""

    def __init__(self, message: str, status: int | None) -> None:
        super().__init__(message)
        self.final = ReplyError(message, reason="http", status=status)


def request_line(call: Call) -> bytes:
    line = {"custom_id": call.key.hex(), "method": "POST", "url": PATH, "body": call.body}
    return json.dumps(line, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def chunks(calls: Iterable[Call], *, most: int = MAX_REQUESTS, most_bytes: int = MAX_BYTES) -> Iterator[list[Call]]:
    """Yield the calls, in order, in pieces that fit into one batch."""
    piece: list[Call] = []
    size = 0
    for call in calls:
        length = len(request_line(call))
        if piece and (len(piece) == most or size + length > most_bytes):
            yield piece
            piece, size = [], 0
        piece.append(call)
        size += length
    if piece:
        yield piece


Result = ChatReply | ReplyError | AskAgainError


def read_results(lines: Sequence[bytes]) -> dict[str, Result]:
    """Return custom id -> result, from the lines of output and error file together."""
    results: dict[str, Result] = {}
    for line in lines:
        try:
            entry = json.loads(line)
            name = str(entry["custom_id"])
        except (ValueError, KeyError, TypeError):
            continue  # not a line of ours: the request it was for is sent again
        results[name] = _read_result(entry)
    return results


def _read_result(entry: dict[str, Any]) -> Result:
    response = entry.get("response")
    if not isinstance(response, dict):  # it never ran: it expired or was cancelled first
        return AskAgainError(_sentence(entry.get("error")), None)
    status, body = response.get("status_code"), response.get("body")
    failure = error_inside(body) if status == 200 and isinstance(body, dict) else None
    if failure is not None:
        status, body = failure[0], {"message": failure[1]}
    if status == 200 and isinstance(body, dict):
        try:
            return replace(read_chat_reply(body), price_share=PRICE_SHARE)
        except ReplyError as error:
            return error
    message = f"HTTP {status}: {_sentence(body)}"
    if not isinstance(status, int):
        return AskAgainError(message, None)
    if status in (408, 409, 425, 429) or status >= 500:
        return AskAgainError(message, status)
    return ReplyError(message, reason=refusal_reason(status, f"{message} {_codes(body)}"), status=status)


def _codes(body: object) -> str:
    return server_codes(json.dumps(body).encode())


def _sentence(body: object) -> str:
    return server_sentence(json.dumps(body).encode()) if body else "no result"


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
    """A connection inside an `async with`. Errors become JudgeUnavailableError in the server's own words."""

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
        uploads = self._client.files.list(purpose="batch")
        return await self._call(_first_id(uploads, lambda file: file.filename == filename), "list its files")

    async def find_batch(self, name: str) -> str | None:
        """Return the id of a batch whose creation was not recorded here, if there is one."""
        batches = self._client.batches.list(limit=100)
        search = _first_id(batches, lambda batch: (batch.metadata or {}).get(METADATA) == name)
        return await self._call(search, "list its batches")

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


async def _first_id(entries: AsyncIterable[Entry], matches: Callable[[Entry], bool]) -> str | None:
    async for entry in entries:
        if matches(entry):
            return entry.id
    return None


class BatchWire:
    """One judge's calls to one endpoint."""

    price_share = PRICE_SHARE

    def __init__(self, spec: JudgeSpec, folder: Path, *, most: int = MAX_REQUESTS, most_bytes: int = MAX_BYTES) -> None:
        """Keep the state of the batches in `folder`. `most` and `most_bytes` limit one batch.

        Raise ConfigError for a judge that no Batch API can serve.
        """
        if not spec.url or spec.access != Access():
            raise ConfigError(f"judge {spec.name!r} does not use an OpenAI-compatible endpoint; use --transport live")
        self._judge = spec.name
        self._url = spec.url
        self._server = BatchServer(spec.url, api_key(spec.key_env))
        self._folder = BatchFolder(folder)
        self._limits = (most, most_bytes)
        self._calls: dict[str, Call] = {}
        """Custom id -> a call that waits."""
        self._answers: dict[str, asyncio.Future[ChatReply]] = {}
        self._rounds: Counter[str] = Counter()
        self._records: list[BatchRecord] | None = None
        self._last_call = 0.0
        self._worker: asyncio.Task[None] | None = None

    async def send(self, call: Call) -> ChatReply:
        """Return the reply. Raise ReplyError if this call failed, JudgeUnavailableError if no batch can be made."""
        name = call.key.hex()
        if name not in self._answers:
            self._calls[name] = call
            self._answers[name] = asyncio.get_running_loop().create_future()
        self._last_call = time.monotonic()
        answer = self._answers[name]
        while not answer.done():
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
            worker = self._worker
            either: set[asyncio.Future[ChatReply] | asyncio.Future[None]] = {answer, worker}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if worker.done() and not answer.done():
                worker.result()  # whatever ended it is raised for everybody who waits
        return answer.result()

    def forget(self, call: Call) -> None:
        """Drop a reply without a verdict, so that a batch's results do not return it again."""
        name = call.key.hex()
        for record in self._records or ():
            if name in record.keys and name not in record.dropped:
                self._replace(record, record.model_copy(update={"dropped": (*record.dropped, name)}))

    async def _work(self) -> None:
        async with self._server:
            if self._records is None:
                self._records = await self._take_up()
            while self._calls:
                await self._quiet()
                await self._round(self._records)

    async def _quiet(self) -> None:
        while True:
            seen = self._last_call
            await asyncio.sleep(QUIET)
            if seen == self._last_call:
                return

    async def _take_up(self) -> list[BatchRecord]:
        """Return the records of earlier sessions. Steps that were not recorded are looked up at the server."""
        records = []
        for record in self._folder.load(self._judge, self._url):
            if record.file_id is None:
                file_id = await self._server.find_file(f"{record.name}.jsonl")
                if file_id is None:
                    self._folder.remove(record)  # nothing arrived: its requests are in no batch
                    continue
                record = self._folder.save(record.model_copy(update={"file_id": file_id}))
            if record.batch_id is None:
                batch_id = await self._server.find_batch(record.name)
                record = self._folder.save(record.model_copy(update={"batch_id": batch_id}))
            records.append(record)
        return records

    async def _round(self, records: list[BatchRecord]) -> None:
        for record in list(records):
            if record.ended is not None and not self._calls.keys().isdisjoint(record.keys):
                self._hand_out(record, self._folder.read_results(record.name), failures=False)
            elif record.batch_id is None and not self._calls.keys() >= set(record.keys):
                self._folder.remove(record)  # uploaded, never started, and no longer what is asked
                records.remove(record)
        covered = {name for record in records if record.ended is None for name in record.keys}
        fresh = [call for name, call in self._calls.items() if name not in covered]
        most, most_bytes = self._limits
        for piece in chunks(fresh, most=most, most_bytes=most_bytes):
            records.append(await self._upload(piece))
        for record in [record for record in records if record.batch_id is None]:
            assert record.file_id is not None
            batch_id = await self._server.create(record.file_id, record.name)
            self._replace(record, record.model_copy(update={"batch_id": batch_id}))
            log.info("judge %s: batch %s started, %d requests", self._judge, batch_id, len(record.keys))
        await asyncio.gather(*(self._follow(record) for record in list(records) if record.ended is None))

    async def _upload(self, calls: list[Call]) -> BatchRecord:
        name = f"harness-{uuid.uuid4().hex[:16]}"
        write_chunks(self._folder.requests(name), map(request_line, calls))
        record = BatchRecord(
            name=name, judge=self._judge, endpoint=self._url, keys=tuple(call.key.hex() for call in calls)
        )
        self._folder.save(record)
        # recorded first: after a crash in between, the upload is found by its name
        file_id = await self._server.upload(self._folder.requests(name))
        return self._folder.save(record.model_copy(update={"file_id": file_id}))

    async def _follow(self, record: BatchRecord) -> None:
        assert record.batch_id is not None
        state = await self._wait_for(record.batch_id)
        if state.status == "failed":
            assert self._records is not None
            self._folder.remove(record)
            self._records.remove(record)
            raise JudgeUnavailableError(f"judge {self._judge!r}: {self._url} rejected the batch: {state.problem}")
        lines = [line for file_id in state.files for line in await self._server.lines(file_id)]
        # on disk first: a crash while they are handed out costs no second download
        write_chunks(self._folder.results(record.name), lines)
        self._replace(record, record.model_copy(update={"ended": state.status}))
        self._hand_out(record, lines, failures=True)
        for name in set(record.keys) & self._calls.keys() - read_results(lines).keys():
            self._failed_once(name, AskAgainError(f"batch {record.batch_id} {state.status} without a result", None))
        still = len(set(record.keys) & self._calls.keys())
        log.info("judge %s: batch %s %s, %d to be asked again", self._judge, record.batch_id, state.status, still)
        if still and state.status == "cancelled":
            raise JudgeUnavailableError(
                f"judge {self._judge!r}: batch {record.batch_id} was cancelled with {still} requests open; the same "
                "command asks them in another"
            )

    async def _wait_for(self, batch_id: str) -> BatchState:
        wait = FIRST_WAIT
        seen = None
        while not (state := await self._server.state(batch_id)).ended:
            if (state.status, state.done) != seen:
                seen = (state.status, state.done)
                log.info("judge %s: batch %s %s, %d/%d", self._judge, batch_id, state.status, state.done, state.total)
            await asyncio.sleep(wait)
            wait = min(wait * 1.5, MAX_WAIT)
        return state

    def _hand_out(self, record: BatchRecord, lines: list[bytes], *, failures: bool) -> None:
        """Hand results to the calls that wait for them. Failures of an earlier session are asked again instead."""
        for name, result in read_results(lines).items():
            if name not in self._calls or name in record.dropped:
                continue
            if isinstance(result, ChatReply):
                self._take(name).set_result(result)
            elif failures and isinstance(result, AskAgainError):
                self._failed_once(name, result)
            elif failures:
                assert isinstance(result, ReplyError)
                self._take(name).set_exception(result)

    def _failed_once(self, name: str, error: AskAgainError) -> None:
        self._rounds[name] += 1
        if self._rounds[name] == ROUNDS:
            self._take(name).set_exception(error.final)

    def _take(self, name: str) -> asyncio.Future[ChatReply]:
        del self._calls[name]
        return self._answers.pop(name)

    def _replace(self, old: BatchRecord, new: BatchRecord) -> None:
        assert self._records is not None
        self._records[self._records.index(old)] = self._folder.save(new)
