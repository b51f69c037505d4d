"""Write out the variants of a recipe file: sweeps, lists, rounds, and methods of several trainings.

>>> recipe = {"variants": {"wrpo": {}}, "sweeps": [{"of": "wrpo", "alpha": [0.1, 0.5]}]}
>>> variants, _, sweeps = expanded(recipe, "recipe.yaml")
>>> list(variants), sweeps[0]["variants"]
(['wrpo', 'wrpo-alpha0.1', 'wrpo-alpha0.5'], {'wrpo-alpha0.1': 0.1, 'wrpo-alpha0.5': 0.5})

Everything here is still as YAML gives it, because a value may be a list where a variant has one: `spec` checks what
comes out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.errors import ConfigError

LISTED = ("alpha", "beta", "gamma", "gamma_beta_ratio", "learning_rate", "sources", "samples")
"""Keys of a variant that may be lists; they give one variant per value."""
OF_VARIANT = ("sources", "samples")
"""Those of them that are keys of the variant itself, not of its `training`."""
SAMPLES = 5
"""Default of `sampling.n`: WRPO release, README."""
MOST_SAMPLES = 1024
"""Limit of `sampling.n`: our choice."""
MOST_ROUNDS = 100
"""Limit of a variant's `rounds`, each of which samples and trains: our choice."""
Entries = dict[str, Any]
"""Variants or merges by name, as in the file."""


def expanded(sections: Mapping[str, Any], file: str) -> tuple[Entries, Entries, list[dict[str, Any]]]:
    """Return a recipe's variants, its merges without their `method`, and its sweeps with their variants named.

    Raise ConfigError if two variants get one name or a sweep cannot be written out.
    """
    sources = _source_names(sections.get("sources"))
    variants, merges = _without_merges(_with_copies(sections["variants"], sources, file))
    sweeps: list[dict[str, Any]] = []
    listed = sections.get("sweeps") or []
    if not isinstance(listed, list):
        raise ConfigError(f"{file}: sweeps = {listed!r} is not a list of `{{of: VARIANT, KEY: VALUES}}`")
    for entry in listed:
        if isinstance(entry, dict) and "variants" in entry:  # of a resolved recipe
            sweeps.append(entry)
            continue
        sweep = _Sweep(entry, sections, sources, f"{file}: sweeps")
        group = merges if sweep.of in merges else variants
        if sweep.of not in group:
            names = ", ".join((*variants, *merges))
            raise ConfigError(f"{file}: a sweep is of {sweep.of!r}, which is not a variant; variants: {names}")
        entries = sweep.entries(group[sweep.of])
        if twice := sorted(set(entries) & {*variants, *merges}):
            raise ConfigError(f"{file}: two variants are named {twice[0]!r}; rename one")
        group |= entries
        sweeps.append(sweep.resolved(group[sweep.of]))
    return _written_out(variants, file), merges, sweeps


def _source_names(sources: Any) -> list[str]:
    if not isinstance(sources, list):
        return []  # `spec` rejects what is not a list
    return [str(source["name"]) for source in sources if isinstance(source, dict) and "name" in source]


