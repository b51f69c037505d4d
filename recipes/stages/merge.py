"""Merge checkpoints with mergekit, which makes weights from others without training: a part of the stage `align`.

A merge is a variant with `method: merge`. mergekit runs as a process of its own (it is an optional package under
LGPL-3.0, `pip install -e '.[merge]'`), reads local folders only, and gets no keys. Tokenizer and chat
template are copied from the first model.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from harness.records import ModelRef, digest
from harness.records.errors import CheckpointError, ConfigError, IncompleteError
from harness.records.providers import without_keys
from harness.store import dump_json, write_atomic
from harness.store.checkpoint import Fusion, resolve
from harness.store.provenance import install_command
from harness.store.weights import read_header, weight_files

from ..estimate import Estimator, PlanItem
from ..layout import Counts, Recipe
from ..sampling import record_weights
from ..spec import MergeSpec
from ..steps import Step
from ..training.launch import KEEP

log = logging.getLogger(__name__)
COPIED = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model", "*.jinja"),
    "generation_config.json",
)
"""Files of the first model that the merge gets unchanged."""
LOG, PARTIAL, CONFIG = "mergekit.log", "merging", "mergekit.yaml"


def merge_steps(recipe: Recipe, models: Sequence[Step]) -> list[Step]:
    """Return one step per merge and seed. `models` has the steps of all checkpoints that merges are made from."""
    by_folder = {step.folder: step for step in models}
    steps = []
    for name, merge in recipe.merges.items():
        for seed in recipe.merge_seeds(name):
            checkpoints = [(model, part_seed) for part_seed in _seeds(recipe, merge, seed) for model in merge.models]
            base = [(_base(recipe, merge), seed)] if merge.has_base else []
            folders = {_checkpoint_in_recipe(recipe, model, part_seed) for model, part_seed in [*checkpoints, *base]}
            inputs = tuple(by_folder[folder] for folder in by_folder if folder in folders)
            if set(recipe.seeds) >= set(_seeds(recipe, merge, seed)):
                steps.append(_step(recipe, name, merge, seed, inputs))
    return steps


def _step(recipe: Recipe, name: str, merge: MergeSpec, seed: int, inputs: tuple[Step, ...]) -> Step:
    settings: dict[str, JsonValue] = {"seed": seed, "method": "merge", **merge.model_dump(mode="json")}
    sources = [source for source in recipe.spec.sources if source.name in (*merge.models, merge.base)]
    if sources:
        settings["sources"] = {source.name: ModelRef.parse(source.model or "").short for source in sources}
    if "target" in (*merge.models, *([_base(recipe, merge)] if merge.has_base else [])):
        settings["target"] = ModelRef.parse(recipe.spec.target).short

    def work(folder: Path) -> Counts:
        return _merge(recipe, name, merge, seed, folder)

    def estimate(_: Estimator, item: PlanItem) -> Iterator[PlanItem]:
        yield item.model_copy(update={"model": name})  # minutes of the processor, and no GPU

    folder = recipe.variant(name, seed)
    return Step(
        "align", f"seed-{seed}/align/{name}", folder, settings, work, inputs, KEEP, seed=seed, estimate=estimate
    )


def _seeds(recipe: Recipe, merge: MergeSpec, seed: int) -> tuple[int, ...]:
    return recipe.spec.seeds if merge.seeds == "all" else (seed,)


def _base(recipe: Recipe, merge: MergeSpec) -> str:
    if merge.base is not None:
        return merge.base
    return "sft" if all(model in recipe.spec.variants for model in merge.models) else "target"


def check_merges(recipe: Recipe) -> None:
    """Raise ConfigError if mergekit is missing or models that exist already cannot be merged with the target.

    Checkpoints of the recipe have the target's shapes, so a merge of variants needs no check. A Hub model that is not
    in the local cache is checked when the merge runs.
    """
    if importlib.util.find_spec("mergekit") is None:
        raise ConfigError(f"`method: merge` needs the package mergekit: {install_command('merge')}")
    paths = {source.name: source.model for source in recipe.spec.sources if source.model is not None}
    for name, merge in recipe.merges.items():
        folders: dict[str, Path] = {}
        names = [*merge.models, *([_base(recipe, merge)] if merge.has_base else [])]
        for model in names:
            text = paths.get(model, recipe.spec.target)  # checkpoints of the recipe are as the target
            ref = ModelRef.parse(text)
            if ref.scheme == "endpoint":
                raise ConfigError(f"merge {name!r}: {model!r} is a server, and its weights are not here; leave it out")
            if ref.scheme == "path":
                folders[model] = resolve(ref)
        check_mergeable(name, folders)


def check_mergeable(merge: str, folders: dict[str, Path]) -> None:
    """Raise ConfigError unless all models have tensors of the same names and shapes, and the same vocabulary."""
    first: tuple[str, dict[str, Any], str | None] | None = None
    for model, folder in folders.items():
        if (folder / "adapter_config.json").exists():
            raise ConfigError(
                f"merge {merge!r}: {model!r} is an adapter; merge it into its base first, or leave it out"
            )
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"merge {merge!r}: {model!r} is not a model folder: {str(folder)!r}")
        shapes, words = _shapes(folder), _vocabulary(folder)
        if first is None:
            first = model, shapes, words
            continue
        first_model, expected, vocabulary = first
        odd = sorted(key for key in expected | shapes if expected.get(key) != shapes.get(key))
        if odd:
            raise ConfigError(
                f"merge {merge!r}: {model!r} and {first_model!r} have different architectures ({odd[0]}: "
                f"{shapes.get(odd[0], 'missing')} and {expected.get(odd[0], 'missing')}); merge models of one "
                "architecture"
            )
        if words != vocabulary:
            raise ConfigError(
                f"merge {merge!r}: {model!r} and {first_model!r} have different vocabularies, so their rows of "
                "embeddings do not belong together; merge models of one tokenizer"
            )


def _shapes(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_text("utf-8"))
    shapes: dict[str, Any] = {"architecture": ",".join(config.get("architectures") or [])}
    for file in weight_files(folder):
        shapes |= {name: tensor["shape"] for name, tensor in read_header(file).items()}
    return shapes


def _vocabulary(folder: Path) -> str | None:
    """Return a digest of the tokens and their ids, or None without a tokenizer.json."""
    try:
        tokenizer = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    except FileNotFoundError:
        return None
    added = sorted((entry["id"], entry["content"]) for entry in tokenizer.get("added_tokens", []))
    return digest([tokenizer["model"].get("vocab"), added])


def _merge(recipe: Recipe, name: str, merge: MergeSpec, seed: int, folder: Path) -> Counts:
    checkpoints = [(model, part_seed) for part_seed in _seeds(recipe, merge, seed) for model in merge.models]
    folders = {f"{model} of seed {part_seed}": _folder(recipe, model, part_seed) for model, part_seed in checkpoints}
    base = _folder(recipe, _base(recipe, merge), seed)
    check_mergeable(name, folders | ({"the base": base} if merge.has_base else {}))
    used = (*merge.models, *([_base(recipe, merge)] if merge.has_base else []))
    outside = {
        model: _folder(recipe, model, seed) for model in used if _checkpoint_in_recipe(recipe, model, seed) is None
    }
    if outside:  # checkpoints of the recipe are inputs of the step, so their digests are recorded already
        record_weights(folder, outside, name)
    begin = time.monotonic()
    weights: dict[Path, float] = {}
    for (model, _), path in zip(checkpoints, folders.values(), strict=True):  # a source is the same for all seeds
        weights[path] = 1.0 if merge.weights is None else merge.weights[merge.models.index(model)]
    config = merge_config(merge, weights, base)
    run_mergekit(config, folder, seed=seed)
    for pattern in COPIED:
        for path in next(iter(folders.values())).glob(pattern):
            shutil.copyfile(path, folder / path.name)
    target = ModelRef.parse(recipe.spec.target).label
    fusion = Fusion(method=f"merge, {merge.merge}", sources=merge.models, target=target)
    write_atomic(folder / "fusion.json", dump_json(fusion.model_dump(mode="json", exclude_none=True)))
    return {"models": len(weights), "merge_seconds": round(time.monotonic() - begin, 3)}


def _checkpoint_in_recipe(recipe: Recipe, model: str, seed: int) -> Path | None:
    """Return the folder of a checkpoint of this recipe, or None for the target and sources."""
    return recipe.checkpoint(model, seed) if model == "sft" or model in recipe.spec.variants else None


def _folder(recipe: Recipe, model: str, seed: int) -> Path:
    if (folder := _checkpoint_in_recipe(recipe, model, seed)) is not None:
        return folder.resolve()
    named = {source.name: source.model for source in recipe.spec.sources}
    return resolve(ModelRef.parse(named.get(model) or recipe.spec.target)).resolve()


def merge_config(merge: MergeSpec, weights: Mapping[Path, float], base: Path) -> dict[str, Any]:
    """Return the merge of these folders, with their weights, in mergekit's own format."""
    models: list[dict[str, Any]] = []
    for folder, weight in weights.items():
        parameters: dict[str, Any] = {}
        if merge.merge in ("linear", "ties", "dare_ties"):
            parameters["weight"] = weight
        if merge.density is not None:
            parameters["density"] = merge.density
        models.append({"model": str(folder), **({"parameters": parameters} if parameters else {})})
    config: dict[str, Any] = {"merge_method": merge.merge, "models": models}
    if merge.merge == "slerp":
        config |= {"base_model": str(next(iter(weights))), "parameters": {"t": merge.t}}
    elif merge.has_base:
        config["base_model"] = str(base)
    if merge.topk is not None:
        config["parameters"] = {"select_topk": merge.topk}
    if merge.dtype is not None:
        config["dtype"] = merge.dtype
    return config


