"""YAML and flags -> RunSpec. Unknown keys are rejected; what is resolved is written beside the run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import Field, ValidationError

from .errors import ConfigError
from .plugins import installed, load_plugin
from .records import JudgeSpec, JuryRule, ModelRef, Record, base_url

EDITIONS = ("official", "pocket")
SUITES_OF_ALL = ("mt_bench", "alpaca_eval", "arena_hard")
R = TypeVar("R", bound=Record)
OwnJudges = Mapping[str, Mapping[str, Any]]
"""`judges:` of harness.yaml, not yet validated."""
JudgesBySuite = dict[str, tuple[JudgeSpec, ...]]

PROVIDER_DEFAULT = {"OPENAI_API_KEY": "gpt-4.1"}
"""Provider key in the environment -> judge used when none is named. Never a retired official judge."""


class ServeSpec(Record):
    """`serve:` in harness.yaml; each also a flag of `harness run`."""

    chat_template: str | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    data_parallel: int = Field(default=1, ge=1)
    devices: str | None = Field(default=None, pattern=r"^\d+(,\d+)*$")
    """Numbers of the GPUs the server may use, e.g. `2,3`."""
    dtype: str | None = None
    quantization: str | None = None
    reasoning_parser: str | None = None
    max_model_len: int | None = Field(default=None, gt=0)
    engine_args: tuple[str, ...] = ()
    allow_pickle: bool = False
    trust_remote_code: bool = False
    start_timeout: float = Field(default=1800.0, gt=0)
    """Seconds until the server must answer."""
    concurrency: int = Field(default=64, ge=1)
    """Prompts in flight."""
    rpm: float | None = Field(default=None, gt=0)
    """Requests a minute to `endpoint:`, at most."""
    tpm: float | None = Field(default=None, gt=0)
    """Tokens a minute, likewise."""


class SamplingOverride(Record):
    """`sampling:` in harness.yaml: replaces a benchmark's own answer settings; named on the card as a deviation."""

    n: int | None = Field(default=None, ge=1)
    """Answers per prompt."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)


class RunSpec(Record):
    """One `harness run`, resolved."""

    model: ModelRef
    suites: tuple[str, ...]
    edition: str = "official"
    backend: str = "vllm"
    judges: dict[str, tuple[JudgeSpec, ...]]
    """Suite name -> its judge, or the members of its jury in the order of their names."""
    jury: JuryRule = "mean"
    """How a jury's verdicts become one."""
    repeats: int = Field(default=1, ge=1)
    """Times every judge is asked the same."""
    anchors: tuple[Path, ...] = ()
    """Anchor files, at most one a suite; those of suites that are not run are left alone."""
    references: str = "official"
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    results: Path = Path("results")
    sampling: SamplingOverride = SamplingOverride()
    serve: ServeSpec = ServeSpec()
    mirror: str | None = None
    cache: bool = True
    """Whether judges' replies are taken from, and put into, the reply cache."""
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """US dollars that the judges of this run may cost, all its sessions together."""
    transport: Literal["live", "batch"] = "live"
    """How judges are asked: call by call, or through the Batch API, at half the price, once all answers are there."""


class FileSpec(Record):
    """What harness.yaml may hold."""

    model: str | None = None
    suite: str | None = None
    edition: str | None = None
    backend: str | None = None
    judge: str | dict[str, str] | None = None
    jury: JuryRule | None = None
    repeats: int | None = None
    anchors: str | list[str] | None = None
    references: str | None = None
    limit: int | None = None
    seed: int | None = None
    results: str | None = None
    mirror: str | None = None
    cache: bool | None = None
    max_cost: float | None = None
    transport: str | None = None
    sampling: SamplingOverride = SamplingOverride()
    serve: ServeSpec = ServeSpec()
    judge_devices: str | None = None
    judges: dict[str, dict[str, Any]] = {}
    """Own judges by name: the fields of `JudgeSpec`, name left out."""


def read_yaml(path: Path) -> Mapping[str, Any]:
    """The mapping in a YAML file; raises ConfigError with the file's name and what is wrong."""
    try:
        found = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path} must hold keys and values, not a {type(found).__name__}")
    return found


