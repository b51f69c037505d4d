"""What backend `ray` takes, refuses and says of itself, without a cluster."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.backends.cluster import ActorRefusal, RayCluster, no_secrets
from harness.backends.ray import Engine, EngineActor, RayBackend
from harness.records import ModelRef
from harness.records.errors import ConfigError, ServerError
from harness.records.protocols import RewardOptions, ServeOptions, load_plugin
from recipes.rewards.scorer import RewardItem, Scorer
from recipes.rewards.workers import ScorerActor, ScoringFailure
from tests.fakes.recipe_files import prompt_rows

pytestmark = pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")


def backend(folder: Path, *engine_args: str, workers: int = 1, devices: str | None = None) -> RayBackend:
    words = ("ray.worker=scripted", *engine_args)
    options = ServeOptions(log_dir=folder, data_parallel=workers, devices=devices, engine_args=words)
    made = load_plugin("backends", "ray")(ModelRef.parse("echo"), options)
    assert isinstance(made, RayBackend)
    return made


def test_the_number_of_workers_is_no_part_of_who_answers(tmp_path: Path) -> None:
    one, many = backend(tmp_path), backend(tmp_path, "ray.cpus=2", workers=7)

    assert one.identity() == many.identity()
    assert one.identity()["backend"] == "ray"
    assert one.identity()["worker"] == "scripted"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("ray.worker=endpoint",), r"ray\.worker='endpoint': a worker serves a model itself"),
        (("ray.worker=ray",), r"ray\.worker='ray': a worker serves a model itself"),
        (("ray.cpus=-1",), r"engine argument ray\.cpus='-1' is not a number of 0 or more"),
        (("ray.gpus=nan",), r"engine argument ray\.gpus='nan' is not a number of 0 or more"),
        (("ray.cores=2",), r"no engine argument 'ray\.cores=2'; it knows: ray\.worker, ray\.cpus, ray\.gpus"),
        (("lateness=2",), r"backend 'scripted' has no engine argument 'lateness=2'"),
    ],
)
def test_a_wrong_engine_argument_is_one_sentence(tmp_path: Path, words: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        backend(tmp_path, *words)


def test_devices_are_rays_to_choose(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot honour --devices '0,1': Ray decides which GPUs"):
        backend(tmp_path, devices="0,1")


def test_without_ray_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    with pytest.raises(ConfigError, match=r"need the package ray: pip install .*\[ray\]"):
        backend(tmp_path)


@pytest.mark.parametrize(
    ("address", "kind", "sentence"),
    [
        ("127.0.0.1:9", ServerError, "no Ray cluster at 127.0.0.1:9 .*; start one with `ray start --head`, or unset"),
        ("auto", ServerError, r"no Ray cluster at this machine \(RAY_ADDRESS='auto'"),
        ("nonsense", ServerError, "no Ray cluster at nonsense"),
        ("ray://127.0.0.1:10001", ConfigError, "give the cluster's HOST:PORT"),
    ],
)
def test_a_cluster_that_is_not_there_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, kind: type[Exception], sentence: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    import ray  # some seconds, which are not the address's

    assert not ray.is_initialized()

    with pytest.raises(kind, match=sentence), RayCluster():
        pass


def test_a_backend_without_its_cluster_raises_on_entering(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")

    async def run() -> None:
        async with backend(tmp_path):
            pass

    with pytest.raises(ServerError, match="no Ray cluster at"):
        asyncio.run(run())


def test_a_reward_that_fails_in_a_worker_is_told_and_costs_no_worker(tmp_path: Path) -> None:
    function = tmp_path / "mine.py"
    function.write_text("def none(prompts, completions):\n    return [None] * len(prompts)\n")
    options = RewardOptions("function", model=f"{function}:none")
    actor = ScorerActor(options, Scorer(options).identity())

    assert actor.start() is None
    found = actor.work([RewardItem(row, "text") for row in prompt_rows(["p0", "p1"])])

    assert isinstance(found, ScoringFailure)
    assert "gave None for an answer to prompt 'p0'; a finite number" in found.message


def test_a_worker_that_does_not_find_the_model_says_so(tmp_path: Path) -> None:
    script = tmp_path / "script.jsonl"
    script.write_text('{"prompt_id": "p0", "turns": ["a"]}\n')
    engine = Engine("scripted", ModelRef.parse(str(script)), ServeOptions(log_dir=tmp_path / "worker-0"), {})
    engine = replace(engine, identity=engine.make_backend().identity())

    def start() -> ActorRefusal | None:
        return asyncio.run(EngineActor(engine).start())

    assert start() is None
    script.write_text('{"prompt_id": "p0", "turns": ["b"]}\n')
    other = start()
    script.unlink()
    gone = start()

    assert other is not None
    assert "is another model here, or is served with other settings, than where the run started" in other.message
    assert gone is not None
    assert gone.message.startswith("(model, packages and harness must be the same on every node")
    assert "script.jsonl' cannot be read" in gone.message


def test_an_engines_actor_sees_no_key_but_rays_and_the_hubs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "DB_PASSWORD", "RAY_AUTH_TOKEN", "HF_TOKEN", "RAY_TMPDIR"):
        monkeypatch.setenv(name, "sesame")

    emptied = no_secrets()

    assert emptied.items() >= {"OPENAI_API_KEY": "", "DB_PASSWORD": ""}.items()
    assert emptied.keys().isdisjoint({"RAY_AUTH_TOKEN", "HF_TOKEN", "RAY_TMPDIR", "PATH"})
