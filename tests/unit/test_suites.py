"""What holds of all three suites, in the pocket edition and with the official files."""

from __future__ import annotations

import importlib.util
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.records import Answer, Failure, Preference, Rating
from harness.records.errors import ConfigError
from harness.records.protocols import Suite, SuiteOptions
from harness.suites.alpaca_eval import suite as alpaca_eval
from harness.suites.alpaca_eval.suite import shown_order
from harness.suites.arena_hard import suite as arena_hard
from harness.suites.mt_bench import suite as mt_bench
from judges.llm import render
from tests.fakes.suite_rows import judged, said

BUILDERS: dict[str, Callable[[SuiteOptions], Suite]] = {
    "mt_bench": mt_bench.build,
    "alpaca_eval": alpaca_eval.build,
    "arena_hard": arena_hard.build,
}
needs_mirror = pytest.mark.skipif(
    not os.environ.get("HARNESS_MIRROR"), reason="HARNESS_MIRROR names the folder of pinned upstream files"
)


@pytest.mark.parametrize("name", BUILDERS)
def test_pocket_edition_runs_through_the_same_code(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    assert (suite.name, suite.version) == (name, "pocket-1")
    answers = [said(prompt.id, *("text " + prompt.id for _ in prompt.turns)) for prompt in suite.prompts()]
    tasks = [task for prompt, one in zip(suite.prompts(), answers, strict=True) for task in suite.tasks(prompt, one)]
    assert len({task.key for task in tasks}) == len(tasks)
    noise = random.Random(0)
    rows = [
        judged(task, Rating(value=5.0) if task.template.parser == "rating" else Preference(value=noise.random()))
        for task in tasks
    ]
    for task in tasks:
        assert render(task)[-1]["role"] == "user"
    score = suite.score(suite.prompts(), answers, rows).scores[suite.headline]
    assert score.value is not None
    assert (score.n, score.unscored) == (len(tasks), 0)


@pytest.mark.parametrize("name", BUILDERS)
def test_scores_do_not_depend_on_the_order_of_arrival(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    noise = random.Random(0)
    answers, rows = [], []
    for prompt in suite.prompts():
        for index in range(2):
            one = said(prompt.id, *(f"{noise.random()}" * (1 + index) for _ in prompt.turns))
            answers.append(one.model_copy(update={"index": index}))
            for task in suite.tasks(prompt, answers[-1]):
                rating = task.template.parser == "rating"
                values = [noise.random() for _ in range(3)]
                verdicts = [Rating(value=1 + 9 * value) if rating else Preference(value=value) for value in values]
                rows += [judged(task, verdict, repeat) for repeat, verdict in enumerate(verdicts)]
    shuffled = suite.score(suite.prompts(), noise.sample(answers, len(answers)), noise.sample(rows, len(rows)))
    assert suite.score(suite.prompts(), answers, rows) == shuffled


@pytest.mark.parametrize("name", BUILDERS)
def test_a_failed_answer_is_never_judged(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    prompt = suite.prompts()[0]
    failure = Failure(reason="timeout", message="no answer")
    assert not suite.tasks(prompt, Answer(prompt_id=prompt.id, model="m", error=failure))


@pytest.mark.parametrize("name", BUILDERS)
def test_a_model_that_says_the_original_tools_mark_of_failure_is_judged_by_what_it_said(name: str) -> None:
    suite: Suite = BUILDERS[name](SuiteOptions(edition="pocket"))
    prompt = suite.prompts()[0]
    assert suite.tasks(prompt, said(prompt.id, *("$ERROR$" for _ in prompt.turns)))


@pytest.mark.parametrize("name", BUILDERS)
def test_unknown_edition_lists_those_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="editions: official, pocket"):
        BUILDERS[name](SuiteOptions(edition="large"))


@needs_mirror
def test_unknown_reference_set_lists_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="official, pr3158"):
        mt_bench.build(SuiteOptions(references="mine", cache_dir=tmp_path))


@needs_mirror
def test_reference_sets_differ_in_the_protocol_and_in_what_the_judge_sees(tmp_path: Path) -> None:
    official = mt_bench.build(SuiteOptions(cache_dir=tmp_path))
    corrected = mt_bench.build(SuiteOptions(references="pr3158", cache_dir=tmp_path))
    assert official.protocol() != corrected.protocol()
    by_id = [{prompt.id: prompt for prompt in suite.prompts()} for suite in (official, corrected)]
    assert by_id[0]["104"].reference != by_id[1]["104"].reference
    assert by_id[0]["131"].reference == ()


@needs_mirror
def test_official_sizes(tmp_path: Path) -> None:
    found = {name: build(SuiteOptions(cache_dir=tmp_path)) for name, build in BUILDERS.items()}
    assert {name: len(suite.prompts()) for name, suite in found.items()} == {
        "mt_bench": 80,
        "alpaca_eval": 805,
        "arena_hard": 500,
    }
    calls = {}
    for name, suite in found.items():
        answered = ((prompt, said(prompt.id, *("x" for _ in prompt.turns))) for prompt in suite.prompts())
        calls[name] = sum(len(suite.tasks(prompt, answer)) for prompt, answer in answered)
    assert calls == {"mt_bench": 160, "alpaca_eval": 805, "arena_hard": 1000}
    switched = [shown_order(prompt.turns[0]) for prompt in found["alpaca_eval"].prompts()].count("ba")
    assert switched == 406  # specs/alpaca_eval, section 1


@needs_mirror
@pytest.mark.skipif(importlib.util.find_spec("alpaca_eval") is None, reason="alpaca-eval is not installed")
def test_alpaca_eval_messages_equal_the_installed_packages(tmp_path: Path) -> None:
    """The package's own functions fill and convert the template: the messages must be equal, byte for byte."""
    utils = pytest.importorskip("alpaca_eval.utils")
    pandas = pytest.importorskip("pandas")
    suite = alpaca_eval.build(SuiteOptions(cache_dir=tmp_path))
    spec = importlib.util.find_spec("alpaca_eval")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    text = (Path(spec.submodule_search_locations[0]) / alpaca_eval.TEMPLATE_FILE).read_text("utf-8")
    tasks = [suite.tasks(prompt, said(prompt.id, f" an {{answer}}\n{prompt.id} "))[0] for prompt in suite.prompts()]
    theirs, _ = utils.make_prompts(pandas.DataFrame([task.fields for task in tasks]), template=text)
    different = [
        task.prompt.id
        for task, prompt in zip(tasks, theirs, strict=True)
        if [dict(message) for message in utils.prompt_to_chatml(prompt.strip())] != render(task)
    ]
    assert different == []
