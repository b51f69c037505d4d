"""A recipe's file -> its specification: `base:` filled in, sweeps written out, names checked."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from harness.config.specs import checked, read_yaml
from harness.errors import ConfigError

from .shipped import recipe_path
from .spec import RecipeSpec


def read_recipe(path: Path) -> RecipeSpec:
    """The recipe in a YAML file, its sweeps written out. Raises ConfigError with the key that is wrong.

    `base: NAME` or `base: FILE` takes the sections of another recipe that this file does not have itself.
    """
    found = _with_base(path)
    if isinstance(found.get("variants"), dict):
        found["variants"] = _swept(found["variants"], str(path))
    spec = checked(RecipeSpec, found, str(path))
    _check_names(spec, str(path))
    return spec


def _with_base(path: Path) -> dict[str, Any]:
    found = dict(read_yaml(path))
    base = found.pop("base", None)
    if base is None:
        return found
    below = recipe_path(str(base), path.parent)
    under = dict(read_yaml(below))
    if "base" in under:
        raise ConfigError(f"{path}: base {base!r} has a base itself; name that one")
    return {**under, **found}


SWEPT = ("alpha", "beta", "gamma", "learning_rate", "sources")
"""Keys of a variant that may be lists: one variant for each value."""


def _swept(variants: dict[str, Any], where: str) -> dict[str, Any]:
    """`wrpo: {training: {alpha: [0.1, 0.5]}}` -> wrpo-alpha0.1 and wrpo-alpha0.5; `sources: [1, 3]` likewise."""
    out: dict[str, Any] = {}
    for name, given in variants.items():
        for key, variant in _expanded(str(name), given).items():
            if key in out:
                raise ConfigError(f"{where}: two variants are called {key!r}")
            out[key] = variant
    return out


def _expanded(name: str, given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        return {name: given or {}}
    training = given.get("training") or {}
    if not isinstance(training, dict):
        return {name: given}
    for key in SWEPT:
        place = given if key == "sources" else training
        values = place.get(key)
        if isinstance(values, list):
            out: dict[str, Any] = {}
            for value in values:
                one = {**given, key: value} if key == "sources" else {**given, "training": {**training, key: value}}
                out |= _expanded(f"{name}-{key}{value}", one)
            return out
    return {name: given}


RESERVED = frozenset({"all", "best", "sft", "target"})


def _check_names(spec: RecipeSpec, where: str) -> None:
    if len(set(spec.seeds)) < len(spec.seeds):
        raise ConfigError(f"{where}: seeds = {list(spec.seeds)} names a seed twice")
    names = [source.name for source in spec.sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"{where}: two sources are called {twice[0]!r}")
    if taken := sorted(set(spec.variants) & RESERVED):
        raise ConfigError(f"{where}: a variant may not be called {taken[0]!r}, which names a model of every recipe")
    for source in spec.sources:
        if (source.model is None) == (source.answers is None):
            raise ConfigError(f"{where}: source {source.name!r} needs either `model` or `answers`")
    known = (*spec.variants, "sft", "target")
    for name in (*(spec.evaluate.baselines or ()), *spec.evaluate.models):
        if name not in (*known, "all", "best"):
            raise ConfigError(f"{where}: evaluate names {name!r}, which is no variant; models: {', '.join(known)}")
    given = spec.rates.generation
    if isinstance(given, dict) and (odd := sorted(set(given) - {*names, "target"})):
        raise ConfigError(f"{where}: rates.generation names {odd[0]!r}; models are target, {', '.join(names)}")
    for name, variant in spec.variants.items():
        if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
            raise ConfigError(f"{where}: a variant is called {name!r}; letters, digits, `.`, `_` and `-` make a name")
        if variant.sources is not None and variant.sources > len(spec.sources):
            raise ConfigError(f"{where}: variant {name!r} asks for {variant.sources} sources of {len(spec.sources)}")
