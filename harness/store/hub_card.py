"""Read the model card of a Hub repository, and commit another text on top of the version that was read.

If the repository changed meanwhile, the Hub rejects the commit, and nothing is written.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..records.errors import ConfigError, EndpointDownError, IncompleteError, one_line
from ..records.providers import api_key

TOKEN = "HF_TOKEN"
FILE = "README.md"


@dataclass(frozen=True)
class HubCard:
    """README.md of one model repository. Every method raises ConfigError, IncompleteError or EndpointDownError."""

    repo: str
    """ORG/NAME."""

    def read(self) -> tuple[str, str | None]:
        """Return the card, empty if there is none, and the commit it is of."""
        from huggingface_hub import errors

        with self._api() as api, tempfile.TemporaryDirectory() as folder:
            commit = api.model_info(self.repo).sha
            try:
                file = api.hf_hub_download(self.repo, FILE, revision=commit, local_dir=folder)
            except errors.EntryNotFoundError:
                return "", commit
            return Path(file).read_bytes().decode("utf-8"), commit

    def write(self, text: str, parent: str | None) -> str:
        """Commit the card and return the commit's address. Nothing is written if the repository changed since."""
        from huggingface_hub import CommitOperationAdd

        with self._api() as api:
            commit = api.create_commit(
                self.repo,
                [CommitOperationAdd(FILE, text.encode("utf-8"))],
                commit_message="Evaluation results by fusion-harness",
                parent_commit=parent,
            )
            return str(commit.commit_url)

    @contextmanager
    def _api(self) -> Iterator:  # type: ignore[type-arg]  # of HfApi, which is imported only here
        try:
            from huggingface_hub import HfApi, constants, errors
        except ImportError:
            raise ConfigError("--push-to-hub needs huggingface_hub: pip install huggingface_hub") from None
        if api_key(TOKEN) is None:
            raise ConfigError(f"--push-to-hub needs a token with write access in the environment variable {TOKEN}")
        if constants.is_offline_mode():
            raise ConfigError("--push-to-hub: the Hub is switched off by HF_HUB_OFFLINE; unset it")
        try:
            yield HfApi(endpoint=os.environ.get("HF_ENDPOINT"), token=os.environ[TOKEN])
        except errors.RepositoryNotFoundError:
            raise ConfigError(f"no repository {self.repo!r} on the Hub, or {TOKEN} may not see it") from None
        except (errors.HFValidationError, UnicodeDecodeError) as error:
            raise ConfigError(f"--push-to-hub {self.repo!r}: {one_line(error)}") from None
        except errors.HfHubHTTPError as error:
            # without the request, because its headers contain the token
            status = getattr(error.response, "status_code", None)
            reason = error.server_message or "no reason given"
            raise IncompleteError(
                f"the Hub refused the card of {self.repo} (HTTP {status}: {reason[:200]}); nothing was changed"
            ) from None
        except (errors.HTTPError, OSError) as error:  # type: ignore[attr-defined]  # imported there, not exported
            raise EndpointDownError(
                f"the Hub cannot be reached ({type(error).__name__}); nothing was changed"
            ) from None
