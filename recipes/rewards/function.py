"""Kind `function`: score with a Python function that has the signature of TRL's reward functions.

`reward: {kind: function, model: FILE.py:NAME}` or `module:NAME`. It is called as `f(prompts, completions, **columns)`,
with only the columns that it accepts, and returns one number per answer. `async def` works too. Prompts and completions
are strings; with `params: {conversational: true}` they are lists of messages, as TRL passes conversational data.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from pydantic import JsonValue

from harness.records.errors import ConfigError, one_line
from harness.records.protocols import RewardOptions
from harness.store.files import file_sha256

QUEUE = 8
"""Answers per call and request in flight for rewards that use a server: each call waits for its slowest request."""


class RunsCoroutines:
    """A reward with one event loop for all of its calls, inside a `with`, so that clients it opens stay usable."""

    _runner: asyncio.Runner | None = None

    async def _open(self) -> None:
        """Start what the reward needs."""

    async def _close(self) -> None:
        """Stop it again."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._runner.run(self._open())
        return self

    def __exit__(self, *exc: object) -> None:
        if self._runner is not None:
            self._runner.run(self._close())
            self._runner.close()
            self._runner = None


def refuse(options: RewardOptions, *names: str) -> None:
    """Raise ConfigError if one of these fields is set: silently ignoring an option would give wrong rewards."""
    for name in names:
        if getattr(options, name):
            value = getattr(options, name)
            shown = ", ".join(sorted(value)) if isinstance(value, dict) else repr(value)
            raise ConfigError(f"reward kind {options.kind} does not support `{name}` ({shown}); leave it out")


class FunctionReward(RunsCoroutines):
    """`fusion_harness.rewards` entry point "function". Raise ConfigError if the function does not exist."""

    def __init__(self, options: RewardOptions) -> None:
        refuse(options, "url", "key_env", "serve")
        unknown = sorted(set(options.params) - {"conversational"})
        if unknown:
            raise ConfigError(f"reward function: unknown param {unknown[0]!r}; known: conversational")
        self.conversational = bool(options.params.get("conversational", False))
        self._name = options.model or ""
        module, _, name = self._name.rpartition(":")
        if not module or not name:
            raise ConfigError(
                f"reward model = {self._name!r} does not name a function; use FILE.py:NAME or module:NAME"
            )
        self._module = _from_file(Path(module)) if module.endswith(".py") else _from_module(module)
        function = getattr(self._module, name, None)
        if not callable(function):
            functions = [key for key, value in vars(self._module).items() if inspect.isfunction(value)]
            raise ConfigError(f"{module} has no function {name!r}; it has: {', '.join(functions) or 'none'}")
        self._function: Callable[..., Any] = function
        self._takes = _takes(function)
        self.needs = _needs(function)
        """Columns without which the function cannot be called."""

    def identity(self) -> dict[str, JsonValue]:
        """Return the function's name and a digest of its file. What that file imports is not covered."""
        source = inspect.getsourcefile(self._module)
        return {
            "function": self._name.rsplit("/", 1)[-1],
            "source": file_sha256(Path(source)) if source else None,
            "conversational": self.conversational,
        }

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: Sequence[str]) -> Any:
        taken = columns if self._takes is None else {name: columns[name] for name in self._takes if name in columns}
        returned = self._function(prompts=prompts, completions=completions, **taken)
        if not inspect.isawaitable(returned):
            return returned
        return asyncio.run(_awaited(returned)) if self._runner is None else self._runner.run(_awaited(returned))


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _takes(function: Callable[..., Any]) -> frozenset[str] | None:
    """Return the columns that the function accepts, or None if it accepts all by `**columns`."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some callables written in C have no signature
        return None
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return frozenset(parameter.name for parameter in parameters)


def _needs(function: Callable[..., Any]) -> frozenset[str]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return frozenset()
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    required = {entry.name for entry in parameters if entry.kind in named and entry.default is entry.empty}
    return frozenset(required - {"prompts", "completions"})


def _from_module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"reward function: module {error.name!r} cannot be imported; install it, or use FILE.py:NAME"
        ) from None
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"reward function: module {name!r} cannot be imported: {one_line(error)}") from error


def _from_file(path: Path) -> ModuleType:
    """Import the file under a unique module name. It can import its neighbours."""
    path = path.expanduser().resolve()
    spec = importlib.util.spec_from_file_location(f"reward_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"reward function: there is no file {str(path)!r}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look up their module by name
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{path} cannot be imported: {one_line(error)}") from error
    return module
