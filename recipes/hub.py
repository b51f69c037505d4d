"""`--push-to-hub`: a finished checkpoint to the Hugging Face Hub, with its card; the token comes from HF_TOKEN alone.

Only files that make the model go: no intermediate checkpoint, optimizer state, log or record of this machine. What was
uploaded when a push stopped is not sent again: the Hub knows files by their digest.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError, EndpointDownError, IncompleteError

from .recipe import Recipe
from .report.gather import record_in

log = logging.getLogger(__name__)

TOKEN = "HF_TOKEN"
PUSHED = (
    *("README.md", "training_curves.svg", "fusion.json"),
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("*.tiktoken", "preprocessor_config.json", "processor_config.json"),
)
"""Patterns of the files that go, of the folder itself; `/` below it never matches, see `files_of`."""


@dataclass(frozen=True)
class Push:
    """One checkpoint and where it goes."""

    folder: Path
    repo: str
    """ORG/NAME."""


def pushes(recipe: Recipe, destination: str) -> list[Push]:
    """The recipe's variants of every seed, as ORG/RECIPE-VARIANT, with `-seedN` where the recipe has several seeds.
    `given`: ORG, or ORG/NAME where there is one checkpoint. Raises ConfigError for a name that cannot be."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in __all__

    chosen = [(name, seed) for seed in recipe.seeds for name in recipe.variants]
    if "/" in destination and len(chosen) > 1:
        raise ConfigError(
            f"--push-to-hub {destination!r} is one repository for {len(chosen)} checkpoints; give ORG alone, or choose one "
            "by --variant and --seed"
        )
    several = len(recipe.spec.seeds) > 1
    planned = []
    for name, seed in chosen:
        suffix = f"-seed{seed}" if several else ""
        repo = destination if "/" in destination else f"{destination}/{recipe.spec.name}-{name}{suffix}"
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(f"--push-to-hub {destination!r}: {repo!r} is no name of a repository: {error}") from None
        planned.append(Push(recipe.variant(name, seed), repo))
    return planned


def check_token() -> None:
    """Raises ConfigError where HF_TOKEN is not set or the Hub is switched off, before hours of training."""
    from huggingface_hub import constants

    if not os.environ.get(TOKEN):
        raise ConfigError(f"--push-to-hub needs a token that may write, in the environment variable {TOKEN}")
    if constants.is_offline_mode():
        raise ConfigError("--push-to-hub: the Hub is switched off by HF_HUB_OFFLINE; unset it")


def files_of(folder: Path) -> list[str]:
    """Names of the files that are pushed."""
    return sorted({path.name for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()})


def push(upload: Push, *, public: bool = False) -> str:
    """Makes the repository (private unless `public`; one that exists stays as it is) and uploads. Returns its address.

    Raises ConfigError for an unfinished checkpoint or a refused token, EndpointDownError where the Hub is away.
    """
    from huggingface_hub import HfApi, errors

    if record_in(upload.folder) is None:
        raise ConfigError(
            f"{upload.folder} is not finished: run harness train without --push-to-hub first, or --until align"
        )
    check_token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ[TOKEN])
    try:
        address = api.create_repo(upload.repo, private=not public, exist_ok=True)
        files = files_of(upload.folder)
        api.upload_folder(
            repo_id=upload.repo,
            folder_path=upload.folder,
            allow_patterns=files,
            commit_message="fusion-harness checkpoint",
        )
    except errors.HfHubHTTPError as error:
        raise _refused(upload.repo, error) from None
    # its HTTP client's own base class, whichever client this version has
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # imported there, not exported
        raise EndpointDownError(
            f"the Hub cannot be reached ({type(error).__name__}); the same command goes on"
        ) from None
    log.info("%s: %d files", upload.repo, len(files))
    return str(address)


def _refused(repo: str, error: Exception) -> ConfigError | IncompleteError:
    """One sentence, without what was sent: a header of the request holds the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return ConfigError(f"the Hub refuses to write {repo} with the token in {TOKEN} (HTTP {status})")
    reason = getattr(error, "server_message", None) or "no reason given"
    return IncompleteError(f"the Hub did not take {repo} (HTTP {status}: {reason[:200]}); the same command goes on")
