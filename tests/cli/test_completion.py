"""What a shell is offered after Tab: names that exist here, and nothing on stderr."""

from __future__ import annotations

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
    ],
)
def test_values_are_completed(complete: Callable[..., list[str]], line: str, expected: list[str]) -> None:
    assert complete(line) == expected


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
