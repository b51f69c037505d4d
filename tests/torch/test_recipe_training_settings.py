"""Training keys of a recipe: what is understood, and what is refused before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from recipes.layout import Recipe  # noqa: E402
from tests.fakes.recipe_files import recipe  # noqa: E402
from tests.fakes.training_steps import REWARD, one_thread, sft, target  # noqa: E402

__all__ = ["one_thread", "sft", "target"]  # fixtures


# ------------------------------------------------------------------------------------------------------- settings


def refused(recipe: Recipe) -> str:
    from harness.records.errors import ConfigError
    from recipes.training.settings import check_training

    with pytest.raises(ConfigError) as raised:
        check_training(recipe.spec)
    return str(raised.value)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"sft": {"learning_rat": 1e-5}}, "sft: unknown key 'learning_rat'; did you mean learning_rate?"),
        ({"sft": {"beta": 0.1}}, "sft: beta is a key of method 'preference', but the method is 'sft'"),
        ({"training": {"output_dir": "x"}}, "output_dir cannot be set here: set the recipe's `output_dir`"),
        ({"training": {"hub_token": "x"}}, "tokens are read from the environment only"),
        ({"training": {"learning_rate": "fast"}}, "learning_rate = 'fast': must be a number"),
        ({"training": {"learning_rate": 0}}, "learning_rate = 0.0 must be above 0"),
        ({"training": {"alpha": 1.5}}, "training: alpha = 1.5 must be 0 or more and at most 1: the source"),
        ({"training": {"loss_type": "dpo"}}, "loss_type = 'dpo': must be 'sigmoid', 'unweighted', "),
        ({"training": {"lr_scheduler_type": "cosin"}}, "cosin is not a valid SchedulerType"),
        (
            {"variants": {"rft": {"method": "sft", "training": {"alpha": 0}}}},
            "variants.rft.training: alpha is a key of",
        ),
        (
            {"training": {"report_to": "tensorbord"}},
            "training: report_to = 'tensorbord' is not installed",
        ),
        ({"launch": "fsdp3"}, "launch = 'fsdp3' is neither a file nor one of ddp, fsdp2, zero3"),
        ({"evaluate_every": {"steps": 5, "suite": "mtbench"}}, "no suite named 'mtbench'"),
    ],
)
def test_a_wrong_training_key_is_one_sentence_before_anything_runs(
    tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(recipe(tmp_path, REWARD, **keys))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"adam_beta1": 2.0}, "training: adam_beta1 = 2.0 must be 0 or more and below 1"),
        ({"adam_beta2": float("nan")}, "training: adam_beta2 = nan must be a finite number"),
        ({"adam_epsilon": -1}, "adam_epsilon = -1.0 must be 0 or more"),
        ({"weight_decay": -1}, "weight_decay = -1.0 must be 0 or more"),
        ({"learning_rate": 5}, "learning_rate = 5.0 must be above 0 and at most 1"),
        ({"num_train_epochs": 1e9}, "num_train_epochs = 1000000000.0 must be above 0 and at most 1000"),
        ({"max_grad_norm": -1}, "max_grad_norm = -1.0 must be 0 or more: the norm to clip to; 0 turns clipping off"),
        ({"max_steps": 0}, "max_steps = 0 must be 1 or more, or -1"),
        ({"eval_alpha": 2}, "eval_alpha = 2.0 must be 0 or more and at most 1"),
        ({"loss_type": "simpo", "gamma": -1}, "gamma = -1.0 must be 0 or more"),
        ({"dataloader_num_workers": -1}, "dataloader_num_workers = -1 must be 0 or more"),
        ({"dataloader_num_workers": 10**9}, "dataloader_num_workers = 1000000000 must be 0 or more and at most 256"),
        ({"ddp_timeout": 10**30}, "training: "),
        ({"logging_strategy": "x"}, "training: logging_strategy = 'x': x is not a valid IntervalStrategy"),
        ({"accelerator_config": "no.json"}, "training: accelerator_config = 'no.json'"),
        ({"torch_compile_mode": "fast"}, "training: torch_compile_mode = 'fast' is unknown; choose one of default"),
        ({"torch_compile_backend": "fast"}, "training: torch_compile_backend = 'fast' is unknown; choose one of"),
        ({"gradient_checkpointing_kwargs": {"x": 1}}, "training: gradient_checkpointing_kwargs = {'x': 1}: "),
        ({"beta": []}, "training: beta = []: "),
        ({"fusion": "mean"}, "fusion = 'mean' has no effect: only method infifpo has a fused reference"),
        ({"loss_type": "unweighted", "alpha": 0.5}, "alpha = 0.5 has no effect: loss_type 'unweighted' has no alpha"),
        ({"save_total_limit": 0}, "save_total_limit = 0 must be 1 or more: how many checkpoints are kept"),
        ({"use_peft": True, "lora_r": -3}, "training: lora_r = -3 must be 1 or more"),
        ({"use_peft": True, "lora_dropout": 2}, "training: lora_dropout = 2.0 must be 0 or more and below 1"),
        ({"save_strategy": "best"}, "save_strategy = 'best' needs metric_for_best_model, and pairs to evaluate"),
        ({"metric_for_best_model": "x"}, "metric_for_best_model = 'x' is not measured; choose one of loss, loss_alpha"),
        ({"train_sampling_strategy": "group_by_length"}, "'group_by_length' needs rows of one sequence"),
        ({"train_sampling_strategy": "radnom"}, "train_sampling_strategy = 'radnom' is unknown; choose one of random"),
        ({"use_dora": True}, "use_dora = True has no effect: LoRA is off"),
        ({"use_rslora": True}, "use_rslora = True has no effect: LoRA is off"),
        ({"use_bnb_nested_quant": True}, "use_bnb_nested_quant = True has no effect: weights are not quantized"),
        ({"eval_alpha": 0.5}, "eval_alpha = 0.5 has no effect: no pairs are evaluated; set `pairs.held_out`"),
        ({"metric_for_best_model": "loss"}, "metric_for_best_model = 'loss' has no effect: nothing follows the metric"),
    ],
)
def test_a_value_that_would_stop_or_spoil_a_training_is_refused(
    tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(recipe(tmp_path, REWARD, training=keys))


def test_keys_of_evaluation_are_read_with_pairs_held_out(tmp_path: Path) -> None:
    from recipes.training.settings import check_training

    best = {"load_best_model_at_end": True, "metric_for_best_model": "rewards/margins", "greater_is_better": True}
    keys: dict[str, Any] = {"eval_alpha": 0.5, "eval_steps": 0.1, "max_steps": -1, "use_dora": False, **best}
    check_training(recipe(tmp_path, REWARD, training=keys, pairs={"held_out": 4}).spec)


def test_the_loss_of_pairs_is_not_that_of_an_sft_variant(tmp_path: Path) -> None:
    from recipes.training.settings import check_training

    variants: dict[str, Any] = {"dpo": {"training": {"alpha": 0}}, "rft": {"method": "sft", "answers": "target"}}
    trainings = check_training(recipe(tmp_path, REWARD, training={"loss_type": "lndpo"}, variants=variants).spec)
    assert trainings["variants.dpo.training"].trainer["loss_type"] == "lndpo"
    assert "loss_type" not in trainings["variants.rft.training"].trainer

    variants["rft"]["training"] = {"loss_type": "simpo"}
    sentence = "variants.rft.training: loss_type = 'simpo' has no effect: method 'sft' does not read it"
    assert refused(recipe(tmp_path, REWARD, variants=variants)) == sentence


def test_every_numeric_key_has_a_range() -> None:
    from recipes.training.ranges import DISTILL_RANGES, RANGES
    from recipes.training.settings import DEFAULTS, OWNED, _readers

    numeric = {
        key
        for method in DEFAULTS
        for adapters in _readers(method).values()
        for key, adapter in adapters.items()
        if any(kind in str(adapter.core_schema) for kind in ("'type': 'int'", "'type': 'float'"))
    }
    assert {"adam_beta1", "lora_r", "max_length", "tau", "lmbda"} <= numeric
    assert numeric - set(OWNED) - set(RANGES) == {"parallelism_config"}  # a record, checked by accelerate
    assert (RANGES["beta"].refusal(2.5), DISTILL_RANGES["beta"].refusal(1.0)) == (None, None)
    assert "must be 0 or more and at most 1" in str(DISTILL_RANGES["beta"].refusal(2.5))


def test_bf16_without_a_gpu_is_refused_where_this_machine_trains(tmp_path: Path) -> None:
    from recipes.training.settings import check_training

    given = recipe(tmp_path, REWARD, sft={"bf16": True})
    if not torch.accelerator.is_available():
        assert refused(given) == "sft: bf16 = True needs a GPU; set bf16: false to train on CPUs"
    check_training(given.spec, trains_here=False)


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


def job(folder: Path, method: Any, **keys: Any) -> Any:
    from harness.store.checkpoint import Fusion
    from recipes.training.settings import TrainingJob

    return TrainingJob(
        method=method,
        name="seed-1/align/one",
        model=folder / "model",
        rows=folder / "rows",
        folder=folder / "one",
        seed=1,
        fusion=Fusion(method=method),
        **keys,
    )


@pytest.mark.parametrize(
    ("method", "keys", "flex"),
    [
        ("preference", {}, True),
        ("infifpo", {}, True),
        ("fusepo", {}, False),  # its rows are padded
        ("sft", {}, False),
        ("infifpo", {"model": {"attn_implementation": "sdpa"}}, False),
        ("preference", {"trainer": {"use_cpu": True}}, False),
    ],
)
def test_policy_and_reference_of_a_method_have_one_attention(
    tmp_path: Path, method: str, keys: dict[str, Any], flex: bool
) -> None:
    from recipes.training.run import wants_flex
    from recipes.training.settings import TrainingSettings

    assert wants_flex(job(tmp_path, method, settings=TrainingSettings(**keys))) is flex


def test_processes_wait_for_suites_longer_than_torch_does(tmp_path: Path) -> None:
    from recipes.spec import EvaluateEverySpec
    from recipes.training.run import training_config
    from recipes.training.settings import Evaluation, TrainingSettings

    every = EvaluateEverySpec(steps=5, suite="mt_bench")
    watched = {"evaluation": Evaluation(spec=every, results=tmp_path, label="one", seed=1)}
    stated = TrainingSettings(trainer={"ddp_timeout": 600})

    assert training_config(job(tmp_path, "preference", settings=TrainingSettings())).ddp_timeout == 1800
    assert training_config(job(tmp_path, "preference", settings=TrainingSettings(), **watched)).ddp_timeout == 86400
    assert training_config(job(tmp_path, "sft", settings=stated, **watched)).ddp_timeout == 600
