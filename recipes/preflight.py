"""Check a whole recipe before its first request: what would stop a later stage, hours or days from now, stops it here.

`harness train` runs it first, and so does --dry-run. A fault of the recipe raises ConfigError in both. What depends on
the machine (packages, devices, free disk, keys) raises it in a run only; a dry run may be on another machine, so there
it is a note. A dry run downloads nothing: what is not on the machine is not checked, and a note says so. torch is
imported only if something is still to be trained.

Sections: chat templates, in which a dummy conversation is rendered; the order of all checks (`preflight`); then what
one of them looks at: sampling and pairs, judges and keys, training keys and the model they build, free disk.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from harness.backends.devices import gpu_bytes
from harness.records import ModelRef
from harness.records.documents import read_yaml
from harness.records.errors import CheckpointError, ConfigError, did_you_mean, one_line
from harness.records.judge_choice import NO_JUDGE, choose_judges, find_judge
from harness.records.protocols import installed
from harness.records.providers import api_key
from harness.records.settings import ServeSpec
from harness.store.provenance import install_command

from .estimate import tokenizer_file
from .layout import DONE, Recipe
from .prompts import check_name, part_sizes
from .rivals import target_serve
from .sampling import try_backend
from .spec import SCORED_BY, RecipeSpec, SuitesSpec, launch_path, sources_used
from .suites import named_suites
from .training.launch import state_bytes
from .training.settings import MUON, TrainingSettings, renamed

# ------------------------------------------------------------------------------------------------------- chat templates
# The target's template must render what is trained on; a source's what it is asked, and for InfiFPO also answers that
# others gave; a reward model's must show the answer.


DUMMY = ({"role": "user", "content": "How are you?"},)
ANSWERS = ("Well, thank you.", "I am fine.", "Bad.")
SCORED_IN_TEMPLATE = ("reward_model", "armorm", "pooling")
"""Kinds of rewards whose model reads the conversation in its chat template."""


def check_target_template(spec: RecipeSpec, trainings: dict[str, TrainingSettings]) -> None:
    """Render a dummy triple as training will. Raise ConfigError if no row could be rendered, or it ends twice."""
    from .training.templates import Rendering, render, target_tokenizer

    tokenizer = target_tokenizer(spec, spec.target)
    compat = any(settings.trainer.get("official_compat") for settings in trainings.values())
    for official in (False, True) if compat else (False,):
        with _rendering("target"):
            row = render(list(DUMMY), ANSWERS, tokenizer, Rendering(official_compat=official))
        ends = set(tokenizer.all_special_ids)
        if row is not None and not official and len(row.source_ids) > 1 and set(row.source_ids[-2:]) <= ends:
            ending = tokenizer.decode(list(row.source_ids[-2:]))
            raise ConfigError(
                f"target: the chat template ends an answer twice, with {ending!r}; remove one (`chat_template: FILE`)"
            )
    for section, settings in trainings.items():
        _check_lengths(spec, section, settings, tokenizer)


def _check_lengths(spec: RecipeSpec, section: str, settings: TrainingSettings, tokenizer: Any) -> None:
    """Raise ConfigError if not even a prompt and an answer of one letter fit the lengths of a training."""
    from .training.templates import Rendering, conversation_ids, render_answers

    style: Any = settings.rendering
    how = Rendering(max_prompt_length=spec.prompts.max_prompt_length, **style)
    letter = [{"role": "user", "content": "x"}]
    with _rendering("target"):
        row = render_answers(letter, ["x"], tokenizer, how)
        if row is not None and not row.truncated:
            return
        shortest = len(conversation_ids(tokenizer, letter, add_generation_prompt=True))
    key = f"{_section(spec, section, 'max_length')} = {how.max_length}"
    if shortest > how.max_prompt_length:
        key = f"prompts: max_prompt_length = {how.max_prompt_length}"
    raise ConfigError(
        f"{key} leaves no row: in the target's chat template the shortest prompt has {shortest} tokens, and an answer "
        "follows; raise it"
    )


def check_other_templates(recipe: Recipe, to_do: frozenset[str]) -> list[str]:
    """Check the templates of sources and of the reward model, and return the models of the Hub that are not here."""
    spec = recipe.spec
    scored = {
        source.name
        for variant in recipe.variants.values()
        if variant.method == "infifpo" and "logps" in to_do
        for source in sources_used(spec, variant)
    }
    absent: list[str] = []
    for source in spec.sources:
        if source.model is None or source.backend not in SCORED_BY:
            continue
        if "sources" in to_do or source.name in scored:
            subject = f"source {source.name!r}"
            tokenizer = _tokenizer(subject, source.model, source.serve, absent)
            if tokenizer is not None:
                _check_turns(subject, tokenizer, answered=source.name in scored)
    reward = spec.reward
    if to_do & {"rewards", "evaluate"} and reward.kind in SCORED_IN_TEMPLATE and reward.model and not reward.url:
        subject = f"reward: {reward.model!r}"
        tokenizer = _tokenizer(subject, reward.model, reward.serve, absent)
        if tokenizer is not None:
            _check_scored(subject, tokenizer)
    return list(dict.fromkeys(absent))


def _tokenizer(subject: str, model: str, serve: ServeSpec, absent: list[str]) -> Any:
    """Return a model's tokenizer in the template that it is served with, or None if it is not here.

    Names of the Hub are then added to `absent`. Raise ConfigError if the model has no template.
    """
    ref, requested = ModelRef.parse(model), serve.chat_template
    if ref.scheme not in ("path", "hf") or (requested or "").startswith("fastchat:"):
        return None
    if tokenizer_file(model) is None:
        absent += [str(ref)] if ref.scheme == "hf" else []
        return None
    from transformers import AutoTokenizer

    from .training.templates import with_defaults

    location = str(Path(ref.name).expanduser()) if ref.scheme == "path" else ref.name
    code = serve.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location, revision=ref.revision, local_files_only=True, trust_remote_code=code
        )
    except (OSError, ValueError, ImportError):  # of the Hub's files only some are here; loading the model says more
        absent.append(str(ref))
        return None
    try:
        template = tokenizer.chat_template if requested is None else Path(requested).expanduser().read_text("utf-8")
    except (OSError, ValueError):
        raise ConfigError(f"{subject}: chat_template {requested!r} cannot be read; give a Jinja file") from None
    if not template:
        raise ConfigError(f"{subject} has no chat template; give one with `serve: {{chat_template: FILE.jinja}}`")
    if isinstance(template, str):
        tokenizer.chat_template = with_defaults(template, serve.chat_template_kwargs or {})
    return tokenizer


@contextmanager
def _rendering(subject: str) -> Iterator[None]:
    """Turn what a chat template raises, or what is wrong with its text, into a ConfigError about `subject`."""
    from jinja2 import TemplateError

    from .training.templates import UnusableAnswerError

    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{subject}: {error}") from None
    except UnusableAnswerError as error:
        raise ConfigError(f"{subject}: the chat template makes a plain row unusable: {error.reason}") from None
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise ConfigError(f"{subject}: the chat template cannot render a conversation: {one_line(error)}") from None


def _check_turns(subject: str, tokenizer: Any, *, answered: bool) -> None:
    """Raise ConfigError unless the question renders, and with `answered` if answers cannot be told from it."""
    from .training.templates import Rendering, conversation_ids, render_answers

    with _rendering(subject):
        conversation_ids(tokenizer, DUMMY, add_generation_prompt=True)
        if answered:
            render_answers(DUMMY, ANSWERS, tokenizer, Rendering())


def _check_scored(subject: str, tokenizer: Any) -> None:
    """Raise ConfigError if the template loses the answer: every answer would get the same reward."""
    from .training.templates import conversation_ids

    conversation = [*DUMMY, {"role": "assistant", "content": ANSWERS[0]}]
    with _rendering(subject):
        conversation_ids(tokenizer, conversation, add_generation_prompt=False)
        if ANSWERS[0] not in tokenizer.apply_chat_template(conversation, tokenize=False):
            raise ConfigError("the chat template leaves out the answer, so all would get one reward; give it another")


# ----------------------------------------------------------------------------------------------------- the whole recipe


OUTPUT_TERMS = {
    "mrl": "allows research only, and that includes models trained on its answers",
    "cc-by-nc-4.0": "forbids commercial use",
    "llama2": "forbids training any language model but Llama on its answers",
    "llama3": "forbids training any language model but Llama on its answers",
    "llama3.1": "wants a model trained on its answers to have a name that begins with Llama",
    "llama3.2": "wants a model trained on its answers to have a name that begins with Llama",
    "llama3.3": "wants a model trained on its answers to have a name that begins with Llama",
    "gemma": "applies its use restrictions to models trained on its answers",
    "tongyi-qianwen": "forbids training any language model but Qwen on its answers",
    "qwen": "wants a model trained on its answers to say that it was improved using Qwen",
}
"""Licence identifier -> what it says of models trained on the answers, from the licence texts; read them yourself."""
PROVIDERS = ("openai.com", "anthropic.com", "googleapis.com", "azure.com", "x.ai")
"""Hosts of providers whose terms of service restrict training on their models' answers."""
NO_SUITE_JUDGE = (
    "no judge is configured for the suites: set OPENAI_API_KEY for their default judges, HARNESS_JUDGE, or `judge: "
    "PROVIDER:MODEL` (or endpoint:MODEL@URL) under `evaluate`"
)
OF_MODEL = ("optim", "optim_args", "optim_target_modules", "use_liger_kernel")
"""Keys of the trainer that decide, with those of the model, what is built."""
OF_LOOP = (
    "optim", "optim_args", "learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon",
    "lr_scheduler_type", "lr_scheduler_kwargs",
)  # fmt: skip
"""Keys that the optimizer and its schedule are made of, in the configuration of every trainer."""
PLAIN = ("adamw_torch", "adamw_torch_fused", "adafactor", "adagrad", "rmsprop", "sgd")
"""Values of `optim` that need no package and no model."""
OF_LOADER = ("dataloader_num_workers", "dataloader_persistent_workers", "dataloader_prefetch_factor")
KeyPath = Callable[[str], str]
"""Key -> `SECTION: KEY` of the recipe."""
ADAM_BYTES, FLOAT32, BFLOAT16 = 8, 4, 2
"""Bytes per parameter: both moments of Adam, and a weight in each precision."""
LEAST_NOTED = 1e9
"""Bytes per GPU below which a training's memory is not worth a sentence."""


