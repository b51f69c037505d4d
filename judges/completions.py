"""AlpacaEval's completion parsers: a judge's whole reply -> the preference for the answer shown first. Pure.

Source: alpaca_eval 0.6.6, completion_parsers.py, whose annotations (1: first better, 2: second, 0 or 1.5: a draw,
between: a share) become probabilities that the first wins. What the reference stores as missing is an error here.
A parser is written into its template's `parser` as `alpaca_eval:[[NAME, ARGUMENTS], …]`: a chain of steps.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from pydantic import JsonValue

from harness.errors import ConfigError, VerdictParseError
from harness.formats.alpaca_eval_rows import share_of
from harness.records import Preference, TokenLogprob

PREFIX = "alpaca_eval:"
LONGEST = 20_000
"""Characters of a reply that are read as a Python or JSON value; the official judges' limit is 2,048 tokens."""
Arguments = Mapping[str, JsonValue]
Steps = tuple[tuple[str, Arguments], ...]


class _UnreadableError(Exception):
    """Internal: a step found nothing it can read."""


def chain_name(steps: Steps) -> str:
    """The `JudgeTemplate.parser` of a chain."""
    return PREFIX + json.dumps([[name, dict(arguments)] for name, arguments in steps], sort_keys=True)


def read_completion(name: str, reply: str, logprobs: tuple[TokenLogprob, ...]) -> Preference:
    """The preference by the chain of that name. Raises VerdictParseError, and ConfigError for a chain that is none."""
    steps = _steps(name)
    try:
        if steps[0][0] == "logprob_parser":
            return Preference(value=_logprob(steps[0][1], logprobs))
        found = _run(steps, reply)
    except _UnreadableError as error:
        raise VerdictParseError(f"{steps[0][0]}: {error}: {reply[-80:]!r}") from None
    if len(found) != 1:
        raise VerdictParseError(
            f"{len(found)} preferences in the judge's reply where one was asked for: {reply[-80:]!r}"
        )
    return Preference(value=_first_wins(found[0], reply))


@lru_cache(maxsize=64)
def _steps(name: str) -> Steps:
    try:
        steps = tuple((str(step), dict(arguments)) for step, arguments in json.loads(name.removeprefix(PREFIX)))
    except (ValueError, TypeError):
        steps = ()
    if not steps or any(step not in STEPS and step != "logprob_parser" for step, _ in steps):
        raise ConfigError(f"{name!r} is no chain of AlpacaEval's parsers; known: {', '.join(known_parsers())}")
    return steps


def known_parsers() -> list[str]:
    return sorted([*STEPS, "logprob_parser"])


def _run(steps: Steps, value: JsonValue) -> list[JsonValue]:
    """The first step's values, each run through the rest: a chain that ends in one value gives one."""
    (name, arguments), rest = steps[0], steps[1:]
    if value == "":
        raise _UnreadableError("the reply is empty")
    found = STEPS[name](value, arguments)
    return [last for one in found for last in _run(rest, one)] if rest else found


def _first_wins(annotation: JsonValue, reply: str) -> float:
    if isinstance(annotation, bool) or not isinstance(annotation, int | float):
        raise VerdictParseError(f"the preference {str(annotation)[:40]!r} is no number: {reply[-80:]!r}")
    if annotation == 0:
        return 0.5
    if not 1 <= annotation <= 2:
        raise VerdictParseError(f"the preference {annotation!r} is outside 1..2: {reply[-80:]!r}")
    return 2.0 - annotation


# ------------------------------------------------------------------------------------------------------------- steps