class _Sweep:
    """One entry of `sweeps:`: `{of: VARIANT, KEY: VALUES}`."""

    def __init__(self, entry: Any, sections: Mapping[str, Any], sources: list[str], section: str) -> None:
        keys = [key for key in entry if key != "of"] if isinstance(entry, dict) else []
        if len(keys) != 1 or "of" not in entry:
            raise ConfigError(
                f"{section}: {entry!r} is not `{{of: VARIANT, KEY: VALUES}}`; KEY is a training key, sources, samples "
                "or leave_out"
            )
        self.of, self.key = str(entry["of"]), str(keys[0])
        self._section, self._sources, self._recipe = section, sources, sections
        self._values = entry[self.key]
        self._points: dict[str, Any] = {}

    def entries(self, base: Any) -> Entries:
        """Return the swept variants by name; the value that the variant has anyway gives none."""
        base = base or {}
        training = base.get("training") or {} if isinstance(base, dict) else base
        if not isinstance(training, dict):
            return {}  # `spec` rejects it
        lists = [key for key in LISTED if key == "sources" and _is_swept(base.get(key))]
        lists += [key for key in LISTED if key != "sources" and isinstance({**training, **base}.get(key), list)]
        if lists:
            raise ConfigError(f"{self._section}: {self.of!r} has a list of {lists[0]} already; sweep one variant")
        entries: Entries = {}
        for value in self._swept_values(base):
            name = f"{self.of}-{self._label(value)}"
            entries[name] = self._with(base, value)
            self._points[_last(name, base)] = value
        if not entries:
            raise ConfigError(
                f"{self._section}: {self.key} of {self.of!r} has no value but the one that {self.of!r} has anyway"
            )
        return entries

    def resolved(self, base: Any) -> dict[str, Any]:
        return {"of": _last(self.of, base or {}), "key": self.key, "variants": self._points}

    def _swept_values(self, base: dict[str, Any]) -> list[Any]:
        """Return the values to sweep, without the one that the variant has anyway."""
        choices = self._choices(base)
        values = choices if choices and self._values == "each" else self._values
        if not isinstance(values, list) or not values:
            each = ", or `each`" if choices else ""
            raise ConfigError(f"{self._section}: {self.key} = {values!r} of {self.of!r} is not a list of values{each}")
        for value in values:
            problem = f"{self._section}: {self.key} of {self.of!r} cannot be {value!r}"
            if not isinstance(value, str | int | float):
                raise ConfigError(f"{problem}; give single values")
            if choices and (value not in choices or isinstance(value, bool)):  # True equals 1
                raise ConfigError(f"{problem}; choose from {', '.join(map(str, choices))}")
        if self.key == "leave_out" and len(self._names(base)) < 2:
            raise ConfigError(f"{self._section}: {self.of!r} has one source only, which cannot be left out")
        current = self._current(base)
        return list(dict.fromkeys(value for value in values if value != current))

    def _choices(self, base: dict[str, Any]) -> list[Any]:
        """Return the values that the key can have, which `each` stands for; empty if it can have any."""
        match self.key:
            case "leave_out":
                return [name for name in self._names(base) if name != base.get("teacher")]
            case "sources":
                return list(range(1, len(self._names(base)) + 1))
            case "samples":
                return list(range(1, self._samples() + 1))
            case _:
                return []

    def _current(self, base: dict[str, Any]) -> Any:
        """Return the value that the variant has without the sweep, or None."""
        match self.key:
            case "leave_out":
                return None
            case "sources":
                return len(self._names(base))
            case "samples":
                return base.get("samples", self._samples())
            case _ if base.get("models"):  # keys of a merge are its own, not its training's
                return base.get(self.key)
            case _:
                return {**(self._recipe.get("training") or {}), **(base.get("training") or {})}.get(self.key)

    def _samples(self) -> int:
        sampling = self._recipe.get("sampling")
        count = sampling.get("n") if isinstance(sampling, dict) else None
        return count if isinstance(count, int) and 0 < count <= MOST_SAMPLES else SAMPLES  # `spec` rejects others

    def _names(self, base: dict[str, Any]) -> list[str]:
        """Return the sources that the variant uses, or for a merge its models, named by source in FuseChat's copies."""
        if base.get("models"):
            return [str(model).removeprefix(f"{self.of}-") for model in base["models"]]
        chosen = base.get("sources")
        if isinstance(chosen, list):
            return [str(name) for name in chosen]
        return self._sources[:chosen] if isinstance(chosen, int) else self._sources

    def _with(self, base: dict[str, Any], value: Any) -> dict[str, Any]:
        if self.key in ("leave_out", "sources"):
            return self._with_sources(base, value)
        if base.get("models") or self.key in OF_VARIANT:
            return {**base, self.key: value}
        return {**base, "training": {**(base.get("training") or {}), self.key: value}}

    def _with_sources(self, base: dict[str, Any], value: Any) -> dict[str, Any]:
        names = self._names(base)
        remaining = names[:value] if self.key == "sources" else [name for name in names if name != value]
        if base.get("models"):
            models = [model for model, name in zip(base["models"], names, strict=True) if name in remaining]
            return {**base, "models": models}
        by_number = self.key == "sources" and not isinstance(base.get("sources"), list)
        return {**base, "sources": value if by_number else remaining}

    def _label(self, value: Any) -> str:
        if self.key == "leave_out":
            return f"without-{value}"
        return f"{self.key}-{value}" if isinstance(value, str) else f"{self.key}{value}"


def _last(name: str, entry: Mapping[str, Any]) -> str:
    """Return the name of a variant's last round."""
    rounds = entry.get("rounds")
    return f"{name}-round{rounds}" if isinstance(rounds, int) and rounds > 1 else name


