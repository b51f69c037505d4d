"""A stand-in for vLLM's server with LoRA adapters: several under names of their own, loaded at its start or later.

`as_package(folder)` writes a package `vllm` that starts it. It notes each start in $STANDIN_NOTES. An answer is the
text of `answer.txt` in the folder, as read when the adapter was loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from aiohttp import web

from tests import ROOT
from tests.fakes.openai_server import FakeOpenAI, Request


def as_package(folder: Path) -> Path:
    """Return `folder` with a package `vllm` in it, to be put first on the path of imports."""
    module = folder / "vllm" / "entrypoints" / "openai"
    module.mkdir(parents=True)
    for package in (folder / "vllm", folder / "vllm" / "entrypoints", module):
        (package / "__init__.py").write_text("")
    start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.fakes.vllm_server import main\nmain()\n"
    (module / "api_server.py").write_text(start)
    return folder


class AdapterServer(FakeOpenAI):
    """Lists the base and its adapters, and loads more if the environment allows it."""

    def load(self, name: str, folder: str) -> None:
        self.texts = getattr(self, "texts", {}) | {name: (Path(folder) / "answer.txt").read_text()}

    def routes(self, app: web.Application) -> None:
        if os.environ.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == "1":
            app.router.add_post("/v1/load_lora_adapter", self._load)

    async def _load(self, request: web.Request) -> web.Response:
        body = await request.json()
        if (Path(body["lora_path"]) / "broken").exists():
            return web.json_response({"error": {"message": "no such module", "code": 500}}, status=500)
        self.load(body["lora_name"], body["lora_path"])
        return web.Response(text="Success")

    async def _models(self, request: web.Request) -> web.Response:
        names = [self.model, *self.texts]
        return web.json_response({"data": [{"id": name, "max_model_len": 4096} for name in names]})


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--port", type=int)
    parser.add_argument("--served-model-name")
    parser.add_argument("--max-lora-rank", type=int)
    parser.add_argument("--lora-modules", nargs="+", default=[])
    options, _ = parser.parse_known_args()
    modules: list[dict[str, Any]] = [json.loads(module) for module in options.lora_modules]
    note = {"names": [module["name"] for module in modules], "rank": options.max_lora_rank, "pid": os.getpid()}
    with Path(os.environ["STANDIN_NOTES"]).open("a") as stream:
        stream.write(json.dumps(note) + "\n")

    def reply(request: Request) -> str:
        return str(server.texts[request.body["model"]])

    server = AdapterServer(reply=reply, model=options.served_model_name, port=options.port, tokenize=lambda body: [5])
    for module in modules:
        server.load(module["name"], module["path"])

    async def serve() -> None:
        async with server:
            await asyncio.Event().wait()

    sys.exit(asyncio.run(serve()))
