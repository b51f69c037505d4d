"""Read a recipe file into its specification: fill in `base:`, expand sweeps, check names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.config.specs import checked, read_yaml
from harness.errors import ConfigError

from .shipped import recipe_path
from .spec import RecipeSpec


def read_recipe(path: Path) -> RecipeSpec:
    """Return the recipe in a YAML file, with sweeps expanded. Raise ConfigError that names the wrong key.

    `base: NAME` or `base: FILE` adds the sections of another recipe that this file lacks.
    """
    sections = _with_base(path)
    if isinstance(sections.get("variants"), dict):
        sections["variants"] = _swept(sections["variants"], str(path))
    spec = checked(RecipeSpec, sections, str(path))
    _check_names(spec, str(path))
    return spec


def _with_base(path: Path) -> dict[str, Any]:
    sections = dict(read_yaml(path))
    base = sections.pop("base", None)
    if base is None:
        return sections
    below = recipe_path(str(base), path.parent)
    under = dict(read_yaml(below))
    if "base" in under:
        raise ConfigError(f"{path}: base {base!r} has a base itself; name that recipe instead")
    return {**under, **sections}


SWEPT = ("alpha", "beta", "gamma", "learning_rate", "sources")
"""Keys of a variant that may be lists; they give one variant per value."""


def _swept(variants: dict[str, Any], where: str) -> dict[str, Any]:
    """Expand lists: `wrpo: {training: {alpha: [0.1, 0.5]}}` gives wrpo-alpha0.1 and wrpo-alpha0.5."""
    out: dict[str, Any] = {}
    for name, entry in variants.items():
        for key, variant in _expanded(str(name), entry).items():
            if key in out:
                raise ConfigError(f"{where}: two variants are named {key!r}; rename one")
            out[key] = variant
    return out


def _expanded(name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {name: entry or {}}
    training = entry.get("training") or {}
    if not isinstance(training, dict):
        return {name: entry}
    for key in SWEPT:
        section = entry if key == "sources" else training
        values = section.get(key)
        if isinstance(values, list):
            out: dict[str, Any] = {}
            for value in values:
                single = {**entry, key: value} if key == "sources" else {**entry, "training": {**training, key: value}}
                out |= _expanded(f"{name}-{key}{value}", single)
            return out
    return {name: entry}


RESERVED = frozenset({"all", "best", "sft", "target"})


def _check_names(spec: RecipeSpec, where: str) -> None:
    if len(set(spec.seeds)) < len(spec.seeds):
        raise ConfigError(f"{where}: seeds = {list(spec.seeds)} contains a seed twice; remove one")
    names = [source.name for source in spec.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: two sources are named {twice[0]!r}; rename one")
    if taken := sorted(set(spec.variants) & RESERVED):
        raise ConfigError(f"{where}: a variant may not be named {taken[0]!r}: the name is reserved; rename it")
    for source in spec.sources:
        if (source.model is None) == (source.answers is None):
            raise ConfigError(f"{where}: source {source.name!r} needs exactly one of `model` and `answers`")
    known = (*spec.variants, "sft", "target")
    for name in (*(spec.evaluate.baselines or ()), *spec.evaluate.models):
        if name not in (*known, "all", "best"):
            raise ConfigError(f"{where}: evaluate names {name!r}, which is not a variant; models: {', '.join(known)}")
    generation = spec.rates.generation
    if isinstance(generation, dict) and (odd := sorted(set(generation) - {*names, "target"})):
        raise ConfigError(f"{where}: rates.generation names {odd[0]!r}; models are target, {', '.join(names)}")
    for name, variant in spec.variants.items():
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise ConfigError(
                f"{where}: variant name {name!r}: use letters, digits, `.`, `_` and `-`, not starting with `.`"
            )
        if variant.sources is not None and variant.sources > len(spec.sources):
            count = len(spec.sources)
            raise ConfigError(f"{where}: variant {name!r} needs {variant.sources} sources, but the recipe has {count}")
