"""What a shell is offered after Tab: names that exist here, and nothing on stderr."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket


@pytest.fixture
def complete(harness: Callable[..., Done]) -> Callable[..., list[str]]:
    def offered(line: str) -> list[str]:
        words = line.split(" ")
        done = harness(_HARNESS_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(len(words) - 1))
        assert done.err == ""
        return done.out.split()

    return offered


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("harness run --suite m", ["m_arena_hard", "mt_bench", "mt_bench_pairs"]),
        ("harness watch --suite mt_bench,al", ["mt_bench,alpaca_eval"]),
        ("harness run --judge gpt-5", ["gpt-5.4", "gpt-5.4-mini"]),
        ("harness train pocket-", ["pocket-grid", "pocket-methods"]),
        ("harness lea", ["leaderboard"]),
        ("harness compare nobody", []),
        ("harness run --judge mt_bench=gpt-5.4-", ["mt_bench=gpt-5.4-mini"]),
    ],
)
def test_values_are_completed(complete: Callable[..., list[str]], line: str, expected: list[str]) -> None:
    assert complete(line) == expected


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--judge", "local", ":", "gpt"], ["gpt-oss-120b", "gpt-oss-20b"]),
        (["--judge", "local", ":"], ["gpt-oss-120b", "gpt-oss-20b", "llama-3.3-70b", "mistral-small-24b", "qwen3-32b"]),
        (["--judge", "=", "local", ":", "q"], ["qwen3-32b"]),
        (["--judge", "mt_bench", "=", "gpt-5.4,local", ":", "q"], ["qwen3-32b"]),
        (["--suite", "=", "mt"], ["mt_bench", "mt_bench_pairs"]),
        (["--judge", "local", ":", "qwen3-32b", "--suite", "alp"], ["alpaca_eval"]),
    ],
)
def test_bash_gets_what_follows_the_last_colon(tmp_path: Path, words: list[str], expected: list[str]) -> None:
    script = tmp_path / "ask.bash"
    program = f'env PYTHONPATH="{Path.cwd()}" "{sys.executable}" -m harness.cli.main'
    script.write_text(
        f'harness() {{ {program} "$@"; }}\n'
        "COMP_WORDS=(harness run " + " ".join(map(shlex.quote, words)) + ")\n"
        "COMP_CWORD=$(( ${#COMP_WORDS[@]} - 1 ))\n"
        "IFS=$'\\n'\n"
        'COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD=$COMP_CWORD _HARNESS_COMPLETE=complete_bash harness\n'
    )
    done = subprocess.run(["bash", str(script)], capture_output=True, text=True, check=False, cwd=tmp_path)

    assert done.stderr == ""
    assert done.stdout.split() == expected


@pytest.mark.slow
@pytest.mark.parametrize("configured", ["", "--results DIR", "harness.yaml", "HARNESS_RESULTS"])
def test_models_are_those_of_the_results_folder_in_use(
    complete: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configured: str
) -> None:
    folder = tmp_path / ("elsewhere" if configured else "results")
    for model in ("base", "new-1", "new-2"):
        make_run(folder, model, pocket("arena_hard"), skill=0.5)
    if configured == "harness.yaml":
        (tmp_path / "harness.yaml").write_text(f"results: {folder}\n")
    if configured == "HARNESS_RESULTS":
        monkeypatch.setenv("HARNESS_RESULTS", str(folder))
    flag = f" --results {folder}" if configured.startswith("--") else ""

    assert complete(f"harness compare{flag} base n") == ["new-1", "new-2"]
    assert complete(f"harness gate{flag} --candidates new-1,n") == ["new-1,new-2"]
