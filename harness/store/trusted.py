"""Find the configuration file, and decide what one that merely lies in the working folder may do.

>>> wishes(FileSpec.model_validate({"serve": {"trust_remote_code": True}}), {})
['serve.trust_remote_code']

A file that the user names (`--config`) or trusted before (`harness config trust`: path and hash are remembered, as
direnv does) may do everything. Any other `./harness.yaml` came with the folder, perhaps from a stranger: it may not run
code, load pickles, or send a key to a host that neither the user nor the key's provider named.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..records.asking import ENSEMBLES
from ..records.documents import parse_yaml, read_json_object, read_text
from ..records.errors import ConfigError, printable
from ..records.providers import ENDPOINT_KEY, JUDGE_KEY, belongs
from ..records.settings import FileSpec, file_spec, read_file_spec
from .files import dump_json, locked, write_atomic

log = logging.getLogger(__name__)
NAME = "harness.yaml"
TRUSTED = "trusted.json"
RUNS_CODE = ("trust_remote_code", "allow_pickle", "engine_args")
"""Keys of `serve:` that let a file decide what code runs here."""
INLINE_URL = re.compile(r"@(https?://[^+,\s]+)")
FILE_NAME = re.compile(r"[^+,=\s]+\.ya?ml\b")
Named = Mapping[str, frozenset[str]]
"""Variable of a key -> the hosts (scheme, name and port) that the user's own file sends it to."""


def config_folder() -> Path | None:
    """Return `fusion-harness` in the user's configuration folder, or None for a user without a home folder."""
    if configured := os.environ.get("XDG_CONFIG_HOME"):
        return Path(configured) / "fusion-harness"
    try:
        return Path.home() / ".config" / "fusion-harness"
    except RuntimeError:  # as in a container whose user has no entry in /etc/passwd
        return None


def read_config(path: Path | None) -> FileSpec:
    """Return `--config` FILE, or ./harness.yaml if it exists, or the defaults; with the judges of the user's own file.

    Raise ConfigError for an invalid file, and for a ./harness.yaml that asks for more than an untrusted file may.
    """
    own_judges = users_judges()
    if path is not None:
        file = read_file_spec(path)
    elif Path(NAME).exists():
        file = _implicit(Path(NAME), _named_hosts(own_judges))
    else:
        file = FileSpec()
    return file.model_copy(update={"judges": {**own_judges, **file.judges}}) if own_judges else file


def configured_results_folder() -> str | None:
    """Return `results:` of ./harness.yaml, for commands that read nothing else of it, or None without one."""
    return read_file_spec(Path(NAME)).results if Path(NAME).is_file() else None


def users_judges() -> Mapping[str, Mapping[str, Any]]:
    """Return the judges of `harness.yaml` in the user's configuration folder, which every run knows."""
    folder = config_folder()
    if folder is None or not (folder / NAME).exists():
        return {}
    file = read_file_spec(folder / NAME)
    if file.model_fields_set - {"judges"}:
        keys = ", ".join(sorted(file.model_fields_set - {"judges"}))
        raise ConfigError(f"{folder / NAME} may have `judges:` only, not {keys}; give these in ./harness.yaml")
    return file.judges


def listed_judges() -> dict[str, Mapping[str, Any]]:
    """Return the user's judges and those of ./harness.yaml by name, to list them: they are asked nothing."""
    path = Path(NAME)
    return {**users_judges(), **(read_file_spec(path).judges if path.exists() else {})}


def _implicit(path: Path, named: Named) -> FileSpec:
    text = read_text(path, "YAML")
    values = parse_yaml(text, path)
    if not isinstance(values, dict | None):
        raise ConfigError(f"{path} must contain keys and values, not a {type(values).__name__}")
    file = file_spec(values or {}, path)
    trusted = trusted_files().get(str(path.resolve())) == _sha256(text)
    log.warning("using ./%s%s", path, " (trusted)" if trusted else "")
    for line in judge_lines(file):
        log.warning("%s", line)
    if not trusted and (requests := wishes(file, named)):
        raise ConfigError(
            f"./{path} is not trusted and asks for {'; '.join(requests)}: read it, then run `harness config trust`, or "
            f"name it with --config {path}"
        )
    return file


