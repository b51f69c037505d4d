"""Reported figures: numbers that papers and boards published, with source and protocol. Read from YAML, never ranked.

The files are `results/reported/*.yaml` of a checkout; the wheel contains them as `harness/reported_data`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Self

import yaml
from pydantic import Field, ValidationError, model_validator

from ..errors import ConfigError
from ..records import Record


class ReportedFigure(Record):
    """One published number, in the unit of the metric of that name on a card."""

    value: float
    se: float | None = None
    """The source's own standard error."""
    ci_low: float | None = None
    ci_high: float | None = None
    """The source's own interval; its level is in the file's note."""


class ReportedProtocol(Record):
    """How a source measured one suite: the parts of a card's protocol that it states."""

    suite: str
    suite_version: str
    judge: str | None
    """The judge's model name; None: the source does not state it, so no measured card is compared with it."""
    judge_aliases: tuple[str, ...] = ()
    """Names of that judge in files of the original tools, such as AlpacaEval's annotator name."""
    baseline: str | None = None
    references: str | None = None
    """MT-Bench's reference set; None: not stated."""


class ReportedModel(Record):
    model: str
    aliases: tuple[str, ...] = ()
    """Other names of the same weights: repository, board."""
    size: str | None = None
    scores: dict[str, dict[str, ReportedFigure]] = Field(min_length=1)
    """Suite -> metric -> figure."""

    def is_named(self, name: str) -> bool:
        """Return whether a card's model name means this model, comparing letters and digits without case."""
        return _plain(name) in {_plain(known) for known in (self.model, *self.aliases)}


class ReportedSource(Record):
    """One file: a published table."""

    source: str
    reference: str
    """Exact location: paper and table, or repository, revision and file."""
    url: str
    note: str | None = None
    protocols: tuple[ReportedProtocol, ...] = Field(min_length=1)
    models: tuple[ReportedModel, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _protocol_for_each_suite(self) -> Self:
        stated = [protocol.suite for protocol in self.protocols]
        if len(set(stated)) != len(stated):
            raise ValueError("a suite has two protocols")
        for model in self.models:
            if unknown := set(model.scores) - set(stated):
                raise ValueError(f"{model.model!r} has scores without a protocol: {', '.join(sorted(unknown))}")
        return self


def reported_folder() -> Path:
    """Return the folder of the installed package, else of the checkout that this package is imported from."""
    package = Path(__file__).parent.parent
    carried = package / "reported_data"
    return carried if carried.is_dir() else package.parent / "results" / "reported"


def load_reported(folder: Path | None = None) -> list[ReportedSource]:
    """Return all sources by file name; none if the folder does not exist.

    Raise ConfigError for an invalid file, including unknown keys.
    """
    return [_read(path) for path in sorted((folder or reported_folder()).glob("*.yaml"))]


def _read(path: Path) -> ReportedSource:
    try:
        return ReportedSource.model_validate(yaml.safe_load(path.read_text("utf-8")))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is not YAML: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ConfigError(f"{path}: {where or 'file'}: {first['msg']} (got {str(first['input'])[:80]!r})") from None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", name.lower())
