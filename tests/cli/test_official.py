"""Pinned files: cache, mirror, resumed download, and what is never kept."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli.data import data_app
from harness.records.errors import ConfigError, DataError
from harness.records.facts import OfficialFile
from harness.store import official
from harness.store.official import pinned_files

CONTENT = bytes(range(256)) * 300
PLACE = "owner/repository/0123abcd/data/file.bin"
NAME = "mt_bench/questions"


@pytest.fixture(autouse=True)
def one_small_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The registry holds one small file whose upstream refuses connections; the cache is a fresh folder."""
    file = OfficialFile(
        name=NAME,
        suite="mt_bench",
        path=PLACE,
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        size=len(CONTENT),
        licence="Apache-2.0",
        source="http://127.0.0.1:9/file.bin",
    )
    monkeypatch.setattr(official, "pinned_files", lambda: {NAME: file})
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HARNESS_MIRROR", raising=False)


def mirror_with(folder: Path, content: bytes) -> str:
    place = folder / "mirror" / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    return str(folder / "mirror")


def test_a_mirror_folder_fills_the_cache(tmp_path: Path) -> None:
    found = official.ensure([NAME], mirror_with(tmp_path, CONTENT))
    assert found[NAME] == tmp_path / "cache" / "data" / PLACE
    assert found[NAME].read_bytes() == CONTENT
    assert official.ensure([NAME])[NAME] == found[NAME]  # no mirror needed any more


def test_the_mirror_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_MIRROR", mirror_with(tmp_path, CONTENT))
    assert official.ensure([NAME])[NAME].read_bytes() == CONTENT


def test_another_machines_cache_is_a_mirror(tmp_path: Path) -> None:
    """For machines without network: its `data` folder is copied and named."""
    path = official.ensure([NAME], mirror_with(tmp_path, CONTENT))[NAME]
    copied = path.parents[len(Path(official.pinned_files()[NAME].path).parts) - 1]

    assert official.ensure([NAME], str(copied), cache_dir=tmp_path / "other")[NAME].read_bytes() == CONTENT


def test_wrong_content_is_named_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"not the pinned mt_bench/questions: its sha256 is"):
        official.ensure([NAME], mirror_with(tmp_path, b"other" * 1000))
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert kept == []


def test_a_file_out_of_reach_names_itself_and_the_two_ways() -> None:
    with pytest.raises(DataError) as caught:
        official.ensure([NAME])
    message = str(caught.value)
    assert NAME in message
    assert "harness data pull mt_bench" in message
    assert "harness data pull --mirror DIR" in message
    assert caught.value.exit_code == 2


def test_a_changed_cached_file_is_noticed_and_fetched_again(tmp_path: Path) -> None:
    mirror = mirror_with(tmp_path, CONTENT)
    path = official.ensure([NAME], mirror)[NAME]
    path.write_bytes(b"changed")
    assert official.verify(official.pinned_files()[NAME]) == "wrong sha256"
    assert official.ensure([NAME], mirror)[NAME].read_bytes() == CONTENT


def test_unknown_suite_lists_those_with_data() -> None:
    with pytest.raises(ConfigError, match="suites with data: mt_bench"):
        official.files_of(["mmlu"])


@contextmanager
def serving(*, broken_after: int | None = None, ranges: bool = True) -> Iterator[tuple[str, list[str | None]]]:
    """A server of CONTENT at PLACE; its first reply may stop after some bytes. Yields its URL and the ranges asked."""
    asked: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            asked.append(wanted)
            start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted and ranges else 0
            body = CONTENT[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[:broken_after] if len(asked) == 1 else body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_broken_download_goes_on_where_it_stopped() -> None:
    seen: list[int] = []
    with serving(broken_after=10_000) as (url, asked):
        path = official.ensure([NAME], url, progress=lambda name, done, size: seen.append(done))[NAME]
    assert asked == [None, "bytes=10000-"]
    assert path.read_bytes() == CONTENT
    assert seen[-1] == len(CONTENT)


def test_a_server_without_ranges_starts_over() -> None:
    with serving(broken_after=10_000, ranges=False) as (url, _):
        assert official.ensure([NAME], url)[NAME].read_bytes() == CONTENT


def test_a_part_left_by_a_killed_process_is_used(tmp_path: Path) -> None:
    part = official.cached_path(official.pinned_files()[NAME])
    part.parent.mkdir(parents=True)
    part.with_name(part.name + ".part").write_bytes(CONTENT[:5000])
    with serving() as (url, asked):
        assert official.ensure([NAME], url)[NAME].read_bytes() == CONTENT
    assert asked == ["bytes=5000-"]


def test_data_commands_list_pull_and_verify(tmp_path: Path) -> None:
    runner = CliRunner()
    assert '"state": "missing"' in runner.invoke(data_app, ["list", "--json"]).stdout
    pulled = runner.invoke(data_app, ["pull", "mt_bench", "--mirror", mirror_with(tmp_path, CONTENT)])
    assert pulled.exit_code == 0
    assert "ok" in pulled.stdout
    verified = runner.invoke(data_app, ["verify", "--json"])
    assert verified.exit_code == 0
    official.cached_path(official.pinned_files()[NAME]).unlink()
    failed = runner.invoke(data_app, ["verify"])
    assert isinstance(failed.exception, DataError)


def test_without_a_suite_only_what_all_suites_need_is_pulled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = official.pinned_files()[NAME]
    languages = {
        f"m_arena_hard/{number}": replace(file, name=f"m_arena_hard/{number}", suite="m_arena_hard", optional=True)
        for number in range(6)
    }
    monkeypatch.setattr(official, "pinned_files", lambda: {NAME: file, **languages})
    runner = CliRunner()

    pulled = runner.invoke(data_app, ["pull", "--mirror", mirror_with(tmp_path, CONTENT)])

    # log lines are no part of it: whether they are shown depends on what this process ran before
    assert (pulled.exit_code, "skipped" in pulled.stderr, "left out" in pulled.stderr) == (0, False, False)
    assert NAME in pulled.stdout
    assert "m_arena_hard" not in pulled.stdout
    listed = runner.invoke(data_app, ["list"]).stdout
    assert listed.count("m_arena_hard") == 1
    assert "m_arena_hard (6 files)" in listed
    assert runner.invoke(data_app, ["list", "m_arena_hard"]).stdout.count("m_arena_hard/") == 6


@pytest.mark.parametrize("command", ["list", "pull", "verify"])
def test_each_data_command_helps_with_an_example(command: str) -> None:
    assert f"harness data {command}" in CliRunner().invoke(data_app, [command, "--help"]).stdout


def test_every_registered_file_is_pinned_by_revision_and_hash() -> None:
    for file in pinned_files().values():
        assert file.url.startswith("https://")
        by_revision = any(len(part) == 40 for part in file.url.split("/"))
        # the original's own script fetches this one without a revision
        by_revision = by_revision or file.name == "mt_bench_pairs/baseline"
        assert by_revision if file.sha256 is None else len(file.sha256) == 64
        assert by_revision or file.suite == "tokenizer"  # its address has no revision: the hash alone pins it
        assert file.optional or (file.sha256 is not None and file.size is not None)