@dataclass
class Preflight:
    """The notes of one preflight so far."""

    runs_here: bool
    """Whether the recipe will run on this machine, so that its lack of something is an error."""
    notes: list[str] = field(default_factory=list)

    def of_machine(self, sentence: str) -> None:
        """Raise ConfigError with what this machine lacks, or note it in a dry run."""
        if self.runs_here:
            raise ConfigError(sentence)
        self.notes.append(f"before a run on this machine: {sentence}")


def preflight(recipe: Recipe, to_do: frozenset[str], *, runs_here: bool) -> list[str]:
    """Return warnings, one sentence each. Raise ConfigError or CheckpointError for what some later stage would stop at.

    `to_do` has the stages that are not finished yet.
    """
    spec, check = recipe.spec, Preflight(runs_here)
    check.notes += licence_notes(spec)
    _check_data_sets(spec)
    _check_pairs(spec, to_do)
    if "evaluate" in to_do and spec.evaluate.suite is not None:
        _check_judges(spec.evaluate, check)
    if to_do & {"rewards", "evaluate"} and spec.reward.kind:
        _check_reward(spec.reward.kind, check)
    if to_do & {"rewards", "evaluate"} and spec.reward.kind == "judge" and spec.reward.model:
        _check_key(f"reward: judge {spec.reward.model!r}", find_judge(spec.reward.model, {}).key_env, check)
    if to_do & {"sft", "align"}:
        _check_training(recipe, to_do, check)
    if importlib.util.find_spec("transformers") is not None:
        absent = check_other_templates(recipe, to_do)
        if absent and not runs_here:
            check.notes.append(f"not on this machine, so their chat templates were not checked: {', '.join(absent)}")
    _check_serving(recipe, to_do, check)
    return check.notes


