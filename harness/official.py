"""Pinned upstream files: where each comes from, its sha256 and licence, and how it gets into the local cache.

Upstream's texts are never in this repository: they are read at run time from these files. A file is taken from the
cache, else from a mirror (a folder or a URL that holds the same paths), else from upstream; what does not have the
pinned sha256 is never kept. This module knows nothing of what is in the files.
"""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import json
import logging
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from .errors import ConfigError, DataError

log = logging.getLogger(__name__)

CHUNK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte before a download is given up."""
FASTCHAT = "lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
FASTCHAT_PR3158 = "lm-sys/FastChat/71aa329da2b17f387929ae6f5b3a453804e885cd/fastchat/llm_judge/data"
ALPACA = "tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20"
ALPACA_HUB = "huggingface.co/datasets/tatsu-lab/alpaca_eval"
ALPACA_HUB_REVISION = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
ARENA = "lmarena/arena-hard-auto/efc012e192b88024a5203f5a28ec8fc0342946df"

Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes done, bytes in all)."""


@dataclass(frozen=True)
class OfficialFile:
    """One upstream file at one revision."""

    name: str
    """`SUITE/FILE`: what `ensure` is asked for."""
    suite: str
    path: str
    """Its place under the cache's `data` folder and under a mirror: owner/repository/revision/path."""
    sha256: str
    size: int
    """Bytes."""
    licence: str
    source: str | None = None
    """Upstream address where it is not `path` on raw.githubusercontent.com."""

    @property
    def url(self) -> str:
        return self.source or f"https://raw.githubusercontent.com/{quote(self.path)}"


_FILES = (
    OfficialFile(
        name="mt_bench/questions",
        suite="mt_bench",
        path=f"{FASTCHAT}/mt_bench/question.jsonl",
        sha256="119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
        size=48_929,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="mt_bench/judge_prompts",
        suite="mt_bench",
        path=f"{FASTCHAT}/judge_prompts.jsonl",
        sha256="fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
        size=10_449,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="mt_bench/references/official",
        suite="mt_bench",
        path=f"{FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
        sha256="f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
        size=51_109,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="mt_bench/references/pr3158",
        suite="mt_bench",
        path=f"{FASTCHAT_PR3158}/mt_bench/reference_answer/gpt-4-0125-preview.jsonl",
        sha256="e484037da5cc14007dde1d821ef76046fccbd0b2f095237fad9ead2c4fc66800",
        size=95_230,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="alpaca_eval/baseline",
        suite="alpaca_eval",
        path=f"{ALPACA}/results/gpt4_1106_preview/model_outputs.json",
        sha256="83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
        size=1_899_765,
        licence="CC-BY-NC-4.0",
    ),
    OfficialFile(
        name="alpaca_eval/gamed",
        suite="alpaca_eval",
        path=f"{ALPACA_HUB}/main/df_gamed.csv",
        sha256="97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
        size=148_956,
        licence="CC-BY-NC-4.0",
        source=f"https://{ALPACA_HUB}/resolve/{ALPACA_HUB_REVISION}/df_gamed.csv",
    ),
    OfficialFile(
        name="arena_hard/questions",
        suite="arena_hard",
        path=f"{ARENA}/data/arena-hard-v0.1/question.jsonl",
        sha256="4daad38811161c3ba5c248f26b90c3cef89634f4c772002ed9138c1e13f63e9f",
        size=283_598,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard/baseline",
        suite="arena_hard",
        path=f"{ARENA}/data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
        sha256="245109b8fe7c3bef0304f1c559d29da377f97f61535ad1170b46a61a08eb9ac7",
        size=1_058_775,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard/judge_config",
        suite="arena_hard",
        path=f"{ARENA}/config/judge_config.yaml",
        sha256="6e001736bacacdb1591ffca7eec953a7089f8f5604872d1ca4f9a6f9de1ee451",
        size=2_400,
        licence="Apache-2.0",
    ),
)
FILES: dict[str, OfficialFile] = {file.name: file for file in _FILES}


def files_of(suites: Iterable[str]) -> list[OfficialFile]:
    """The files of these suites, all files for none named. Raises ConfigError on a suite without files."""
    wanted = list(suites)
    known = sorted({file.suite for file in FILES.values()})
    for suite in wanted:
        if suite not in known:
            raise ConfigError(f"no official data for suite {suite!r}; suites with data: {', '.join(known)}")
    return [file for file in FILES.values() if not wanted or file.suite in wanted]


