"""Stages sft and align: rows, checkpoints, resuming, settings and what they refuse."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from recipe_files import answers_step, prompt_rows, prompts_step, recipe  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from test_wrpo import CONFIG  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM  # noqa: E402

from harness.leaderboard.fusion import read_checkpoint_fusion  # noqa: E402
from recipes.embedded.byte_tokenizer import EOS, build_tokenizer  # noqa: E402
from recipes.recipe import Recipe  # noqa: E402
from recipes.records import Chosen, Pair, Reward  # noqa: E402
from recipes.stages.align import align_steps  # noqa: E402
from recipes.stages.sft import sft_step  # noqa: E402
from recipes.steps import Counts, Step, run_step  # noqa: E402

QUICK: dict[str, Any] = {"per_device_train_batch_size": 4, "learning_rate": 1e-3, "logging_steps": 1, "use_cpu": True}
REWARD = {"kind": "function", "model": "world:reward"}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return target_folder(tmp_path_factory.mktemp("target"))


def target_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    model = LlamaForCausalLM(CONFIG)
    model.config.max_position_embeddings = 2048
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    return folder


def word(rng: random.Random, low: int = 3, high: int = 9) -> str:
    return "".join(rng.choice("abcdefghij") for _ in range(rng.randint(low, high)))


def made(out: Path, target: Path, **further: Any) -> Recipe:
    keys: dict[str, Any] = {"sft": QUICK, "training": {**QUICK, "beta": 0.1, "alpha": 0.3}}
    return recipe(out, REWARD, target=str(target), **{**keys, **further})


def rows_step(stage: str, folder: Path, file: str, rows: Sequence[Any]) -> Step:
    def work(into: Path) -> Counts:
        (into / file).write_text("".join(f"{row.model_dump_json()}\n" for row in rows))
        return {}

    step = Step(stage, f"{stage}/{folder.name}", folder, {"rows": len(rows)}, work)
    run_step(step)
    return step


def sft_of(recipe: Recipe, count: int = 12) -> Step:
    """The stage with two sources' answers, b's the better one; not run."""
    rng = random.Random(0)
    ids = [f"p{number}" for number in range(count)]
    prompts = prompts_step(recipe, prompt_rows(ids, "sft"))
    answers, rewards = [], []
    for value, name in enumerate("ab"):
        texts = {one: [f"{name} {word(rng)}"] for one in ids}
        answers.append(answers_step(recipe.source(name), f"sources/{name}", texts))
        given = [
            Reward(prompt_id=row["prompt_id"], model=name, answer_sha=sha(row), value=float(value))
            for row in map(json.loads, (recipe.source(name) / "answers.jsonl").read_text().splitlines())
        ]
        rewards.append(rows_step("rewards", recipe.source_rewards(name), "rewards.jsonl", given))
    return sft_step(recipe, 42, prompts, answers, rewards)


def sha(row: dict[str, Any]) -> str:
    from harness.records import Answer

    return Answer.model_validate(row).sha


def pairs_of(recipe: Recipe, count: int = 24) -> Step:
    rng = random.Random(1)
    rows = [
        Pair(
            prompt=prompt.prompt,
            source=Chosen(text=f"s{word(rng)}", model="a", index=0, reward=2),
            target=Chosen(text=f"t{word(rng)}", model="target", index=0, reward=1),
            rejected=Chosen(text=f"r{word(rng)}", model="target", index=1, reward=0),
        )
        for prompt in prompt_rows([f"q{number}" for number in range(count)])
    ]
    return rows_step("pairs", recipe.seed(42) / "pairs", "pairs.jsonl", rows)


def aligned(recipe: Recipe, sft: Step, pairs: Step) -> list[Step]:
    return align_steps(recipe, 42, sft, {2: pairs})


def log_of(step: Step) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (step.folder / "training_log.jsonl").read_text().splitlines()]


def losses(step: Step) -> list[float]:
    return [entry["loss"] for entry in log_of(step) if "loss" in entry]


def distance(one: Path, other: Path) -> float:
    a, b = (load_file(folder / "model.safetensors") for folder in (one, other))
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.fixture(scope="module")
def sft(tmp_path_factory: pytest.TempPathFactory, target: Path) -> Step:
    step = sft_of(made(tmp_path_factory.mktemp("recipe"), target))
    run_step(step)
    return step


def test_sft_learns_the_best_source_answers_and_leaves_an_ordinary_checkpoint(sft: Step, target: Path) -> None:
    from recipes.training.rows import Rows, completions

    record = run_step(sft)
    rows = Rows(next((sft.folder.parent / "rows").iterdir())).load()
    tokenizer = AutoTokenizer.from_pretrained(sft.folder)
    trained = completions(rows, "source")[0]
    scored = [token for token in trained["labels"] if token != -100]

    assert record.counts["rows"] == 12
    assert record.counts["steps"] == 3
    assert tokenizer.decode(scored).startswith("b ")
    assert tokenizer.decode(scored).count(EOS) == 1
    assert tokenizer.decode(trained["input_ids"]).startswith("<|bos|><|user|>say p0<|assistant|>b ")
    assert AutoModelForCausalLM.from_pretrained(sft.folder).dtype == torch.float32
    assert distance(sft.folder, target) > 0
    assert not list((sft.folder / "checkpoints").glob("checkpoint-*"))
    found = read_checkpoint_fusion(sft.folder)
    assert found is not None
    assert (found.method, found.sources, found.target) == ("sft", ("a", "b"), target.name)


VARIANTS: dict[str, Any] = {
    "dpo": {"training": {"alpha": 0}},
    "wrpo": {},
    "wrpo-alpha1": {"training": {"alpha": 1, "alpha_schedule": "constant"}},
    "simpo": {"training": {"loss_type": "simpo", "alpha": 0, "beta": 2, "gamma": 0.5}},
    "ipo": {"training": {"loss_type": "ipo", "alpha": 0}},
    "lndpo": {"training": {"loss_type": "lndpo", "alpha": 0}},
    "sft-cont": {"method": "sft", "answers": "source"},
    "rft": {"method": "sft", "answers": "target"},
}


def test_every_variant_starts_at_the_sft_model_and_takes_equal_steps(sft: Step, tmp_path: Path, target: Path) -> None:
    recipe = made(tmp_path, target, variants=VARIANTS)
    pairs = pairs_of(recipe)
    steps = aligned(recipe, sft, pairs)
    records = {step.name.rpartition("/")[2]: run_step(step) for step in steps}
    first = {step.name.rpartition("/")[2]: losses(step)[0] for step in steps}

    assert {record.counts["steps"] for record in records.values()} == {6}
    assert first["dpo"] == first["wrpo"] == pytest.approx(0.693147, abs=1e-5)
    assert first["wrpo-alpha1"] == first["lndpo"] == pytest.approx(0.693147, abs=1e-5)
    assert first["ipo"] == pytest.approx(25.0, abs=1e-3)  # (0 - 1 / (2 * 0.1))^2
    assert first["sft-cont"] != first["rft"]
    assert len(list((tmp_path / "seed-42" / "rows").iterdir())) == 1
    assert len(list((tmp_path / "seed-42" / "rows").glob("*/reference-*.json"))) == 1
    wrpo = next(step for step in steps if step.name.endswith("/wrpo"))
    names = {"rewards/source_chosen", "rewards/target_chosen", "rewards/rejected", "rewards/margins", "alpha"}
    assert names < set(log_of(wrpo)[0])
    assert [entry["alpha"] for entry in log_of(wrpo) if "alpha" in entry] == pytest.approx([0.05 * n for n in range(6)])
    fusion = read_checkpoint_fusion(wrpo.folder)
    assert fusion is not None
    assert (fusion.method, fusion.alpha) == ("wrpo", 0.3)


# ------------------------------------------------------------------------------------------------------- settings


def refused(recipe: Recipe) -> str:
    from harness.errors import ConfigError
    from recipes.training.settings import check_training

    with pytest.raises(ConfigError) as raised:
        check_training(recipe.spec)
    return str(raised.value)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"sft": {"learning_rat": 1e-5}}, "sft: unknown key 'learning_rat'; did you mean learning_rate?"),
        ({"sft": {"beta": 0.1}}, "sft: beta is a key of method 'preference'; this one is 'sft'"),
        ({"training": {"output_dir": "x"}}, "output_dir is not a training key of a recipe: the recipe's `output_dir`"),
        ({"training": {"hub_token": "x"}}, "keys come from the environment only"),
        ({"training": {"learning_rate": "fast"}}, "learning_rate = 'fast': Input should be a valid number"),
        ({"training": {"learning_rate": 0}}, "learning_rate = 0.0 must be above 0"),
        ({"training": {"alpha": 1.5}}, "variants.wrpo.training: alpha = 1.5 is outside 0.0..1.0"),
        ({"training": {"loss_type": "dpo"}}, "loss_type = 'dpo': Input should be 'sigmoid', 'unweighted', "),
        ({"training": {"lr_scheduler_type": "cosin"}}, "cosin is not a valid SchedulerType"),
        (
            {"variants": {"rft": {"method": "sft", "training": {"alpha": 0}}}},
            "variants.rft.training: alpha is a key of",
        ),
        (
            {"training": {"report_to": "tensorbord"}},
            "variants.wrpo.training: report_to = 'tensorbord' is not installed",
        ),
        ({"launch": "fsdp3"}, "launch = 'fsdp3' is neither a file nor one of ddp, fsdp2, zero3"),
        ({"evaluate_every": {"steps": 5, "suite": "mtbench"}}, "no suite named 'mtbench'"),
    ],
)
def test_a_wrong_training_key_is_one_sentence_before_anything_runs(
    tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(recipe(tmp_path, REWARD, **keys))


def test_bf16_without_a_gpu_is_refused_where_this_machine_trains(tmp_path: Path) -> None:
    from recipes.training.settings import check_training

    given = recipe(tmp_path, REWARD, sft={"bf16": True})
    if not torch.accelerator.is_available():
        assert refused(given) == "sft: bf16 = True needs a GPU; set bf16: false to train on processors"
    check_training(given.spec, here=False)


def test_keys_of_earlier_versions_and_numbers_that_yaml_reads_as_text_are_understood() -> None:
    from recipes.training.settings import renamed, settings

    keys = renamed({"warmup_ratio": 0.1, "torch_dtype": "bfloat16", "learning_rate": "5e-7"})
    found = settings({**keys, "use_peft": True, "lora_target_modules": "all-linear"}, "preference", "training")

    assert found.trainer == {"warmup_steps": 0.1, "learning_rate": 5e-7}
    assert found.model == {"dtype": "bfloat16", "use_peft": True, "lora_target_modules": ["all-linear"]}


def test_a_variant_differs_from_the_recipe_where_it_says_so(tmp_path: Path) -> None:
    from recipes.training.settings import variant_settings

    given = recipe(
        tmp_path, REWARD, training={"beta": 2, "alpha": 0.5}, variants={"wrpo": {}, "dpo": {"training": {"alpha": 0}}}
    )
    wrpo, dpo = (variant_settings(given.spec, variant) for variant in given.spec.variants.values())

    assert (wrpo["beta"], wrpo["alpha"], wrpo["max_length"]) == (2, 0.5, 2048)
    assert (dpo["beta"], dpo["alpha"]) == (2, 0)


# ------------------------------------------------------------------------------------------- resuming and failing


def test_logging_changes_nothing_that_is_made_and_learning_rate_does(sft: Step, tmp_path: Path, target: Path) -> None:
    def settings_of(**keys: Any) -> dict[str, Any]:
        recipe = made(tmp_path, target, training={**QUICK, **keys})
        return aligned(recipe, sft, pairs_of(recipe))[0].settings

    assert settings_of(report_to=["tensorboard"], save_steps=7) == settings_of(logging_steps=3)
    assert settings_of(learning_rate=1e-4) != settings_of()


def killed_at(step: Step, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Runs the step until optimiser step `at`, then ends as kill -9 would: nothing is tidied up."""
    from recipes.training import run

    class Killed(BaseException):
        pass

    def check(name: str, done: int, loss: float) -> None:
        if done == at:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(run, "check_finite", check)
        with pytest.raises(Killed):
            run_step(step)