def _check_data_sets(spec: RecipeSpec) -> None:
    answers = {f"source {source.name!r}: answers =": source.answers for source in spec.sources}
    names = {"prompts: dataset =": spec.prompts.dataset, "pairs: dataset =": spec.pairs.dataset, **answers}
    for key, name in names.items():
        if name:
            check_name(name, key)


def _check_serving(recipe: Recipe, to_do: frozenset[str], check: Preflight) -> None:
    """Refuse what the backend of a model that is still to be asked cannot serve. The target stands for its variants."""
    spec, every = recipe.spec, recipe.spec.evaluate_every
    served = [("target_serve", spec.target_backend, target_serve(spec))] if to_do & {"target", "evaluate"} else []
    if "evaluate" in to_do and spec.evaluate.suite is not None:
        served.append(("evaluate.serve", spec.evaluate.backend, spec.evaluate.serve))
    if to_do & {"sft", "align"} and every is not None:
        served.append(("evaluate_every.serve", every.backend, every.serve))
    for source in spec.sources if "sources" in to_do else ():
        if source.model is not None:
            try_backend(f"source {source.name!r}", source.model, source.backend, source.serve, check.of_machine)
    for section, backend, serve in served:
        with suppress(CheckpointError):  # `_check_training` says what is wrong with the target itself
            try_backend(section, spec.target, backend, serve, check.of_machine)


