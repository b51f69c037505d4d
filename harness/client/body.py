"""Read the body of an HTTP reply up to a limit in size, so that no server can fill our memory.

A small gzip file can unpack to gigabytes, and a server may send without end. aiohttp unpacks in small pieces, and the
request's timeout includes its body.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import aiohttp

MOST_BYTES = 64 * 2**20
"""Largest unpacked body. A reply of 128,000 tokens with 20 log-probabilities each is half of that at most."""
SMALL = 2**20
"""Bytes of a body after which it waits for one of LARGE_AT_ONCE places."""
LARGE_AT_ONCE = 2


class BodyTooLargeError(Exception):
    """Internal: the body is larger than MOST_BYTES."""


async def read_body(reply: aiohttp.ClientResponse, large: asyncio.Semaphore) -> bytes:
    """Return the unpacked body. Raise BodyTooLargeError above MOST_BYTES.

    `large`: the LARGE_AT_ONCE places for bodies above SMALL.
    """
    body = bytearray()
    if await _fill(body, reply, SMALL):
        return bytes(body)
    async with large:
        if await _fill(body, reply, MOST_BYTES):
            return bytes(body)
    reply.close()  # what is still to come is not read
    body.clear()  # the error's traceback would keep it alive
    raise BodyTooLargeError(f"is larger than {MOST_BYTES // 2**20} MB")


async def _fill(body: bytearray, reply: aiohttp.ClientResponse, most: int) -> bool:
    """Read until the end, or until there are more than `most` bytes, and return whether that was the end."""
    while len(body) <= most:
        chunk = await reply.content.readany()
        if not chunk:
            return True
        body += chunk
    return False
