"""Define the error tree. Every error that a user can cause or meet is one of these, with a text of one sentence.

>>> ConfigError("no judge named 'gpt-5'").exit_code
2

HarnessError
├── UsageError            exit 2: the request cannot be carried out as given; nothing was written
│   ├── ConfigError         a configuration file or flag has a wrong value
│   │   └── MissingKeyError   a judge's API key is not in the environment
│   ├── PluginError         no suite, backend, judge or reward of that name
│   ├── DataError           an official file is missing or is not the pinned one
│   ├── CheckpointError     a model folder that cannot be served
│   └── RunLockedError      another process works on the same run
├── IncompleteError       exit 4: stopped with partial results; the same command resumes
│   ├── ServerError         the served model died or never answered
│   ├── StaleError          a generated file is out of date
│   ├── EndpointDownError   a server stays down, or rejects every request
│   ├── JudgeUnavailableError  the judge's endpoint stays down or rejects the key
│   ├── StoppedRunError     Ctrl-C or SIGTERM ended the run
│   ├── BudgetReachedError  the next call could cross --max-cost
│   └── StoreError          results can no longer be written (disk full, no permission)
├── ReplyError            one request failed; becomes the `error` of one Answer or Judgment
└── VerdictParseError     a judge's reply has no verdict; becomes the `error` of one Judgment

Exit codes: 0 done, 1 regression (gate), 2 usage, 3 inconclusive (gate), 4 incomplete or a crash, 130 interrupted,
141 the reader of the output is gone.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

Reason = Literal[
    "context",  # the prompt leaves no room to answer
    "empty",  # the model or the judge wrote nothing
    "http",  # the server rejected the request
    "timeout",
    "transport",  # connection broken after all retries
    "content_filter",
    "parse",  # no verdict in the judge's reply
    "conflict",  # two different verdicts in one reply, or one that may be a quotation
    "truncated",  # the reply was cut before its verdict
    "answer",  # the answer to be judged is itself broken
    "missing",  # an expected row does not exist
    "other",
]
"""Why there is no answer or no verdict."""

CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]+")


PROBLEMS = {
    "missing": "is missing",
    "extra_forbidden": "is not a known key",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "too_short": "needs at least {min_length} entries",
    "too_long": "may have at most {max_length} entries",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "may have at most {max_length} characters",
    "string_pattern_mismatch": "must match the pattern {pattern}",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
    **dict.fromkeys(("string_type", "path_type"), "must be text"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type"), "must be a list"),
    **dict.fromkeys(("dict_type", "mapping_type", "model_type", "dataclass_type"), "must be keys and values"),
}
"""Pydantic's type of an error -> our words, which follow a key and its value."""


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the known names that resemble one, or an empty text.

    >>> did_you_mean("mtbench", ["mt_bench", "arena_hard"])
    " (did you mean 'mt_bench'?)"
    """
    near = get_close_matches(name, list(names), n=3, cutoff=0.7)
    return f" (did you mean {' or '.join(map(repr, near))}?)" if near else ""


def first_names(names: Iterable[str], limit: int = 12) -> str:
    """Return the names as a list for an error's text, and how many are left out.

    >>> first_names(["b", "c", "a"], limit=2)
    'a, b and 1 more'
    """
    ordered = sorted(set(names))
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more or "none"


def one_line(error: object, limit: int = 300) -> str:
    """Return an error's text on one line of at most `limit` characters, and of a ValidationError the first problem."""
    pydantic = sys.modules.get("pydantic")  # training's arithmetic runs without it, where nothing else is installed
    if pydantic is not None and isinstance(error, pydantic.ValidationError):
        first = error.errors()[0]
        error = ": ".join(part for part in (".".join(map(str, first["loc"])), problem_words(first)) if part)
    return " ".join(str(error).split())[:limit]


def problem_words(problem: ErrorDetails) -> str:
    """Return what a value must be, in the words of `PROBLEMS`; pydantic's own for a rare kind.

    >>> problem_words({"type": "greater_than", "loc": ("limit",), "msg": "", "input": 0, "ctx": {"gt": 0.0}})
    'must be above 0'
    """
    words = PROBLEMS.get(problem["type"])
    if words is None:
        return problem["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    context = problem.get("ctx", {})
    return words.format(**{key: f"{value:g}" if isinstance(value, float) else value for key, value in context.items()})


def printable(text: str) -> str:
    """Return the text without control characters other than newlines, so that a terminal executes none."""
    return CONTROL.sub(" ", text)


class HarnessError(Exception):
    """Base of all errors shown as one sentence rather than a traceback. Control characters are removed."""

    exit_code: ClassVar[int] = 4

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class UsageError(HarnessError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class MissingKeyError(ConfigError):
    """A judge's API key is not in the environment."""


class MissingPackageError(ConfigError):
    """A backend's package is not installed on this machine."""


class PluginError(UsageError):
    pass


class DataError(UsageError):
    pass


class CheckpointError(UsageError):
    pass


class RunLockedError(UsageError):
    pass


class IncompleteError(HarnessError):
    exit_code = 4


class StoppedRunError(IncompleteError):
    pass


class ServerError(IncompleteError):
    pass


class StaleError(IncompleteError):
    pass


class EndpointDownError(IncompleteError):
    pass


class JudgeUnavailableError(IncompleteError):
    pass


class StoreError(IncompleteError):
    pass


class BudgetReachedError(IncompleteError):
    pass


class ReplyError(HarnessError):
    """One request that failed for good. `status` is the HTTP status, None if no reply came."""

    def __init__(self, message: str, *, reason: Reason, status: int | None = None) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status


class VerdictParseError(HarnessError):
    """A judge's reply without a verdict ("parse"), or with more than one ("conflict").

    `reaskable`: the judge has not given a verdict yet, so asking again makes sense; a wrong or double verdict is final.
    """

    def __init__(self, message: str, *, reason: Reason = "parse", reaskable: bool = False) -> None:
        super().__init__(message)
        self.reason = reason
        self.reaskable = reaskable


def first_error(errors: BaseExceptionGroup[HarnessError]) -> HarnessError:
    """Return the first error of a task group's group, however deeply nested."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, HarnessError)
    return error