@pytest.mark.parametrize("method", ["preference", "sft"])
def test_a_training_that_was_killed_goes_on_with_identical_losses(
    sft: Step, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    keys = {**QUICK, "save_steps": 2, **({"beta": 0.1} if method == "preference" else {})}
    steps = []
    for name in ("whole", "killed"):
        recipe = made(tmp_path / name, target, variants={"one": {"method": method, "training": keys}})
        steps += aligned(recipe, sft, pairs_of(recipe))
    whole, killed = steps
    run_step(whole)
    killed_at(killed, monkeypatch, at=5)
    torn = killed.folder / "checkpoints" / "checkpoint-5"
    torn.mkdir()
    (torn / "trainer_state.json").write_text("{}")
    run_step(killed)

    assert log_of(killed) == log_of(whole)
    assert distance(killed.folder, whole.folder) == 0.0
    assert not list((killed.folder / "checkpoints").glob("checkpoint-*"))


def test_a_trainers_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    from harness.errors import ConfigError
    from recipes.training.callbacks import last_whole

    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "whole.json").write_text('{"digest": "one", "processes": 2}')

    assert last_whole(tmp_path, "one", 2) == folder
    with pytest.raises(ConfigError, match=r"checkpoint-3 was made with settings or rows that differ; restore them, or"):
        last_whole(tmp_path, "other", 2)
    with pytest.raises(ConfigError, match=r"made with a number of processes \(2, now 1\) that differ"):
        last_whole(tmp_path, "one", 1)


