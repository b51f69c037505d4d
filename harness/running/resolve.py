"""Turn flags and harness.yaml into the settings of one run. This is the only place where flags become settings.

>>> resolve(overlaid(FileSpec(edition="pocket", seed=3), {"model": "./ckpt", "seed": 5})).seed
5
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from ..records import AuditSpec, JudgeSpec, ModelRef, Record
from ..records.errors import ConfigError, one_line
from ..records.judge_choice import (
    choose_audits,
    choose_baselines,
    choose_judges,
    shutdown_warning,
    suite_names,
    unlisted_model_warning,
    with_devices,
)
from ..records.settings import FileSpec, RunSpec, SamplingOverride, ServeSpec, checked
from ..store.gguf import names_gguf

GROUPS: dict[str, type[Record]] = {"serve": ServeSpec, "sampling": SamplingOverride}
"""Keys of harness.yaml that are groups of settings."""


def overlaid(file: FileSpec, flags: Mapping[str, Any]) -> FileSpec:
    """Return the settings of harness.yaml, replaced by the flags that are not None.

    Raise ConfigError if a value is invalid.
    """
    changed = _without_none(flags)
    for name, kind in GROUPS.items():
        base = getattr(file, name).model_dump()
        # merged key by key: `--tensor-parallel 2` must not drop the other `serve:` settings of the file
        changed[name] = checked(kind, base | _without_none(changed.get(name, {})), f"{name} flags")
    values = {name: getattr(file, name) for name in FileSpec.model_fields}
    return checked(FileSpec, values | changed, "command line")


def models_in(text: str) -> tuple[str, ...]:
    """Return the models that `--model` names: `A,B,C`, `@FILE` with one per line, or a single one.

    A path that exists is one model, whatever its name contains. Raise ConfigError if the file cannot be read or names
    no model, or if a model is empty or named twice.

    >>> models_in("./a,hf:org/b,endpoint:c,d@http://host/v1")
    ('./a', 'hf:org/b', 'endpoint:c,d@http://host/v1')
    """
    _, _, file = text.partition(":")
    if any(os.path.exists(os.path.expanduser(path)) for path in (text, file)):
        return (text,)
    if text.startswith("@"):
        models = _lines(Path(text[1:]).expanduser())
        if not models:
            raise ConfigError(f"--model {text!r} names no model; write one per line, as --model takes them")
    else:
        models = []
        for name in text.split(","):
            # the name of a served model may contain a comma: `endpoint:` is complete with its URL
            if models and models[-1].startswith("endpoint:") and "@http" not in models[-1]:
                models[-1] += f",{name}"
            else:
                models.append(name.strip() if "," in text else name)
        if len(models) > 1 and "" in models:
            raise ConfigError(f"--model {text!r} has an empty name between its commas")
    twice = sorted({model for model in models if models.count(model) > 1})
    if twice:
        raise ConfigError(f"--model {text!r} names {', '.join(map(repr, twice))} more than once")
    return tuple(models)


def _lines(path: Path) -> list[str]:
    """Return the lines of a file of models, without empty ones and comments (`# ...`)."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8-sig").splitlines()]
    except (OSError, ValueError) as error:
        raise ConfigError(f"--model '@{path}': the file of models cannot be read: {one_line(error)}") from None
    return [line for line in lines if line and not line.startswith("#")]


def refuse_bare_repository(model: ModelRef, backend: str | None) -> None:
    """Raise ConfigError if the model is `org/name`, looks like a repository of the Hub, and is not a folder here."""
    is_served = backend in (None, "vllm", "sglang", "transformers", "ray")
    if (
        model.scheme == "path"
        and is_served
        and re.fullmatch(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?", model.name)
        and not os.path.exists(model.name)
    ):
        raise ConfigError(
            f"there is no folder {model.name!r}; the repository of that name on the Hub is --model hf:{model.name}"
        )


def resolve(settings: FileSpec, *, needs_key: bool = True) -> RunSpec:
    """Return the run that the settings ask for, with defaults filled in. `needs_key` False: for a dry run.

    Raise ConfigError if there is no model, a suite or judge is unknown, or a value is invalid.
    """
    if settings.model is None:
        raise ConfigError("no model: give --model DIR, hf:ORG/NAME or endpoint:NAME@URL")
    model = ModelRef.parse(settings.model, title=settings.name)
    refuse_bare_repository(model, settings.backend)
    for name in ("suite", "baseline"):  # a shell's unset variable must not select the default
        if getattr(settings, name) == "":
            raise ConfigError(f"--{name} is empty: name one, or leave it out")
    suites = suite_names(settings.suite or "all")
    edition = settings.edition or "official"
    judges = choose_judges(suites, settings.judge, edition=edition, own_judges=settings.judges, needs_key=needs_key)
    audits = choose_audits(judges, settings.audit, settings.judges)
    # devices and patience are given to judges and auditors alike, so they are joined here and split again below
    asked = {suite: specs + _auditors(audits, suite) for suite, specs in judges.items()}
    if settings.judge_devices is not None:
        asked = with_devices(asked, settings.judge_devices, settings.serve)
    asked = {suite: tuple(_patient(spec, settings.serve) for spec in specs) for suite, specs in asked.items()}
    judges = {suite: asked[suite][: len(specs)] for suite, specs in judges.items()}
    audits = {suite: audit.model_copy(update={"judge": asked[suite][-1]}) for suite, audit in audits.items()}
    if settings.jury == "cyclic" and all(len(specs) < 2 for specs in judges.values()):
        raise ConfigError("--jury cyclic needs several judges that take turns, e.g. --judge A+B+C")
    shared = RunSpec.model_fields.keys() & FileSpec.model_fields.keys()
    values = _without_none({name: getattr(settings, name) for name in shared})
    # the form of the model implies its backend, unless the user names one
    if model.scheme == "endpoint" or model.is_ensemble:
        values.setdefault("backend", model.scheme)
    elif settings.backend is None and names_gguf(model):
        values["backend"] = "llamacpp"
    if isinstance(settings.anchors, str):
        values["anchors"] = [settings.anchors]
    if isinstance(settings.baseline, str):
        values["baseline"] = choose_baselines(suites, settings.baseline)
    chosen = {"model": model, "suites": suites, "judges": judges, "audit": audits}
    return checked(RunSpec, values | chosen, "command line")


def _auditors(audits: Mapping[str, AuditSpec], suite: str) -> tuple[JudgeSpec, ...]:
    return (audits[suite].judge,) if suite in audits else ()


def _patient(judge: JudgeSpec, serve: ServeSpec) -> JudgeSpec:
    return judge.model_copy(update={"patience": serve.patience}) if judge.patience is None else judge


def _without_none(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def judge_warnings(spec: RunSpec, today: date) -> list[str]:
    """Return a warning for each judge that was shut down, soon will be, or may be misspelt."""
    asked = [judge for judges in spec.judges.values() for judge in judges]
    asked += [audit.judge for audit in spec.audit.values()]
    by_name = {judge.name: judge for judge in asked}
    sentences = [(shutdown_warning(judge, today), unlisted_model_warning(judge)) for judge in by_name.values()]
    return [sentence for pair in sentences for sentence in pair if sentence is not None]
