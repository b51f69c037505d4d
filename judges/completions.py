r"""Read a judge's verdict with AlpacaEval's completion parsers, from its whole reply or from its first token.

>>> chain = chain_name((("regex_parser", {"outputs_to_match": [[1, "Output \\(a\\)"], [2, "Output \\(b\\)"]]}),))
>>> read_completion(chain, "Output (b)", ()).value  # the answer shown first lost
0.0

>>> tops = (TokenLogprob(token="Ġm", logprob=-0.1), TokenLogprob(token="ĠM", logprob=-2.4))
>>> verdict_tokens(tops, ("m", "M"))
{'m': -0.1, 'M': -2.4}

Source: alpaca_eval 0.6.6, completion_parsers.py. Its annotations (1: first better, 2: second better, 0 or 1.5: a draw,
values in between: a share) become the probability that the answer shown first wins. A reply that the reference stores
as missing is an error here. A template names its parser as a chain of steps: `alpaca_eval:[[NAME, ARGUMENTS], …]`.

One parser reads log-probabilities. The reference takes exact spellings of the verdict's tokens, however improbable they
are; here they are found however a server spells them. With its own judge that is the same: in 8,024 published judgments
"m" and "M" are the most probable spelling each time, and have at least 49 % together.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

from pydantic import JsonValue

from harness.records import Preference, TokenLogprob
from harness.records.errors import ConfigError, VerdictParseError
from harness.suites.alpaca_eval.rows import share_of

# -------------------------------------------------------------------------------------------------- tokens of a verdict


BLANKS = ("", " ", "Ġ", "▁")
"""What may stand before a token: nothing, or a blank, also as byte-level BPE and SentencePiece write it."""
TOKEN_ID = re.compile(r"token_id:\d+")
LEAST_SHARE = 0.1
"""Least probability of all verdict tokens together; below it the judge is about to write something else. The reference
has no such limit; ours is a fifth of the least that its own judge gave (see above)."""
OTHERWISE = (
    "use a judge that answers with the letter at once (switch its reasoning off under `params:`, e.g. "
    "`chat_template_kwargs: {enable_thinking: false}`, or give it `reasoning_room:`), or an evaluator that reads text"
)


def verdict_tokens(logprobs: Sequence[TokenLogprob], names: Sequence[str]) -> dict[str, float]:
    """Return name -> log-probability of those names that are there, all in the spelling of the most probable one.

    Raise VerdictParseError, with advice, if the judge sent none or was about to write something else.
    """
    if not logprobs:
        raise VerdictParseError(
            "the judge sent no log-probabilities, which this verdict is read from; use a server that returns "
            "`top_logprobs`, or an evaluator that reads text"
        )
    if all(TOKEN_ID.fullmatch(top.token) for top in logprobs):
        raise VerdictParseError(
            f"the judge names its tokens by number ({logprobs[0].token}); start its server without "
            "--return-tokens-as-token-ids"
        )
    chances = {top.token: top.logprob for top in reversed(logprobs)}
    spellings = [{name: chances[blank + name] for name in names if blank + name in chances} for blank in BLANKS]
    tokens = max(spellings, key=lambda spelling: max(spelling.values(), default=-math.inf))
    share = sum(math.exp(min(0.0, logprob)) for logprob in tokens.values())
    if share < LEAST_SHARE:
        first = max(chances, key=lambda token: chances[token])
        listed = " nor ".join(names) if len(names) == 2 else ", ".join(names)
        raise VerdictParseError(
            f"neither {listed} is likely as the judge's first token ({100 * share:.1f} %; it begins with "
            f"{first[:20]!r}); {OTHERWISE}"
        )
    return tokens


# --------------------------------------------------------------------------------------------------- completion parsers


PREFIX = "alpaca_eval:"
LONGEST = 20_000
"""Longest reply, in characters, that is parsed as Python or JSON; the official judges stop at 2,048 tokens."""
MOST = 10
"""Most matches that are counted. Two already mean that a reply has no single preference."""
Arguments = Mapping[str, JsonValue]
Steps = tuple[tuple[str, Arguments], ...]


class _UnreadableError(Exception):
    """Internal: a step cannot read the reply."""


def chain_name(steps: Steps) -> str:
    """Return the chain as a `JudgeTemplate.parser`."""
    return PREFIX + json.dumps([[name, dict(arguments)] for name, arguments in steps], sort_keys=True)


def read_completion(name: str, reply: str, logprobs: tuple[TokenLogprob, ...]) -> Preference:
    """Return the preference for the answer shown first, in 0..1, as the named chain reads it.

    Raise VerdictParseError if the reply has no single preference, ConfigError if the name is not a valid chain.
    """
    steps = _steps(name)
    try:
        if steps[0][0] == "logprob_parser":
            return Preference(value=_logprob(steps[0][1], logprobs))
        preferences = _run(steps, reply)
    except _UnreadableError as error:
        raise VerdictParseError(f"{steps[0][0]}: {error}: {reply[-80:]!r}") from None
    if len(preferences) != 1:
        raise VerdictParseError(f"{len(preferences)} preferences in the judge's reply instead of one: {reply[-80:]!r}")
    return Preference(value=_first_wins(preferences[0], reply))


@lru_cache(maxsize=64)
def _steps(name: str) -> Steps:
    try:
        steps = tuple((str(step), dict(arguments)) for step, arguments in json.loads(name.removeprefix(PREFIX)))
    except (ValueError, TypeError):
        steps = ()
    if not steps or any(step not in STEPS and step != "logprob_parser" for step, _ in steps):
        raise ConfigError(f"{name!r} is not a chain of AlpacaEval parsers; known parsers: {', '.join(known_parsers())}")
    return steps


def known_parsers() -> list[str]:
    """Return the names of the supported parsers, sorted."""
    return sorted([*STEPS, "logprob_parser"])


def _run(steps: Steps, value: JsonValue) -> list[JsonValue]:
    """Return the results of the whole chain: each result of the first step goes through the remaining steps."""
    (name, arguments), rest = steps[0], steps[1:]
    if value == "":
        raise _UnreadableError("the reply is empty")
    results = STEPS[name](value, arguments)
    return [last for result in results for last in _run(rest, result)] if rest else results


def _first_wins(annotation: JsonValue, reply: str) -> float:
    if isinstance(annotation, bool) or not isinstance(annotation, int | float):
        raise VerdictParseError(f"the preference {str(annotation)[:40]!r} is not a number: {reply[-80:]!r}")
    if annotation == 0:
        return 0.5
    if not 1 <= annotation <= 2:
        raise VerdictParseError(f"the preference {annotation!r} is outside 1..2: {reply[-80:]!r}")
    return 2.0 - annotation


def _regex(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Return the keys of `outputs_to_match` ([key, pattern] pairs) in the order in which their patterns match."""
    text, pairs = _text(value), arguments["outputs_to_match"]
    assert isinstance(pairs, list)
    keys: list[JsonValue] = []
    while True:
        matches = [(match, key) for key, pattern in map(_pair, pairs) if (match := re.search(pattern, text))]
        if not matches:
            return keys
        match, key = min(matches, key=lambda hit: hit[0].start())
        if not match.end():
            raise _UnreadableError("a pattern matches the empty string")
        keys.append(key)
        if len(keys) > MOST:  # a hostile reply may have a million, each of which copies the rest of the text
            return keys
        text = text[match.end() :]  # lets "^" match after the previous match, as in the reference


