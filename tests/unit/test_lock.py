"""Locks on folders and files: who holds them, on file systems with and without flock, and links are not followed."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from harness.records.errors import ConfigError, RunLockedError, StoreError
from harness.store import LOCK_FILES, FolderLock, locked

WITHOUT_FLOCK = pytest.mark.parametrize("missing", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])


def no_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refused(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refused)


def test_the_second_is_refused_with_the_first_ones_pid_and_may_enter_afterwards(tmp_path: Path) -> None:
    first, second = FolderLock(tmp_path / "run"), FolderLock(tmp_path / "run")
    with first:
        assert first.held
        with pytest.raises(RunLockedError, match=rf"pid {os.getpid()}\) works on .*run; wait for it, or stop it"):
            second.take()
        assert not second.held
    with second:
        assert second.held


def test_a_lock_is_released_in_another_thread(tmp_path: Path) -> None:
    lock = FolderLock(tmp_path)
    lock.take()
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()

    with FolderLock(tmp_path):
        pass


def test_a_dead_holders_lock_is_free(tmp_path: Path) -> None:
    code = (
        "import os, pathlib\n"
        "from harness.store import FolderLock\n"
        f"lock = FolderLock(pathlib.Path({str(tmp_path)!r}))\n"
        "lock.take()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

    with FolderLock(tmp_path) as lock:
        assert lock.held


@WITHOUT_FLOCK
def test_without_flock_a_marker_locks_and_the_log_says_so(
    missing: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    no_flock(monkeypatch, missing)

    with FolderLock(tmp_path):
        with pytest.raises(RunLockedError, match=f"pid {os.getpid()}"):
            FolderLock(tmp_path).take()
        assert {path.name for path in tmp_path.iterdir()} == set(LOCK_FILES)
    assert "this file system has no file locks; while .lock.soft exists, others wait for it" in caplog.text
    with FolderLock(tmp_path):
        pass
    with locked(tmp_path / ".baselines.lock"):
        assert (tmp_path / ".baselines.lock.soft").exists()
    assert not (tmp_path / ".baselines.lock.soft").exists()


def test_a_marker_of_a_dead_process_of_this_machine_is_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import errno, fcntl, os, pathlib\n"
        "def refused(*_): raise OSError(errno.ENOLCK, 'no locks')\n"
        "fcntl.flock = refused\n"
        "from harness.store import FolderLock\n"
        f"lock = FolderLock(pathlib.Path({str(tmp_path)!r}))\n"
        "lock.take()\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert (tmp_path / ".lock.soft").exists()
    no_flock(monkeypatch, errno.ENOLCK)

    with FolderLock(tmp_path) as lock:
        assert lock.held


def test_a_folder_removed_under_a_marker_is_released_quietly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    no_flock(monkeypatch, errno.ENOLCK)
    lock = FolderLock(tmp_path / "run")
    lock.take()
    for name in LOCK_FILES:
        (tmp_path / "run" / name).unlink()
    (tmp_path / "run").rmdir()

    lock.release()

    assert not lock.held


def test_a_link_in_the_place_of_the_lock_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")

    with pytest.raises(StoreError, match=r"cannot lock .*\.lock"):
        FolderLock(tmp_path / "run").take()

    assert (tmp_path / "precious").read_text() == "kept"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")

    with pytest.raises(ConfigError, match="cannot make the folder"):
        FolderLock(tmp_path / "run").take()
