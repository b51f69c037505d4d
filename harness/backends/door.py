"""Who may ask a server at the same time: many requests together, or one suspected of killing it, alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Door:
    """A lock for many or one. A request that waits to go alone gets in before others that come later."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._waiting_alone = 0
        self._alone = False

    @asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone and not self._waiting_alone)
            self._inside += 1
        try:
            yield
        finally:
            await self._leave()

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        async with self._changed:
            self._waiting_alone += 1
            try:
                await self._changed.wait_for(lambda: not self._alone and not self._inside)
            finally:
                self._waiting_alone -= 1
                self._changed.notify_all()
            self._alone = True
            self._inside += 1
        try:
            yield
        finally:
            self._alone = False
            await self._leave()

    async def _leave(self) -> None:
        self._inside -= 1
        async with self._changed:
            self._changed.notify_all()