def run_mergekit(config: dict[str, Any], folder: Path, *, seed: int) -> None:
    """Merge into the folder; mergekit's log is beside the weights. Raise IncompleteError if it fails."""
    partial = folder / PARTIAL
    if partial.exists():
        shutil.rmtree(partial)  # of a merge that was stopped
    partial.mkdir(parents=True)
    write_atomic(folder / CONFIG, yaml.safe_dump(config, sort_keys=False))
    command = [sys.executable, "-m", "mergekit.scripts.run_yaml", str(folder / CONFIG), str(partial)]
    command += ["--no-copy-tokenizer", "--no-write-model-card", f"--random-seed={seed}"]
    environment = without_keys(os.environ) | {"HF_HUB_OFFLINE": "1"}
    with (folder / LOG).open("wb") as output:
        ended = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    if ended.returncode != 0:
        lines = (folder / LOG).read_text("utf-8", "replace").strip().splitlines()
        why = lines[-1] if lines else "no message"
        raise IncompleteError(f"mergekit exited with code {ended.returncode}: {why[:200]}; see {folder / LOG}")
    for path in sorted(partial.iterdir()):
        if path.name in ("config.json", "model.safetensors.index.json") or path.suffix == ".safetensors":
            path.replace(folder / path.name)
    shutil.rmtree(partial)
