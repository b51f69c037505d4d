"""Prompts from the Hub, as the datasets library asks for them: a stub on the loopback that holds one data set."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

REVISION = "a" * 40
ROWS = [{"prompt": "one"}, {"prompt": "two"}]
DATA = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
FILE = {"type": "file", "path": "train.jsonl", "size": len(DATA), "oid": "b" * 40}
REPOSITORY = {"id": "org/name", "sha": REVISION, "siblings": [{"rfilename": "train.jsonl"}], "private": False}
CODE = """
import json
from harness.records.errors import DataError
from recipes.prompts import load_rows
for split in ("train", "nope"):
    try:
        print(json.dumps(load_rows("hf:org/name@main", split)))
    except DataError as error:
        print(error)
"""


class Hub(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if "/api/" in self.path:
            self._send(json.dumps([FILE] if "/tree/" in self.path else REPOSITORY).encode())
        elif self.path.endswith("/train.jsonl"):
            self._send(DATA)
        else:
            self._send(b"{}", status=404)

    do_HEAD = do_GET  # noqa: N815 - the name that http.server calls

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self._send(json.dumps([FILE] if b"train.jsonl" in asked else []).encode())

    def _send(self, body: bytes, status: int = 200) -> None:
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), "ETag": '"x1"', "X-Repo-Commit": REVISION}
        if status == 404:
            headers["X-Error-Code"] = "EntryNotFound"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""


@pytest.mark.slow
def test_rows_come_from_the_hub_and_a_wrong_split_is_one_sentence(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_address[1]}"
    environment = os.environ | {"HF_ENDPOINT": place, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}
    environment.pop("HF_HUB_OFFLINE", None)
    try:
        done = subprocess.run(
            [sys.executable, "-c", CODE], env=environment, capture_output=True, text=True, timeout=120, check=True
        )
    finally:
        server.shutdown()
        server.server_close()

    rows, sentence = done.stdout.splitlines()
    assert json.loads(rows) == ROWS
    assert sentence.startswith("cannot load 'nope' of hf:org/name@main: Unknown split")
