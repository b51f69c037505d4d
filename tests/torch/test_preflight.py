"""What a whole recipe is refused for before its first request, in the run and in --dry-run."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from harness.records.errors import ConfigError  # noqa: E402
from recipes.layout import STAGES, Recipe  # noqa: E402
from recipes.preflight import checkpoint_bytes, licence_notes, preflight  # noqa: E402
from recipes.spec import RecipeSpec  # noqa: E402
from recipes.training.launch import state_bytes  # noqa: E402
from recipes.training.settings import TrainingSettings  # noqa: E402
from recipes.worlds.tiny import build_tokenizer  # noqa: E402
from tests.fakes.recipe_files import recipe  # noqa: E402
from tests.fakes.tiny_models import make_checkpoint  # noqa: E402
from tests.fakes.training_steps import REWARD, target, target_folder  # noqa: E402

__all__ = ["target"]  # a fixture
LORA = {"use_peft": True, "lora_target_modules": ["q_proj"], "lora_task_type": "CAUSAL_LM"}


def checked(recipe: Recipe, *, here: bool = False) -> list[str]:
    return preflight(recipe, frozenset(STAGES), runs_here=here)


def refused(recipe: Recipe, *, here: bool = False) -> str:
    with pytest.raises(ConfigError) as raised:
        checked(recipe, here=here)
    return str(raised.value)


def test_a_sound_recipe_passes(tmp_path: Path, target: Path) -> None:
    assert checked(recipe(tmp_path, REWARD, target=str(target)), here=True) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"sampling": {"n": 1}}, "sampling: n = 1, but a pair needs a best and a worst sample"),
        ({"sampling": {"temperature": 0}}, "sampling: temperature = 0 gives the target's samples one text"),
        ({"pairs": {"min_margin": 0.5, "max_margin": 0.1}}, "min_margin = 0.5 is above max_margin = 0.1"),
        ({"prompts": {"dataset": "p.jsonl", "sft_share": 1}}, "sft_share = 1 leaves no prompt for pairs"),
        ({"prompts": {"dataset": "p.jsonl", "limit": 1}}, "limit = 1 leaves 0 prompts for SFT and 1 for pairs"),
        ({"target": "endpoint:m@http://127.0.0.1:1/v1"}, "is a server, but training needs weights"),
        ({"training": {"num_train_epochs": 0}}, "training: num_train_epochs = 0.0 must be above 0"),
        ({"training": {"learning_rate": float("inf")}}, "training: learning_rate = inf must be a finite number"),
        ({"training": {"gamma": 1.0}}, "training: gamma = 1.0 has no effect: loss_type 'sigmoid' has no margin"),
        ({"training": {"label_smoothing_factor": 0.1}}, "label_smoothing_factor = 0.1 has no effect: the preference"),
        ({"training": {"lora_r": 8}}, "training: lora_r = 8 has no effect: LoRA is off; set use_peft: true"),
        (
            {"training": {"loss_type": "simpo", "gamma": 1, "gamma_beta_ratio": 0.5}},
            "training: gamma_beta_ratio = 0.5 and gamma = 1.0: give one",
        ),
        (
            {"training": {**LORA, "lora_target_modules": ["qkv_proj"]}},
            "lora_target_modules: Target modules {'qkv_proj'} not found in the base model",
        ),
        ({"training": {**LORA, "lora_target_modules": ["lm_head"]}}, "lora_target_modules has the output head"),
        ({"training": {"load_in_4bit": True}}, "load_in_4bit freezes the weights, so nothing would be trained"),
        ({"training": {"attn_implementation": "sdpb"}}, "the target cannot be built: Specified `attn_implementation"),
        ({"training": {"optim": "lomo"}}, "optim = 'lomo' cannot be used"),
        (
            {"training": {"optim": "muon"}, "launch": "fsdp2"},
            "training: optim = 'muon' needs whole matrices, but launch",
        ),
        ({"sft": {"optim": "muon", "optim_args": "a=1"}}, "sft: optim_args = 'a=1' has no effect: optim 'muon' takes"),
        ({"training": {**LORA, "lora_task_type": "X"}}, "training: use_peft: Invalid task type: 'X'"),
        (
            {"training": {"lr_scheduler_type": "cosine_with_min_lr"}},
            "lr_scheduler_type = 'cosine_with_min_lr' cannot be",
        ),
        (
            {"training": {"dataloader_persistent_workers": True}},
            "training: dataloader_persistent_workers: persistent_workers option needs num_workers",
        ),
        # one BOS, two headers and a letter are four tokens, and an answer of one letter and its end are two
        ({"training": {"max_length": 5}}, "training: max_length = 5 leaves no row: in the target's chat template the"),
        ({"sft": {"max_length": 5}}, "sft: max_length = 5 leaves no row"),
        (
            {"prompts": {"dataset": "p.jsonl", "max_prompt_length": 3}},
            "prompts: max_prompt_length = 3 leaves no row: in the target's chat template the shortest prompt has 4",
        ),
        ({"pad_token": "<|nope|>"}, "pad_token: '<|nope|>' is not in the vocabulary"),
    ],
)
def test_what_a_later_stage_would_stop_at_is_one_sentence_now(
    tmp_path: Path, target: Path, keys: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(recipe(tmp_path, REWARD, **{"target": str(target), **keys}))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"lora_modules_to_save": ["lm_head"]}, "the target ties its two ends"),
        ({"lora_target_modules": ["embed_tokens"]}, "lora_target_modules has the embeddings"),
    ],
)
def test_an_adapter_on_one_of_two_tied_ends_is_refused(tmp_path: Path, keys: dict[str, Any], sentence: str) -> None:
    tied = make_checkpoint(tmp_path / "tied")

    assert sentence in refused(recipe(tmp_path, REWARD, target=str(tied), training={**LORA, **keys}))


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"seeds": [-1]}, "seeds.0"),
        ({"seeds": [2**32]}, "seeds.0"),
        ({"sampling": {"n": 100_000}}, "sampling.n"),
        ({"sampling": {"temperature": float("inf")}}, "sampling.temperature"),
        ({"evaluate": {"temperatures": [-0.1]}}, "evaluate.temperatures.0"),
    ],
)
def test_numbers_that_no_library_takes_are_refused_by_the_file(
    tmp_path: Path, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        recipe(tmp_path, REWARD, **keys)


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"training": {"load_in_4bit": True, **LORA}}, "load_in_4bit needs the package bitsandbytes"),
        ({"training": {"use_liger_kernel": True}}, "use_liger_kernel needs the package liger-kernel"),
        (
            {"training": {"attn_implementation": "flash_attention_2"}},
            "attn_implementation needs the package flash-attn",
        ),
        ({"launch": "zero3"}, "launch: zero3"),
    ],
)
def test_what_this_machine_lacks_is_a_note_in_a_dry_run_and_an_error_in_a_run(
    tmp_path: Path, target: Path, keys: dict[str, Any], sentence: str
) -> None:
    given = recipe(tmp_path, REWARD, target=str(target), **keys)

    assert any(sentence in note for note in checked(given))
    assert "launch" in keys or sentence in refused(given, here=True)


def test_an_unknown_reward_is_a_note_in_a_dry_run_and_an_error_in_a_run(tmp_path: Path, target: Path) -> None:
    misspelt = recipe(tmp_path, {**REWARD, "kind": "functoin"}, target=str(target))

    sentence = "reward: no reward named 'functoin' (did you mean 'function'?); installed: "
    assert any(note.startswith(f"before a run on this machine: {sentence}") for note in checked(misspelt))
    assert refused(misspelt, here=True).startswith(sentence)


@pytest.mark.slow
def test_a_judges_key_is_missed_before_anything_is_trained(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = recipe(tmp_path, REWARD, target=str(target), evaluate={"suite": "all", "judge": "gpt-4.1"})
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)

    assert "needs its API key in the environment variable OPENAI_API_KEY" in refused(given, here=True)
    assert preflight(given, frozenset({"sft", "align"}), runs_here=True) == []  # --until align


def with_template(folder: Path, template: str) -> Path:
    target_folder(folder)
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return folder


TURNS = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("<|bos|><|bos|>" + TURNS + "{% if add_generation_prompt %}<|assistant|>{% endif %}", "renders two BOS tokens"),
        ("<|bos|>" + TURNS + "{% if add_generation_prompt %}<|user|>{% endif %}", "once it is answered"),
        (
            "<|bos|>" + TURNS + "{% if add_generation_prompt %}<|assistant|>{% else %}<|eos|><|eos|>{% endif %}",
            "ends an answer twice",
        ),
    ],
)
def test_a_template_that_no_row_survives_is_refused(tmp_path: Path, template: str, sentence: str) -> None:
    folder = with_template(tmp_path / "target", template)

    assert sentence in refused(recipe(tmp_path, REWARD, target=str(folder)))


PROMPT_ONLY = "<|bos|>" + TURNS + "{% if add_generation_prompt %}<|user|>{% endif %}"
RAISES = "{{ raise_exception('only one user') }}"


@pytest.mark.parametrize(
    ("template", "variant", "sentence"),
    [
        (RAISES, "wrpo", "source 'a': the chat template cannot render a conversation: only one user"),
        ("{% if %}", "wrpo", "source 'a': the chat template cannot render a conversation"),
        ("<|bos|><|bos|>" + TURNS, "wrpo", "source 'a': the chat template of"),
        (PROMPT_ONLY, "infifpo", "source 'a': the chat template of"),
    ],
)
def test_a_sources_template_that_cannot_be_asked_or_scored_is_refused(
    tmp_path: Path, target: Path, template: str, variant: str, sentence: str
) -> None:
    jinja = tmp_path / "a.jinja"
    jinja.write_text(template)
    source = {"name": "a", "model": str(target), "serve": {"chat_template": str(jinja)}}
    methods = {"wrpo": {}, "infifpo": {"method": "infifpo"}}

    def of(**keys: Any) -> Recipe:
        return recipe(tmp_path, REWARD, target=str(target), sources=[source], variants=keys)

    assert sentence in refused(of(**{variant: methods[variant]}))
    if template == PROMPT_ONLY:  # answers that others gave are scored by InfiFPO alone
        assert checked(of(wrpo={})) == []


def test_variables_of_a_sources_template_are_filled_in(tmp_path: Path, target: Path) -> None:
    jinja = tmp_path / "a.jinja"
    jinja.write_text("{% if guide is not defined %}" + RAISES + "{% endif %}" + TURNS)
    serve: dict[str, Any] = {"chat_template": str(jinja)}
    keys: dict[str, Any] = {"target": str(target), "sources": [{"name": "a", "model": str(target), "serve": serve}]}

    assert "only one user" in refused(recipe(tmp_path, REWARD, **keys))
    serve["chat_template_kwargs"] = {"guide": "Be brief."}
    assert checked(recipe(tmp_path, REWARD, **keys)) == []


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        (
            {"target_serve": {"tensor_parallel": 8}},
            "target_serve: backend 'in_process' cannot honour --tensor-parallel 8",
        ),
        ({"target_serve": {"dtype": "bf16"}}, "target_serve: backend 'in_process' has no dtype 'bf16'; choose one of"),
        ({"target_serve": {"chat_template": "no.jinja"}}, "target_serve: chat_template = 'no.jinja' is not a file"),
        (
            {"sources": [{"name": "a", "model": "hf:o/a", "backend": "in_process", "serve": {"engine_args": ["--x"]}}]},
            "source 'a': backend 'in_process' has no engine argument '--x'",
        ),
        ({"sources": [{"name": "a", "answers": "a.txt"}]}, "source 'a': answers = 'a.txt' is not a data set; use"),
        ({"prompts": {"dataset": "p.txt"}}, "prompts: dataset = 'p.txt' is not a data set; use FILE.jsonl"),
    ],
)
def test_what_a_backend_cannot_serve_is_refused_before_anything_is_asked(
    tmp_path: Path, target: Path, keys: dict[str, Any], sentence: str
) -> None:
    here = {"target": str(target), "target_backend": "in_process"}

    assert sentence in refused(recipe(tmp_path, REWARD, **(here | keys)))


def test_a_backend_whose_package_is_not_here_is_a_note_in_a_dry_run(tmp_path: Path, target: Path) -> None:
    source = {"name": "a", "model": "hf:o/a", "backend": "sglang"}
    notes = checked(recipe(tmp_path, REWARD, target=str(target), sources=[source]))

    assert "before a run on this machine: source 'a': backend 'sglang' needs the package sglang" in "\n".join(notes)


def test_a_pad_token_that_is_ordinary_text_is_refused(tmp_path: Path, target: Path) -> None:
    sentence = refused(recipe(tmp_path, REWARD, target=str(target), pad_token="x"))

    assert "pad_token: 'x' is ordinary text for" in sentence


def test_a_source_without_a_template_and_an_unreadable_one_are_refused(tmp_path: Path, target: Path) -> None:
    bare = make_checkpoint(tmp_path / "bare", template=False)
    keys: dict[str, Any] = {"target": str(target)}

    assert "source 'a' has no chat template; give one with `serve:" in refused(
        recipe(tmp_path, REWARD, **keys, sources=[{"name": "a", "model": str(bare)}])
    )
    source = {"name": "a", "model": str(bare), "serve": {"chat_template": "no.jinja"}}
    assert "source 'a': chat_template 'no.jinja' cannot be read" in refused(
        recipe(tmp_path, REWARD, **keys, sources=[source])
    )


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "leaves out the answer"),
        ("<|bos|><|bos|>" + TURNS, "renders two BOS tokens"),
    ],
)
def test_a_reward_models_template_has_to_show_the_answer(
    tmp_path: Path, target: Path, template: str, sentence: str
) -> None:
    folder = with_template(tmp_path / "reward", template)
    reward = {"kind": "reward_model", "model": str(folder)}
    message = refused(recipe(tmp_path, reward, target=str(target)))

    assert message.startswith(f"reward: {str(folder)!r}: ")
    assert sentence in message
    assert checked(recipe(tmp_path, {**reward, "model": str(target)}, target=str(target))) == []


def test_a_dry_run_names_the_hubs_models_whose_templates_are_not_here(tmp_path: Path, target: Path) -> None:
    keys: dict[str, Any] = {"target": str(target), "sources": [{"name": "a", "model": "hf:org/a"}]}
    (note,) = checked(recipe(tmp_path, {"kind": "armorm", "model": "hf:org/rm"}, **keys))

    assert note == "not on this machine, so their chat templates were not checked: hf:org/a, hf:org/rm"


def test_a_template_that_raises_is_one_sentence_about_the_target(tmp_path: Path) -> None:
    folder = with_template(tmp_path / "target", RAISES)

    assert "target: the chat template cannot render a conversation: only one user" in refused(
        recipe(tmp_path, REWARD, target=str(folder))
    )


def test_a_pad_token_beyond_the_embeddings_is_refused(tmp_path: Path, target: Path) -> None:
    folder = shutil.copytree(target, tmp_path / "target")
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<|added|>"})
    tokenizer.save_pretrained(folder)

    assert "pad_token '<|added|>' is token" in refused(recipe(tmp_path, REWARD, target=str(folder)))


def test_learned_positions_bound_max_length(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = build_tokenizer()
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=8, n_layer=1, n_head=1)
    ).save_pretrained(tmp_path / "gpt2")
    tokenizer.save_pretrained(tmp_path / "gpt2")
    keys = {"target": str(tmp_path / "gpt2"), "training": {"max_length": 64}}

    assert "sft: max_length = 2048, but the target has learned positions for 64 tokens" in refused(
        recipe(tmp_path, REWARD, **keys)
    )
    assert checked(recipe(tmp_path, REWARD, **keys, sft={"max_length": 64})) == []


def test_checkpoints_of_an_8b_model_take_288_gb() -> None:
    # two are kept and a third is written before one goes: 3 x 8e9 x (4 for the weight + 8 for Adam's moments)
    assert checkpoint_bytes(8_000_000_000, TrainingSettings()) == 288e9
    assert checkpoint_bytes(8_000_000_000, TrainingSettings(trainer={"save_total_limit": 1})) == 192e9
    assert checkpoint_bytes(8_000_000_000, TrainingSettings(trainer={"save_strategy": "no"})) == 0


@pytest.mark.parametrize(
    ("launch", "keys", "gb"),
    [
        (None, {}, 128),  # 8e9 x (4 for the weight + 4 for its gradient + 8 for Adam's moments)
        ("ddp", {}, 128),  # whole on each of eight
        ("fsdp2", {}, 16),
        ("zero3", {}, 16),
        ("zero2.yaml", {}, 16 + 2 + 12),  # bfloat16 weights whole; gradients and float32 state (4 + 8) on eight
        ("offload.yaml", {}, None),
        (None, {"trainer": {"optim": "adafactor"}}, 64),
        (None, {"trainer": {"use_cpu": True}}, None),
        (None, {"model": {"use_peft": True}}, 32),
        (None, {"model": {"use_peft": True, "load_in_4bit": True}}, 4),
    ],
)
def test_what_training_an_8b_model_takes_on_each_gpu(
    tmp_path: Path, launch: str | None, keys: dict[str, Any], gb: float | None
) -> None:
    config = "distributed_type: DEEPSPEED\nnum_processes: 8\ndeepspeed_config: {zero_stage: 2"
    (tmp_path / "zero2.yaml").write_text(f"{config}}}\n")
    (tmp_path / "offload.yaml").write_text(f"{config}, offload_optimizer_device: cpu}}\n")
    named = str(tmp_path / launch) if launch and launch.endswith(".yaml") else launch
    spec = recipe(tmp_path, REWARD, launch=named).spec

    needed = state_bytes(spec, TrainingSettings(**keys), 8_000_000_000)

    assert needed == (None if gb is None else gb * 1e9)


def test_a_model_that_no_gpu_can_hold_is_refused_before_anything_is_asked(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = shutil.copytree(target, tmp_path / "large")  # 67 million parameters: 1.07 GB
    config = json.loads((large / "config.json").read_text())
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 4, "head_dim": 256}
    (large / "config.json").write_text(json.dumps(config | sizes))
    toy = recipe(tmp_path, REWARD, target=str(large))
    sentence = "sft: weights, gradients and optimizer of 0.1 billion parameters take about 1 GB per GPU"

    assert any(note.startswith(sentence) for note in checked(toy))  # without a GPU, a dry run still says it
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 256\necho 512\n")  # MiB
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert refused(toy, here=True).startswith(
        f"{sentence}, without activations, but the largest GPU of this machine has 1 GB; split them over more GPUs"
    )
    adapter = recipe(tmp_path, REWARD, target=str(large), training=LORA, prompts={"dataset": "p.jsonl", "sft_share": 0})
    assert checked(adapter, here=True) == []  # nothing but the adapter is trained
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 81559\n")
    assert checked(toy, here=True) == []


def test_lengths_that_fit_one_letter_pass(tmp_path: Path, target: Path) -> None:
    assert checked(recipe(tmp_path, REWARD, target=str(target), training={"max_length": 6})) == []


def test_licences_that_restrict_training_on_answers_are_named(tmp_path: Path) -> None:
    spec: RecipeSpec = recipe(
        tmp_path,
        REWARD,
        target_license="llama3",
        sources=[
            {"name": "big", "model": "hf:org/big", "license": "mrl"},
            {"name": "kin", "model": "hf:org/kin", "license": "llama3"},
            {"name": "free", "model": "hf:org/free", "license": "apache-2.0"},
            {"name": "hosted", "model": "endpoint:gpt-4.1@https://api.openai.com/v1"},
        ],
    ).spec

    assert [note.partition(":")[0] for note in licence_notes(spec)] == ["source 'big'", "source 'hosted'"]