def _check_reward(kind: str, check: Preflight) -> None:
    """Refuse a reward that nothing installs before the sources are asked, whose answers it would score."""
    kinds = installed("rewards")
    if kind not in kinds:
        near = did_you_mean(kind, kinds)
        check.of_machine(f"reward: no reward named {kind!r}{near}; installed: {', '.join(kinds)}")


def licence_notes(spec: RecipeSpec) -> Iterator[str]:
    """Yield a sentence per source whose licence or terms restrict training on its answers."""
    target = (spec.target_license or "").lower()
    for source in spec.sources:
        name = (source.license or "").lower()
        terms = OUTPUT_TERMS.get(name)
        host = urlsplit(source.model.partition("@")[2]).hostname or "" if source.model else ""
        if terms is not None and not (name.startswith("llama") and target.startswith("llama")):
            yield f"source {source.name!r}: its licence, {source.license}, {terms}; read it before you use the result"
        elif any(host == domain or host.endswith(f".{domain}") for domain in PROVIDERS):
            yield f"source {source.name!r}: the terms of {host} restrict training on its answers; read them first"


def _check_pairs(spec: RecipeSpec, to_do: frozenset[str]) -> None:
    """Raise ConfigError if the settings cannot give any pair, or no prompt for a stage."""
    if spec.pairs.max_margin is not None and spec.pairs.min_margin > spec.pairs.max_margin:
        raise ConfigError(
            f"pairs: min_margin = {spec.pairs.min_margin} is above max_margin = {spec.pairs.max_margin}, so every pair "
            "would be dropped; swap them"
        )
    if spec.has_own_pairs:
        return
    if "target" in to_do and spec.sampling.n < 2:
        raise ConfigError(
            "sampling: n = 1, but a pair needs a best and a worst sample of the target; set n to 2 or more"
        )
    if "target" in to_do and spec.sampling.temperature == 0:
        raise ConfigError(
            "sampling: temperature = 0 gives the target's samples one text, so no pair is left; set it above 0"
        )
    if spec.prompts.sft_share == 1:
        raise ConfigError("prompts: sft_share = 1 leaves no prompt for pairs; set it below 1")
    if spec.prompts.limit is not None:
        sizes = part_sizes(spec.prompts.limit, spec.prompts)
        if not sizes["preference"] or (spec.prompts.sft_share and not sizes["sft"]):
            raise ConfigError(
                f"prompts: limit = {spec.prompts.limit} leaves {sizes['sft']} prompts for SFT and "
                f"{sizes['preference']} for pairs; raise it, or hold out fewer"
            )


