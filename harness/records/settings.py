"""Define the settings of one run, from harness.yaml and the flags of `harness run`: `RunSpec`.

>>> SamplingOverride(temperature=0.0, max_tokens=512).deviation([Sampling(temperature=0.0, max_tokens=1024)])
{'max_tokens': 512}

Unknown keys are rejected, with the known ones in the message.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, get_args

from pydantic import ConfigDict, Field, JsonValue, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from .asking import ModelRef, Record, Sampling, is_empty
from .documents import read_yaml
from .errors import ConfigError, did_you_mean, problem_words
from .judging import AuditSpec, JudgeSpec, JuryRule
from .providers import note_key_variable

EDITIONS = ("official", "pocket")
EXAMPLE = '{"enable_thinking": false}'
R = TypeVar("R", bound=Record)


class ServeSpec(Record):
    """`serve:` in harness.yaml; each field is also a flag of `harness run`."""

    model_config = ConfigDict(allow_inf_nan=False)

    chat_template: str | None = None
    tensor_parallel: int = Field(default=1, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)
    data_parallel: int = Field(default=1, ge=1)
    devices: str | None = Field(default=None, pattern=r"^\d+(,\d+)*$")
    """Numbers of the GPUs the server may use, e.g. `2,3`."""
    dtype: str | None = None
    quantization: str | None = None
    # newer fields are left out of dumps at their default, so that run ids from before them stay valid
    reasoning: str = Field(default="auto", exclude_if=lambda name: name == "auto")
    """`auto`, `off`, or the name of a vLLM reasoning parser."""
    reasoning_effort: str | None = Field(default=None, exclude_if=is_empty)
    reasoning_room: int | None = Field(default=None, gt=0, exclude_if=is_empty)
    """Tokens for reasoning, besides the benchmark's own limit."""
    chat_template_kwargs: dict[str, JsonValue] | None = Field(default=None, exclude_if=is_empty)
    """Variables of the chat template, e.g. `enable_thinking: false`; on the command line a JSON object."""
    max_model_len: int | None = Field(default=None, gt=0)
    engine_args: tuple[str, ...] = ()
    allow_pickle: bool = False
    trust_remote_code: bool = False
    start_timeout: float = Field(default=1800.0, gt=0)
    """Seconds until the server must answer."""
    concurrency: int = Field(default=64, ge=1)
    """Prompts in flight."""
    rpm: float | None = Field(default=None, gt=0)
    """Requests per minute to `endpoint:`, at most."""
    tpm: float | None = Field(default=None, gt=0)
    """Tokens per minute to `endpoint:`, at most."""
    patience: float | None = Field(default=None, gt=0, exclude_if=is_empty)
    """Seconds that `endpoint:`, or a judge without a `patience` of its own, may stay down."""

    @field_validator("chat_template_kwargs", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        """Return the object in a JSON text, as flags give it; anything else unchanged."""
        return json_object(value, EXAMPLE)


def json_object(value: object, example: str) -> object:
    """Return the object in a JSON text; anything else unchanged. Raise ValueError for a text that is none."""
    if not isinstance(value, str):
        return value
    try:
        content = json.loads(value)
    except ValueError as error:
        raise ValueError(f"not JSON ({error}); give an object, e.g. {example}") from None
    if not isinstance(content, dict):
        raise ValueError(f"not a JSON object; give one, e.g. {example}")
    return content


SHARED_FIELDS = ("n", "temperature", "top_p", "max_tokens", "stop", "system_prompt")
"""Settings that replace the field of the same name of a benchmark's sampling."""
SERVER_FIELDS = ("top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
RESERVED = frozenset({"model", "messages", "stream", "seed", "logprobs", "top_logprobs", "n"})
"""Fields of a request that are the harness's alone."""


def is_none(value: object) -> bool:
    return value is None


class SamplingOverride(Record):
    """`sampling:` in harness.yaml: replaces a benchmark's answer settings, which the card reports as a deviation."""

    model_config = ConfigDict(allow_inf_nan=False)

    n: int | None = Field(default=None, ge=1)
    """Answers per prompt."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    max_completion_tokens: int | None = Field(default=None, gt=0, exclude_if=is_empty)
    """As `max_tokens`, sent under this name."""
    top_k: int | None = Field(default=None, exclude_if=is_none)
    min_p: float | None = Field(default=None, ge=0, le=1, exclude_if=is_none)
    presence_penalty: float | None = Field(default=None, exclude_if=is_none)
    frequency_penalty: float | None = Field(default=None, exclude_if=is_none)
    repetition_penalty: float | None = Field(default=None, gt=0, exclude_if=is_none)
    stop: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    draw_seed: int | None = Field(default=None, ge=0, exclude_if=is_none)
    """Each request gets a seed derived from it, also at an endpoint, which else gets none."""
    system_prompt: str | None = Field(default=None, exclude_if=is_none)
    extra_body: dict[str, JsonValue] | None = Field(default=None, exclude_if=is_empty)
    """Any other fields of a request; on the command line a JSON object."""
    omit: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """Fields that the benchmark would send and the server rejects, e.g. temperature."""

    @field_validator("extra_body", mode="before")
    @classmethod
    def _from_json(cls, value: object) -> object:
        return json_object(value, '{"top_k": 20}')

    @model_validator(mode="after")
    def _no_field_twice(self) -> Self:
        if "" in self.stop:
            raise ValueError("stop has an empty text, which would end every answer")
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens are one limit under two names; give one")
        wrong = sorted(set(self.extra_body or {}) & (set(type(self).model_fields) | RESERVED))
        if wrong:
            raise ValueError(f"extra_body has {', '.join(wrong)}, which the harness sets itself or has a setting for")
        clash = sorted(set(self.omit) & ({*self.changes, *(self.extra_body or {})} | RESERVED - {"seed"}))
        if clash:
            raise ValueError(f"omit has {', '.join(clash)}, which is set here too or cannot be left out")
        return self

    @property
    def changes(self) -> dict[str, JsonValue]:
        """Return the settings that are given, as they replace the benchmark's own."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def extra(self) -> dict[str, JsonValue]:
        """Return the fields of a request that no benchmark sets."""
        return {name: self.changes[name] for name in SERVER_FIELDS if name in self.changes} | (self.extra_body or {})

    @property
    def server_settings(self) -> list[str]:
        """Return the names of the settings that only a server of the OpenAI protocol can honour."""
        return [name for name in self.changes if name not in (*SHARED_FIELDS, "draw_seed")]

    def applied(self, sampling: Sampling) -> Sampling:
        """Return a benchmark's settings with these in place of its own."""
        changed: dict[str, object] = {
            name: value for name in SHARED_FIELDS if (value := getattr(self, name)) not in (None, ())
        }
        if self.max_completion_tokens is not None:
            changed |= {"max_tokens": self.max_completion_tokens, "token_limit": "max_completion_tokens"}
        if self.draw_seed is not None:
            changed["seed"] = self.draw_seed
        if self.extra:
            changed["extra"] = self.extra
        if self.omit:
            changed["omits"] = self.omit
        return sampling.model_copy(update=changed)

    def deviation(self, defaults: Iterable[Sampling]) -> dict[str, JsonValue]:
        """Return those of the changes that differ from a benchmark's own settings of at least one prompt."""
        settings = list(defaults)
        shared = {name: getattr(self, name) for name in SHARED_FIELDS}
        same = {name for name, value in shared.items() if all(getattr(each, name) == value for each in settings)}
        return {name: value for name, value in self.changes.items() if name not in same}


class RunSpec(Record):
    """One `harness run`, resolved."""

    model: ModelRef
    name: str | None = Field(default=None, exclude_if=is_empty)
    """The model's name as the user gave it; `model.title` is the same."""
    suites: tuple[str, ...]
    edition: str = "official"
    backend: str = "vllm"
    judges: dict[str, tuple[JudgeSpec, ...]]
    """Suite name -> its judge, or the members of its jury in the order of their names."""
    jury: JuryRule = "mean"
    """How a jury's verdicts become one."""
    audit: dict[str, AuditSpec] = Field(default={}, exclude_if=is_empty)
    """Suite name -> the expensive judge that audits its judges on some questions."""
    baseline: dict[str, str] = Field(default={}, exclude_if=is_empty)
    """Suite, or `*` for all -> RUN, FILE or MODEL that its answers are compared with, instead of its own baseline."""
    repeats: int = Field(default=1, ge=1)
    """Times every judge is asked each question."""
    anchors: tuple[Path, ...] = ()
    """Anchor files, at most one per suite; those of suites that are not run are ignored."""
    references: str = "official"
    strict_reference: bool = Field(default=False, exclude_if=is_empty)
    """Whether judges' prompts are filled and their replies read as the original tools do, quirks included."""
    limit: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0)
    results: Path = Path("results")
    sampling: SamplingOverride = SamplingOverride()
    serve: ServeSpec = ServeSpec()
    mirror: str | None = None
    cache: bool = True
    """Whether judges' replies are read from and written to the reply cache."""
    max_cost: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """US dollars that the judges of this run may cost over all its sessions."""
    same_model: bool = Field(default=False, exclude_if=is_empty)
    """`--assume-same`: resume on an endpoint although it states another model than before."""
    transport: Literal["live", "batch"] = "live"
    """How judges are asked: call by call, or, once all answers exist, through the Batch API at half the price."""

    @property
    def model_dir(self) -> Path:
        """Return the folder of all runs of this model."""
        return self.results / "runs" / self.model.slug

    @property
    def log_dir(self) -> Path:
        """Return the folder of the servers' logs, which all runs of this model share."""
        return self.model_dir / "logs"


class FileSpec(Record):
    """The keys of harness.yaml."""

    model: str | None = None
    name: str | None = None
    """The model's name in tables and results."""
    suite: str | None = None
    edition: str | None = None
    backend: str | None = None
    judge: str | dict[str, str] | None = None
    jury: JuryRule | None = None
    audit: str | dict[str, str] | None = None
    """JUDGE:N, or the same by suite."""
    baseline: str | dict[str, str] | None = None
    """RUN, FILE or MODEL, or the same by suite."""
    repeats: int | None = None
    anchors: str | list[str] | None = None
    references: str | None = None
    strict_reference: bool | None = None
    limit: int | None = None
    seed: int | None = None
    results: str | None = None
    mirror: str | None = None
    cache: bool | None = None
    max_cost: float | None = None
    same_model: bool | None = None
    transport: str | None = None
    sampling: SamplingOverride = SamplingOverride()
    serve: ServeSpec = ServeSpec()
    judge_devices: str | None = None
    judges: dict[str, dict[str, Any]] = {}
    """The user's judges by name: the fields of `JudgeSpec` without the name."""


def read_file_spec(path: Path) -> FileSpec:
    """Read a configuration file that the user named. Raise ConfigError if it is invalid."""
    return file_spec(read_yaml(path), path)


def file_spec(values: Mapping[str, Any], path: Path) -> FileSpec:
    """Return the validated content of a configuration file, and remember which variables its judges' keys are in."""
    spec = checked(FileSpec, values, str(path))
    for judge in spec.judges.values():
        note_key_variable(judge.get("key_env"))
    return spec


def checked(kind: type[R], values: Mapping[str, Any], source: str) -> R:
    """Return the validated record.

    Raise ConfigError with the first wrong key and its value, and for an unknown key the known ones.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        errors = error.errors()
        # a misspelt key also leaves the right one missing, which is what pydantic names first
        first = next((each for each in errors if each["type"] == "extra_forbidden"), errors[0])
        key = ".".join(str(part) for part in first["loc"]) or "(top level)"
        if first["type"] == "extra_forbidden":
            *parents, name = first["loc"]
            fields = sorted(_fields(kind, parents))
            near = did_you_mean(str(name), fields)
            raise ConfigError(f"{source}: unknown key {key!r}; known: {', '.join(fields)}{near}") from None
        first = _most_precise(first, errors, values)
        keys = _keys_of(values, first)
        # a value that may be of several types is wrong for each of them
        words = [problem_words(first), *(problem_words(each) for each in errors if _keys_of(values, each) == keys)]
        problem, *alternatives = dict.fromkeys(words)
        problem = " or ".join([problem, *(text.removeprefix("must be ") for text in alternatives)])
        has_value = first["type"] != "missing" and not isinstance(first["input"], Mapping)
        value_text = f" = {first['input']!r}" if has_value else ""
        prefix = f"{'.'.join(map(str, keys))}{value_text}: " if keys else ""
        raise ConfigError(f"{source}: {prefix}{problem}") from None


def _keys_of(values: Mapping[str, Any], problem: ErrorDetails) -> tuple[int | str, ...]:
    """Return the keys and indices at which a problem is in the values, without the names of alternative types."""
    keys: list[int | str] = []
    value: Any = values
    for part in problem["loc"]:
        is_key = isinstance(value, Mapping) and part in value
        if is_key or (isinstance(value, list | tuple) and isinstance(part, int) and part < len(value)):
            value = value[part]
            keys.append(part)
    if problem["type"] == "missing":
        keys.append(problem["loc"][-1])
    return tuple(keys)


def _most_precise(first: ErrorDetails, errors: Sequence[ErrorDetails], values: Mapping[str, Any]) -> ErrorDetails:
    """Return the problem deepest inside the first wrong value."""
    keys = _keys_of(values, first)
    # of `judge: {url: 3}` pydantic also reports that the mapping is not a string, which would mislead
    inside = [each for each in errors if keys and _keys_of(values, each)[: len(keys)] == keys]
    return max(inside, key=lambda each: len(_keys_of(values, each)), default=first)


def _fields(kind: type[Record], parents: list[int | str]) -> list[str]:
    """Return the fields of the record at a path of keys; list indices and keys of mappings are skipped."""
    for part in parents:
        field = kind.model_fields.get(str(part))
        if field is not None:
            kind = _record_in(field.annotation) or kind
    return list(kind.model_fields)


def _record_in(annotation: object) -> type[Record] | None:
    """Return the record type inside an annotation, e.g. `R` of `tuple[R, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return annotation
    return next((record for part in get_args(annotation) if (record := _record_in(part)) is not None), None)