def read_file_spec(path: Path | None) -> FileSpec:
    """`--config` FILE, or ./harness.yaml where there is one, or nothing."""
    if path is None:
        path = Path("harness.yaml")
        if not path.exists():
            return FileSpec()
    return checked(FileSpec, read_yaml(path), str(path))


def checked(kind: type[R], found: Mapping[str, Any], where: str) -> R:
    """The record, or ConfigError with the first wrong key, its value, and for an unknown key those that exist."""
    try:
        return kind.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        if first["type"] == "extra_forbidden":
            *parents, _ = first["loc"]
            known = ", ".join(sorted(_fields(kind, parents)))
            raise ConfigError(f"{where}: unknown key {key!r}; known: {known}") from None
        raise ConfigError(f"{where}: {key} = {first['input']!r}: {first['msg']}") from None


def _fields(kind: type[Record], parents: list[int | str]) -> list[str]:
    """The fields of the record at a place; list indices and keys of mappings on the way are passed over."""
    for part in parents:
        field = kind.model_fields.get(str(part))
        if field is not None:
            kind = _record_in(field.annotation) or kind
    return list(kind.model_fields)


def _record_in(annotation: object) -> type[Record] | None:
    """The record that an annotation holds, e.g. that of `tuple[R, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    return next((found for part in get_args(annotation) if (found := _record_in(part)) is not None), None)


# --------------------------------------------------------------------------------------------------------- judges


def judge_files() -> dict[str, Path]:
    """Name -> YAML file of every judge that an installed package ships (`fusion_harness.judge_configs`)."""
    found: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        for entry in files(point.load()).iterdir():
            if entry.name.endswith(".yaml"):
                found[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(found.items()))


def judge_templates() -> dict[str, Path]:
    """Name -> YAML file to fill in, of every package that ships judges (`templates/` beside them)."""
    found: dict[str, Path] = {}
    for point in installed("judge_configs").values():
        folder = files(point.load()).joinpath("templates")
        for entry in folder.iterdir() if folder.is_dir() else ():
            if entry.name.endswith(".yaml"):
                found[entry.name.removesuffix(".yaml")] = Path(str(entry))
    return dict(sorted(found.items()))


def find_judge(name: str, own: OwnJudges) -> JudgeSpec:
    """The judge of a name: of a form in `JUDGE_FORMS`, one of harness.yaml's, a YAML file, one a package ships, or a
    kind."""
    prefix, found, rest = name.partition(":")
    if found and prefix in JUDGE_FORMS:
        return JUDGE_FORMS[prefix](rest)
    if name in own:
        if name in judge_files():
            raise ConfigError(f"harness.yaml: judge {name!r} has the name of one that ships; give it another")
        return _own_judge({"name": name, **own[name]}, f"judge {name!r}")
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        return _own_judge({"name": path.stem, **read_yaml(path)}, name)
    shipped = judge_files()
    if name in shipped:
        return checked(JudgeSpec, read_yaml(shipped[name]), str(shipped[name]))
    if name in installed("judges"):
        return JudgeSpec(name=name, kind=name)  # a judge that needs no settings needs no file
    known, forms = ", ".join([*own, *shipped]), ", ".join(f"{form}:…" for form in JUDGE_FORMS)
    raise ConfigError(f"no judge named {name!r}; known: {known}; or a FILE.yaml, or one of {forms}")


def _endpoint_judge(text: str) -> JudgeSpec:
    model, _, url = text.partition("@")
    if not model or not url.startswith(("http://", "https://")):
        raise ConfigError(f"--judge {'endpoint:' + text!r} is not endpoint:MODEL@http://HOST:PORT/v1")
    return JudgeSpec(name=model, kind="llm", model=model, url=base_url(url), key_env=_judge_key())


def _evaluator_judge(text: str) -> JudgeSpec:
    """`NAME`, or `NAME@URL` for another server than the configuration's."""
    name, found, url = text.partition("@")
    if not name or (found and not url.startswith(("http://", "https://"))):
        raise ConfigError(f"--judge {'alpaca_eval:' + text!r} is not alpaca_eval:NAME or alpaca_eval:NAME@URL")
    spec = JudgeSpec(name=f"alpaca_eval:{name}", kind="alpaca_eval", evaluator=name)
    return spec.model_copy(update={"url": base_url(url), "key_env": _judge_key()}) if found else spec


