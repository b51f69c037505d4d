"""Load a suite's data: pinned official files, or the pocket edition of this package."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from ..records import JudgeTemplate
from ..records.errors import ConfigError, DataError
from ..records.protocols import SuiteData, SuiteOptions
from ..records.settings import EDITIONS
from ..store import official
from . import pocket


def load_edition(
    suite: pocket.SuiteName, options: SuiteOptions, load_official: Callable[[SuiteOptions], SuiteData]
) -> SuiteData:
    """Return the suite's data in the requested edition; raise ConfigError for an unknown edition."""
    if options.edition == "official":
        return load_official(options)
    if options.edition == "pocket":
        return pocket.load(suite)
    raise ConfigError(f"no edition named {options.edition!r}; editions: {', '.join(EDITIONS)}")


def official_files(options: SuiteOptions, names: Iterable[str]) -> dict[str, Path]:
    return official.ensure(names, options.mirror, cache_dir=options.cache_dir)


def pinned(names: Iterable[str], cache_dir: Path | None = None) -> dict[str, str]:
    """Return name -> sha256, pinned or recorded, for the card's protocol."""
    return {name: official.expected_sha256(official.pinned_files()[name], cache_dir) or "unknown" for name in names}


def template_shas(templates: Mapping[str, JudgeTemplate]) -> dict[str, JsonValue]:
    """Return template name -> first 12 characters of its sha256, for the card's protocol."""
    return {name: template.sha[:12] for name, template in sorted(templates.items())}


def only_template(data: SuiteData) -> JudgeTemplate:
    """Return the template of a suite that has only one; raise DataError for none or several."""
    if len(data.templates) != 1:
        raise DataError(f"expected one judge template, got {', '.join(data.templates) or 'none'}")
    return next(iter(data.templates.values()))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects of a JSON Lines file without blank lines; raise DataError with the line's number."""
    rows = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number} is not a JSON object")
        rows.append(row)
    return rows