def _check_judges(spec: SuitesSpec, check: Preflight) -> None:
    try:
        judges = choose_judges(named_suites(spec), spec.judge, edition=spec.edition, own_judges={})
    except ConfigError as error:
        if spec.judge is not None:
            raise
        why = NO_SUITE_JUDGE if NO_JUDGE in str(error) else str(error)
        check.of_machine(f"evaluate: {why} (or train now with --until align and evaluate later)")
        return
    for suite, jury in judges.items():
        for judge in jury:
            _check_key(f"evaluate: judge {judge.name!r} of {suite}", judge.key_env, check)


def _check_key(whose: str, variable: str | None, check: Preflight) -> None:
    if variable is not None and api_key(variable) is None:
        check.of_machine(f"{whose} needs its API key in the environment variable {variable}")


def _check_training(recipe: Recipe, to_do: frozenset[str], check: Preflight) -> None:
    spec = recipe.spec
    missing = [name for name in ("torch", "transformers", "trl", "peft") if importlib.util.find_spec(name) is None]
    if missing:
        check.of_machine(f"training needs {', '.join(missing)}: {install_command('train')}")
        return
    from .training.settings import check_training

    trainings = check_training(spec, trains_here=check.runs_here)
    _check_launch(spec, check)
    for section, settings in trainings.items():
        if settings.trainer.get("optim") == MUON:
            _check_whole_matrices(partial(_section, spec, section), spec)
    location = _target(spec, check)
    if location is None:
        return
    check_target_template(spec, trainings)
    config = _config(*location)
    built: list[TrainingSettings] = []
    for section, settings in trainings.items():
        part = settings.model_copy(update={"trainer": {key: settings.trainer.get(key) for key in OF_MODEL}})
        if part in built:
            continue
        built.append(part)
        key_path = partial(_section, spec, section)
        _check_packages(key_path, settings, check)
        _check_model(key_path, config, settings)
    for section, settings in trainings.items():
        _check_loop(partial(_section, spec, section), settings)
    _check_embedding(spec, config)
    size = sum(weight.numel() for weight in meta_model(config, None).parameters())
    _check_disk(recipe, size, trainings, to_do, check)
    ahead = {f"variants.{name}.training" for name in recipe.variants} if "align" in to_do else set()
    if "sft" in to_do and not spec.starts_at_target:
        ahead.add("sft")
    _check_memory(spec, size, {section: keys for section, keys in trainings.items() if section in ahead}, check)


def _section(spec: RecipeSpec, section: str, key: str) -> str:
    """Return `SECTION: KEY`, with `section` or, for a key that the recipe sets for all variants, `training`."""
    if section == "sft":
        return f"{section}: {key}"
    by_section = {f"variants.{name}.training": renamed(variant.training) for name, variant in spec.variants.items()}
    is_shared = key not in by_section.get(section, {}) and key in renamed(spec.training)
    return f"{'training' if is_shared else section}: {key}"


def _target(spec: RecipeSpec, check: Preflight) -> tuple[str, str | None] | None:
    """Return folder or Hub name of the target, and its revision, or None if a dry run does not have it."""
    ref = ModelRef.parse(spec.target)
    if ref.scheme == "endpoint":
        raise ConfigError(f"target: {spec.target!r} is a server, but training needs weights: give DIR or hf:ORG/NAME")
    if not check.runs_here and tokenizer_file(spec.target) is None:
        check.notes.append(
            f"the target {spec.target!r} is not on this machine: its template and modules were not checked"
        )
        return None
    return str(Path(ref.name).expanduser()) if ref.scheme == "path" else ref.name, ref.revision


def _config(location: str, revision: str | None) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location, revision=revision)
    except (OSError, ValueError, KeyError) as error:
        raise CheckpointError(f"target: {location!r} has no configuration to train: {one_line(error)}") from None


def _check_embedding(spec: RecipeSpec, config: Any) -> None:
    from .training.templates import target_tokenizer

    tokenizer = target_tokenizer(spec, spec.target)
    size = config.get_text_config().vocab_size
    for name in ("pad_token", "eos_token", "bos_token"):
        number = getattr(tokenizer, f"{name}_id")
        if number is not None and number >= size:
            raise ConfigError(
                f"target: {name} {getattr(tokenizer, name)!r} is token {number}, but the model embeds only {size}; "
                "name another with `pad_token`, or resize the model's embeddings"
            )


