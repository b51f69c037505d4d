"""Decide which suites run and who judges each: `--suite`, `--judge`, juries and their defaults."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from ..errors import ConfigError
from ..plugins import installed, load_plugin
from ..records import JudgeSpec
from .judges import JUDGE_FORMS, OwnJudges, find_judge
from .specs import EDITIONS

SUITES_OF_ALL = ("mt_bench", "alpaca_eval", "arena_hard")
PROVIDER_DEFAULT = {"OPENAI_API_KEY": "gpt-4.1"}
"""Provider key in the environment -> judge used when none is named. Never a retired official judge."""


NO_JUDGE = (
    "no judge is configured: set OPENAI_API_KEY for the default judge, or give --judge endpoint:MODEL@URL "
    "(also HARNESS_JUDGE, or `judge:` in harness.yaml), or try --edition pocket, which needs none"
)


def choose_judges(
    suites: tuple[str, ...],
    choice: str | Mapping[str, str] | None,
    *,
    edition: str,
    own_judges: OwnJudges,
) -> dict[str, tuple[JudgeSpec, ...]]:
    """Return judged suite -> judge or jury: as given, else pocket's own, HARNESS_JUDGE or a provider's default.

    Raise ConfigError if none applies.
    """
    names = _by_suite(suites, choice)
    if edition not in EDITIONS:
        raise ConfigError(f"no edition named {edition!r}; editions: {', '.join(EDITIONS)}")
    fallback = _fallback_judge(edition)
    chosen: dict[str, tuple[JudgeSpec, ...]] = {}
    for suite in map(plugin_name, filter(is_judged, suites)):
        name = names.get(suite, names.get("*", fallback))
        if name is None:
            raise ConfigError(f"{suite}: {NO_JUDGE}")
        if suite in chosen:
            raise ConfigError(f"suite {suite!r} is named twice with different arguments; give one per run")
        chosen[suite] = find_jury(name, own_judges)
    return chosen


def find_jury(name: str, own_judges: OwnJudges) -> tuple[JudgeSpec, ...]:
    """Return the judge of a name, or the members of `A+B+C` sorted by name.

    Raise ConfigError if two members have the same name.
    """
    members = tuple(
        sorted((find_judge(part, own_judges) for part in split_jury(name, own_judges)), key=lambda spec: spec.name)
    )
    for member, successor in pairwise(members):
        if member.name == successor.name:
            raise ConfigError(
                f"--judge {name!r}: two members are called {member.name!r}; to repeat one judge use --repeats, or "
                "give them different names under `judges:` in harness.yaml"
            )
    return members


def split_jury(name: str, own_judges: OwnJudges) -> list[str]:
    """Split `A+B` into its parts, but not at a `+` inside a model's name before `@http`, a file name or a judge's
    name."""
    parts: list[str] = []
    for piece in name.split("+"):
        if parts and _continues_name(parts[-1], piece, own_judges):
            parts[-1] += f"+{piece}"
        else:
            parts.append(piece)
    if not all(parts):
        raise ConfigError(f"--judge {name!r}: there is an empty name before or after a +")
    return parts


def _continues_name(start: str, piece: str, own_judges: OwnJudges) -> bool:
    joined = f"{start}+{piece}"
    if start.startswith("endpoint:") and "@http" not in start:
        return True
    return joined in own_judges or Path(joined.removeprefix("local:")).exists()


def _fallback_judge(edition: str) -> str | None:
    if edition == "pocket":
        return "reference"
    if os.environ.get("HARNESS_JUDGE"):
        return os.environ["HARNESS_JUDGE"]
    return next((judge for key, judge in PROVIDER_DEFAULT.items() if os.environ.get(key)), None)


def _by_suite(suites: tuple[str, ...], choice: str | Mapping[str, str] | None) -> dict[str, str]:
    """Parse `J` or `SUITE=J,SUITE=J` or a mapping into {suite or "*": judge}."""
    if choice is None:
        return {}
    if not isinstance(choice, str):
        return dict(choice)  # from the file, which may name judges for suites that are not run now
    if "=" not in choice or choice.partition(":")[0] in JUDGE_FORMS:
        return {"*": choice}
    pairs = {}
    for part in choice.split(","):
        suite, sign, judge = part.partition("=")
        if not sign or not judge:
            raise ConfigError(f"--judge {choice!r}: {part!r} is not SUITE=JUDGE")
        pairs[suite.strip()] = judge.strip()
    run = [plugin_name(suite) for suite in suites]
    for suite in pairs:
        if suite not in run:
            raise ConfigError(f"--judge names suite {suite!r}, which is not part of this run: {', '.join(run)}")
    return pairs


def is_judged(suite: str) -> bool:
    """Return whether a suite needs a judge; one that scores by itself sets `judged = False`."""
    name = plugin_name(suite)
    return name not in installed("suites") or bool(getattr(load_plugin("suites", name), "judged", True))


def plugin_name(suite: str) -> str:
    """Return `NAME` of `NAME:ARGUMENT`."""
    return suite.partition(":")[0]


def suite_names(text: str) -> tuple[str, ...]:
    """Return the names in `all` or a comma list, in order, each once; `NAME:X+Y` is `NAME:X` and `NAME:Y`.

    Raise ConfigError for an unknown suite.
    """
    known = list(installed("suites"))
    names: list[str] = []
    for part in text.split(","):
        for name in SUITES_OF_ALL if part.strip() == "all" else _with_arguments(part.strip()):
            if name.partition(":")[0] not in known:
                raise ConfigError(f"no suite named {name!r}; installed: {', '.join(known)}; or all")
            if name not in names:
                names.append(name)
    return tuple(names)


def _with_arguments(part: str) -> list[str]:
    name, colon, arguments = part.partition(":")
    return [f"{name}:{argument}" for argument in arguments.split("+")] if colon else [name]
