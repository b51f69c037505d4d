"""`--push-to-hub`: upload a finished checkpoint and its card to the Hugging Face Hub, with the token in HF_TOKEN.

Only the files of the model are uploaded: no intermediate checkpoints, optimizer state, logs or local records. A push
that is repeated skips files that were already uploaded, because the Hub compares digests.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records.errors import ConfigError, EndpointDownError, IncompleteError
from harness.records.providers import api_key
from harness.store import write_lines

from .layout import Recipe, record_in

log = logging.getLogger(__name__)

TOKEN = "HF_TOKEN"
PUSHED = (
    *("README.md", "training_curves.svg", "fusion.json"),
    *("config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "adapter_config.json"),
    *("tokenizer*", "*.jinja", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt", "*.model"),
    *("*.tiktoken", "preprocessor_config.json", "processor_config.json"),
)
"""Patterns of files to upload. They match only in the folder itself, never in subfolders (see `files_of`)."""


@dataclass(frozen=True)
class Push:
    """One checkpoint and its repository."""

    folder: Path
    repo: str
    """ORG/NAME."""


def pushes(recipe: Recipe, destination: str) -> list[Push]:
    """Return one upload per variant or merge and seed, to ORG/RECIPE-VARIANT, with `-seedN` if there are several seeds.

    Variants that were not selected but are what a selected one is made from are left out. `destination` is ORG, or
    ORG/NAME if there is only one checkpoint. Raise ConfigError if a name is not valid.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # public, not in __all__

    trained = [name for name in recipe.variants if recipe.named is None or name in recipe.named]
    chosen = [(name, seed) for seed in recipe.seeds for name in trained]
    for name, merge in recipe.merges.items():
        if merge.seeds == "each" or set(recipe.seeds) == set(recipe.spec.seeds):
            chosen += [(name, seed) for seed in recipe.merge_seeds(name)]
    if "/" in destination and len(chosen) > 1:
        raise ConfigError(
            f"--push-to-hub {destination!r} is one repository for {len(chosen)} checkpoints; use only ORG, or select "
            "one checkpoint with --variant and --seed"
        )
    several = len(recipe.spec.seeds) > 1
    planned = []
    for name, seed in chosen:
        suffix = f"-seed{seed}" if several else ""
        repo = destination if "/" in destination else f"{destination}/{recipe.spec.name}-{name}{suffix}"
        try:
            validate_repo_id(repo)
        except HFValidationError as error:
            raise ConfigError(
                f"--push-to-hub {destination!r}: {repo!r} is not a valid repository name: {error}"
            ) from None
        planned.append(Push(recipe.variant(name, seed), repo))
    return planned


def check_token() -> None:
    """Raise ConfigError, before hours of training, if HF_TOKEN is not set or the Hub is switched off."""
    from huggingface_hub import constants

    if api_key(TOKEN) is None:
        raise ConfigError(f"--push-to-hub needs a token with write access in the environment variable {TOKEN}")
    if constants.is_offline_mode():
        raise ConfigError("--push-to-hub: the Hub is switched off by HF_HUB_OFFLINE; unset it")


def files_of(folder: Path) -> list[str]:
    """Return the names of the files to upload."""
    return sorted({path.name for pattern in PUSHED for path in folder.glob(pattern) if path.is_file()})


def push(upload: Push, *, public: bool = False) -> str:
    """Create the repository if it does not exist (private unless `public`), upload, and return its address.

    Raise ConfigError if the checkpoint is unfinished or the token is rejected, EndpointDownError if the Hub cannot be
    reached, IncompleteError if the Hub rejects the upload.
    """
    if record_in(upload.folder) is None:
        raise ConfigError(
            f"{upload.folder} is not finished; first run harness train without --push-to-hub, or with --until align"
        )
    files = files_of(upload.folder)
    address = _upload(upload.folder, upload.repo, files, public=public)
    log.info("%s: %d files", upload.repo, len(files))
    return address


def push_pairs(lines: Sequence[str], repo: str, *, public: bool = False) -> str:
    """Upload rows of JSON as `train.jsonl` of a data set, and return its address. Raise errors as `push` does."""
    with tempfile.TemporaryDirectory() as folder:
        write_lines(Path(folder) / "train.jsonl", lines)
        return _upload(Path(folder), repo, ["train.jsonl"], public=public, kind="dataset")


def _upload(folder: Path, repo: str, files: list[str], *, public: bool, kind: str | None = None) -> str:
    from huggingface_hub import HfApi, errors

    check_token()
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ[TOKEN])
    try:
        address = api.create_repo(repo, repo_type=kind, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo,
            repo_type=kind,
            folder_path=folder,
            allow_patterns=files,
            commit_message="fusion-harness " + ("checkpoint" if kind is None else "pairs"),
        )
    except errors.HfHubHTTPError as error:
        raise _refused(repo, error) from None
    # the base class of its HTTP client, whichever client this version uses
    except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # imported there, not exported
        raise EndpointDownError(
            f"the Hub cannot be reached ({type(error).__name__}); the same command resumes"
        ) from None
    return str(address)


def _refused(repo: str, error: Exception) -> ConfigError | IncompleteError:
    """Return an error without the request, because its headers contain the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return ConfigError(f"the Hub rejected the token in {TOKEN} for writing to {repo} (HTTP {status})")
    reason = getattr(error, "server_message", None) or "no reason given"
    return IncompleteError(
        f"the Hub rejected the upload to {repo} (HTTP {status}: {reason[:200]}); the same command resumes"
    )