def cache_root() -> Path:
    """$HARNESS_CACHE, else $XDG_CACHE_HOME/fusion-harness, else ~/.cache/fusion-harness."""
    if own := os.environ.get("HARNESS_CACHE"):
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "fusion-harness"


def cached_path(file: OfficialFile, cache_dir: Path | None = None) -> Path:
    return (cache_dir or cache_root()) / "data" / file.path


def ensure(
    names: Iterable[str],
    mirror: str | None = None,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Name -> verified local file. Fetches what is not in the cache; raises DataError when a file cannot be had."""
    return {name: _ensure_one(FILES[name], mirror, cache_dir, progress) for name in names}


def verify(file: OfficialFile, cache_dir: Path | None = None) -> str:
    """Reads the cached file whole: "ok", "missing" or "wrong sha256"."""
    path = cached_path(file, cache_dir)
    if not path.is_file():
        return "missing"
    return "ok" if sha256_of(path) == file.sha256 else "wrong sha256"


# -------------------------------------------------------------------------------------------------------- fetching


def _ensure_one(file: OfficialFile, mirror: str | None, cache_dir: Path | None, progress: Progress | None) -> Path:
    path = cached_path(file, cache_dir)
    if _is_verified(file, path):
        return path
    tried: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.with_name(path.name + ".lock")):
            if _is_verified(file, path):  # another process fetched it meanwhile
                return path
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
        f"({'; '.join(tried)}); with network run `harness data pull {file.suite}`, without it copy a folder that "
        f"holds {file.path} here and run `harness data pull --mirror DIR`"
    )


def _sources(file: OfficialFile, mirror: str | None) -> list[str]:
    """Folder paths and URLs of the file itself, in the order they are tried."""
    found = [place.rstrip("/") for place in (mirror, os.environ.get("HARNESS_MIRROR")) if place]
    places = [f"{place}/{quote(file.path) if _is_url(place) else file.path}" for place in dict.fromkeys(found)]
    return [*places, file.url]


def _is_url(place: str) -> bool:
    return place.startswith(("http://", "https://"))


def _fetch(file: OfficialFile, source: str, path: Path, progress: Progress | None) -> str | None:
    """Puts the verified file at `path`; what hindered it otherwise. A wrong sha256 raises DataError."""
    part = path.with_name(path.name + ".part")
    if _is_url(source):
        problem = _download(file, source, part, progress)
        if problem is not None:
            return problem
    else:
        if not Path(source).is_file():
            return f"no file {source}"
        shutil.copyfile(source, part)
    found = sha256_of(part)
    if found != file.sha256:
        part.unlink()
        raise DataError(
            f"{source} is not the pinned {file.name}: its sha256 is {found[:16]}…, expected {file.sha256[:16]}…; "
            "nothing was kept"
        )
    part.replace(path)
    log.info("%s: %d bytes from %s", file.name, file.size, source)
    return None


def _download(file: OfficialFile, url: str, part: Path, progress: Progress | None) -> str | None:
    """Downloads to `part`, going on where an earlier attempt stopped; what went wrong, or None."""
    while True:
        start = part.stat().st_size if part.exists() else 0
        if start >= file.size:
            if start == file.size:
                return None
            part.unlink()  # longer than the pinned file: of no use
            start = 0
        problem = _download_rest(file, url, part, start, progress)
        done = part.stat().st_size if part.exists() else 0
        if problem is not None and done <= start:
            return problem
        if problem is None and done != file.size:
            return None  # complete, but another file: the sha256 will say so


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
                        progress(file.name, done, file.size)
            if reply.length:  # bytes that were promised and never came
                return f"{url}: the connection broke after {done} bytes"
    except urllib.error.HTTPError as error:
        return f"{url}: HTTP {error.code}"
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        return f"{url}: {getattr(error, 'reason', None) or error or type(error).__name__}"
    return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """One process at a time fetches one file."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ------------------------------------------------------------------------------------------------------- verifying


def sha256_of(path: Path) -> str:
    """sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _stamp(file: OfficialFile, path: Path) -> list[str | int]:
    status = path.stat()
    return [file.sha256, status.st_size, status.st_mtime_ns]


def _is_verified(file: OfficialFile, path: Path) -> bool:
    """Whether the cached file is the pinned one; hashed once, then remembered by size and time of change."""
    if not path.is_file():
        return False
    note = path.with_name(path.name + ".verified")
    try:
        if json.loads(note.read_text("utf-8")) == _stamp(file, path):
            return True
    except (OSError, ValueError):
        pass  # never verified yet, or the note is damaged: hash the file
    if sha256_of(path) != file.sha256:
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