def _pair(pair: JsonValue) -> tuple[JsonValue, str]:
    assert isinstance(pair, list)
    return pair[0], str(pair[1])


def _lmsys(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Compare the two scores on the first line, separated by a space or a comma."""
    words = _text(value).split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = (float(word) for word in words)
    except ValueError:
        raise _UnreadableError("the first line is not two scores") from None
    if math.isnan(first) or math.isnan(second):
        raise _UnreadableError("a score is not a number")
    return [1 if first > second else 2 if first < second else 0]


def _ranking(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Return the rank (1 or 2) of `model_1_name` in a list of {model, rank}."""
    ordered = _literal(value) if isinstance(value, str) else value
    name = arguments.get("model_1_name", "model_1")
    entries = ordered if isinstance(ordered, list | tuple) else []
    if not all(isinstance(entry, dict) and "model" in entry for entry in entries):
        raise _UnreadableError("an entry names no model")
    rank = next((entry.get("rank") for entry in _dicts(ordered) if entry["model"] == name), None)
    if isinstance(rank, bool) or rank not in (1, 2):
        raise _UnreadableError(f"no rank 1 or 2 for {name!r}")
    return [rank]


def _dicts(values: JsonValue) -> list[dict[str, JsonValue]]:
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list | tuple) else []


def _json(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Return `annotation_key` of a JSON object, or of each object in a list.

    If the reply has a ```json block, only that is read.
    """
    text = _text(value)
    if "```json" in text:
        block = re.search(r"```json(.*?)```", text, re.DOTALL)
        text = block[1] if block else ""
    try:
        parsed = json.loads(_short(text))
    except (ValueError, RecursionError):
        raise _UnreadableError("not JSON") from None
    key = arguments.get("annotation_key")
    several = [parsed] if isinstance(parsed, dict) else parsed
    if key is None:
        return list(several) if isinstance(several, list) else [several]
    values = [entry[str(key)] for entry in _dicts(several) if str(key) in entry]
    if not values:
        raise _UnreadableError(f"no {key!r} in the JSON")
    return values


def _eval(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Return a Python literal; a list counts as its members."""
    literal = _literal(_text(value))
    return literal if isinstance(literal, list) else [literal]


def _replace(value: JsonValue, arguments: Arguments) -> list[JsonValue]:
    """Map the whole value through `replacer` ([from, to] pairs); default to `default_replacer`, or keep the value."""
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
    """Return p(numerator) / sum of p(denominators) for the first token, as 1 or 0 if `is_binarize` is set."""
    token, tokens = str(arguments["numerator_token"]), arguments["denominator_tokens"]
    assert isinstance(tokens, list)
    names = [str(name) for name in tokens]
    top = verdict_tokens(logprobs, list(dict.fromkeys((token, *names))))
    share = share_of(token, top, names)
    if share is None:
        raise _UnreadableError(f"none of {', '.join(names)} among the first token's log-probabilities")
    if not arguments.get("is_binarize", True):
        return share
    rivals = [top[name] for name in names if name != token and name in top]
    return float(token in top and all(top[token] > rival for rival in rivals))


def _text(value: JsonValue) -> str:
    if not isinstance(value, str):
        raise _UnreadableError(f"expected text, not {type(value).__name__}")
    return value


def _short(text: str) -> str:
    if len(text) > LONGEST:
        raise _UnreadableError(f"longer than {LONGEST} characters")
    return text


def _literal(text: str) -> JsonValue:
    try:
        literal: JsonValue = ast.literal_eval(_short(text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        raise _UnreadableError("not a Python literal") from None
    return literal
