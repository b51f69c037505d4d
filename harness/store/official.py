"""The registry of pinned upstream files: address, revision, sha256, size, licence. Data only."""

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
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..records.errors import ConfigError, DataError
from .files import cache_folder, locked

FASTCHAT = "lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
FASTCHAT_PR3158 = "lm-sys/FastChat/71aa329da2b17f387929ae6f5b3a453804e885cd/fastchat/llm_judge/data"
MT_BENCH_SPACE = "huggingface.co/spaces/lmsys/mt-bench"  # FastChat download_mt_bench_pregenerated.py: no revision
ALPACA = "tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20"
ALPACA_HUB = "huggingface.co/datasets/tatsu-lab/alpaca_eval"
ALPACA_HUB_REVISION = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
ARENA_V2 = "lmarena/arena-hard-auto/196f6b826783b3da7310e361a805fa36f0be83f3"
ARENA = "lmarena/arena-hard-auto/efc012e192b88024a5203f5a28ec8fc0342946df"


@dataclass(frozen=True)
class OfficialFile:
    """One upstream file at one revision."""

    name: str
    """`SUITE/FILE`, the name for `ensure`."""
    suite: str
    path: str
    """Path under the cache's `data` folder and under a mirror: owner/repository/revision/path."""
    sha256: str | None
    """None: not known in advance. The sha256 of the first download is then recorded beside the file and required
    later."""
    size: int | None
    """Bytes; None if sha256 is None, or if only the hash is known."""
    licence: str
    source: str | None = None
    """Upstream address, if it is not `path` on raw.githubusercontent.com."""
    optional: bool = False
    """Whether only features that need this file by name fail without it."""

    @property
    def url(self) -> str:
        return self.source or f"https://raw.githubusercontent.com/{quote(self.path)}"


_PINNED = (
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
        name="mt_bench_pairs/baseline",
        suite="mt_bench_pairs",
        path=f"{MT_BENCH_SPACE}/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
        sha256=None,
        size=None,
        licence="not stated",
        source=f"https://{MT_BENCH_SPACE}/resolve/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
        optional=True,
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
    OfficialFile(
        name="arena_hard_v2/questions",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/question.jsonl",
        sha256="a75cef6623db6b27aec810497b059f0659705d7ff48dcbccc5bd5b130728ac73",
        size=947_596,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/baseline/hard_prompt",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl",
        sha256="c23a7c255eead99f7f86ad48aa1d8ccdb5b3334f2097e0e1e09184df87265e03",
        size=4_184_593,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/judge_config",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/config/arena-hard-v2.0.yaml",
        sha256="ee68e5c6ac98a79720bf11014fc3f7fc3c3e5899153b3b08efe3db0e174215a0",
        size=543,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/baseline/creative_writing",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl",
        sha256=None,
        size=None,
        licence="Apache-2.0",
        optional=True,
    ),
    OfficialFile(
        name="arena_hard_v2/judge_prompts",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/utils/judge_utils.py",
        sha256=None,
        size=None,
        licence="Apache-2.0",
        optional=True,
    ),
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
FILES: dict[str, OfficialFile] = {file.name: file for file in _PINNED}


# ----------------------------------------------------------------------------------------------------
# Fetch pinned upstream files into the local cache and verify them by sha256. Upstream's texts are never in this
# repository: they are read at run time from these files. A file comes from the cache, else from a mirror (a folder or
# a URL with the same paths), else from upstream. A file without the pinned sha256 is never kept. If only the revision
# is pinned, later downloads must have the sha256 of the first. This module knows nothing about the contents of the
# files.


log = logging.getLogger(__name__)

CHUNK = 1 << 18
TIMEOUT = 30.0
"""Seconds without a byte after which a download fails."""
Progress = Callable[[str, int, int], None]
"""Called with (file name, bytes done, total bytes)."""


def files_of(suites: Iterable[str]) -> list[OfficialFile]:
    """Return the files of these suites, or all files if none is named. Raise ConfigError for a suite without files."""
    wanted = list(suites)
    known = sorted({file.suite for file in FILES.values()})
    for suite in wanted:
        if suite not in known:
            raise ConfigError(f"no official data for suite {suite!r}; suites with data: {', '.join(known)}")
    return [file for file in FILES.values() if not wanted or file.suite in wanted]


def cached_path(file: OfficialFile, cache_dir: Path | None = None) -> Path:
    return (cache_dir or cache_folder()) / "data" / file.path


def ensure(
    names: Iterable[str],
    mirror: str | None = None,
    *,
    cache_dir: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Path]:
    """Return name -> verified local file, fetching what is not cached. Raise DataError if a file is unavailable."""
    return {name: _ensure_one(FILES[name], mirror, cache_dir, progress) for name in names}


def verify(file: OfficialFile, cache_dir: Path | None = None) -> str:
    """Read the whole cached file and return "ok", "missing" or "wrong sha256"."""
    path = cached_path(file, cache_dir)
    if not path.is_file():
        return "missing"
    return "ok" if sha256_of(path) == expected_sha256(file, cache_dir) else "wrong sha256"


def expected_sha256(file: OfficialFile, cache_dir: Path | None = None) -> str | None:
    """Return the pinned sha256, else the one recorded at the first download, else None."""
    return file.sha256 or _recorded(cached_path(file, cache_dir))


def is_available_offline(name: str, mirror: str | None = None, cache_dir: Path | None = None) -> bool:
    """Return whether the file is in the cache or in a mirror's folder, so that `ensure` needs no network."""
    file = FILES[name]
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


def _sources(file: OfficialFile, mirror: str | None) -> list[str]:
    """Return the paths and URLs of the file, in the order they are tried."""
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
        log.warning("%s has no pinned sha256; recorded that of this download: %s", file.name, actual)
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
    """Return the sha256 of the first download of a file without a pinned one, or None."""
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