def judge_lines(file: FileSpec) -> Iterator[str]:
    """Yield one line per judge of the file: its address, and the variable of its key."""
    for name, judge in file.judges.items():
        address = judge.get("url") or f"no address (kind {judge.get('kind')})"
        key = judge.get("key_env")
        yield printable(f"its judge {name}: {address}, " + (f"with the key in {key}" if key else "without a key"))


def wishes(file: FileSpec, named: Named) -> list[str]:
    """Return what the file asks for that needs the user's trust."""
    suites = [part.strip() for part in (file.suite or "").split(",")]
    return [
        *(f"serve.{key}" for key in RUNS_CODE if getattr(file.serve, key)),
        *(
            f"judges.{name}.serve.{key}"
            for name, judge in file.judges.items()
            for key in RUNS_CODE
            if isinstance(judge.get("serve"), dict) and judge["serve"].get(key)
        ),
        # a task file of a suite may name functions, and a judge's file is another configuration
        *(f"the file in suite: {suite!r}" for suite in suites if _is_path(suite.partition(":")[2])),
        # a team file names servers, keys and perhaps a reward's code
        *([f"the team file in model: {file.model!r}"] if (file.model or "").partition(":")[0] in ENSEMBLES else []),
        *(f"the judge file {match!r}" for text in _judge_texts(file) for match in FILE_NAME.findall(text)),
        *(
            f"sending the key in {key} to {url or 'the address of its evaluator'}"
            for key, url in dict.fromkeys(_keys_sent(file))
            if os.environ.get(key) and not (url and (belongs(key, url) or origin(url) in named.get(key, ())))
        ),
    ]


def _judge_texts(file: FileSpec) -> list[str]:
    return list(file.judge.values()) if isinstance(file.judge, dict) else [file.judge or ""]


def _is_path(argument: str) -> bool:
    return any("/" in part or part.endswith((".yaml", ".yml")) for part in argument.split("+"))


def _keys_sent(file: FileSpec) -> Iterator[tuple[str, str | None]]:
    """Yield (variable, URL) of every key that the file may send. The URL is None if its evaluator decides it."""
    for judge in file.judges.values():
        # an evaluator without `key_env` sends JUDGE_KEY to its own `url` (judges/llm.py), and so may a plug-in
        key = judge.get("key_env") or (JUDGE_KEY if judge.get("kind") != "llm" and judge.get("url") else None)
        if key:
            yield str(key), judge.get("url")
    for text in _judge_texts(file):
        for url in INLINE_URL.findall(text):
            yield JUDGE_KEY, url
    for url in INLINE_URL.findall(file.model or ""):
        yield ENDPOINT_KEY, url


def _named_hosts(judges: Mapping[str, Mapping[str, Any]]) -> Named:
    hosts: dict[str, frozenset[str]] = {}
    for judge in judges.values():
        key, url = judge.get("key_env"), judge.get("url")
        if key and url:
            hosts[key] = hosts.get(key, frozenset()) | {origin(url)}
    return hosts


def origin(url: str) -> str:
    """Return scheme, host and port of a URL: what a key is sent to."""
    return "/".join(url.lower().split("/")[:3])


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


# What is trusted


def trusted_files() -> dict[str, str]:
    """Return path -> sha256 of every trusted file. Raise ConfigError if the list is damaged."""
    folder = config_folder()
    if folder is None or not (folder / TRUSTED).exists():
        return {}
    return {
        path: str(sha256)
        for path, sha256 in read_json_object(folder / TRUSTED, "move it away to trust nothing").items()
    }


def trust(path: Path) -> FileSpec:
    """Remember the path and the hash of a configuration file, and return its content. Raise ConfigError if invalid."""
    text = read_text(path, "YAML")
    file = read_file_spec(path)
    _change({str(path.resolve()): _sha256(text)})
    return file


def untrust(path: Path) -> None:
    """Forget a configuration file. Raise ConfigError if it is not trusted."""
    if str(path.resolve()) not in trusted_files():
        raise ConfigError(f"{path} is not trusted, so there is nothing to forget; see `harness config show`")
    _change({str(path.resolve()): None})


def _change(changes: Mapping[str, str | None]) -> None:
    folder = config_folder()
    if folder is None:
        raise ConfigError(f"there is no home folder to remember this in; name the file instead: --config {NAME}")
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / ".trusted.lock"):
        files = {path: sha256 for path, sha256 in {**trusted_files(), **changes}.items() if sha256 is not None}
        write_atomic(folder / TRUSTED, dump_json(files))
