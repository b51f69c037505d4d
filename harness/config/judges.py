"""Find the judge that a name means: a form (`local:PATH`, …), one of harness.yaml, a file, a shipped one, or a kind."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..plugins import installed, load_plugin
from ..records import JudgeSpec, ModelRef, base_url
from .specs import ServeSpec, checked, read_yaml

OwnJudges = Mapping[str, Mapping[str, Any]]
"""`judges:` in harness.yaml, not yet validated."""
JudgesBySuite = dict[str, tuple[JudgeSpec, ...]]


def judge_files() -> dict[str, Path]:
    """Return name -> YAML file of every judge that an installed package ships (`fusion_harness.judge_configs`)."""
    paths: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        for entry in files(point.load()).iterdir():
            if entry.name.endswith(".yaml"):
                paths[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(paths.items()))


def judge_templates() -> dict[str, Path]:
    """Return name -> YAML template of every package that ships judges (`templates/` beside them)."""
    paths: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        folder = files(point.load()).joinpath("templates")
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name.endswith(".yaml"):
                paths[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(paths.items()))


def find_judge(name: str, own_judges: OwnJudges) -> JudgeSpec:
    """Return the judge of a name: a form in `JUDGE_FORMS`, one of harness.yaml, a YAML file, a shipped one, or a kind.

    Raise ConfigError for an unknown name.
    """
    prefix, colon, rest = name.partition(":")
    if colon and prefix in JUDGE_FORMS:
        return JUDGE_FORMS[prefix](rest)
    if name in own_judges:
        if name in judge_files():
            raise ConfigError(f"harness.yaml: judge {name!r} has the name of a shipped judge; rename it")
        return _own_judge({"name": name, **own_judges[name]}, f"judge {name!r}")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        return _own_judge({"name": path.stem, **read_yaml(path)}, name)
    shipped = judge_files()
    if name in shipped:
        return checked(JudgeSpec, read_yaml(shipped[name]), str(shipped[name]))
    if name in installed("judges"):
        return JudgeSpec(name=name, kind=name)  # a judge that needs no settings needs no file
    known, forms = ", ".join([*own_judges, *shipped]), ", ".join(f"{form}:…" for form in JUDGE_FORMS)
    raise ConfigError(f"no judge named {name!r}; known: {known}; or a FILE.yaml, or one of {forms}")


def _endpoint_judge(text: str) -> JudgeSpec:
    model, _, url = text.partition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise ConfigError(f"--judge {'endpoint:' + text!r} is not endpoint:MODEL@http://HOST:PORT/v1")
    return JudgeSpec(name=model, kind="llm", model=model, url=base_url(url), key_env=_judge_key())


def _evaluator_judge(text: str) -> JudgeSpec:
    """Return the judge of `NAME`, or of `NAME@URL` for another server than the configuration's."""
    name, sign, url = text.partition("@")
    if not name or (sign and not url.startswith(("http://", "https://"))):
        raise ConfigError(f"--judge {'alpaca_eval:' + text!r} is not alpaca_eval:NAME or alpaca_eval:NAME@URL")
    spec = JudgeSpec(name=f"alpaca_eval:{name}", kind="alpaca_eval", evaluator=name)
    return spec.model_copy(update={"url": base_url(url), "key_env": _judge_key()}) if sign else spec


def _judge_key() -> str | None:
    return "HARNESS_JUDGE_KEY" if "HARNESS_JUDGE_KEY" in os.environ else None


def _model_judge(kind: str) -> Callable[[str], JudgeSpec]:
    """Return the parser of a judge form whose only setting is a model or a file."""

    def parse(text: str) -> JudgeSpec:
        if not text or text.startswith("endpoint:"):
            raise ConfigError(f"--judge {kind}:{text} is not {kind}:PATH or {kind}:hf:ORG/NAME@REVISION")
        return JudgeSpec(
            name=f"{kind}:{ModelRef.parse(text).label}", kind=kind, model=text, price_in=0.0, price_out=0.0
        )

    return parse


JUDGE_FORMS: Mapping[str, Callable[[str], JudgeSpec]] = {
    "endpoint": _endpoint_judge,
    "alpaca_eval": _evaluator_judge,
    "local": _model_judge("local"),
    "reward_model": _model_judge("reward_model"),
    "replay": _model_judge("replay"),
}
"""Prefixes before the colon in --judge; each stands for a kind and its one setting."""


def with_devices(judges: Mapping[str, tuple[JudgeSpec, ...]], devices: str, serve: ServeSpec) -> JudgesBySuite:
    """Return the judges, with `--judge-devices` applied to those that are loaded here.

    Raise ConfigError if there is no such judge, or if the candidate would use the same devices.
    """
    if not any(is_local(spec) for specs in judges.values() for spec in specs):
        raise ConfigError(f"--judge-devices {devices}: no judge of this run is loaded here; local:PATH would be")
    workers = serve.tensor_parallel * serve.pipeline_parallel * serve.data_parallel
    taken = serve.devices.split(",") if serve.devices else [str(number) for number in range(workers)]
    both = sorted(set(taken) & set(devices.split(",")))
    if both:
        raise ConfigError(
            f"--judge-devices {devices}: the candidate uses {', '.join(taken)}; give it others with --devices, or omit "
            "--judge-devices to load the judge after it"
        )
    checked(ServeSpec, {"devices": devices}, "--judge-devices")
    return {suite: tuple(_on(spec, devices) for spec in specs) for suite, specs in judges.items()}


def is_local(spec: JudgeSpec) -> bool:
    """Return whether a judge's model is loaded on this machine, as its class states by `local = True`."""
    return bool(getattr(load_plugin("judges", spec.kind), "local", False))


def _on(spec: JudgeSpec, devices: str) -> JudgeSpec:
    return spec.model_copy(update={"serve": {**spec.serve, "devices": devices}}) if is_local(spec) else spec


def _own_judge(settings: Mapping[str, Any], where: str) -> JudgeSpec:
    spec = checked(JudgeSpec, settings, where)
    return spec if spec.url is None else spec.model_copy(update={"url": base_url(spec.url)})
