"""Stage `rewards` with functions as rewards: what gets a reward, what stops it, what a second run does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from harness.records.errors import ConfigError, IncompleteError, PluginError
from harness.store import JsonlRows
from recipes.layout import RewardRow
from recipes.rewards.scoring import check_reward
from recipes.spec import RewardSpec
from recipes.stages.rewards import source_reward_steps, target_reward_step
from recipes.steps import Step, run_step
from tests import ROOT
from tests.fakes.recipe_files import answers_step, prompt_rows, prompts_step, recipe

CALLS: list[list[str]] = []
"""Completions of every call of the functions below, in order."""


def length(prompts: Sequence[str], completions: Sequence[str]) -> list[float]:
    CALLS.append(list(completions))
    return [float(len(text)) for text in completions]


async def wanted(prompts: Sequence[str], completions: Sequence[str], gold: Sequence[str]) -> list[float]:
    await asyncio.sleep(0)
    return [float(one == other) for one, other in zip(completions, gold, strict=True)]


def spoken(prompts: Sequence[list[dict[str, str]]], completions: Sequence[list[dict[str, str]]]) -> list[float]:
    assert [talk[0]["role"] for talk in completions] == ["assistant"] * len(completions)
    return [float(len(talk[-1]["content"])) for talk in prompts]


def broken(prompts: Sequence[str], completions: Sequence[str], prompt_id: Sequence[str], **columns: object) -> object:
    made = {"nan": float("nan"), "none": None, "text": "3", "infinite": float("-inf")}
    if "short" in prompt_id:
        return [1.0]
    if "number" in prompt_id:
        return 1.0
    if "raise" in prompt_id:
        raise KeyError("gold")
    return [made.get(one, 1.0) for one in prompt_id]


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    CALLS.clear()


ROWS = prompt_rows(["p", "q"], gold="fox")
TEXTS: dict[str, list[str | None]] = {"p": ["fox", "a dog", "fox"], "q": [None, "hare"]}


def scored(folder: Path, name: str, texts: dict[str, list[str | None]] = TEXTS, **reward: object) -> Step:
    """The first source's rewards step, not run yet."""
    made = recipe(folder, {"kind": "function", "model": f"{__name__}:{name}", **reward})
    prompts = prompts_step(made, prompt_rows(list(texts), gold="fox"))
    answers = [answers_step(made.source(one), f"sources/{one}", texts) for one in "ab"]
    return source_reward_steps(made, prompts, answers)[0]


def rewards(step: Step) -> dict[str, float | None]:
    rows = JsonlRows(step.folder / "rewards.jsonl", RewardRow).read()
    return {f"{row.prompt_id}#{row.index}": row.value for row in rows}


def test_every_answer_gets_its_reward_and_a_failed_one_gets_none(tmp_path: Path) -> None:
    step = scored(tmp_path, "length")

    done = run_step(step)

    assert rewards(step) == {"p#0": 3.0, "p#1": 5.0, "p#2": 3.0, "q#1": 4.0}
    assert {key: done.counts[key] for key in ("answers", "rewarded", "answers_failed", "session_scored")} == {
        "answers": 5,
        "rewarded": 4,
        "answers_failed": 1,
        "session_scored": 3,  # "fox" once for both draws
    }


def test_a_finished_step_scores_nothing_again(tmp_path: Path) -> None:
    step = scored(tmp_path, "length")
    run_step(step)
    before = len(CALLS)
    (step.folder / "step.json").unlink()  # as kill -9 leaves it

    again = run_step(step)

    assert len(CALLS) == before
    assert again.counts["rewarded"] == 4


def test_answers_are_scored_by_length_in_batches(tmp_path: Path) -> None:
    texts: dict[str, list[str | None]] = {"p": ["x" * size for size in (5, 1, 4, 2, 3)]}

    run_step(scored(tmp_path, "length", texts, batch_size=2))

    assert [[len(text) for text in call] for call in CALLS] == [[1, 2], [3, 4], [5]]


def test_an_async_function_is_given_the_columns_it_names(tmp_path: Path) -> None:
    step = scored(tmp_path, "wanted")

    run_step(step)

    assert rewards(step) == {"p#0": 1.0, "p#1": 0.0, "p#2": 1.0, "q#1": 0.0}


def test_conversational_functions_are_given_messages(tmp_path: Path) -> None:
    step = scored(tmp_path, "spoken", params={"conversational": True})

    run_step(step)

    assert set(rewards(step).values()) == {float(len("say p"))}


