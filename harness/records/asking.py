"""Define the records of asking and answering: models, prompts, sampling settings, answers and failures.

>>> model = ModelRef.parse("hf:org/model@main")
>>> model.label, model.slug, model.revision
('org/model@main', 'org_model@main', 'main')
>>> ModelRef.parse("run-A/checkpoint-100").label
'run-A/checkpoint-100'
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic_core import PydanticSerializationError, to_json

from .errors import ConfigError, Reason

Finish = Literal["stop", "length"]
TokenLimit = Literal["max_tokens", "max_completion_tokens"]
"""Name of the request field that limits a reply; OpenAI's newer models reject the first."""


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


def is_empty(value: object) -> bool:
    return not value


def base_url(text: str) -> str:
    """Return an http(s) base URL without its last slash. Raise ConfigError if it has credentials or a query."""
    try:
        parts = urlsplit(text)
        _ = parts.port  # raises unless it is a number up to 65535
    except ValueError as error:
        raise ConfigError(f"{text!r} is not a base URL: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"{text!r} is not a base URL; expected http://HOST:PORT/v1")
    if parts.username or parts.password or parts.query:
        shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ConfigError(f"the URL {shown!r} has a credential or a query; give keys in environment variables")
    return text.rstrip("/")


def digest(value: object) -> str:
    """Return the sha256 (64 hex characters) of a value's canonical JSON: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(_canonical(value)).hexdigest()


ENCODE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode
PLAIN = (str, int, bool, type(None))
"""Types that pydantic's encoder writes as `ENCODE` does, and several times as fast."""


def _canonical(value: object) -> bytes:
    """Return what `ENCODE` returns, in UTF-8, but quickly: pydantic's encoder lacks only the order of keys."""
    try:
        if type(value) in PLAIN:
            return to_json(value)
        if isinstance(value, dict) and set(map(type, value)) <= {str}:
            return b"{%b}" % b",".join([to_json(key) + b":" + _canonical(value[key]) for key in sorted(value)])
    except PydanticSerializationError:  # a lone surrogate, which UTF-8 cannot encode
        pass
    if isinstance(value, list | tuple):
        return b"[%b]" % b",".join(map(_canonical, value))
    return ENCODE(value).encode("utf-8", "surrogatepass")


GENERIC = re.compile(
    r"(checkpoint|ckpt|step|global_step|epoch|iter|iteration)s?[-_.]?\d+|checkpoints|"
    r"(final|best|last|latest|merged|output|outputs|hf|huggingface|model|actor)(_model|_checkpoint)?",
    re.IGNORECASE,
)
"""Folder names that trainers give to every model; only with their parent do they name one."""
SNAPSHOT = re.compile(r"/models--(?P<repository>[^/]+)/snapshots/(?P<revision>[^/]+)(?P<folder>/.*)?$")
"""A model in the Hub's cache."""
COMMIT = re.compile(r"[0-9a-f]{40}")
LONGEST_SLUG = 100  # characters; file systems allow 255 bytes, and suffixes are added


def slug_of(text: str) -> str:
    """Return a folder name made of a text: letters, digits, `.`, `_`, `-`, `@` only, never empty, `.` or `..`.

    Two texts may have the same slug.
    """
    return re.sub(r"[^\w.@-]+", "_", text, flags=re.ASCII).strip(".") or "model"


def distinct_slug(text: str) -> str:
    """Return `slug_of`, with a digest if more than `/` was replaced or cut, so that no two texts share a folder."""
    slug = slug_of(text)
    if slug == text.replace("/", "_") and len(slug) <= LONGEST_SLUG:
        return slug
    return f"{slug[:LONGEST_SLUG]}-{digest(text)[:8]}"


ENSEMBLES = ("moa", "best_of", "route")
"""Schemes of several models that answer as one; each is also the name of its backend."""


def refuse_unprintable_name(name: str, flag: str) -> None:
    """Raise ConfigError if a model cannot have this name in tables and folders."""
    if name != name.strip() or not name.isprintable() or not 0 < len(name) <= LONGEST_SLUG:
        raise ConfigError(
            f"{flag} {name!r} is not a name: 1 to {LONGEST_SLUG} printable characters, no blank at the ends"
        )


class ModelRef(Record):
    """A reference to a model: a folder, a Hub repository, a server that already runs, or a team of models."""

    scheme: Literal["path", "hf", "endpoint", "moa", "best_of", "route"]
    name: str
    """path: the folder as given; hf: `org/name`; endpoint: the model name the server knows; a team: its file."""
    revision: str | None = None
    """hf only: branch, tag or commit."""
    url: str | None = None
    """endpoint only: base URL, ending in /v1."""
    title: str | None = Field(default=None, exclude_if=is_empty)
    """`--name`: the model's name in tables and results, instead of one made from the reference."""

    @classmethod
    def parse(cls, text: str, *, title: str | None = None, key: str = "--model") -> ModelRef:
        """Parse `DIR`, `hf:ORG/NAME[@REVISION]`, `endpoint:NAME@URL` or `moa:TEAM.yaml` (`best_of:`, `route:`).

        Raise ConfigError, which names `key`, for anything else.
        """
        if title is not None:
            refuse_unprintable_name(title, "--name")
            return cls.parse(text, key=key).model_copy(update={"title": title})
        if text.startswith("hf:"):
            name, _, revision = text[3:].partition("@")
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
                raise ConfigError(f"{key} {text!r} is not hf:ORG/NAME[@REVISION]")
            return cls(scheme="hf", name=name, revision=revision or None)
        if text.startswith("endpoint:"):
            name, _, url = text[len("endpoint:") :].partition("@")
            if not name or not re.match(r"https?://", url):
                raise ConfigError(f"{key} {text!r} is not endpoint:NAME@http://HOST:PORT/v1")
            return cls(scheme="endpoint", name=name, url=base_url(url))
        scheme, colon, file = text.partition(":")
        if colon and scheme in ENSEMBLES:
            if not file.endswith((".yaml", ".yml")):
                raise ConfigError(f"{key} {text!r} is not {scheme}:TEAM.yaml")
            return cls(scheme=scheme, name=file)  # type: ignore[arg-type]
        if not text:
            raise ConfigError(f"{key} is empty; give a folder, hf:ORG/NAME or endpoint:NAME@URL")
        return cls(scheme="path", name=text)

    def __str__(self) -> str:
        if self.scheme == "hf":
            return f"hf:{self.name}" + (f"@{self.revision}" if self.revision else "")
        if self.is_ensemble:
            return f"{self.scheme}:{self.name}"
        return f"endpoint:{self.name}@{self.url}" if self.scheme == "endpoint" else self.name

    @property
    def is_ensemble(self) -> bool:
        return self.scheme in ENSEMBLES

    @property
    def label(self) -> str:
        """Return the name shown in tables: `title`, or enough of the path, or the repository or served name."""
        if self.title is not None:
            return self.title
        if self.scheme == "path":
            return _folder_label(os.path.abspath(os.path.expanduser(self.name)))
        if self.is_ensemble:
            return f"{self.scheme}-{os.path.splitext(os.path.basename(self.name))[0]}"
        return self.name if self.revision is None else f"{self.name}@{_short(self.revision)}"

    @property
    def short(self) -> str:
        """Return the folder's last part, the repository, served or team's name: what manifests and protocols have.

        It does not tell two models apart; digests of their weights do.
        """
        if self.is_ensemble:
            return self.model_copy(update={"title": None}).label
        return self.name.rstrip("/").rsplit("/", 1)[-1] if self.scheme == "path" else self.name

    @property
    def slug(self) -> str:
        """Return the name of the model's folder in the results."""
        return distinct_slug(self.label)

    @property
    def earlier_slugs(self) -> tuple[str, ...]:
        """Return the folder names that a run of this model may have from before: without `title`, by `short` alone."""
        plain = re.sub(r"[^\w.-]+", "_", self.short, flags=re.ASCII).strip(".") or "model"
        return self.model_copy(update={"title": None}).slug, plain


def _short(revision: str) -> str:
    return revision[:8] if COMMIT.fullmatch(revision) else revision


def _folder_label(path: str) -> str:
    """Return a folder's last part, after its parent's if every trainer gives it; `org/name@commit` in a cache."""
    cached = SNAPSHOT.search(path)
    if cached is not None:
        repository = cached["repository"].replace("--", "/")
        return f"{repository}@{_short(cached['revision'])}{cached['folder'] or ''}"
    parts = [part for part in path.split("/") if part]
    first = len(parts) - 1
    while first > 0 and GENERIC.fullmatch(parts[first]):
        first -= 1
    return "/".join(parts[max(0, first) :]) or path


class Sampling(Record):
    """How answers are drawn. None is not sent, so that the server's default (generation_config) applies."""

    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int = Field(gt=0)
    n: int = Field(default=1, ge=1)
    """Answers per prompt."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    system_prompt: str | None = Field(default=None, exclude_if=is_empty)
    """Replaces the prompt's own."""
    extra: dict[str, JsonValue] = Field(default={}, exclude_if=is_empty)
    """Further fields of each request, e.g. top_k."""
    token_limit: TokenLimit = Field(default="max_tokens", exclude_if=lambda name: name == "max_tokens")
    """Name of the field with `max_tokens`."""
    omits: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """Fields that no request has."""


class Prompt(Record):
    """One question of a suite: one or more user turns."""

    id: str
    turns: tuple[str, ...] = Field(min_length=1)
    category: str
    reference: tuple[str, ...] = ()
    """Gold or reference answers, one per turn; empty if the suite has none."""
    system: str | None = None
    cluster: str | None = None
    """Prompts of one cluster are resampled together if the suite requests it."""
    answered: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """Answers to the first turns, if they are fixed: a backend asks only the later turns, and its answer has only
    those. The turns of an ensemble's conversation are answered in this way."""


class Failure(Record):
    """The reason for a missing answer or verdict. It is counted and shown, never turned into a score."""

    reason: Reason
    message: str


class Work(Record):
    """What one member of an ensemble did for one answer."""

    member: str
    calls: int
    """Requests, those that failed included."""
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None = Field(default=None, exclude_if=lambda dollars: dollars is None)
    """At the member's list price; None: it has no price."""
    parameter_tokens: float | None = Field(default=None, exclude_if=lambda number: number is None)
    """Active parameters times tokens read and written; None: the number of parameters is unknown."""


class DigestedRecord(Record):
    """A record whose digest many rows state, so that each instance computes it once."""

    @cached_property
    def sha(self) -> str:
        return digest(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        copied = super().model_copy(update=update, deep=deep)
        copied.__dict__.pop("sha", None)  # pydantic copies cached values too, but this one may have changed
        return copied


class Answer(DigestedRecord):
    """A model's answer to one prompt: one text per turn, or a failure.

    `turns` is what a reader sees; `reasoning` is never judged, measured or sent back. A truncated answer (`finish`
    "length") is an answer: it is judged and counted as truncated.
    """

    prompt_id: str
    model: str
    index: int = 0
    """Which of `Sampling.n` draws."""
    turns: tuple[str, ...] = ()
    reasoning: tuple[str, ...] = Field(default=(), exclude_if=is_empty)
    """One text per turn, "" for a turn without; empty if no turn has reasoning."""
    finish: tuple[Finish, ...] = ()
    """Finish reasons, one per turn."""
    prompt_tokens: tuple[int, ...] = ()
    completion_tokens: tuple[int, ...] = ()
    """Tokens by the server's count, one entry per turn; reasoning is included."""
    reasoning_tokens: tuple[int, ...] = Field(default=(), exclude_if=is_empty)
    """Those of `completion_tokens` spent on reasoning, one entry per turn; empty if the server has no such count."""
    is_split: bool = Field(default=False, exclude_if=is_empty)
    """Whether the reasoning was split off the text here, by its marks, instead of sent apart by the server."""
    seconds: float = 0.0
    """Wall time of all turns, waiting for a place included."""
    work: tuple[Work, ...] = Field(default=(), exclude_if=is_empty)
    """What each member of an ensemble did for it; empty if one model answered."""
    error: Failure | None = None

    @model_validator(mode="after")
    def _texts_or_error(self) -> Self:
        if (self.error is None) == (not self.turns):
            raise ValueError("an answer has turns or an error, never both, never neither")
        return self

    @property
    def truncated(self) -> bool:
        return "length" in self.finish

    @property
    def is_blank(self) -> bool:
        """Return whether a turn shows the reader nothing: the model wrote nothing, or was cut while reasoning."""
        return self.error is None and not all(turn.strip() for turn in self.turns)

    @property
    def is_cut_in_reasoning(self) -> bool:
        """Return whether a turn shows nothing because the token limit came before the reasoning ended."""
        turns = zip(self.turns, self.reasoning, self.finish, strict=False)
        return any(not turn.strip() and thoughts and finish == "length" for turn, thoughts, finish in turns)

    @property
    def visible_tokens(self) -> int | None:
        """Return the tokens of what a reader sees, over all turns, or None if the server's count cannot be divided."""
        if not self.completion_tokens or (any(self.reasoning) and not self.reasoning_tokens):
            return None
        return sum(self.completion_tokens) - sum(self.reasoning_tokens)

    @property
    def key(self) -> str:
        return f"{self.prompt_id}#{self.index}"

    @cached_property
    def sha(self) -> str:
        """Return the first 16 hex characters of the digest of the texts."""
        return digest(list(self.turns))[:16]


def answers_digest(answers: Sequence[Answer]) -> str:
    """Return 12 characters for the opponent's answers, as a protocol of games has them. Failed answers do not count."""
    return digest(sorted([answer.key, answer.sha] for answer in answers if answer.error is None))[:12]
