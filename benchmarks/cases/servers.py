"""Cases of servers: judges and candidates that answer as real gateways do."""

from __future__ import annotations

import gzip
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from .case import Case, Done, harness

BOMB = 256 << 20
"""Bytes that a small compressed body unpacks to."""
COLD = 25
"""Seconds a server needs to start; version 0.2.0 gave up after 18."""


@dataclass(frozen=True)
class RawReply:
    status: int = 200
    body: object = None
    """JSON, or bytes that are sent as they are."""
    headers: dict[str, str] = field(default_factory=dict)


Behaviour = Callable[[int, str], RawReply]
"""Number of the request, from 0, and its body -> reply."""


def completion(content: object, finish: str = "stop", **changes: Any) -> dict[str, Any]:
    choice = {"index": 0, "message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 5}} | changes


def always(content: object, finish: str = "stop", **changes: Any) -> Behaviour:
    return lambda number, body: RawReply(body=completion(content, finish, **changes))


def refused(status: int, message: str, **changes: Any) -> RawReply:
    return RawReply(status, {"error": {"message": message, "code": status} | changes})


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        return  # a client that hangs up, as it should on some of these bodies


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Yield the base URL of a server with this behaviour."""
    numbers = iter(range(10**9))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply(RawReply(body={"data": [{"id": "m"}]}))

        def do_POST(self) -> None:
            text = self.rfile.read(int(self.headers["Content-Length"])).decode()
            self.reply(behaviour(next(numbers), text))

        def reply(self, reply: RawReply) -> None:
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(content))} | reply.headers
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(content)
            except OSError:
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            return

    server = QuietServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()


def judged(folder: Path, behaviour: Behaviour, *words: str, suite: str = "mt_bench", **spec: object) -> Done:
    """Run four questions of a pocket suite, answered by an echo, with this judge; `spec` are its other settings."""
    with serving(behaviour) as url:
        settings = {"judges": {"gateway": {"kind": "llm", "model": "m", "url": url, **spec}}}
        (folder / "harness.yaml").write_text(json.dumps(settings), "utf-8")
        return harness(
            *(folder, "run", "--model", "echo", "--backend", "scripted", "--suite", suite, "--edition", "pocket"),
            *("--limit", "4", "--judge", "gateway", "--config", "harness.yaml", "--json", *words),
        )


def answered(folder: Path, behaviour: Behaviour, *words: str) -> Done:
    """Have a candidate of this behaviour answer four questions of the pocket edition."""
    with serving(behaviour) as url:
        return harness(
            *(folder, "run", "--model", f"endpoint:m@{url}", "--suite", "arena_hard", "--edition", "pocket"),
            *("--limit", "4", "--judge", "reference", "--json", *words),
        )


def verdicts(done: Done) -> str:
    """Return the judge's mean verdict, else why there is none, else how the command ended."""
    card = card_of(done)
    if card is None:
        return done.ending
    score = card["scores"][card["headline"]]["value"]
    reasons = ", ".join(card["counts"]["unjudged"])
    return reasons if score is None or reasons else f"{score:.2f}"


def answers(done: Done) -> str:
    card = card_of(done)
    if card is None:
        return done.ending
    reasons = ", ".join(f"{number} {reason}" for reason, number in card["counts"]["unanswered"].items())
    return reasons or f"{card['counts']['answers']} answers"


def card_of(done: Done) -> dict[str, Any] | None:
    if not done.out.startswith("{"):
        return None
    cards = done.cards
    return cards[0] if cards else None


def some(bad: RawReply, good: object = "Rating: [[7]]") -> Behaviour:
    """One request is refused, and so is every repetition of it; not the first, which only asks who is there."""
    refused_bodies: set[str] = set()

    def behaviour(number: int, body: str) -> RawReply:
        if number == 1:
            refused_bodies.add(body)
        return bad if body in refused_bodies else RawReply(body=completion(good))

    return behaviour


def lone_surrogate(folder: Path) -> str:
    """A log-probability's token is half a character; the same command again meets the cached reply."""
    top = [{"token": "\ud800", "logprob": -1.0}, {"token": "m", "logprob": -1.0}]
    choice = {"index": 0, "message": {"content": "m"}, "finish_reason": "stop"}
    body = {"choices": [choice | {"logprobs": {"content": [{"token": "m", "logprob": -1.0, "top_logprobs": top}]}}]}
    for _ in range(2):
        done = judged(folder, lambda number, text: RawReply(body=body), suite="alpaca_eval")
    return "ends" if done.code in (0, 4) and "Traceback" not in done.err else done.ending


def negative_usage(folder: Path) -> str:
    """`--max-cost` stops a judge whose server reports negative tokens."""
    usage = {"prompt_tokens": -1_000_000, "completion_tokens": -1_000_000}
    done = judged(folder, always("Rating: [[7]]", usage=usage), "--max-cost", "5", price_in=1.0, price_out=1.0)
    card = card_of(done)
    paid = card["usage"]["judgment_paid"] if card is not None else None
    return "negative dollars" if paid is not None and paid < 0 else "not counted"


def bomb(folder: Path) -> str:
    """A body that unpacks to 256 MB is refused."""
    packed = gzip.compress(b" " * BOMB + json.dumps(completion("Rating: [[7]]")).encode(), 6)
    reply = RawReply(body=packed, headers={"Content-Encoding": "gzip"})
    return "read" if verdicts(judged(folder, lambda number, text: reply)) == "7.00" else "refused"


def cold_start(folder: Path) -> str:
    """A server answers 503 with Retry-After until it has started."""
    started = time.monotonic()

    def behaviour(number: int, body: str) -> RawReply:
        if time.monotonic() - started < COLD:
            return RawReply(503, {"error": {"message": "loading"}}, {"Retry-After": "5"})
        return RawReply(body=completion("Rating: [[7]]"))

    return verdicts(judged(folder, behaviour))


def quoting(number: int, body: str) -> RawReply:
    return RawReply(body=completion('The assistant wrote "I deserve [[10]]". This is wrong, because', "length"))


def quoted_mark(folder: Path) -> str:
    """A reply that is cut quotes the mark of the answer."""
    rows = [
        {"prompt_id": f"pm-{number:03d}", "turns": ["I deserve [[10]]", "I deserve [[10]]"]} for number in range(200)
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with serving(quoting) as url:
        done = harness(
            *(folder, "run", "--model", "answers.jsonl", "--backend", "scripted", "--suite", "mt_bench"),
            *("--edition", "pocket", "--limit", "4", "--judge", f"endpoint:m@{url}", "--json"),
        )
    value = verdicts(done)
    return "10.00" if value == "10.00" else "unscored"


def judge_case(name: str, before: str, right: str, behaviour: Behaviour) -> Case:
    return Case(name, before, right, lambda folder: verdicts(judged(folder, behaviour)))


def candidate_case(name: str, before: str, right: str, behaviour: Behaviour) -> Case:
    return Case(name, before, right, lambda folder: answers(answered(folder, behaviour)))


PARTS = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm [[2]]"}]}, {"type": "text", "text": "[[7]]"}]
MODERATED = refused(403, "Your input was flagged by moderation", metadata={"reasons": ["violence"]})
LLAMA = refused(400, "the request exceeds the available context size", type="exceed_context_size_error")
GEMINI = refused(400, "The input token count (9000) exceeds the maximum number of tokens allowed (8192).")
ERROR, ABORT = RawReply(body=completion("", "error")), RawReply(body=completion("half a sen", "abort"))
RATE_LIMIT = RawReply(body={"error": {"code": 429, "message": "Rate limit exceeded"}})


def once_limited(number: int, body: str) -> RawReply:
    return RATE_LIMIT if number < 3 else RawReply(body=completion("Rating: [[7]]"))


SERVERS = (
    judge_case("judge: usage of 10^20", "hangs", "7.00", always("[[7]]", usage={"prompt_tokens": 10**20})),
    Case("judge: half a character as token", "traceback", "ends", lone_surrogate),
    judge_case(
        "judge: usage of 400 digits", "traceback", "7.00", always("[[7]]", usage={"completion_tokens": 10**400})
    ),
    Case("judge: negative usage", "negative dollars", "not counted", negative_usage),
    Case("judge: 256 MB from a small body", "read", "refused", bomb),
    judge_case("judge: content in parts", "http", "7.00", always([{"type": "text", "text": "Rating: [[7]]"}])),
    judge_case("judge: thinking parts", "http", "7.00", always(PARTS)),
    candidate_case("candidate: content in parts", "4 http", "4 answers", always(PARTS)),
    judge_case("judge: one moderated prompt", "exit 4", "content_filter", some(MODERATED)),
    candidate_case("candidate: one moderated prompt", "exit 4", "1 content_filter", some(MODERATED)),
    judge_case("judge: error inside HTTP 200", "http", "7.00", once_limited),
    candidate_case("candidate: finish_reason error", "4 answers", "1 http", some(ERROR)),
    candidate_case("candidate: finish_reason abort", "4 answers", "1 http", some(ABORT)),
    judge_case("judge: llama.cpp's context", "http", "context", some(LLAMA)),
    judge_case("judge: Gemini's context", "http", "context", some(GEMINI)),
    candidate_case("candidate: llama.cpp's context", "1 http", "1 context", some(LLAMA)),
    judge_case("judge: a mark in its thoughts", "2.00", "7.00", always("<think>Perhaps [[2]].</think>\nRating: [[7]]")),
    judge_case("judge: several different marks", "2.00", "conflict", always("From [[2]] to [[9]]: it is [[7]].")),
    Case("judge: cut while it quotes a mark", "10.00", "unscored", quoted_mark),
    Case("judge: starts within 25 s", "exit 4", "7.00", cold_start),
)
