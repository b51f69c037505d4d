"""Read from a reply's headers how long to wait: Retry-After and x-ratelimit-*."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


@dataclass(frozen=True)
class RateLimitHints:
    """Waiting times in seconds and remaining amounts; None if a header is missing or unreadable."""

    retry_after: float | None = None
    requests_left: float | None = None
    requests_reset: float | None = None
    """Seconds until the limit is full again."""
    tokens_left: float | None = None
    tokens_reset: float | None = None


NOTHING = RateLimitHints()


def read_headers(headers: Mapping[str, str]) -> RateLimitHints:
    """Return the hints in `headers`, whose lookup must ignore case, as aiohttp's does."""
    left, tokens = headers.get("x-ratelimit-remaining-requests"), headers.get("x-ratelimit-remaining-tokens")
    after, after_ms = headers.get("Retry-After"), headers.get("retry-after-ms")
    if left is None and tokens is None and after is None and after_ms is None:
        return NOTHING
    milliseconds = number(after_ms)
    return RateLimitHints(
        retry_after=retry_after(after, time.time()) if milliseconds is None else milliseconds / 1000,
        requests_left=number(left),
        requests_reset=duration(headers.get("x-ratelimit-reset-requests")),
        tokens_left=number(tokens),
        tokens_reset=duration(headers.get("x-ratelimit-reset-tokens")),
    )


def retry_after(text: str | None, clock: float) -> float | None:
    """Return the seconds from `clock` (Unix time) that a number of seconds or an HTTP date means."""
    seconds = number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - clock)
    except (ValueError, OverflowError):
        return None


def duration(text: str | None) -> float | None:
    """Return the seconds that `6m0s`, `12ms`, `1.5s` or a bare number mean."""
    if text is None or (seconds := number(text)) is not None:
        return seconds if text is not None else None
    parts = DURATION.findall(text)
    if not parts or "".join(value + unit for value, unit in parts) != text.strip():
        return None
    return sum(float(value) * UNITS[unit] for value, unit in parts)


def number(text: str | None) -> float | None:
    """Return the finite, non-negative number in `text`, else None."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and 0 <= value < 1e12 else None
