"""Fetch pinned upstream files into the local cache and verify them by sha256.

>>> pinned_files()["mt_bench/questions"].size
48929

Upstream's texts are never in this repository: they are read at run time from these files. A file comes from the cache,
else from a mirror (a folder or a URL with the same paths), else from upstream. A file without the pinned sha256 is
never kept. A file without a pinned sha256 is never fetched from a network: the user puts it into a folder, and later
copies must have the sha256 of the first. Which files there are, the facts of each suite say; this module knows nothing
about their contents.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import logging
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from urllib.parse import quote

from ..records.errors import ConfigError, DataError
from ..records.facts import OfficialFile, all_facts
from .files import cache_folder, locked

TOKENIZERS = (
    OfficialFile(
        name="tokenizer/cl100k_base",
        suite="tokenizer",
        path="openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",  # tiktoken_ext/openai_public.py
        size=1_681_126,
        licence="MIT",
        source="https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        optional=True,
    ),
    OfficialFile(
        name="tokenizer/o200k_base",
        suite="tokenizer",
        path="openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",  # tiktoken_ext/openai_public.py
        size=3_613_922,
        licence="MIT",
        source="https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        optional=True,
    ),
)
"""Files that no suite owns: an estimate counts a judge's tokens with them."""

log = logging.getLogger(__name__)

CHUNK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a download fails."""
Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes done, total bytes)."""


@cache
def pinned_files() -> dict[str, OfficialFile]:
    """Return name -> file, of every installed suite and of the tokenizers."""
    of_suites = [file for facts in all_facts() for file in facts.files]
    return {file.name: file for file in (*of_suites, *TOKENIZERS)}


def files_of(suites: Iterable[str]) -> list[OfficialFile]:
    """Return the files of these suites, or all files if none is named. Raise ConfigError for a suite without files."""
    chosen = list(suites)
    with_data = sorted({file.suite for file in pinned_files().values()})
    for suite in chosen:
        if suite not in with_data:
            raise ConfigError(f"no official data for suite {suite!r}; suites with data: {', '.join(with_data)}")
    return [file for file in pinned_files().values() if not chosen or file.suite in chosen]


def usual_files() -> list[OfficialFile]:
    """Return the files that `harness run --suite all` needs."""
    suites = {facts.name for facts in all_facts() if facts.order is not None}
    return [file for file in pinned_files().values() if file.suite in suites and not file.optional]


def cached_path(file: OfficialFile, cache_dir: Path | None = None) -> Path:
    return (cache_dir or cache_folder()) / "data" / file.path


def ensure(
    names: Iterable[str], mirror: str | None = None, *, cache_dir: Path | None = None, progress: Progress | None = None
) -> dict[str, Path]:
    """Return name -> verified local file, fetching what is not cached. Raise DataError if a file is unavailable."""
    return {name: _ensure_one(pinned_files()[name], mirror, cache_dir, progress) for name in names}


def verify(file: OfficialFile, cache_dir: Path | None = None) -> str:
    """Read the whole cached file and return "ok", "missing" or "wrong sha256"."""
    path = cached_path(file, cache_dir)
    if not path.is_file():
        return "missing"
    return "ok" if sha256_of(path) == expected_sha256(file, cache_dir) else "wrong sha256"


def expected_sha256(file: OfficialFile, cache_dir: Path | None = None) -> str | None:
    """Return the pinned sha256, else the one recorded at the first copy, else None."""
    return file.sha256 or _recorded(cached_path(file, cache_dir))


def is_available_offline(name: str, mirror: str | None = None, cache_dir: Path | None = None) -> bool:
    """Return whether the file is in the cache or in a mirror's folder, so that `ensure` needs no network."""
    file = pinned_files()[name]
    folders = [folder for folder in (mirror, os.environ.get("HARNESS_MIRROR")) if folder and not _is_url(folder)]
    return cached_path(file, cache_dir).is_file() or any(Path(folder, file.path).is_file() for folder in folders)


# -------------------------------------------------------------------------------------------------------- fetching


def _ensure_one(file: OfficialFile, mirror: str | None, cache_dir: Path | None, progress: Progress | None) -> Path:
    path = cached_path(file, cache_dir)
    if _is_verified(file, path):
        return path
    tried: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locked(path.with_name(path.name + ".lock")):
            if _is_verified(file, path):  # another process fetched it meanwhile
                return path
            if is_skipped(file, mirror):
                raise DataError(skipped(file))
            for source in _sources(file, mirror):
                problem = _fetch(file, source, path, progress)
                if problem is None:
                    _remember(file, path)
                    return path
                tried.append(problem)
    except OSError as error:
        raise DataError(f"cannot keep {file.name} in the cache at {path}: {error.strerror or error}") from error
    raise DataError(
        f"{file.name} ({file.path.rsplit('/', 1)[-1]}) is not in the cache and could not be fetched "
        f"({'; '.join(tried)}); with a network run `harness data pull {file.suite}`, without one copy a folder with "
        f"{file.path} here and run `harness data pull --mirror DIR`"
    )


def is_skipped(file: OfficialFile, mirror: str | None = None, cache_dir: Path | None = None) -> bool:
    """Return whether the file cannot be had: it has no pinned sha256, and lies neither in the cache nor in a folder."""
    local = cached_path(file, cache_dir).is_file() or any(map(os.path.isfile, _local_sources(file, mirror)))
    return file.sha256 is None and not local


