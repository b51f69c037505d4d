"""Results of a checkpoint in a model card of the Hub: the `model-index` of its YAML, and nothing else of it. Pure.

The format is https://github.com/huggingface/hub-docs/blob/main/modelcard.md.

>>> edited_card("---\\nlicense: mit\\n---\\n# m\\n", "m", []).splitlines()[:3]
['---', 'license: mit', 'model-index:']
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import yaml
from pydantic import JsonValue

from ..records import ScoreCard
from ..records.documents import parse_yaml
from ..records.errors import ConfigError

KEY = "model-index"
README = "the model card's metadata"
FRONT = re.compile(r"\A(?P<open>\s*---[ \t]*\r?\n)(?P<yaml>(?:.*\r?\n)*?)(?=---[ \t]*(?:\r?\n|\Z))")
LEVEL = 95
"""Confidence level of the intervals, in percent."""

Entry = dict[str, JsonValue]


def entries(cards: Iterable[ScoreCard]) -> list[Entry]:
    """Return one result per complete card that has a headline score, with its interval in the metric's `args`."""
    return [_entry(card) for card in cards if card.complete and card.scores[card.headline].value is not None]


def _entry(card: ScoreCard) -> Entry:
    score = card.scores[card.headline]
    certainty: Entry = {"n": score.n}
    if score.ci_low is not None and score.ci_high is not None:
        limits: Entry = {"ci_low": round(score.ci_low, 6), "ci_high": round(score.ci_high, 6), "confidence": LEVEL}
        certainty = limits | certainty
    return {
        "task": {"type": "text-generation", "name": "Text generation"},
        "dataset": {
            "name": f"{card.suite} {card.suite_version}, judge {card.judge}",
            "type": card.suite,
            "config": card.protocol_sha,
        },
        "metrics": [{"type": card.headline, "value": round(score.value or 0.0, 6), "args": certainty}],
    }


def index_yaml(models: Sequence[tuple[str, Sequence[Entry]]]) -> str:
    """Return the YAML of a `model-index` with one entry per model."""
    return _dump([{"name": name, "results": list(results)} for name, results in models])


def _dump(index: list[JsonValue]) -> str:
    return yaml.safe_dump({KEY: index}, sort_keys=False, allow_unicode=True, width=1000)


def edited_card(text: str, name: str, results: Sequence[Entry]) -> str:
    """Return the model card with these results; all its other text and metadata stay as they are.

    A result replaces one of the same suite, protocol and metric. `name` is used if the card has no `model-index` yet.
    Raise ConfigError if the card's metadata cannot be read or edited without changing the rest.
    """
    newline = "\r\n" if "\r\n" in text else "\n"
    front = FRONT.match(text)
    if front is None:
        if text.lstrip().startswith("---"):
            raise ConfigError(f"{README} begin with --- but have no end; correct the card first")
        head = f"---\n{index_yaml([(name, results)])}---\n".replace("\n", newline)
        return head + (newline + text if text else "")
    metadata = parse_yaml(front["yaml"], README) or {}
    if not isinstance(metadata, dict):
        raise ConfigError(f"{README} are not a mapping; correct the card first")
    index = _merged(metadata.get(KEY), name, results)
    before, after = _around(front["yaml"].splitlines(keepends=True))
    if KEY in metadata and before + after == front["yaml"]:
        raise ConfigError(f"{README}: {KEY} is not a plain key at the start of a line; correct the card first")
    edited = before + _dump(index).replace("\n", newline) + after
    if parse_yaml(edited, README) != metadata | {KEY: index}:
        raise ConfigError(f"{README} state {KEY} in a way that cannot be edited safely; add `--to hf` output by hand")
    return front["open"] + edited + text[front.end() :]


def _around(lines: Sequence[str]) -> tuple[str, str]:
    """Return the YAML before and after the block of `model-index`; without one, all of it is before."""
    start = next((number for number, line in enumerate(lines) if line.startswith(f"{KEY}:")), len(lines))
    end = next((number for number in range(start + 1, len(lines)) if _is_key(lines[number])), len(lines))
    # comments just above the next key are about that key
    while end > start + 1 and lines[end - 1].startswith("#"):
        end -= 1
    return "".join(lines[:start]), "".join(lines[end:])


def _is_key(line: str) -> bool:
    return re.match(r"[^\s#-]", line) is not None


def _merged(index: object, name: str, results: Sequence[Entry]) -> list[JsonValue]:
    if index is None or index == []:
        return [{"name": name, "results": list(results)}]
    if not (isinstance(index, list) and all(isinstance(model, dict) for model in index)):
        raise ConfigError(f"{README}: {KEY} is not a list of models; correct the card first")
    position = next((number for number, model in enumerate(index) if model.get("name") == name), 0)
    known = index[position].get("results") or []
    if not (isinstance(known, list) and all(isinstance(result, dict) for result in known)):
        raise ConfigError(f"{README}: {KEY} has results that are not a list; correct the card first")
    new = {_identity(result) for result in results}
    kept = [result for result in known if _identity(result) not in new]
    edited: list[JsonValue] = [*index]
    edited[position] = index[position] | {"results": [*kept, *results]}
    return edited


def _identity(result: Entry) -> str:
    """Return what two results of one measurement have in common."""
    dataset, metrics = result.get("dataset"), result.get("metrics")
    parts = [dataset.get(key) for key in ("type", "config")] if isinstance(dataset, dict) else [dataset]
    kinds = [row.get("type") if isinstance(row, dict) else row for row in metrics] if isinstance(metrics, list) else []
    return repr((parts, kinds))
