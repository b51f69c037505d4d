"""Compute what a judge's tokens cost, in US dollars: prices, token counts for estimates, the limit `--max-cost`.

>>> judge = JudgeSpec(name="gpt-4.1", kind="llm", price_in=2.0, price_out=8.0)  # per million tokens
>>> price(judge, prompt_tokens=1000, completion_tokens=100)
0.0028

Tokens are counted by OpenAI's own table if it is on this machine (`harness data pull tokenizer` fetches it), else by a
rule of thumb, and only for estimates: actual costs come from the server's own counts. A call starts only if its worst
case still fits into the budget; calls in flight are never cancelled to save money.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from pydantic import JsonValue

from ..client import ChatReply
from ..records import JudgeSpec
from ..records.errors import BudgetReachedError, ConfigError
from ..records.judge_choice import is_local
from ..store.files import cache_folder
from ..store.official import cached_path, ensure, pinned_files

TOKENS_AROUND = 16
"""Upper bound of the tokens that a chat format adds to one message; OpenAI's adds 4."""
CHARACTERS_PER_TOKEN = 4.0
"""OpenAI's own rule of thumb for English text (help.openai.com, "What are tokens and how to count them")."""
EXACT = 50
"""Texts counted exactly; later ones by the characters per token of these, so that an estimate is quick."""
OVERHEAD = 4
"""Tokens around each message (openai-cookbook, how_to_count_tokens_with_tiktoken: 3, and 1 for the role)."""
ROUNDING = 1e-9
"""Rounding error, in US dollars, of sums of prices."""
GRACE = 0.25
"""Seconds between the last call and the end of the run, in which that call's judgment is written."""


def priced(spec: JudgeSpec) -> bool:
    return spec.price_in is not None and spec.price_out is not None


def is_free(spec: JudgeSpec) -> bool:
    """Return whether nobody is paid for this judge's verdicts: it is a rule, or its prices are 0."""
    return spec.price_in == spec.price_out == 0 or (spec.model is None and not is_local(spec))


def price(spec: JudgeSpec, prompt_tokens: float, completion_tokens: float) -> float | None:
    """Return the list price of this many tokens, or None if the judge has no known price."""
    if spec.price_in is None or spec.price_out is None:
        return None
    return (prompt_tokens * spec.price_in + completion_tokens * spec.price_out) / 1e6


def reply_price(spec: JudgeSpec, reply: ChatReply) -> float | None:
    """Return what a reply cost when it was requested, or None if the price or the token counts are unknown."""
    dollars = price(spec, reply.prompt_tokens, reply.completion_tokens) if reply.prompt_tokens else None
    return None if dollars is None else dollars * reply.price_share


def worst_case(spec: JudgeSpec, body: dict[str, JsonValue]) -> float | None:
    """Return the most that a call can cost at list price: one token per byte, and a reply of the full limit.

    None if the price is unknown. Raise ConfigError if the request sets no limit.
    """
    limit = token_limit(body)
    if limit is None:
        raise ConfigError(
            f"--max-cost cannot be kept for judge {spec.name!r}: its requests set no token limit; set max_tokens or "
            "max_completion_tokens in its params"
        )
    prompt_tokens = sum(len(text.encode("utf-8", "replace")) + TOKENS_AROUND for text in message_texts(body))
    return price(spec, prompt_tokens, limit)


def message_texts(body: dict[str, JsonValue]) -> list[str]:
    messages = body["messages"]
    assert isinstance(messages, list)
    return [str(message["content"]) for message in messages if isinstance(message, dict)]


def token_limit(body: dict[str, JsonValue]) -> int | None:
    """Return the most tokens of all replies to a request together, or None if it sets no limit."""
    limit = body.get("max_completion_tokens", body.get("max_tokens"))
    replies = body.get("n") or 1
    return limit * replies if isinstance(limit, int) and isinstance(replies, int) else None


@dataclass
class TokenMeter:
    """Counts the tokens of many similar texts."""

    name: str
    """Method of counting, for the reader of an estimate."""
    encode: Callable[[str], list[int]] | None
    characters: int = 0
    tokens: int = 0
    seen: int = 0

    def count(self, text: str) -> float:
        # questions of one suite are alike, so the first ones tell the characters per token of the rest
        if self.encode is not None and self.seen < EXACT:
            tokens = len(self.encode(text))
            self.seen += 1
            self.characters += len(text)
            self.tokens += tokens
            return tokens
        return len(text) / (self.characters / self.tokens if self.tokens else CHARACTERS_PER_TOKEN)


