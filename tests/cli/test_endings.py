"""How a command ends when something unexpected ends it: never with exit code 1, which a gate reads as a regression."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from harness.cli.main import exit_code_of
from harness.records.errors import ConfigError, IncompleteError
from tests.fakes.commands import Done, harness_process

CRASH = re.compile(r"its traceback is in (\S+\.log); nothing was decided, and finished work is kept\n$")


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Logs of crashes go to a folder of the test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)


def raised(error: BaseException) -> BaseException:
    """The error with a traceback, as it arrives at the top."""
    try:
        raise error
    except BaseException as caught:
        return caught


def endless(depth: int = 0) -> int:
    return endless(depth + 1)


def too_deep() -> BaseException:
    try:
        endless()
    except RecursionError as error:
        return error
    raise AssertionError


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("vote"), "unexpected KeyError: 'vote'; "),
        (AssertionError(), "unexpected AssertionError; "),
        (MemoryError(), "not enough memory; "),
        (too_deep(), "unexpected RecursionError: maximum recursion depth exceeded"),
        (OSError(5, "Input/output error"), "unexpected OSError: [Errno 5] Input/output error; "),
        (UnicodeEncodeError("ascii", "→", 0, 1, "ordinal not in range"), "unexpected UnicodeEncodeError: "),
        (BrokenPipeError(32, "a server's pipe"), "unexpected BrokenPipeError: "),
        (ExceptionGroup("both", [ConfigError("x"), KeyError("vote")]), "unexpected ExceptionGroup: both"),
        (ValueError("two\nlines \x1b[31m"), "unexpected ValueError: two lines"),
    ],
)
def test_a_crash_is_one_sentence_a_log_file_and_exit_code_4(
    error: BaseException, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(raised(error)) == 4

    printed = capfd.readouterr().err
    assert printed.startswith(f"harness: {words}")
    assert printed.count("\n") == 1
    log = CRASH.search(printed)
    assert log is not None, printed
    text = Path(log[1]).read_text()
    assert "Traceback (most recent call last)" in text
    assert type(error).__name__ in text
    assert Path(log[1]).stat().st_mode & 0o077 == 0  # it may quote a prompt


def test_no_key_is_in_the_log_of_a_crash(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-hidden")

    exit_code_of(raised(RuntimeError("rejected sk-hidden")))

    printed = capfd.readouterr().err
    log = CRASH.search(printed)
    assert log is not None
    assert "rejected ***" in printed
    assert "sk-hidden" not in printed + Path(log[1]).read_text()


def test_without_a_place_for_the_log_the_traceback_is_printed(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)

    assert exit_code_of(raised(KeyError("vote"))) == 4

    printed = capfd.readouterr().err
    assert printed.startswith("Traceback")
    assert printed.endswith("its traceback is above; nothing was decided, and finished work is kept\n")


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (ConfigError("wrong"), 2, "harness: wrong\n"),
        (IncompleteError("half"), 4, "harness: half\n"),
        (ExceptionGroup("both", [ExceptionGroup("one", [ConfigError("wrong")])]), 2, "harness: wrong\n"),
        (KeyboardInterrupt(), 130, "harness: stopped; run the same command again to resume\n"),
        (typer.Abort(), 130, "harness: stopped; run the same command again to resume\n"),
        (typer.BadParameter("no such thing"), 2, "Error: Invalid value: no such thing\n"),
        (SystemExit(3), 3, ""),
        (OSError(28, "No space left"), 4, "harness: No space left; free space, then run this again\n"),
        (PermissionError(13, "Permission denied", "r/.lock"), 4, "harness: cannot use r/.lock: Permission denied\n"),
        (OSError(36, "File name too long", "y" * 200), 2, f"harness: cannot use {'y' * 100}: File name too long\n"),
    ],
)
def test_what_is_expected_has_its_own_code(
    error: BaseException, code: int, printed: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_code_of(raised(error)) == code
    assert capfd.readouterr().err == printed


def test_an_interrupt_while_modules_are_imported_is_one_line(tmp_path: Path) -> None:
    code = "import harness.cli; raise KeyboardInterrupt"

    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "harness: stopped\n")


def test_a_command_that_cannot_be_imported_is_a_crash(tmp_path: Path) -> None:
    code = "from harness.cli import main; main.COMMANDS['ls'] = ('nowhere:ls', ''); main.run()"

    done = subprocess.run([sys.executable, "-c", code, "ls"], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.returncode == 4
    assert "unexpected ModuleNotFoundError: No module named 'harness.cli.nowhere'" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [("judge", "list", "--json"), ("judge", "list"), ("--help",), ("ls", "suites")])
def test_a_reader_that_is_gone_is_a_quiet_141(words: tuple[str, ...], tmp_path: Path) -> None:
    process = harness_process(*words, cwd=tmp_path)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert process.wait(60) == 141
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_a_full_disk_behind_stdout_is_no_success(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "harness.cli.main", "judge", "list", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path, check=False)

    assert done.returncode == 4
    assert "No space left on device" in done.stderr


@pytest.mark.slow
def test_an_ascii_terminal_gets_escapes(tmp_path: Path) -> None:
    environment = {"PYTHONIOENCODING": "ascii", "LC_ALL": "C", "COLUMNS": "300"}

    process = harness_process("judge", "template", "größer → besser", cwd=tmp_path, **environment)
    _, err = process.communicate(timeout=60)

    assert process.returncode == 2, err
    assert r"gr\xf6\xdfer \u2192 besser" in err


@pytest.mark.slow
def test_a_deleted_working_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); from harness.cli.main import run;"
        "sys.argv = ['harness', 'leaderboard', '--results', 'r', '--out', 'x.html', '--format', 'html']; run()"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=tmp_path / "gone", capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1


def test_a_call_for_the_working_directory_that_is_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(FileNotFoundError) as missing:
        os.getcwd()

    assert exit_code_of(missing.value) == 2

    assert capfd.readouterr().err == "harness: the working directory was deleted; change to one that exists\n"


def test_the_commands_of_other_packages_end_alike(harness: Callable[..., Done], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("[" * 20_000)

    done = harness("train", "recipe.yaml")

    assert done.code == 2
    assert "recipe.yaml is not YAML: it is nested more than 64 levels deep" in done.err
