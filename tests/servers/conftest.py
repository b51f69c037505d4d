"""One run of the real thing, shared by the tests that look at it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.fakes import openai_server
from tests.fakes.commands import Done, harness_process


@dataclass(frozen=True)
class RealRun:
    """One `harness run --suite all --edition pocket` through a real vLLM."""

    done: Done
    results: Path
    model: Path


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Path], Path]:
    """Make a folder of packages, a stand-in among them, the installed ones; return its file of a JSON line per start.

    `loader`: the backend's check with transformers' loader, which takes seconds and has nothing to say about a toy.
    """

    def install(loader: str, packages: Path) -> Path:
        monkeypatch.syspath_prepend(packages)
        monkeypatch.setenv("PYTHONPATH", str(packages), prepend=":")
        monkeypatch.setenv("STANDIN_NOTES", str(tmp_path / "notes.jsonl"))
        monkeypatch.setattr(loader, _nothing_to_check)
        return tmp_path / "notes.jsonl"

    return install


async def _nothing_to_check(checkpoint: object) -> None:
    return None


@pytest.fixture
def llama_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a `llama-server` on PATH that writes its arguments to argv.json and serves as the fake does; return it.

    Its words are passed on to the fake: `llama_server("--mode=judge")`.
    """

    def install(*words: str) -> Path:
        file = tmp_path / "bin" / "llama-server"
        file.parent.mkdir()
        file.write_text(
            f"#!{sys.executable}\nimport json, os, sys\nwords = sys.argv[1:]\n"
            f"open({str(tmp_path / 'argv.json')!r}, 'w').write(json.dumps(words))\n"
            "port, name = words[words.index('--port') + 1], words[words.index('--alias') + 1]\n"
            f"os.execv({sys.executable!r}, [{sys.executable!r}, {openai_server.__file__!r}, '--port=' + port, "
            f"'--model=' + name, *{words!r}])\n"
        )
        file.chmod(0o755)
        monkeypatch.setenv("PATH", str(file.parent), prepend=":")
        return file

    return install


@pytest.fixture(scope="session")
def real_run(vllm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> RealRun:
    folder = tmp_path_factory.mktemp("real")
    words = ("run", "--model", str(vllm_checkpoint), "--suite", "all", "--edition", "pocket", "--json")
    process = harness_process(*words, cwd=folder)
    out, err = process.communicate(timeout=600)
    return RealRun(Done(process.returncode, out, err), folder / "results", vllm_checkpoint)