def _judge_key() -> str | None:
    return "HARNESS_JUDGE_KEY" if "HARNESS_JUDGE_KEY" in os.environ else None


def _model_judge(kind: str) -> Callable[[str], JudgeSpec]:
    """A judge whose only setting is a model or a file."""

    def made(text: str) -> JudgeSpec:
        if not text or text.startswith("endpoint:"):
            raise ConfigError(f"--judge {kind}:{text} is not {kind}:PATH or {kind}:hf:ORG/NAME@REVISION")
        return JudgeSpec(
            name=f"{kind}:{ModelRef.parse(text).label}", kind=kind, model=text, price_in=0.0, price_out=0.0
        )

    return made


JUDGE_FORMS: Mapping[str, Callable[[str], JudgeSpec]] = {
    "endpoint": _endpoint_judge,
    "alpaca_eval": _evaluator_judge,
    "local": _model_judge("local"),
    "reward_model": _model_judge("reward_model"),
    "replay": _model_judge("replay"),
}
"""What may stand before a colon in --judge; each names a kind and its one setting."""


def with_devices(judges: Mapping[str, tuple[JudgeSpec, ...]], devices: str, serve: ServeSpec) -> JudgesBySuite:
    """The judges with `--judge-devices` given to those that are loaded here. Raises ConfigError where there is none,
    or where the candidate would use the same devices."""
    if not any(is_local(spec) for specs in judges.values() for spec in specs):
        raise ConfigError(f"--judge-devices {devices}: no judge of this run is loaded here; local:PATH would be")
    workers = serve.tensor_parallel * serve.pipeline_parallel * serve.data_parallel
    taken = serve.devices.split(",") if serve.devices else [str(number) for number in range(workers)]
    both = sorted(set(taken) & set(devices.split(",")))
    if both:
        raise ConfigError(
            f"--judge-devices {devices}: the candidate uses {', '.join(taken)}; give it others by --devices, or leave "
            "--judge-devices out: the judge is then loaded after it"
        )
    checked(ServeSpec, {"devices": devices}, "--judge-devices")
    return {suite: tuple(_on(spec, devices) for spec in specs) for suite, specs in judges.items()}


def is_local(spec: JudgeSpec) -> bool:
    """Whether a judge's model is loaded on this machine; such a judge says `local = True`."""
    return bool(getattr(load_plugin("judges", spec.kind), "local", False))


def _on(spec: JudgeSpec, devices: str) -> JudgeSpec:
    return spec.model_copy(update={"serve": {**spec.serve, "devices": devices}}) if is_local(spec) else spec


def _own_judge(found: Mapping[str, Any], where: str) -> JudgeSpec:
    spec = checked(JudgeSpec, found, where)
    return spec if spec.url is None else spec.model_copy(update={"url": base_url(spec.url)})


NO_JUDGE = (
    "no judge is configured: set OPENAI_API_KEY for the default judge, or give --judge endpoint:MODEL@URL "
    "(also HARNESS_JUDGE, or `judge:` in harness.yaml), or try --edition pocket, which needs none"
)


def choose_judges(
    suites: tuple[str, ...],
    given: str | Mapping[str, str] | None,
    *,
    edition: str,
    own: OwnJudges,
) -> dict[str, tuple[JudgeSpec, ...]]:
    """Judged suite -> judge or jury: as given, or pocket's own, or HARNESS_JUDGE, or a provider's key; else
    ConfigError."""
    names = _by_suite(suites, given)
    if edition not in EDITIONS:
        raise ConfigError(f"no edition named {edition!r}; editions: {', '.join(EDITIONS)}")
    fallback = _fallback_judge(edition)
    chosen: dict[str, tuple[JudgeSpec, ...]] = {}
    for suite in map(plugin_name, filter(is_judged, suites)):
        name = names.get(suite, names.get("*", fallback))
        if name is None:
            raise ConfigError(f"{suite}: {NO_JUDGE}")
        if suite in chosen:
            raise ConfigError(f"suite {suite!r} is named twice with different arguments; one a run")
        chosen[suite] = find_jury(name, own)
    return chosen