def meter(model: str | None, *, exact: bool = True) -> TokenMeter:
    """Return the meter for a judge's model, with the table that tiktoken names for it, or cl100k_base.

    A table takes 40 to 75 MB of memory until the process ends; `exact` False does without.
    """
    name = _encoding_name(model or "") if exact else None
    path = _table(name) if name else None
    if name is None or path is None:
        return TokenMeter("4 characters per token (`harness data pull tokenizer` makes the count exact)", None)
    return TokenMeter(f"{name} (tiktoken)", _encoder(name, path))


def _encoding_name(model: str) -> str | None:
    try:
        from tiktoken.model import encoding_name_for_model
    except ImportError:
        return None
    try:
        return encoding_name_for_model(model)
    except KeyError:
        return "cl100k_base"


def _table(name: str) -> Path | None:
    pinned = pinned_files().get(f"tokenizer/{name}")
    if pinned is None or not cached_path(pinned).is_file():
        return None
    return ensure([pinned.name])[pinned.name]


@cache
def _encoder(name: str, path: Path) -> Callable[[str], list[int]]:
    """Return tiktoken's encoding with our copy of its table.

    tiktoken looks for a file named by the sha1 of the table's address.
    """
    import tiktoken

    folder = cache_folder() / "tiktoken"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / hashlib.sha1(pinned_files()[f"tokenizer/{name}"].url.encode(), usedforsecurity=False).hexdigest()
    if not link.exists():
        link.symlink_to(path.resolve())
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folder)
    return tiktoken.get_encoding(name).encode_ordinary


@dataclass
class Charge:
    """The reserved and then the actual cost of one call, in US dollars. A failed call counts as free."""

    dollars: float = 0.0


class Budget:
    """The money of one run. Without a limit it is not consulted.

    Calls that do not fit wait until others have ended below their reserved cost. The run stops if none is in flight.
    """

    def __init__(self, limit: float | None = None, *, waves: int | None = None) -> None:
        """`waves`: how often all calls in flight may end while others still wait for room. None means no limit.

        The rest of a batch fills a smaller batch, and so on, and each takes up to a day.
        """
        self.limit = limit
        self._waves = waves is not None
        self._waves_left = waves or 0
        self._closed = False
        """Whether no call starts before all in flight have ended."""
        self.spent = 0.0
        """US dollars spent, earlier sessions of the run included."""
        self._set_aside = 0.0
        self._in_flight = 0
        self._ended = 0
        self._stopped = False
        self._waiting: list[asyncio.Future[None]] = []

    @asynccontextmanager
    async def charge(self, most: float) -> AsyncIterator[Charge]:
        """Reserve `most` for the duration of one call. The caller writes the true cost into the charge."""
        await self._wait_for(most)
        self._in_flight += 1
        self._set_aside += most
        charge = Charge()
        try:
            yield charge
        finally:
            self._in_flight -= 1
            self._ended += 1
            # set to 0 when idle, so that rounding errors do not add up
            self._set_aside = self._set_aside - most if self._in_flight else 0.0
            if not self._in_flight and self._closed:
                self._waves_left -= 1
                self._closed = self._waves_left <= 0
            self.spent += charge.dollars
            for waiter in self._waiting:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiting.clear()

    async def _wait_for(self, most: float) -> None:
        while self._stopped or self._closed or not self._fits(most):
            self._closed = self._waves
            if self._stopped or await self._is_still():
                self._stopped = True  # smaller calls that would fit stop too: they would be cancelled when the run ends
                raise BudgetReachedError(
                    f"stopped before crossing --max-cost {dollars(self.limit or 0)}: {dollars(self.spent)} paid for "
                    f"this run so far, and the next call may cost up to {dollars(most)}; nothing is lost: the same "
                    "command with a higher --max-cost resumes from there"
                )

    def _fits(self, most: float) -> bool:
        return self.limit is None or self.spent + self._set_aside + most <= self.limit + ROUNDING

    async def _is_still(self) -> bool:
        """Wait until a call ends, and return whether the run is idle.

        True: none was in flight, and none started or ended in the time that writing a judgment takes.
        """
        if self._in_flight:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.append(waiter)
            await waiter
            return False
        ended = self._ended
        await asyncio.sleep(GRACE)
        return not self._in_flight and self._ended == ended


def dollars(amount: float) -> str:
    """Return `$12.34`, or as many digits as a small amount needs: `$0.0012`."""
    return f"${amount:.2f}" if amount >= 1 or amount == 0 else f"${amount:.2g}" if amount < 0.01 else f"${amount:.3f}"