def _check_launch(spec: RecipeSpec, check: Preflight) -> None:
    """Check what `launch` needs of this machine: DeepSpeed, and a device per process."""
    if spec.launch is None:
        return
    import torch

    facts = read_yaml(launch_path(spec.launch))
    kind = str(facts.get("distributed_type", "NO"))
    if kind == "DEEPSPEED" and importlib.util.find_spec("deepspeed") is None:
        check.of_machine(f"launch: {spec.launch} needs DeepSpeed: pip install deepspeed, or use `launch: fsdp2`")
    processes, machines = facts.get("num_processes", 1), facts.get("num_machines", 1)
    devices = torch.accelerator.device_count() if torch.accelerator.is_available() else 0
    if kind == "NO" or facts.get("use_cpu") or not isinstance(processes, int) or machines != 1:
        return
    if devices < processes and (devices or kind in ("MULTI_GPU", "DEEPSPEED")):
        check.of_machine(
            f"launch: {spec.launch} starts {processes} processes, but this machine has {devices} devices; copy the "
            "configuration and change num_processes"
        )


def _check_whole_matrices(key_path: KeyPath, spec: RecipeSpec) -> None:
    """Raise ConfigError if training would shard the matrices that Muon needs whole."""
    kind = "NO" if spec.launch is None else str(read_yaml(launch_path(spec.launch)).get("distributed_type", "NO"))
    if kind in ("FSDP", "DEEPSPEED"):
        raise ConfigError(
            f"{key_path('optim')} = {MUON!r} needs whole matrices, but launch = {spec.launch!r} shards them; use "
            "`launch: ddp`, or another optimizer"
        )


def _check_packages(key_path: KeyPath, settings: TrainingSettings, check: Preflight) -> None:
    """Check optional packages that a training key needs, and quantization, which trains nothing by itself."""
    model, trainer = settings.model, settings.trainer
    quantized = next((key for key in ("load_in_4bit", "load_in_8bit") if model.get(key)), None)
    if quantized and not model.get("use_peft"):
        raise ConfigError(f"{key_path(quantized)} freezes the weights, so nothing would be trained; set use_peft: true")
    flash = str(model.get("attn_implementation") or "").startswith("flash_attention")
    needed_by = {
        "bitsandbytes": quantized or ("optim" if "8bit" in str(trainer.get("optim")) else None),
        "liger_kernel": "use_liger_kernel" if trainer.get("use_liger_kernel") else None,
        "flash_attn": "attn_implementation" if flash else None,
    }
    for package, key in needed_by.items():
        if key is not None and importlib.util.find_spec(package) is None:
            name = package.replace("_", "-")
            check.of_machine(f"{key_path(key)} needs the package {name}: pip install {name}, or remove the key")


def meta_model(config: Any, attention: str | None) -> Any:
    """Return the model without memory for its weights. Raise ValueError or ImportError as loading it would."""
    import copy

    import torch
    from transformers import AutoModelForCausalLM

    kwargs = {} if attention is None else {"attn_implementation": attention}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(copy.deepcopy(config), **kwargs)


def _check_model(key_path: KeyPath, config: Any, settings: TrainingSettings) -> None:
    """Build the model and its adapter on the meta device. Raise ConfigError if that fails or trains the wrong thing."""
    attention = settings.model.get("attn_implementation")
    flash = str(attention or "").startswith("flash_attention")  # whether it is installed: `_check_packages`
    try:
        model = meta_model(config, None if flash else attention)  # type: ignore[arg-type]
    except (ValueError, ImportError, TypeError) as error:
        raise ConfigError(f"{key_path('attn_implementation')}: the target cannot be built: {one_line(error)}") from None
    _check_positions(key_path, model, settings)
    if settings.model.get("use_peft"):
        _check_adapter(key_path, model, settings)
    _check_optimizer(key_path, model, settings)


