"""A Hub on this machine, as far as `create_repo` and `upload_folder` ask it: it keeps what came."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit


class FakeHub:
    """`files`: repository -> path -> content. `refuse`: the status every call gets; `fails`: commits that fail yet."""

    def __init__(self, *, refuse: int | None = None, fails: int = 0, url: str = "") -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.files: dict[str, dict[str, bytes]] = {}
        self.blobs: dict[str, bytes] = {}
        self.uploads: list[str] = []
        """Digest of each blob as it came."""
        self.tokens: set[str] = set()
        self.parents: list[str] = []
        """The parent that each commit names, if it names one."""
        self.refuse = refuse
        self.fails = fails
        self.url = url

    @contextmanager
    def serving(self) -> Iterator[FakeHub]:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                hub.tokens.add(self.headers.get("Authorization") or "")
                if "/resolve/" in self.path:
                    self.send_file(*urlsplit(self.path).path.strip("/").split("/resolve/"))
                    return
                status, found = hub.reply(self.command, urlsplit(self.path).path, body)
                said = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(said)

            def send_file(self, repo: str, place: str) -> None:
                content = hub.files.get(repo, {}).get(place.partition("/")[2])
                self.send_response(404 if content is None else 200)
                self.send_header("X-Repo-Commit", "0" * 40)
                self.send_header("ETag", f'"{hashlib.sha256(content or b"").hexdigest()}"')
                self.send_header("Content-Length", str(len(content or b"")))
                if content is None:
                    self.send_header("X-Error-Code", "EntryNotFound")
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content or b"")

            do_GET = do_POST = do_PUT = do_HEAD = handle_any  # noqa: N815  # names of BaseHTTPRequestHandler

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)

    def reply(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        if self.refuse is not None:
            return self.refuse, {"error": "no"}
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/blobs/"):
            self.blobs[path.removeprefix("/blobs/")] = body
            self.uploads.append(path.removeprefix("/blobs/"))
            return 200, {}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        repo = "/".join(path.removeprefix("/api/models/").split("/")[:2])
        if "/preupload/" in path:
            return 200, {"files": [self._mode(file) for file in json.loads(body)["files"]]}
        if "/commit/" in path:
            return self._commit(repo, body)
        return 200, {"id": repo, "sha": "0" * 40, "siblings": [], "private": True}

    def _create(self, asked: dict[str, Any]) -> tuple[int, Any]:
        repo = f"{asked.get('organization')}/{asked['name']}"
        known = repo in self.repos
        self.repos.setdefault(repo, asked)
        return (409 if known else 200), {"url": f"{self.url}/{repo}", "name": repo, "id": repo}

    def _mode(self, file: dict[str, Any]) -> dict[str, Any]:
        mode = "lfs" if file["path"].endswith(".safetensors") else "regular"
        return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}

    def _batch(self, asked: dict[str, Any]) -> dict[str, Any]:
        objects = []
        for one in asked["objects"]:
            lacking = {"actions": {"upload": {"href": f"{self.url}/blobs/{one['oid']}"}}}
            objects.append(one | ({} if one["oid"] in self.blobs else lacking))
        return {"transfer": "basic", "objects": objects}

    def _commit(self, repo: str, body: bytes) -> tuple[int, Any]:
        if self.fails:
            self.fails -= 1
            return 400, {"error": "try later"}
        kept = self.files.setdefault(repo, {})
        for line in body.splitlines():
            found = json.loads(line)
            value = found["value"]
            if found["key"] == "header" and "parentCommit" in value:
                self.parents.append(value["parentCommit"])
            if found["key"] == "file":
                kept[value["path"]] = base64.b64decode(value["content"])
            elif found["key"] == "lfsFile":
                kept[value["path"]] = self.blobs[value["oid"]]
        return 200, {"commitUrl": f"{self.url}/{repo}/commit/{'0' * 40}", "commitOid": "0" * 40, "success": True}