def _regex(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Keys of `outputs_to_match` ([key, pattern] pairs) in the order in which their patterns match."""
    text, pairs = _text(value), arguments["outputs_to_match"]
    assert isinstance(pairs, list)
    found: list[JsonValue] = []
    while True:
        matches = [(match, key) for key, pattern in map(_pair, pairs) if (match := re.search(pattern, text))]
        if not matches:
            return found
        match, key = min(matches, key=lambda one: one[0].start())
        if not match.end():
            raise _UnreadableError("a pattern matches nothing at all")
        found.append(key)
        text = text[match.end() :]  # so that "^" holds after a match, as in the reference


def _pair(pair: JsonValue) -> tuple[JsonValue, str]:
    assert isinstance(pair, list)
    return pair[0], str(pair[1])


def _lmsys(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Two scores on the first line, with a blank or a comma between them."""
    words = _text(value).split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(word) for word in words)
    except ValueError:
        raise _UnreadableError("the first line is not two scores") from None
    if first != first or second != second:
        raise _UnreadableError("a score is no number")
    return [1 if first > second else 2 if first < second else 0]


def _ranking(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """The rank (1 or 2) of `model_1_name` in a list of {model, rank}."""
    ordered = _literal(value) if isinstance(value, str) else value
    name = arguments.get("model_1_name", "model_1")
    ranks = [one["rank"] for one in _dicts(ordered) if one.get("model") == name and "rank" in one]
    if not ranks or isinstance(ranks[0], bool) or ranks[0] not in (1, 2):
        raise _UnreadableError(f"no rank 1 or 2 of {name!r}")
    return [ranks[0]]


def _dicts(found: JsonValue) -> list[dict[str, JsonValue]]:
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list | tuple) else []


def _json(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """`annotation_key` of a JSON object, or of each in a list; a ```json block alone where there is one."""
    text = _text(value)
    if "```json" in text:
        block = re.search(r"```json(.*?)```", text, re.DOTALL)
        text = block[1] if block else ""
    try:
        found = json.loads(_short(text))
    except (ValueError, RecursionError):
        raise _UnreadableError("not JSON") from None
    key = arguments.get("annotation_key")
    several = [found] if isinstance(found, dict) else found
    if key is None:
        return list(several) if isinstance(several, list) else [several]
    values = [one[str(key)] for one in _dicts(several) if str(key) in one]
    if not values:
        raise _UnreadableError(f"no {key!r} in the JSON")
    return values


def _eval(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """A Python literal; a list's members."""
    found = _literal(_text(value))
    return found if isinstance(found, list) else [found]


def _replace(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """`replacer` ([from, to] pairs) of the whole value; `default_replacer`, else itself, for another."""
    pairs = arguments["replacer"]
    assert isinstance(pairs, list)
    default = arguments.get("default_replacer", "auto")
    table = {json.dumps(pair[0]): pair[1] for pair in pairs if isinstance(pair, list)}
    return [table.get(json.dumps(value), value if default == "auto" else default)]


STEPS: dict[str, Callable[[JsonValue, Arguments], list[JsonValue]]] = {
    "regex_parser": _regex,
    "lmsys_parser": _lmsys,
    "ranking_parser": _ranking,
    "json_parser": _json,
    "eval_parser": _eval,
    "replace_parser": _replace,
}


def _logprob(arguments: Arguments, logprobs: Sequence[TokenLogprob]) -> float:
    """p(numerator) over p(denominators) of the first token; 1 or 0 where it is to be binarized."""
    token, tokens = str(arguments["numerator_token"]), arguments["denominator_tokens"]
    assert isinstance(tokens, list)
    names = [str(one) for one in tokens]
    top = {one.token: one.logprob for one in logprobs if one.token in (token, *names)}
    share = share_of(token, top, names)
    if share is None:
        raise _UnreadableError(f"none of {', '.join(names)} among the first token's log-probabilities")
    if not arguments.get("is_binarize", True):
        return share
    others = [top[name] for name in names if name != token and name in top]
    return float(token in top and all(top[token] > other for other in others))


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise _UnreadableError(f"a text was expected, not a {type(value).__name__}")
    return value


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise _UnreadableError(f"longer than {LONGEST} characters")
    return text


def _literal(text: str) -> JsonValue:
    try:
        found: JsonValue = ast.literal_eval(_short(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _UnreadableError("not a Python literal") from None
    return found
