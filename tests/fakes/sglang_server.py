"""A stand-in for `python -m sglang.launch_server`: its flags, its start, its paths and the form of its replies.

`as_package(folder)` writes a package `sglang` that starts it. Flags that SGLang does not have are errors, as there. It
notes its arguments and its GPUs in $STANDIN_NOTES, loads for $STANDIN_LOADING seconds (/health answers 503), and dies
at its $STANDIN_DIE_AFTER-th request, once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from aiohttp import web

from tests import ROOT
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, chat_reply

PARSERS = ("deepseek-r1", "qwen3", "gpt-oss")


def as_package(folder: Path) -> Path:
    """Return `folder` with a package `sglang` in it, to be put first on the path of imports."""
    parsers = folder / "sglang" / "srt" / "parser"
    parsers.mkdir(parents=True)
    (folder / "sglang" / "__init__.py").write_text("")
    start = f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.fakes.sglang_server import main\nmain()\n"
    (folder / "sglang" / "launch_server.py").write_text(start)
    entries = "".join(f'        "{name}": SomeDetector,\n' for name in PARSERS)
    (parsers / "reasoning_parser.py").write_text(f"class ReasoningParser:\n    DetectorMap = {{\n{entries}    }}\n")
    return folder


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model-path", "--served-model-name", "--host"):
        parser.add_argument(name, required=True)
    parser.add_argument("--port", type=int, required=True)
    for name in ("--tensor-parallel-size", "--pipeline-parallel-size", "--data-parallel-size", "--context-length"):
        parser.add_argument(name, type=int)
    for name in ("--random-seed", "--dtype", "--quantization", "--chat-template", "--load-format", "--log-level-http"):
        parser.add_argument(name)
    parser.add_argument("--reasoning-parser", choices=PARSERS)
    parser.add_argument("--mem-fraction-static", type=float)
    for name in ("--trust-remote-code", "--enable-deterministic-inference"):
        parser.add_argument(name, action="store_true")
    return parser.parse_args()


class SglangServer(FakeOpenAI):
    """/health says 503 while the model loads."""

    ready = 0.0

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if time.monotonic() >= self.ready else 503)


def reply_of(request: Request, parser: str | None) -> Reply:
    """A completion in SGLang's form: the reasoning, if a parser splits it off, under `reasoning_content`."""
    if not request.path.endswith("/chat/completions"):
        return chat_reply(request)
    text, thoughts = chat_reply(request).text, "It was thought about."
    content = text if parser is not None else f"<think>{thoughts}</think>{text}"
    message: dict[str, Any] = {"role": "assistant", "content": content, "tool_calls": None}
    message["reasoning_content"] = thoughts if parser is not None else None
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop", "matched_stop": 2}
    usage = {"prompt_tokens": 3, "total_tokens": 20, "completion_tokens": 17, "prompt_tokens_details": None}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": request.body["model"], "choices": [choice]}
    return Reply(body={**body, "usage": usage, "metadata": {"weight_version": "default"}})


def main() -> None:
    options = arguments()
    notes = os.environ.get("STANDIN_NOTES")
    if notes:
        seen = {"argv": sys.argv[1:], "devices": os.environ.get("CUDA_VISIBLE_DEVICES")}
        with Path(notes).open("a") as stream:
            stream.write(json.dumps(seen) + "\n")
    starts = len(Path(notes).read_text().splitlines()) if notes else 1
    fatal = int(os.environ.get("STANDIN_DIE_AFTER", "0")) if starts == 1 else 0

    def count(requests: int) -> None:
        if requests == fatal:
            os._exit(1)

    server = SglangServer(
        reply=lambda request: reply_of(request, options.reasoning_parser),
        model=options.served_model_name,
        port=options.port,
        max_model_len=options.context_length or 4096,
        on_request=count,
        latency=0.02,
    )
    server.ready = time.monotonic() + float(os.environ.get("STANDIN_LOADING", "0"))

    async def serve() -> None:
        async with server:
            await asyncio.Event().wait()

    asyncio.run(serve())
