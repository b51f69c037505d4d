"""How a fused model was made, as stated by its makers: `fusion.json` in the checkpoint, or `fusion.yaml` in a results
folder (model name -> the same keys) for models without a local folder. Displayed, never part of a protocol."""

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
        """Return the fusion of a card; None if it is missing or unreadable (a card of another version)."""
        try:
            return None if value is None else cls.model_validate(value)
        except ValidationError:
            return None


def read_checkpoint_fusion(folder: Path) -> Fusion | None:
    """Return `fusion.json` of a checkpoint folder, or None without one; raise ConfigError if it is invalid."""
    path = folder / FILE
    try:
        return Fusion.model_validate(json.loads(path.read_text("utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValidationError is a ValueError
        raise ConfigError(f"{path}: {_reason(error)}; keys: {', '.join(Fusion.model_fields)}") from None


def read_fusion(results: Path) -> dict[str, Fusion]:
    """Return `fusion.yaml` of a results folder, model name -> fusion; raise ConfigError if it is invalid."""
    path = results / "fusion.yaml"
    try:
        document = yaml.safe_load(path.read_text("utf-8")) or {}
        return {str(name): Fusion.model_validate(value) for name, value in dict(document).items()}
    except FileNotFoundError:
        return {}
    except (OSError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: {_reason(error)}; expected MODEL: {{method, sources, alpha, target}}") from None


def _reason(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        return ": ".join(part for part in (".".join(map(str, first["loc"])), first["msg"]) if part)
    return " ".join(str(error).split())