@pytest.mark.parametrize("method", ["preference", "sft"])
def test_a_loss_that_is_no_number_stops_the_training(sft: Step, tmp_path: Path, target: Path, method: str) -> None:
    from harness.errors import IncompleteError

    keys = {**QUICK, "learning_rate": 1e30, "max_grad_norm": 0, "lr_scheduler_type": "constant", "warmup_steps": 0}
    recipe = made(tmp_path, target, variants={"one": {"method": method, "training": keys}})
    step = aligned(recipe, sft, pairs_of(recipe))[0]

    with pytest.raises(IncompleteError, match=r"seed-42/align/one: the loss at step [23] is nan; nothing was saved"):
        run_step(step)
    assert not (step.folder / "model.safetensors").exists()


def test_a_full_disk_is_a_sentence_and_costs_no_training(
    sft: Step, tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from harness.errors import StoreError
    from recipes.training import run

    recipe = made(tmp_path, target)
    step = aligned(recipe, sft, pairs_of(recipe))[0]

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(run, "write_weights", full)
        with pytest.raises(StoreError, match="no space left on the device; free some, then run the same command"):
            run_step(step)
    assert run_step(step).counts["steps"] == 6
    assert len(losses(step)) == 6


def test_what_ends_a_launched_process_comes_back_as_its_sentence(tmp_path: Path) -> None:
    from harness.leaderboard.fusion import Fusion
    from recipes.training.job import TrainingJob
    from recipes.training.launch import main
    from recipes.training.settings import Settings

    job = TrainingJob(
        method="sft",
        name="seed-42/sft",
        model=tmp_path / "nowhere",
        rows=tmp_path / "rows",
        folder=tmp_path / "sft",
        settings=Settings(),
        seed=42,
        fusion=Fusion(method="sft"),
    )
    path = tmp_path / "job.json"
    path.write_text(job.model_dump_json())

    assert main("train", path) == 2
    failed = json.loads((tmp_path / "sft" / "checkpoints" / "failed.json").read_text())
    assert failed["error"] == "CheckpointError"
    assert "no such model folder" in failed["message"]


# -------------------------------------------------------------------------------------------------- models and text


def test_an_adapter_is_worked_into_the_checkpoint(sft: Step, tmp_path: Path, target: Path) -> None:
    lora = {"use_peft": True, "lora_r": 4, "lora_target_modules": ["q_proj", "v_proj"], "learning_rate": 1e-2}
    recipe = made(tmp_path, target, variants={"lora": {"training": lora}})
    step = aligned(recipe, sft, pairs_of(recipe))[0]
    run_step(step)
    before, after = (load_file(folder / "model.safetensors") for folder in (sft.folder, step.folder))

    assert losses(step)[0] == pytest.approx(0.693147, abs=1e-5)
    assert (step.folder / "adapter" / "adapter_model.safetensors").is_file()
    assert set(before) == set(after)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {name for name in before if "q_proj" in name or "v_proj" in name}


def test_a_bf16_reference_has_the_arithmetic_of_bf16_training(sft: Step, tmp_path: Path, target: Path) -> None:
    variants = {layout: {"training": {"bf16": True, "layout": layout}} for layout in ("shared", "rows")}
    recipe = made(tmp_path, target, variants=variants)
    for step in aligned(recipe, sft, pairs_of(recipe)):
        run_step(step)

        assert losses(step)[0] == pytest.approx(0.693147, abs=1e-3)


def test_gradient_checkpointing_and_accumulation_change_no_loss(sft: Step, tmp_path: Path, target: Path) -> None:
    parts = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    variants = {
        "plain": {},
        "checkpointing": {"training": {"gradient_checkpointing": True}},
        "accumulation": {"training": parts},
    }
    recipe = made(tmp_path, target, variants=variants)
    plain, *others = aligned(recipe, sft, pairs_of(recipe))
    run_step(plain)
    for other in others:
        run_step(other)
        assert losses(other) == pytest.approx(losses(plain), abs=2e-5)
        assert distance(other.folder, plain.folder) < 2e-5


def test_a_bf16_target_gives_a_bf16_checkpoint_with_its_generation_settings(tmp_path: Path) -> None:
    parent = tmp_path / "parent"
    torch.manual_seed(0)
    LlamaForCausalLM(CONFIG).to(torch.bfloat16).save_pretrained(parent)
    build_tokenizer().save_pretrained(parent)
    settings = '{"do_sample": true, "temperature": 0.6, "eos_token_id": [2, 5]}'
    (parent / "generation_config.json").write_text(settings)
    step = sft_of(made(tmp_path / "out", parent))
    run_step(step)

    assert {value.dtype for value in load_file(step.folder / "model.safetensors").values()} == {torch.bfloat16}
    assert (step.folder / "generation_config.json").read_text() == settings


@pytest.mark.parametrize(("lacking", "key"), [("chat_template", "chat_template"), ("pad_token", "pad_token")])
def test_a_tokenizer_that_lacks_something_is_refused_until_the_recipe_gives_it(
    tmp_path: Path, target: Path, lacking: str, key: str
) -> None:
    from harness.errors import ConfigError

    parent = tmp_path / "parent"
    LlamaForCausalLM(CONFIG).save_pretrained(parent)
    tokenizer = build_tokenizer()
    template = tmp_path / "template.jinja"
    template.write_text(tokenizer.chat_template)
    setattr(tokenizer, lacking, None)
    tokenizer.save_pretrained(parent)

    with pytest.raises(ConfigError, match=f"has no {lacking.replace('_', ' ')}; .*`{key}: "):
        run_step(sft_of(made(tmp_path / "a", parent)))
    given = {"chat_template": str(template), "pad_token": "<|pad|>"}[key]
    step = sft_of(made(tmp_path / "b", parent, **{key: given}))
    run_step(step)
    saved = AutoTokenizer.from_pretrained(step.folder)
    assert getattr(saved, lacking) == getattr(build_tokenizer(), lacking)


def test_a_pad_token_that_is_no_token_is_refused(tmp_path: Path, target: Path) -> None:
    from harness.errors import ConfigError

    with pytest.raises(ConfigError, match="pad_token: '<pad>' is not in the vocabulary"):
        run_step(sft_of(made(tmp_path, target, pad_token="<pad>")))


def test_suites_while_training_are_on_the_board_and_change_no_loss(sft: Step, tmp_path: Path, target: Path) -> None:
    every = {"steps": 2, "suite": "arena_hard", "limit": 1, "backend": "in_process"}
    steps = []
    for name, further in (("plain", {}), ("watched", {"evaluate_every": every})):
        recipe = made(tmp_path / name, target, **further)
        steps += aligned(recipe, sft, pairs_of(recipe))
    plain, watched = steps
    run_step(plain)
    run_step(watched)
    label = recipe.label("wrpo", 42)
    cards = sorted(path.parents[2].name for path in (tmp_path / "watched" / "results").rglob("card.json"))

    assert losses(watched) == losses(plain)
    assert distance(plain.folder, watched.folder) == 0.0
    assert cards == [f"{label}-step2", f"{label}-step4"]
    assert [entry["step"] for entry in log_of(watched) if any(key.startswith("suite/") for key in entry)] == [2, 4]


# ------------------------------------------------------------------------------------------------- real kills


LONG: dict[str, Any] = {**QUICK, "beta": 0.1, "save_steps": 5, "num_train_epochs": 10}


def train_long(out: Path, target: Path, sft: Path) -> None:
    """What the killed process runs."""
    torch.set_num_threads(1)
    recipe = made(out, target, training=LONG)
    run_step(aligned(recipe, Step("sft", "seed-42/sft", sft, {}, lambda _: {}), pairs_of(recipe))[0])


@pytest.mark.slow
def test_kill_9_in_mid_training_changes_nothing_that_is_made(sft: Step, tmp_path: Path, target: Path) -> None:
    train_long(tmp_path / "whole", target, sft.folder)
    call = (
        "import sys, pathlib; from test_recipe_training import train_long; train_long(*map(pathlib.Path, sys.argv[1:]))"
    )
    command = [sys.executable, "-c", call, str(tmp_path / "killed"), str(target), str(sft.folder)]
    folder = tmp_path / "killed" / "seed-42" / "align" / "wrpo"
    kills = 0
    for wanted in (10, 30):
        with subprocess.Popen(command, cwd=Path(__file__).parent, stderr=subprocess.DEVNULL) as process:
            marks = folder / "checkpoints" / f"checkpoint-{wanted}" / "whole.json"
            while process.poll() is None and not marks.is_file():
                time.sleep(0.01)
            kills += process.poll() is None
            process.kill()
    assert not (folder / "step.json").is_file()
    train_long(tmp_path / "killed", target, sft.folder)

    whole = tmp_path / "whole" / "seed-42" / "align" / "wrpo"
    assert kills == 2
    assert (folder / "training_log.jsonl").read_text() == (whole / "training_log.jsonl").read_text()
    assert distance(folder, whole) == 0.0