def _check_positions(key_path: KeyPath, model: Any, settings: TrainingSettings) -> None:
    """Raise ConfigError if rows may be longer than a table of learned positions, which would be an index error."""
    from torch import nn

    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    length = settings.rendering.get("max_length", 2048)
    if limit is None or not isinstance(length, int) or length <= limit:
        return
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    if any(table is not model.get_input_embeddings() and 0 <= table.num_embeddings - limit <= 2 for table in tables):
        raise ConfigError(
            f"{key_path('max_length')} = {length}, but the target has learned positions for {limit} tokens only; "
            f"set it to {limit} or less"
        )


def _check_adapter(key_path: KeyPath, model: Any, settings: TrainingSettings) -> None:
    import torch
    from peft import get_peft_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    from .training.settings import adapter_config

    tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    ends = {
        name.rpartition(".")[2]
        for name, module in model.named_modules()
        if module in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    saved = settings.model.get("lora_modules_to_save") or []
    if tied and isinstance(saved, list) and (both := sorted(ends & set(map(str, saved)))):
        raise ConfigError(
            f"{key_path('lora_modules_to_save')} = {both[0]!r}, but the target ties its two ends, and "
            "only one would be trained; remove it"
        )
    try:
        with torch.device("meta"):
            adapted = get_peft_model(model, adapter_config(settings))
    except (ValueError, TypeError, ImportError, AttributeError) as error:
        sentence = one_line(error)
        if "odule" not in sentence:  # nothing about target modules: the adapter itself
            key = next((key for key in settings.model if key.removeprefix("use_") in sentence), "use_peft")
            raise ConfigError(f"{key_path(key)}: {sentence}") from None
        names = sorted({name.rpartition(".")[2] for name, module in model.named_modules() if _is_linear(module)})
        raise ConfigError(
            f"{key_path('lora_target_modules')}: {sentence} The target's linear modules: {', '.join(names)}"
        ) from None
    base = adapted.get_base_model()
    if isinstance(base.get_output_embeddings(), BaseTunerLayer):
        raise ConfigError(
            f"{key_path('lora_target_modules')} has the output head, whose adapter the chunked loss would not see; "
            "name other modules, or all-linear, which leaves the head out"
        )
    if tied and isinstance(base.get_input_embeddings(), BaseTunerLayer):
        raise ConfigError(
            f"{key_path('lora_target_modules')} has the embeddings, which the target ties to its output head; "
            "name others"
        )
    if not any(weight.requires_grad for weight in adapted.parameters()):
        raise ConfigError(f"{key_path('use_peft')}: the adapter has nothing to train; name lora_target_modules")


def _is_linear(module: Any) -> bool:
    return type(module).__name__ in ("Linear", "Conv1D")


def _check_optimizer(key_path: KeyPath, model: Any, settings: TrainingSettings) -> None:
    """Raise ConfigError if the optimizer of `optim` cannot be made, e.g. because its package is missing."""
    from transformers import Trainer, TrainingArguments

    keys = {
        key: settings.trainer[key] for key in ("optim", "optim_args", "optim_target_modules") if key in settings.trainer
    }
    if "optim" not in keys or keys["optim"] == MUON or "8bit" in str(keys["optim"]):
        return
    try:
        Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(output_dir=".", **keys), model)
    except (ValueError, ImportError, TypeError, RuntimeError) as error:
        raise ConfigError(f"{key_path('optim')} = {keys['optim']!r} cannot be used: {one_line(error)}") from None


