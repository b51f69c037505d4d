"""Share one server among several LoRA adapters of one base: the models of a command, or a training's checkpoints.

Backends are adopted one after another. The first starts a server that knows the adapters of those that follow; each of
these asks the same server, and a backend that cannot use it stops it.

A request names its adapter with a digest of the weights, so that a folder that was written again is another model. The
server is the same process, so what is measured is what a server of its own would have answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from .server import ModelServer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """One adapter, as a server is told of it."""

    name: str
    """In requests."""
    folder: Path
    rank: int
    base: str
    """Digest of the base and of everything else that a server is started with."""


@dataclass
class AdapterSet:
    """The adapters of one server, by their names in requests; more may come while it serves."""

    server: ModelServer
    base: str
    rank: int
    """The largest that the server accepts."""
    folders: dict[str, Path] = field(default_factory=dict)
    grows: bool = False
    """Whether the server lets adapters be loaded that did not exist when it started."""

    def accepts(self, adapter: Adapter) -> bool:
        known = self.grows or adapter.name in self.folders
        return known and adapter.base == self.base and adapter.rank <= self.rank


@runtime_checkable
class SharesServer(Protocol):
    """A backend that can serve its adapter by the server of another one."""

    server: ModelServer

    def adapter(self) -> Adapter | None:
        """Return the adapter, or None if its model is a whole checkpoint."""
        ...

    def share(self, adapters: AdapterSet) -> None:
        """Serve by this set's server. Only before the backend is entered."""
        ...


class SharedServer:
    """Hands a server on from one backend to the next, as long as each serves an adapter of the same base."""

    def __init__(self, *, grows: bool = False) -> None:
        """`grows`: more adapters will come than are known when the server starts."""
        self._adapters: AdapterSet | None = None
        self._grows = grows

    def adopt(self, backend: object, later: Iterable[object] = ()) -> None:
        """Let the backend use the shared server, or stop that and keep its own. `later`: the backends that follow."""
        adapter = _adapter_of(backend)
        if self._adapters is None or adapter is None or not self._adapters.accepts(adapter):
            self.close()
        if adapter is None:
            return
        assert isinstance(backend, SharesServer), "it has an adapter"
        if self._adapters is None:
            fellows = {
                each.name: each for each in [adapter, *map(_adapter_of, later)] if each and each.base == adapter.base
            }
            if len(fellows) == 1 and not self._grows:
                return
            backend.server.is_shared = True
            rank = max(each.rank for each in fellows.values())
            folders = {name: each.folder for name, each in fellows.items()}
            self._adapters = AdapterSet(backend.server, adapter.base, rank, folders, self._grows)
        else:
            log.info("%s keeps serving, now %s", self._adapters.server.name, adapter.name)
            if self._grows:  # earlier checkpoints may be gone by now, and a server that starts again needs none of them
                self._adapters.folders.clear()
        self._adapters.folders[adapter.name] = adapter.folder
        backend.share(self._adapters)

    def close(self) -> None:
        """Stop the shared server, if there is one."""
        adapters, self._adapters = self._adapters, None
        if adapters is not None:
            asyncio.run(adapters.server.stop())


def _adapter_of(backend: object) -> Adapter | None:
    return backend.adapter() if isinstance(backend, SharesServer) else None
