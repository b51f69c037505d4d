"""How a fused model was made, as its makers state it: `fusion.json` in the checkpoint, or `fusion.yaml` of a results
folder (model name -> the same keys), for models that are no folder here. Shown, never part of a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from pydantic import Field, JsonValue, ValidationError

from ..errors import ConfigError
from ..records import Record

FILE = "fusion.json"


class Fusion(Record):
    method: str
    """wrpo, dpo, sft, ..."""
    sources: tuple[str, ...] = ()
    """Names of the source models."""
    alpha: float | None = Field(default=None, ge=0, le=1)
    """Weight of the source models' reward at the end of WRPO training."""
    target: str | None = None
    """The model that was trained."""

    @classmethod
    def of(cls, value: JsonValue) -> Fusion | None:
        """What a card carries; None where it carries nothing readable (another version's card)."""
        try:
            return None if value is None else cls.model_validate(value)
        except ValidationError:
            return None


def read_checkpoint_fusion(folder: Path) -> Fusion | None:
    """`fusion.json` of a checkpoint folder, None without one; raises ConfigError for a wrong one."""
    path = folder / FILE
    try:
        return Fusion.model_validate(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValidationError is a ValueError
        raise ConfigError(f"{path}: {_said(error)}; keys: {', '.join(Fusion.model_fields)}") from None


def read_fusion(results: Path) -> dict[str, Fusion]:
    """`fusion.yaml` of a results folder: model name -> how it was made. Raises ConfigError for a wrong one."""
    path = results / "fusion.yaml"
    try:
        found = yaml.safe_load(path.read_text("utf-8")) or {}
        return {str(name): Fusion.model_validate(value) for name, value in dict(found).items()}
    except FileNotFoundError:
        return {}
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_said(error)}; expected MODEL: {{method, sources, alpha, target}}") from None


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return " ".join(str(error).split())