def _check_loop(key_path: KeyPath, settings: TrainingSettings) -> None:
    """Make a training's optimizer and schedule for one weight, and its loader. Raise ConfigError if that fails."""
    import torch
    from torch.utils.data import DataLoader
    from transformers import Trainer, TrainingArguments
    from transformers.optimization import get_scheduler

    keys = {key: settings.trainer[key] for key in (*OF_LOOP, *OF_LOADER) if key in settings.trainer}
    if keys.get("optim") == MUON:
        del keys["optim"]
    args = TrainingArguments(output_dir=".", use_cpu=True, bf16=False, report_to=[], **keys)
    name = str(args.optim.value)
    if name not in PLAIN:  # `_check_optimizer` looks for its package
        args.optim = args.optim.__class__("sgd")
    try:
        kind, options = Trainer.get_optimizer_cls_and_kwargs(args)
        group: dict[str, Any] = {"params": [torch.zeros(1, requires_grad=True)], "weight_decay": args.weight_decay}
        optimizer = kind([group], **options)
    except (ValueError, TypeError, ImportError, RuntimeError) as error:
        raise ConfigError(f"{key_path('optim')} = {name!r} cannot be used: {one_line(error)}") from None
    try:
        get_scheduler(args.lr_scheduler_type, optimizer, 1, 2, args.lr_scheduler_kwargs)
    except (ValueError, TypeError) as error:
        schedule = str(args.lr_scheduler_type.value)
        raise ConfigError(f"{key_path('lr_scheduler_type')} = {schedule!r} cannot be used: {one_line(error)}") from None
    try:
        DataLoader(
            [0],
            num_workers=args.dataloader_num_workers,
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )
    except ValueError as error:
        key = next(key for key in reversed(OF_LOADER) if key in settings.trainer)
        raise ConfigError(f"{key_path(key)}: {one_line(error)}") from None


def _check_disk(
    recipe: Recipe, size: int, trainings: dict[str, TrainingSettings], to_do: frozenset[str], check: Preflight
) -> None:
    """Compare free disk with what checkpoints of all remaining trainings take, the finished models included."""
    names = [*(["sft"] if "sft" in to_do else []), *recipe.variants]
    folders = [
        folder for seed in recipe.seeds for name in names if (folder := recipe.checkpoint(name, seed)) is not None
    ]
    left = [folder for folder in folders if not (folder / DONE).exists()]
    most = max((checkpoint_bytes(size, settings) for settings in trainings.values()), default=0)
    present = sum(path.stat().st_size for folder in left for path in folder.rglob("*") if path.is_file())
    saved = FLOAT32 if recipe.spec.save_dtype == "float32" else BFLOAT16
    needed = len(left) * size * saved + most - present
    free = _free(recipe.out)
    if needed > free:
        check.of_machine(
            f"output_dir: {len(left)} trainings need about {needed / 1e9:,.0f} GB in {recipe.out}, of which "
            f"{most / 1e9:,.0f} GB are intermediate checkpoints, but {free / 1e9:,.0f} GB are free; free some, select "
            "fewer with --variant, or set save_total_limit: 1"
        )


def _check_memory(spec: RecipeSpec, size: int, trainings: dict[str, TrainingSettings], check: Preflight) -> None:
    """Compare the memory of a GPU, if it is known, with what weights, gradients and optimizer take on each."""
    needs = {section: state_bytes(spec, settings, size) or 0.0 for section, settings in trainings.items()}
    section = max(needs, key=lambda name: needs[name], default=None)
    if section is None or needs[section] < LEAST_NOTED:
        return
    sentence = (
        f"{section}: weights, gradients and optimizer of {size / 1e9:,.1f} billion parameters take about "
        f"{needs[section] / 1e9:,.0f} GB per GPU, without activations"
    )
    memory = gpu_bytes()
    if memory is not None and needs[section] > memory:
        check.of_machine(
            f"{sentence}, but the largest GPU of this machine has {memory / 1e9:,.0f} GB; split them over more GPUs "
            "with `launch: fsdp2` or zero3, or train an adapter (use_peft: true)"
        )
    elif not check.runs_here:
        check.notes.append(sentence)


def checkpoint_bytes(parameters: int, settings: TrainingSettings) -> float:
    """Return the bytes of the intermediate checkpoints of one training at their most: weights and Adam's moments."""
    if settings.trainer.get("save_strategy") == "no" or settings.model.get("use_peft"):
        return 0.0
    limit = settings.trainer.get("save_total_limit", 2)
    optimizer = 0 if settings.trainer.get("save_only_model") else ADAM_BYTES
    # a new checkpoint is written before the oldest is removed
    return parameters * (FLOAT32 + optimizer) * ((limit if isinstance(limit, int) else 2) + 1)


def _free(folder: Path) -> int:
    existing = folder.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free