@pytest.mark.parametrize(
    ("prompt_id", "sentence"),
    [
        ("nan", "gave nan for an answer to prompt 'nan'; a finite number is expected"),
        ("none", "gave None for an answer to prompt 'none'; a finite number is expected"),
        ("infinite", "gave -inf for an answer to prompt 'infinite'"),
        ("text", "gave '3' for an answer to prompt 'text'"),
        ("short", r"returned 1 rewards for 2 answers \(prompt 'a' and 1 more\); one per answer is expected"),
        ("number", r"returned 1.0 for prompt 'a' and 1 more; a list of numbers is expected"),
        ("raise", r"raised KeyError \('gold'\) for prompt 'a' and 1 more; earlier rewards are kept"),
    ],
)
def test_a_reward_that_is_no_number_stops_the_step_and_what_came_before_is_kept(
    tmp_path: Path, prompt_id: str, sentence: str
) -> None:
    texts: dict[str, list[str | None]] = {"0": ["x"], "1": ["y"], "a": ["fine"], prompt_id: ["long answer"]}
    step = scored(tmp_path, "broken", texts, batch_size=2)

    with pytest.raises(IncompleteError, match=f"reward function {__name__}:broken {sentence}"):
        run_step(step)

    assert rewards(step) == {"0#0": 1.0, "1#0": 1.0}


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("nowhere_at_all:f", "module 'nowhere_at_all' cannot be imported; install it, or use FILE.py:NAME"),
        ("nowhere.py:f", "there is no file '.*nowhere.py'"),
        ("just_a_name", "'just_a_name' does not name a function; use FILE.py:NAME or module:NAME"),
        (f"{__name__}:nothing", f"{__name__} has no function 'nothing'; it has: .*length"),
    ],
)
def test_a_function_that_is_not_there_is_one_sentence(tmp_path: Path, model: str, sentence: str) -> None:
    made = recipe(tmp_path, {"kind": "function", "model": model})
    prompts = prompts_step(made, ROWS)
    step = target_reward_step(made, 42, prompts, answers_step(tmp_path / "target", "target", TEXTS))

    with pytest.raises(ConfigError, match=sentence):
        run_step(step)


def test_an_unknown_kind_names_those_there_are(tmp_path: Path) -> None:
    made = recipe(tmp_path, {"kind": "lottery"})
    step = target_reward_step(made, 42, prompts_step(made, ROWS), answers_step(tmp_path / "t", "target", TEXTS))

    with pytest.raises(PluginError, match=r"no reward named 'lottery'; installed: .*function"):
        run_step(step)


def test_a_function_edited_in_mid_scoring_is_not_mixed_with_what_it_was(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(prompts, completions):\n    return [1.0 for _ in prompts]\n")
    made = recipe(tmp_path / "out", {"kind": "function", "model": f"{file}:f"})
    prompts = prompts_step(made, ROWS)
    step = target_reward_step(made, 42, prompts, answers_step(tmp_path / "target", "target", TEXTS))
    run_step(step)
    assert str(tmp_path) not in (step.folder / "step.json").read_text()
    (step.folder / "step.json").unlink()
    file.write_text("def f(prompts, completions):\n    return [2.0 for _ in prompts]\n")

    with pytest.raises(ConfigError, match="come from a different function reward than the current one"):
        run_step(step)
    with pytest.raises(ConfigError, match="use --from rewards"):
        check_reward(made.spec.reward, [step.folder])
    assert set(rewards(step).values()) == {1.0}


def test_a_function_mended_before_it_scored_anything_is_taken_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def f(prompts, completions):\n    return [None for _ in prompts]\n")
    made = recipe(tmp_path / "out", {"kind": "function", "model": f"{file}:f"})
    prompts = prompts_step(made, ROWS)
    step = target_reward_step(made, 42, prompts, answers_step(tmp_path / "target", "target", TEXTS))
    with pytest.raises(IncompleteError, match="gave None"):
        run_step(step)
    file.write_text("def f(prompts, completions):\n    return [2.0 for _ in prompts]\n")

    run_step(step)

    assert set(rewards(step).values()) == {2.0}


def test_a_reward_that_is_not_there_is_seen_before_anything_is_asked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        check_reward(RewardSpec(kind="function", model="nowhere.py:f"))
    check_reward(RewardSpec(kind="function", model=f"{__name__}:length"), [tmp_path])
    assert not CALLS


def test_no_answer_with_a_reward_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"no answer of 'a' got a reward \(2 answers_failed\)"):
        run_step(scored(tmp_path, "length", {"p": [None, None]}))


PAGE = ROOT / "docs" / "rewards.md"


def test_the_function_of_the_docs_page_scores(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    (tmp_path / "mine.py").write_text(code)
    made = recipe(tmp_path, {"kind": "function", "model": f"{tmp_path}/mine.py:short_and_right"})
    prompts = prompts_step(made, prompt_rows(["p"], answer="fox"))
    step = target_reward_step(made, 42, prompts, answers_step(tmp_path / "t", "target", {"p": ["a fox", "a cat"]}))

    run_step(step)

    assert rewards(step) == {"p#0": pytest.approx(0.995), "p#1": pytest.approx(-0.005)}  # 5 characters: 0.005
