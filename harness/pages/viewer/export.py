"""Write the viewer's pages as files, which work from any web server and from disk.

Each page is rendered by the server's own function, so that escaping is the same. Only links differ: an address becomes
the relative path of a file. Pages that depend on typed words (filters, search) have no files.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from html import escape, unescape
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route

from ...records.errors import ConfigError, HarnessError
from ...store.files import make_folder, write_bytes
from .app import failed_page, missing, routes
from .library import Library

MARKER = ".harness-view"
"""File that marks a folder as made by an export, so that the next one may replace its pages."""
LINK = re.compile(r"<(?:a|link|script)\s[^<>]*>")
"""A tag with an address. What a model wrote contains no tag of these, since `<` is escaped and links are disabled."""
TARGET = re.compile(r'(?<=\s)(href|src)="(/[^"]*)"')
ADDRESSED = ("id", "draw", "as", "a", "b", "part")
"""Parameters that select a page; the others filter a list and would name the same page many times."""


@dataclass(frozen=True)
class ExportedPages:
    written: int
    """Files, with styles and scripts."""
    failed: tuple[str, ...]
    """Why a page could not be rendered, one sentence each; its file says so too."""


def export(results: Path, folder: Path, on_written: Callable[[int, int], None] = lambda _, __: None) -> ExportedPages:
    """Write all pages of a results folder.

    `on_written` is called after each file with the number of files so far and of those known by then. Raise ConfigError
    if `folder` is a file, or is not empty and not from an export; StoreError if writing fails.
    """
    _claim(folder)
    site, library, failures = Site(), Library(results, exported=True), []
    own_routes, written = routes(library), 0
    site.file("/")
    for address, name in site.unwritten():
        try:
            content = bytes(_page(own_routes, address).body)
        except HarnessError as error:
            failures.append(str(error))
            content = bytes(failed_page(error, exported=True).body)
        if name.endswith(".html"):
            content = site.relative(content.decode("utf-8"), name).encode("utf-8")
        elif name.endswith(".txt"):
            content = b"\xef\xbb\xbf" + content  # no header states the encoding of a file on disk: a mark does
        write_bytes(folder / name, content)
        written += 1
        on_written(written, site.known)
    return ExportedPages(written, (*library.broken, *dict.fromkeys(failures)))


def _claim(folder: Path) -> None:
    """Make the folder and mark it. Raise ConfigError if its content is not from an export."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--export {str(folder)!r} is a file; name a folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / MARKER).is_file():
        raise ConfigError(
            f"--export {str(folder)!r} is not empty and was not made by harness view; name a new or empty folder"
        )
    make_folder(folder)
    write_bytes(folder / MARKER, b"pages of harness view --export; the next export replaces them\n")


def _page(own_routes: list[Route], address: str) -> Response:
    """Return what the server answers to an address."""
    parts = urlsplit(address)
    scope = {
        "type": "http",
        "method": "GET",
        "path": unquote(parts.path),
        "query_string": parts.query.encode(),
        "headers": [],
    }
    for route in own_routes:
        match, values = route.matches(scope)
        if match == Match.FULL:
            reply: Response = route.endpoint(Request({**scope, **values}))
            return reply
    return missing()


class Site:
    """The files of an export: which address is which file, and which are still to be written."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._numbers: dict[str, dict[str, int]] = {}

    @property
    def known(self) -> int:
        """Return the number of files that have an address so far."""
        return len(self._files)

    def unwritten(self) -> Iterator[tuple[str, str]]:
        """Yield address and file name, also of addresses that are added meanwhile."""
        done = 0
        while done < len(self._files):
            waiting = list(self._files.items())[done:]
            yield from waiting
            done += len(waiting)

    def file(self, address: str) -> str:
        """Return the file of a page, and remember that it must be written."""
        parts = urlsplit(address)
        chosen = {name: value for name, value in sorted(parse_qsl(parts.query)) if name in ADDRESSED}
        if not parts.path.endswith("/question"):
            chosen.pop("as", None)  # lists look the same
        address = parts.path + (f"?{urlencode(chosen)}" if chosen else "")
        if address not in self._files:
            self._files[address] = self._name(unquote(parts.path), chosen)
        return self._files[address]

    def _name(self, path: str, chosen: dict[str, str]) -> str:
        if path.startswith("/static/"):
            return path.lstrip("/")
        if path.startswith("/compare"):
            number = self._number("compare", f"{chosen.get('a')} {chosen.get('b')}")
            folder = f"compare/{number}"
        else:
            folder = path.strip("/").removesuffix("/question").removesuffix("/text")
        if "id" not in chosen:
            return posixpath.join(folder, "index.html")
        # an id may contain anything, so its number names the file
        name = f"{self._number(folder, chosen['id']):04}"
        if path.endswith("/text"):
            return f"{folder}/{name}-{re.sub(r'[^a-z0-9-]', '', chosen.get('part', ''))}.txt"
        draw = re.sub(r"\D", "", chosen.get("draw", ""))
        markdown = "-markdown" if chosen.get("as") == "markdown" else ""
        return f"{folder}/{name}{f'-answer-{draw}' if draw else ''}{markdown}.html"

    def _number(self, folder: str, key: str) -> int:
        """Return 1 for the first key of a folder, 2 for the next."""
        numbers = self._numbers.setdefault(folder, {})
        return numbers.setdefault(key, len(numbers) + 1)

    def relative(self, page: str, name: str) -> str:
        """Return a page whose links lead from its own file to other files."""
        start = PurePosixPath(name).parent

        def linked(target: re.Match[str]) -> str:
            path = os.path.relpath(self.file(unescape(target[2])), start).replace(os.sep, "/")
            return f'{target[1]}="{escape(quote(path))}"'

        return LINK.sub(lambda tag: TARGET.sub(linked, tag[0]), page)