def find_jury(name: str, own: OwnJudges) -> tuple[JudgeSpec, ...]:
    """The judge of a name, or the members of `A+B+C` in the order of their names; no two may be called alike."""
    members = tuple(sorted((find_judge(part, own) for part in split_jury(name, own)), key=lambda spec: spec.name))
    for one, other in pairwise(members):
        if one.name == other.name:
            raise ConfigError(
                f"--judge {name!r}: two members are called {one.name!r}; ask one judge more often by --repeats, or "
                "name them apart under `judges:` in harness.yaml"
            )
    return members


def split_jury(name: str, own: OwnJudges) -> list[str]:
    """`A+B` -> its parts; a `+` in a model's name before `@http`, in a file's or in a judge's own stays."""
    parts: list[str] = []
    for piece in name.split("+"):
        if parts and _goes_on(parts[-1], piece, own):
            parts[-1] += f"+{piece}"
        else:
            parts.append(piece)
    if not all(parts):
        raise ConfigError(f"--judge {name!r}: there is an empty name before or after a +")
    return parts


def _goes_on(said: str, piece: str, own: OwnJudges) -> bool:
    joined = f"{said}+{piece}"
    if said.startswith("endpoint:") and "@http" not in said:
        return True
    return joined in own or Path(joined.removeprefix("local:")).exists()


def _fallback_judge(edition: str) -> str | None:
    if edition == "pocket":
        return "reference"
    if os.environ.get("HARNESS_JUDGE"):
        return os.environ["HARNESS_JUDGE"]
    return next((judge for key, judge in PROVIDER_DEFAULT.items() if os.environ.get(key)), None)


def _by_suite(suites: tuple[str, ...], given: str | Mapping[str, str] | None) -> dict[str, str]:
    """`J` or `SUITE=J,SUITE=J` or a mapping -> {suite or "*": judge}."""
    if given is None:
        return {}
    if not isinstance(given, str):
        return dict(given)  # of the file: it may name judges for suites that are not run today
    if "=" not in given or given.partition(":")[0] in JUDGE_FORMS:
        return {"*": given}
    pairs = {}
    for part in given.split(","):
        suite, found, judge = part.partition("=")
        if not found or not judge:
            raise ConfigError(f"--judge {given!r}: {part!r} is not SUITE=JUDGE")
        pairs[suite.strip()] = judge.strip()
    run = [plugin_name(suite) for suite in suites]
    for suite in pairs:
        if suite not in run:
            raise ConfigError(f"--judge names suite {suite!r}, which is not run; run: {', '.join(run)}")
    return pairs


def is_judged(suite: str) -> bool:
    """Whether a suite needs a judge; one that scores by itself says `judged = False`."""
    name = plugin_name(suite)
    return name not in installed("suites") or bool(getattr(load_plugin("suites", name), "judged", True))


def plugin_name(suite: str) -> str:
    """`NAME` of `NAME:ARGUMENT`."""
    return suite.partition(":")[0]


def suite_names(given: str) -> tuple[str, ...]:
    """`all` or a comma list -> names in order, each once; `NAME:X+Y` is `NAME:X` and `NAME:Y`.

    Raises ConfigError on an unknown one.
    """
    known = list(installed("suites"))
    names: list[str] = []
    for part in given.split(","):
        for name in SUITES_OF_ALL if part.strip() == "all" else _with_arguments(part.strip()):
            if name.partition(":")[0] not in known:
                raise ConfigError(f"no suite named {name!r}; installed: {', '.join(known)}; or all")
            if name not in names:
                names.append(name)
    return tuple(names)


def _with_arguments(part: str) -> list[str]:
    name, found, arguments = part.partition(":")
    return [f"{name}:{argument}" for argument in arguments.split("+")] if found else [name]