def skipped(file: OfficialFile) -> str:
    """Return why the file is not fetched, and what to do."""
    return (
        f"{file.name} has no pinned sha256, so it is never fetched from a network: download {file.url}, check it, copy "
        f"it to DIR/{file.path}, and run `harness data pull {file.suite} --mirror DIR`"
    )


def _local_sources(file: OfficialFile, mirror: str | None) -> list[str]:
    folders = [root for root in (mirror, os.environ.get("HARNESS_MIRROR")) if root and not _is_url(root)]
    return [f"{root.rstrip('/')}/{file.path}" for root in dict.fromkeys(folders)]


def _sources(file: OfficialFile, mirror: str | None) -> list[str]:
    if file.sha256 is None:
        return _local_sources(file, mirror)
    mirrors = [root.rstrip("/") for root in (mirror, os.environ.get("HARNESS_MIRROR")) if root]
    addresses = [f"{root}/{quote(file.path) if _is_url(root) else file.path}" for root in dict.fromkeys(mirrors)]
    return [*addresses, file.url]


def _is_url(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _fetch(file: OfficialFile, source: str, path: Path, progress: Progress | None) -> str | None:
    """Put the verified file at `path` and return None, or return the problem. A wrong sha256 raises DataError."""
    part = path.with_name(path.name + ".part")
    if _is_url(source):
        problem = _download(file, source, part, progress)
        if problem is not None:
            return problem
    else:
        if not Path(source).is_file():
            return f"no file {source}"
        shutil.copyfile(source, part)
    actual, expected = sha256_of(part), file.sha256 or _recorded(path)
    if expected is None:
        path.with_name(path.name + ".sha256").write_text(actual, "utf-8")
        log.warning("%s has no pinned sha256; recorded that of this copy: %s", file.name, actual)
    elif actual != expected:
        part.unlink()
        raise DataError(
            f"{source} is not the pinned {file.name}: its sha256 is {actual[:16]}…, expected {expected[:16]}…; "
            "nothing was kept"
        )
    part.replace(path)
    log.info("%s: %d bytes from %s", file.name, path.stat().st_size, source)
    return None


def _download(file: OfficialFile, url: str, part: Path, progress: Progress | None) -> str | None:
    """Download to `part`, resuming an earlier attempt. Return the problem, or None."""
    if file.size is None:  # without its size, a part is indistinguishable from the whole
        part.unlink(missing_ok=True)
        return _download_rest(file, url, part, 0, progress)
    while True:
        start = part.stat().st_size if part.exists() else 0
        if start >= file.size:
            if start == file.size:
                return None
            part.unlink()  # longer than the pinned file, so useless
            start = 0
        problem = _download_rest(file, url, part, start, progress)
        done = part.stat().st_size if part.exists() else 0
        if problem is not None and done <= start:
            return problem
        if problem is None and done != file.size:
            return None  # complete, but another file: the sha256 will show it


def _download_rest(file: OfficialFile, url: str, part: Path, start: int, progress: Progress | None) -> str | None:
    request = urllib.request.Request(url, headers={"User-Agent": "fusion-harness"})
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as reply:
            resumed = reply.status == http.HTTPStatus.PARTIAL_CONTENT
            done = start if resumed else 0
            with part.open("ab" if resumed else "wb") as out:
                while chunk := reply.read(CHUNK):
                    out.write(chunk)
                    done += len(chunk)
                    if progress is not None:
                        progress(file.name, done, file.size or 0)
            if reply.length:  # bytes that were promised and never came
                return f"{url}: the connection broke after {done} bytes"
    except urllib.error.HTTPError as error:
        return f"{url}: HTTP {error.code}"
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        return f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}"
    return None


# ------------------------------------------------------------------------------------------------------- verifying


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(file: OfficialFile, path: Path) -> list[str | int]:
    status = path.stat()
    return [file.sha256 or _recorded(path) or "", status.st_size, status.st_mtime_ns]


def _recorded(path: Path) -> str | None:
    """Return the sha256 of the first copy of a file without a pinned one, or None."""
    try:
        return path.with_name(path.name + ".sha256").read_text("utf-8").strip() or None
    except OSError:
        return None


def _is_verified(file: OfficialFile, path: Path) -> bool:
    """Return whether the cached file is the pinned one; it is hashed once, then recognised by size and mtime."""
    if not path.is_file():
        return False
    note = path.with_name(path.name + ".verified")
    try:
        if json.loads(note.read_text("utf-8")) == _stamp(file, path):
            return True
    except (OSError, ValueError):
        pass  # never verified yet, or the note is damaged: hash the file
    if sha256_of(path) != (file.sha256 or _recorded(path)):
        log.warning("%s in the cache is not the pinned file and is fetched again: %s", file.name, path)
        return False
    _remember(file, path)
    return True


def _remember(file: OfficialFile, path: Path) -> None:
    note = path.with_name(path.name + ".verified")
    try:
        note.write_text(json.dumps(_stamp(file, path)), "utf-8")
    except OSError as error:  # a read-only cache is still a good cache
        log.debug("cannot remember that %s was verified: %s", path, error)
