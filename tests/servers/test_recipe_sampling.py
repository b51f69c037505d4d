"""Sources and target: every draw answered once, whatever dies; failures are asked again and counted."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from harness.records import Answer, ModelRef, Prompt, Sampling
from harness.records.errors import ConfigError, IncompleteError
from harness.records.settings import ServeSpec
from harness.store import JsonlRows
from recipes.layout import Counts, Recipe
from recipes.sampling import AnswerFile, Sampler, answer_counts, sample, take_answers
from recipes.spec import SamplingSpec
from recipes.stages.answers import source_steps, target_step
from recipes.steps import Step, is_done, run_step
from tests import ROOT
from tests.fakes import openai_server
from tests.fakes.openai_server import FakeOpenAI, Reply, Request
from tests.fakes.recipe_files import prompt_rows, prompts_step, recipe
from tests.fakes.tiny_models import make_checkpoint, random_prompts

Serve = Callable[[FakeOpenAI], AbstractContextManager[FakeOpenAI]]
SAMPLING = {"n": 2, "temperature": 0.8, "top_p": 0.95, "max_tokens": 12, "seed": 5}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("models") / "tiny")


def read(path: Path) -> dict[str, Answer]:
    return {answer.key: answer for answer in JsonlRows(path, Answer).read()}


def lines(path: Path) -> list[str]:
    return [json.loads(line)["prompt_id"] + "#" + str(json.loads(line)["index"]) for line in path.open()]


def with_prompts(folder: Path, made: Recipe, ids: Sequence[str] = ("p1", "p2", "p3")) -> Step:
    return prompts_step(made, [*prompt_rows(ids), *prompt_rows(["s1"], "sft"), *prompt_rows(["t1"], "test")])


def endpoint_recipe(folder: Path, url: str, **sampling: object) -> Recipe:
    source = {"name": "a", "model": f"endpoint:fake@{url}"}
    return recipe(folder, {"kind": "function"}, sources=[source], sampling=SAMPLING | sampling)


# ------------------------------------------------------------------------------------------------- which are asked


def test_sources_answer_the_prompts_that_are_trained_on_under_their_own_name(tmp_path: Path, serve: Serve) -> None:
    with serve(FakeOpenAI()) as fake:
        made = endpoint_recipe(tmp_path, fake.url)
        (step,) = source_steps(made, with_prompts(tmp_path, made))
        record = run_step(step)
        seeds = {request.body["seed"] for request in fake.requests}

    found = read(step.folder / "answers.jsonl")
    assert sorted(found) == sorted(f"{one}#{index}" for one in ("p1", "p2", "p3", "s1") for index in (0, 1))
    assert {answer.model for answer in found.values()} == {"a"}
    assert len(seeds) == 8
    # the fake answers by the prompt alone: both draws of each prompt are alike
    assert (record.counts["answers"], record.counts["identical"], record.counts["failed"]) == (8, 4, 0)
    assert record.settings["model"] == "endpoint:fake"
    assert list(record.outputs) == ["answers.jsonl", "identity.json"]


def test_the_target_is_the_sft_checkpoint_and_answers_the_preference_prompts(tmp_path: Path, checkpoint: Path) -> None:
    made = recipe(tmp_path, {"kind": "function"}, target_backend="in_process", sampling=SAMPLING)
    folder = tmp_path / "seed-42" / "sft"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(checkpoint)
    (folder / "begun.json").write_text('{"settings": {}, "inputs": {}}')
    sft = Step("sft", "seed-42/sft", folder, {}, lambda _: {})
    prompts = with_prompts(tmp_path, made)
    record = run_step(sft)
    step = target_step(made, 42, prompts, sft)
    run_step(step)
    (folder / "step.json").unlink()
    (folder / "begun.json").unlink()

    found = read(step.folder / "answers.jsonl")
    assert sorted(found) == [f"{one}#{index}" for one in ("p1", "p2", "p3") for index in (0, 1)]
    assert {answer.model for answer in found.values()} == {"target"}
    assert step.settings["sampling"] == SAMPLING | {"seed": 42, "stop": []}  # of the recipe's seed, not of `sampling`
    assert record.stage == "sft"


# ------------------------------------------------------------------------------------------------------- failures


def test_empty_answers_are_failures_and_are_asked_again(tmp_path: Path, serve: Serve) -> None:
    silent = True

    def reply(request: Request) -> str:
        return " \n" if silent and "p2" in request.last else "yes"

    with serve(FakeOpenAI(reply=reply)) as fake:
        made = endpoint_recipe(tmp_path, fake.url)
        (step,) = source_steps(made, with_prompts(tmp_path, made))
        with pytest.raises(IncompleteError) as raised:
            run_step(step)
        asked = len(fake.requests)
        silent = False
        record = run_step(step)

    assert str(raised.value) == (
        "a: 2 of 8 answers failed (empty 2), more than `sampling.max_failed` = 0.05 allows; "
        "the same command retries them, or raise it to do without them"
    )
    assert raised.value.exit_code == 4
    assert (asked, len(fake.requests)) == (8, 10)
    assert (record.counts["answers"], record.counts["failed"]) == (8, 0)


def test_a_source_that_thinks_gives_its_answer_and_its_reasoning_apart(tmp_path: Path, serve: Serve) -> None:
    with serve(FakeOpenAI(reply=lambda request: "<think>hm</think>\nyes")) as fake:
        made = endpoint_recipe(tmp_path, fake.url)
        (step,) = source_steps(made, with_prompts(tmp_path, made))
        run_step(step)

    answers = read(step.folder / "answers.jsonl").values()
    assert {(answer.turns, answer.reasoning) for answer in answers} == {(("yes",), ("hm",))}


def test_existing_answers_are_taken_without_their_reasoning(tmp_path: Path) -> None:
    prompts = [Prompt(id=name, turns=(f"Say {name}.",), category="toy") for name in ("p1", "p2", "p3")]
    rows = [
        {"prompt": "Say p1.", "all_generated_responses": ["<think>hm</think>yes", "<think>never ends"]},
        {"prompt_id": "p2", "turns": ["yes"], "reasoning": ["hm"]},
        {"prompt_id": "p3", "turns": ["yes"]},
    ]

    counts = take_answers(rows, prompts, "a", tmp_path / "answers.jsonl", origin="file")

    answers = read(tmp_path / "answers.jsonl")
    assert [answers[key].reasoning for key in ("p1#0", "p2#0", "p3#0")] == [("hm",), ("hm",), ()]
    assert {answer.turns for answer in answers.values() if answer.error is None} == {("yes",)}
    assert (counts["answers"], counts["failed_empty"]) == (3, 1)
    assert "ends in its reasoning" in str(answers["p1#1"].error)


def test_a_few_failures_are_counted_and_left(tmp_path: Path, serve: Serve) -> None:
    def reply(request: Request) -> Reply | str:
        return Reply(text="blocked by content policy", status=400) if "p2" in request.last else "yes"

    with serve(FakeOpenAI(reply=reply)) as fake:
        made = endpoint_recipe(tmp_path, fake.url, max_failed=0.25)
        (step,) = source_steps(made, with_prompts(tmp_path, made))
        record = run_step(step)

    assert record.counts["failed_content_filter"] == 2
    assert is_done(step)


@pytest.mark.slow
def test_an_endpoint_that_dies_leaves_what_it_gave_and_is_gone_on_with(tmp_path: Path, checkpoint: Path) -> None:
    port, once = tmp_path / "port", tmp_path / "once"
    command = [sys.executable, openai_server.__file__, "--port-file", str(port)]

    def start(*words: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*command, *words])
        limit = time.monotonic() + 60
        while not port.exists():
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.02)
        return process

    server = start("--die-after", "5", "--die-once", str(once))
    number = port.read_text()
    sources = [
        {"name": "first", "model": str(checkpoint), "backend": "in_process"},
        {"name": "second", "model": f"endpoint:fake@http://127.0.0.1:{number}/v1", "serve": {"concurrency": 1}},
    ]
    made = recipe(tmp_path / "out", {"kind": "function"}, sources=sources, sampling=SAMPLING)
    first, second = source_steps(made, with_prompts(tmp_path, made))
    try:
        run_step(first)
        with pytest.raises(
            IncompleteError, match=r"^second: .*; 4 of 8 answers are kept, and the same command resumes"
        ):
            run_step(second)
        server.wait(30)
        assert is_done(first)
        there = (second.folder / "answers.jsonl").read_text()

        port.unlink()
        server = start("--port", number)
        record = run_step(second)
    finally:
        server.kill()
        server.wait()

    assert (second.folder / "answers.jsonl").read_text().startswith(there)
    assert record.counts["answers"] == 8
    assert sorted(lines(second.folder / "answers.jsonl")) == sorted(read(second.folder / "answers.jsonl"))


# ---------------------------------------------------------------------------------------------------- killed, full

SAMPLED = Sampling(temperature=0.8, top_p=0.95, max_tokens=12, n=3, seed=5)
KILLED = """
from pathlib import Path
from tests.fakes.tiny_models import random_prompts
from harness.records.settings import ServeSpec
from harness.records import ModelRef, Sampling
from recipes.sampling import Sampler, AnswerFile, sample
folder = Path({folder!r})
sampler = Sampler("tiny", ModelRef.parse({model!r}), "in_process", ServeSpec(engine_args=("batch_size=16",)))
sampling = Sampling(temperature=0.8, top_p=0.95, max_tokens=12, n=3, seed=5)
sample(sampler, [AnswerFile(folder / "answers.jsonl", random_prompts(300), sampling)], folder)
"""


@pytest.mark.slow
def test_killed_in_mid_sampling_nothing_is_lost_or_asked_twice_and_the_texts_are_the_same(
    tmp_path: Path, checkpoint: Path
) -> None:
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    for made in (whole, folder):
        made.mkdir()

    def start(into: Path) -> subprocess.Popen[bytes]:
        code = KILLED.format(folder=str(into), model=str(checkpoint))
        return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"})

    path = folder / "answers.jsonl"
    process = start(folder)
    try:
        limit = time.monotonic() + 120
        while not path.exists() or path.stat().st_size < 20000:
            assert process.poll() is None
            assert time.monotonic() < limit
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    there = lines_kept(path)
    assert 0 < len(there) < 900

    assert start(folder).wait(120) == 0
    ask(checkpoint, whole, 300, batch_size=64)

    assert lines_kept(path)[: len(there)] == there
    assert len(lines_kept(path)) == len(read(path)) == 900
    assert texts(path) == texts(whole / "answers.jsonl")


def lines_kept(path: Path) -> list[str]:
    """The whole lines; what is being written when the process is killed is not there."""
    return [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def ask(model: Path, folder: Path, count: int, *, batch_size: int | None = None) -> Counts:
    """Three answers of a checkpoint to each of so many random prompts, in this process."""
    serve = ServeSpec(engine_args=() if batch_size is None else (f"batch_size={batch_size}",))
    sampler = Sampler("tiny", ModelRef.parse(str(model)), "in_process", serve)
    return sample(sampler, [AnswerFile(folder / "answers.jsonl", random_prompts(count), SAMPLED)], folder)


def texts(path: Path) -> dict[str, tuple[str, ...]]:
    return {key: answer.turns for key, answer in read(path).items()}


@pytest.mark.slow
def test_answers_of_other_weights_are_not_mixed(tmp_path: Path, checkpoint: Path) -> None:
    other = make_checkpoint(tmp_path / "tiny", seed=1)

    ask(checkpoint, tmp_path, 2)
    with pytest.raises(ConfigError, match="has answers of 'tiny' with weights"):
        ask(other, tmp_path, 3)
    assert len(read(tmp_path / "answers.jsonl")) == 6
    assert ask(checkpoint, tmp_path, 3)["session_answers"] == 3
    assert ask(checkpoint, tmp_path, 3)["session_answers"] == 0


@pytest.mark.slow
def test_a_full_disk_is_one_sentence_and_what_was_written_stays(tmp_path: Path, checkpoint: Path) -> None:
    """A limit on the size of files stands in for the disk: the kernel refuses the write in the same place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
    try:
        with pytest.raises(IncompleteError) as raised:
            ask(checkpoint, tmp_path, 60)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    kept = len(read(tmp_path / "answers.jsonl"))
    assert kept > 10
    assert str(raised.value) == (
        f"tiny: cannot write {tmp_path}/answers.jsonl: No space left on device; free space, then run the same command; "
        f"{kept} of 180 answers are kept, and the same command resumes"
    )
    assert ask(checkpoint, tmp_path, 60)["session_answers"] == 180 - kept


def test_counts_say_why_and_how_many() -> None:
    def answer(prompt_id: str, index: int, text: str) -> Answer:
        finish = "length" if text.endswith("…") else "stop"
        return Answer.model_validate(
            {"prompt_id": prompt_id, "model": "m", "index": index, "turns": [text], "finish": [finish],
             "prompt_tokens": [3], "completion_tokens": [5]}
        )  # fmt: skip

    rows = [answer("a", 0, "x"), answer("a", 1, "x"), answer("b", 0, "x"), answer("b", 1, "y…"), answer("c", 0, "z")]

    assert answer_counts(rows) == {
        "answers": 5, "truncated": 1, "identical": 1, "failed": 0, "prompt_tokens": 15, "completion_tokens": 25,
    }  # fmt: skip


def test_the_threshold_is_no_answer_setting() -> None:
    assert SamplingSpec(max_failed=0.5).as_sampling(7) == Sampling(
        temperature=0.8, top_p=0.95, max_tokens=4096, n=5, seed=7
    )
