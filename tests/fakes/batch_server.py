"""A fake OpenAI server that also speaks the Files and Batch API (platform.openai.com/docs/guides/batch).

Batches are answered by the same reply function as chat completions, when they are asked after for the `polls`-th time.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from tests.fakes.openai_server import FakeOpenAI, Reply, Request, _error, _respond

FINAL = ("completed", "failed", "expired", "cancelled")


@dataclass
class FakeBatchOpenAI(FakeOpenAI):
    polls: int = 1
    """How often a batch is asked after before it has ended."""
    end: Callable[[int], str] = lambda number: "completed"
    """Number of a batch (from 1) -> the status it ends in; `expired` and `cancelled` answer every other request."""
    fails: Callable[[int, str], Reply | None] = lambda number, custom_id: None
    """What a single request of a batch comes to instead of its reply."""
    on_step: Callable[[str], None] = lambda step: None
    """Called with upload, create, poll or download when the server has done it, before it says so."""
    files: dict[str, dict[str, Any]] = field(default_factory=dict)
    contents: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    steps: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    """Custom ids that were answered (and would be paid for), in order."""

    def routes(self, app: web.Application) -> None:
        app.router.add_post("/v1/files", self._upload)
        app.router.add_get("/v1/files", self._list_files)
        app.router.add_get("/v1/files/{id}/content", self._content)
        app.router.add_post("/v1/batches", self._create)
        app.router.add_get("/v1/batches", self._list_batches)
        app.router.add_get("/v1/batches/{id}", self._retrieve)

    def _did(self, step: str) -> None:
        self.steps.append(step)
        self.on_step(step)

    def _keep(self, name: str, content: bytes, purpose: str) -> dict[str, Any]:
        file_id = f"file-{len(self.files) + 1}"
        made: dict[str, Any] = {"id": file_id, "object": "file", "bytes": len(content), "created_at": 1}
        made |= {"filename": name, "purpose": purpose, "status": "processed"}
        self.files[file_id] = made
        self.contents[file_id] = content
        return made

    async def _upload(self, request: web.Request) -> web.Response:
        if self._refused(request):
            return _error(401, "wrong key")
        form = await request.post()
        file = form["file"]
        assert isinstance(file, web.FileField)
        made = self._keep(file.filename, file.file.read(), str(form["purpose"]))
        self._did("upload")
        return web.json_response(made)

    async def _list_files(self, request: web.Request) -> web.Response:
        found = [file for file in self.files.values() if file["purpose"] == request.query.get("purpose")]
        return web.json_response({"object": "list", "data": found, "has_more": False})

    async def _content(self, request: web.Request) -> web.Response:
        content = self.contents[request.match_info["id"]]
        self._did("download")
        return web.Response(body=content)

    async def _create(self, request: web.Request) -> web.Response:
        body = await request.json()
        batch_id = f"batch_{len(self.batches) + 1}"
        made: dict[str, Any] = {"id": batch_id, "object": "batch", "status": "validating", "created_at": 1}
        made |= {name: body[name] for name in ("endpoint", "input_file_id", "completion_window", "metadata")}
        made |= {"polled": 0, "request_counts": {"total": 0, "completed": 0, "failed": 0}}
        self.batches[batch_id] = made
        self._did("create")
        return web.json_response(made)

    async def _list_batches(self, request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": list(self.batches.values()), "has_more": False})

    async def _retrieve(self, request: web.Request) -> web.Response:
        batch = self.batches[request.match_info["id"]]
        batch["polled"] += 1
        if batch["status"] not in FINAL:
            batch["status"] = "in_progress"
            if batch["polled"] >= self.polls:
                self._end(batch)
        self._did("poll")
        return web.json_response(batch)

    def _end(self, batch: dict[str, Any]) -> None:
        number = int(re.sub(r"\D", "", batch["id"]))
        batch["status"] = self.end(number)
        if batch["status"] == "failed":
            error = {"code": "invalid_json_line", "message": "Line 1 is no request", "line": 1, "param": None}
            batch["errors"] = {"object": "list", "data": [error]}
            return
        out: list[dict[str, Any]] = []
        bad: list[dict[str, Any]] = []
        lines = [json.loads(line) for line in self.contents[batch["input_file_id"]].splitlines()]
        for place, line in enumerate(lines):
            if batch["status"] != "completed" and place % 2:
                error = {"code": f"batch_{batch['status']}", "message": "This request was not run in time."}
                bad.append({"id": "r", "custom_id": line["custom_id"], "response": None, "error": error})
                continue
            self.answered.append(line["custom_id"])
            result = self._answer(number, line)
            (out if result["response"]["status_code"] == 200 else bad).append(result)
        out.reverse()  # the order of results is not that of requests
        for name, rows in (("output_file_id", out), ("error_file_id", bad)):
            if rows:
                text = "".join(json.dumps(row) + "\n" for row in rows)
                batch[name] = self._keep(f"{name}.jsonl", text.encode(), "batch_output")["id"]
        batch["request_counts"] = {"total": len(lines), "completed": len(out), "failed": len(bad)}

    def _answer(self, number: int, line: dict[str, Any]) -> dict[str, Any]:
        """One line of the output or error file."""
        record = Request(path=line["url"], body=line["body"], key=None)
        reply = self.fails(number, line["custom_id"]) or self.reply(record)
        reply = Reply(text=reply) if isinstance(reply, str) else reply
        body = json.loads(_respond(record, reply, self.model).text or "")
        response = {"status_code": reply.status, "request_id": "r", "body": body}
        return {"id": "r", "custom_id": line["custom_id"], "response": response, "error": None}
