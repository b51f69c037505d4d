"""Gather calls into batches, upload them, wait for them and hand out the replies; resume those of a crashed session.

Calls wait here until no new one has come for a while, then all of them go out together. Calls that expired, and those
that judges make after reading their replies, go into the next round.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import Counter
from pathlib import Path

from ..client import ChatReply
from ..errors import ConfigError, JudgeUnavailableError, ReplyError
from ..judging.calls import Call
from ..records import Access, JudgeSpec
from .lines import MAX_BYTES, MAX_REQUESTS, PRICE_SHARE, AskAgainError, chunks, read_results, request_line
from .record import BatchFolder, BatchRecord
from .server import BatchServer, BatchState

log = logging.getLogger(__name__)

QUIET = 1.0
"""Seconds without a new call after which a round goes out: calls come at once or after a cache lookup."""
FIRST_WAIT, MAX_WAIT = 1.0, 60.0
"""Seconds between two polls of a batch, growing by half each time."""
ROUNDS = 3
"""Batches in which a call may expire before it counts as a failure."""


class BatchWire:
    """One judge's calls to one endpoint."""

    price_share = PRICE_SHARE

    def __init__(self, spec: JudgeSpec, folder: Path, *, most: int = MAX_REQUESTS, most_bytes: int = MAX_BYTES) -> None:
        """Keep the state of the batches in `folder`; `most` and `most_bytes` limit one batch.

        Raise ConfigError for a judge that no Batch API can serve.
        """
        if not spec.url or spec.access != Access():
            raise ConfigError(f"judge {spec.name!r} does not use an OpenAI-compatible endpoint; use --transport live")
        self._judge = spec.name
        self._url = spec.url
        self._server = BatchServer(spec.url, os.environ.get(spec.key_env) if spec.key_env else None)
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
        """Drop a reply without a verdict: it is not handed out again from a batch's results."""
        name = call.key.hex()
        for record in self._records or ():
            if name in record.keys and name not in record.dropped:
                self._replace(record, record.model_copy(update={"dropped": (*record.dropped, name)}))

    async def _work(self) -> None:
        """Run rounds until no call waits."""
        async with self._server:
            if self._records is None:
                self._records = await self._take_up()
            while self._calls:
                await self._quiet()
                await self._round(self._records)

    async def _quiet(self) -> None:
        """Wait until no call has come for a while."""
        while True:
            seen = self._last_call
            await asyncio.sleep(QUIET)
            if seen == self._last_call:
                return

    async def _take_up(self) -> list[BatchRecord]:
        """Return the records of earlier sessions; steps that were not recorded are looked up at the server."""
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

    # ---------------------------------------------------------------------------------------------------- one round

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
        self._folder.write(self._folder.requests(name), [request_line(call) for call in calls])
        record = BatchRecord(
            name=name, judge=self._judge, endpoint=self._url, keys=tuple(call.key.hex() for call in calls)
        )
        self._folder.save(record)
        file_id = await self._server.upload(self._folder.requests(name))
        return self._folder.save(record.model_copy(update={"file_id": file_id}))

    async def _follow(self, record: BatchRecord) -> None:
        """Wait for a batch, keep its results and hand them out."""
        assert record.batch_id is not None
        state = await self._wait_for(record.batch_id)
        if state.status == "failed":
            assert self._records is not None
            self._folder.remove(record)
            self._records.remove(record)
            raise JudgeUnavailableError(f"judge {self._judge!r}: {self._url} rejected the batch: {state.problem}")
        lines = [line for file_id in state.files for line in await self._server.lines(file_id)]
        self._folder.write(self._folder.results(record.name), lines)
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
        """Hand results to the calls that wait for them. Failures of an earlier session are not handed out but asked
        again."""
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
        """Leave the call for the next round, or make it a failure after the last one."""
        self._rounds[name] += 1
        if self._rounds[name] == ROUNDS:
            self._take(name).set_exception(error.final)

    def _take(self, name: str) -> asyncio.Future[ChatReply]:
        del self._calls[name]
        return self._answers.pop(name)

    def _replace(self, old: BatchRecord, new: BatchRecord) -> None:
        assert self._records is not None
        self._records[self._records.index(old)] = self._folder.save(new)