def _is_swept(sources: Any) -> bool:
    """Whether a variant's `sources` are several values, and not the names of some."""
    return isinstance(sources, list) and not all(isinstance(name, str) for name in sources)


def _without_merges(variants: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variants that are trained, and those that are merged, without their `method`."""
    merges = {
        name: {key: value for key, value in entry.items() if key != "method"}
        for name, entry in variants.items()
        if isinstance(entry, dict) and entry.get("method") == "merge"
    }
    return {name: entry for name, entry in variants.items() if name not in merges}, merges


def _written_out(variants: dict[str, Any], file: str) -> dict[str, Any]:
    """Expand lists: `wrpo: {training: {alpha: [0.1, 0.5]}}` gives wrpo-alpha0.1 and wrpo-alpha0.5."""
    out: dict[str, Any] = {}
    for name, entry in variants.items():
        for key, variant in _entries(str(name), entry).items():
            if key in out:
                raise ConfigError(f"{file}: two variants are named {key!r}; rename one")
            out[key] = variant
    return out


def _entries(name: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        return {name: entry or {}}
    training = entry.get("training") or {}
    if not isinstance(training, dict):
        return {name: entry}
    for key in LISTED:
        section = entry if key in OF_VARIANT else training
        values = section.get(key)
        if isinstance(values, list) and values and (key != "sources" or _is_swept(values)):
            out: dict[str, Any] = {}
            for value in values:
                single = {**entry, key: value} if key in OF_VARIANT else {**entry, "training": {**training, key: value}}
                out |= _entries(f"{name}-{key}{value}", single)
            return out
    if entry.get("method") == "fuserl":
        return _fuserl(name, entry)
    rounds = entry.get("rounds")
    if isinstance(rounds, int) and 1 < rounds <= MOST_ROUNDS:
        return _rounds(name, {key: value for key, value in entry.items() if key != "rounds"}, rounds)
    return {name: entry}


def _with_copies(variants: Entries, names: Sequence[str], file: str) -> Entries:
    """Write out FuseChat: `fuse: {method: fusechat}` is a distilled copy per source (fuse-SOURCE) and their merge."""
    out: dict[str, Any] = {}
    for name, entry in variants.items():
        if not isinstance(entry, dict) or entry.get("method") != "fusechat":
            out[name] = entry
            continue
        if odd := sorted(set(entry) - {"method", "answers", "sources", "training", "topk"}):
            raise ConfigError(f"{file}: variant {name!r}: method fusechat has no key {odd[0]!r}")
        training, count = entry.get("training") or {}, entry.get("sources")
        swept = [count, *(training.get(key) for key in LISTED if isinstance(training, dict))]
        if any(isinstance(value, list) for value in swept):
            raise ConfigError(f"{file}: variant {name!r}: method fusechat cannot be swept by lists; list its variants")
        teachers = names[:count] if isinstance(count, int) else names
        shared = {key: value for key, value in entry.items() if key in ("answers", "training")}
        copies = {f"{name}-{teacher}": {**shared, "method": "distill", "teacher": teacher} for teacher in teachers}
        topk = {key: value for key, value in entry.items() if key == "topk"}
        out |= copies | {name: {"method": "merge", "merge": "sce", "base": "sft", "models": list(copies), **topk}}
    return out


def _rounds(name: str, entry: dict[str, Any], count: int) -> dict[str, Any]:
    """Return one variant per round, each of which continues from the one before."""
    names = [f"{name}-round{number}" for number in range(1, count + 1)]
    return {
        later: entry if earlier is None else {**entry, "after": earlier}
        for later, earlier in zip(names, [None, *names], strict=False)
    }


def _fuserl(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return FuseRL's two phases: weighted SFT of the target, and weighted preferences that continue from it."""
    if odd := sorted(set(entry) & {"rounds", "after"}):
        raise ConfigError(f"variant {name!r}: method fuserl starts from the target itself; leave out `{odd[0]}`")
    training = entry.get("training") or {}
    tau = {key: value for key, value in training.items() if key == "tau"}
    sft = {key: value for key, value in entry.items() if key != "training"} | {"method": "fusesft", "training": tau}
    return {f"{name}-sft": sft, name: {**entry, "method": "fusepo", "after": f"{name}-sft"}}
