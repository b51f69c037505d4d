"""Turn the rows of a data set into a recipe's prompts: load the rows, find the prompt in each, drop and split.

>>> prompt_in({"prompt": "Hi"}, "prompt").turns
('Hi',)
>>> normalised("What is  3 + 4?") == normalised("what is 3 + 4?"), words_of("3 + 4?") == words_of("3 - 4")
(True, True)

Rows come from a JSONL or Parquet file, the Hub or a function. Prompts that repeat another one or contain a benchmark's
question are dropped; a question is found by 13-grams of words, or as a whole if it is shorter. Prompts are drawn by a
digest of (seed, id), so the order of the rows does not change which prompt goes where.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from harness.records import Prompt, digest
from harness.records.errors import ConfigError, DataError, one_line
from harness.records.protocols import Suite, SuiteOptions, load_plugin
from harness.store.provenance import install_command
from harness.suites.files import read_json_lines

from .layout import Dropped, Part, PromptRow, messages
from .spec import PromptsSpec

Row = Mapping[str, Any]
HUB = re.compile(r"hf:(?P<name>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
FUNCTION = re.compile(r"(?P<module>[A-Za-z_]\w*(?:\.\w+)*):(?P<name>[A-Za-z_]\w*)")
FILES = (".json", ".jsonl", ".parquet")
FORMS = "FILE.jsonl, FILE.json, FILE.parquet, hf:ORG/NAME[@REVISION], or module:NAME of a function that returns rows"


NGRAM = 13
"""Words per n-gram. Brown et al. 2020 (GPT-3), appendix C, use at most 13, as do Llama 2 (A.6) and lm-eval."""
CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han are written without spaces, so each character counts as a word."""
WORD = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+")
ID = re.compile(r"[A-Za-z0-9_][\w.:-]{0,127}", re.ASCII)
"""Ids become part of keys (`id#index`) and pages."""


class PromptError(ValueError):
    """A row has no prompt that can be asked by itself; counts use `reason` as their key."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(detail or reason)
        self.reason = reason
        self.detail = detail


def load_rows(dataset: str, split: str) -> list[Row]:
    """Return all rows of a data set.

    Raise ConfigError if the name has an unknown form or the file does not exist, DataError if the file is broken or
    the Hub cannot be reached.
    """
    if match := HUB.fullmatch(dataset):
        return _from_hub(match["name"], match["revision"], split)
    path = Path(dataset).expanduser()
    if path.suffix in FILES:
        if not path.is_file():
            raise ConfigError(f"no such data file: {dataset!r}; use {FORMS}")
        if path.suffix == ".json":
            return _from_json(path)
        return list(read_json_lines(path)) if path.suffix == ".jsonl" else _from_parquet(path)
    if match := FUNCTION.fullmatch(dataset):
        return _from_function(match["module"], match["name"])
    raise ConfigError(f"{dataset!r} is not a data set; use {FORMS}")


def check_name(dataset: str, key: str) -> None:
    """Raise ConfigError, which names the key, unless the text has one of the forms of a data set's name."""
    if not (HUB.fullmatch(dataset) or FUNCTION.fullmatch(dataset) or Path(dataset).suffix in FILES):
        raise ConfigError(f"{key} {dataset!r} is not a data set; use {FORMS}")


def portable_name(dataset: str) -> str:
    """Return the data set's name for a step's settings, without the folder of a file."""
    return Path(dataset).name if Path(dataset).suffix in FILES else dataset


def is_missing_file(dataset: str) -> bool:
    """Return whether the name is that of a file, but there is none."""
    return Path(dataset).suffix in FILES and not HUB.fullmatch(dataset) and not Path(dataset).expanduser().is_file()


class PromptTurns(NamedTuple):
    """What a row asks: the user's last turn, after earlier turns with their answers."""

    system: str | None
    turns: tuple[str, ...]
    answered: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """16 hex characters over everything in it."""
        return digest(list(self) if self.answered else [self.system, self.turns[0]])[:16]


def prompt_in(row: Row, column: str) -> PromptTurns:
    """Return the prompt in a row's column: a text, a message or a conversation, whose last answer is left out.

    Raise PromptError if there is no prompt, or if a turn of the user has no answer before the next one.
    """
    value = row.get(column)
    if isinstance(value, str):
        return PromptTurns(None, (_words(value),))
    listed = [value] if isinstance(value, Mapping) else value
    if not isinstance(listed, Iterable):
        raise PromptError("no_prompt", f"{column} is {type(value).__name__}")
    talk = [_message(message, column) for message in listed]
    system = talk.pop(0)[1] if talk and talk[0][0] == "system" else None
    if system and system.strip():
        _words(system)
    if not talk or talk[0][0] != "user":
        raise PromptError("no_prompt", f"{column} does not start with a user message")
    while talk[-1][0] == "assistant":
        talk.pop()
    if [role for role, _ in talk] != ["user", *["assistant", "user"] * (len(talk) // 2)]:
        raise PromptError("several_turns", f"{len(talk)} messages that are not question, answer, question, ...")
    texts = [_words(text) for _, text in talk]
    return PromptTurns(system, tuple(texts[::2]), tuple(texts[1::2]))


def _message(message: object, column: str) -> tuple[str, str]:
    role, content = (message.get("role"), message.get("content")) if isinstance(message, Mapping) else (None, None)
    if not isinstance(role, str) or not isinstance(content, str):
        raise PromptError("no_prompt", f"{column} has an item that is not a message with role and content")
    return role, content


def _words(text: str) -> str:
    if not text.strip():
        raise PromptError("empty")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise PromptError("surrogates", "half characters, which no file can store")
    return text


def _from_json(path: Path) -> list[Row]:
    """Return the rows of a JSON list."""
    try:
        rows = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {one_line(error)}") from None
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise DataError(f"{path} is not a JSON list of rows")
    return rows


def _from_parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise ConfigError(f"{str(path)!r} needs pyarrow: {install_command('train')}") from None
    try:
        rows: list[Row] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not Parquet: {one_line(error)}") from None
    return rows


def _from_hub(name: str, revision: str | None, split: str) -> list[Row]:
    try:
        from datasets import load_dataset
        from huggingface_hub.errors import HfHubHTTPError
    except ImportError:
        raise ConfigError(f"'hf:{name}' needs datasets: {install_command('train')}") from None
    try:
        return list(load_dataset(name, split=split, revision=revision))
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:  # load_dataset wraps most errors in these
        reason = one_line(error)
        raise DataError(
            f"cannot load {split!r} of hf:{name}{f'@{revision}' if revision else ''}: {reason}; without a network, "
            "download it elsewhere and use its JSONL or Parquet file"
        ) from None


def _from_function(module: str, name: str) -> list[Row]:
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{module}:{name} cannot be imported: {error}; use {FORMS}") from None
    try:
        rows = list(function())
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(f"{module}:{name} cannot be used as a data set: {one_line(error)}") from error
    for row in rows:
        if not isinstance(row, Mapping):
            raise ConfigError(f"{module}:{name} returned a {type(row).__name__}; every row must be a mapping")
    return rows


def words_of(text: str) -> tuple[str, ...]:
    """Return lower-case words without punctuation, as in GPT-3's appendix C."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


@dataclass
class Questions:
    """An index of the questions of suites."""

    _ngrams: dict[tuple[str, ...], str] = field(default_factory=dict)
    _short: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        words = words_of(text)
        for start in range(len(words) - NGRAM + 1):
            self._ngrams.setdefault(words[start : start + NGRAM], name)
        if 0 < len(words) < NGRAM:
            self._short.setdefault(words, name)

    def lookup(self, text: str) -> str | None:
        """Return the name of a question that shares an n-gram with the text or equals it, or None."""
        words = words_of(text)
        # a short question is part of many harmless texts, so only the whole text counts
        if words in self._short:
            return self._short[words]
        ngrams = (words[start : start + NGRAM] for start in range(len(words) - NGRAM + 1))
        return next((self._ngrams[ngram] for ngram in ngrams if ngram in self._ngrams), None)


def suite_questions(suites: Sequence[str], edition: str) -> tuple[Questions, dict[str, str]]:
    """Return all turns of all prompts of these suites, and the version of each suite.

    Raise ConfigError if a suite does not expose its prompts, DataError if its data are missing.
    """
    questions = Questions()
    versions: dict[str, str] = {}
    for name in suites:
        plugin = load_plugin("suites", name)
        if not getattr(plugin, "judged", True):
            raise ConfigError(f"decontaminate: suite {name!r} does not expose its questions; leave it out")
        suite: Suite = plugin(SuiteOptions(edition=edition))
        versions[name] = suite.version
        for prompt in suite.prompts():
            for turn in prompt.turns:
                questions.add(f"{name}:{prompt.id}", turn)
    return questions, versions


@dataclass
class Kept:
    """The prompts kept so far, and those dropped."""

    prompts: list[tuple[Prompt, dict[str, str]]] = field(default_factory=list)
    """Each with the additional columns of its row."""
    dropped: list[Dropped] = field(default_factory=list)

    def drop(self, prompt: Prompt, reason: str, detail: str = "") -> None:
        self.dropped.append(Dropped(id=prompt.id, reason=reason, detail=detail))

    def sift(self, why: Callable[[Prompt], tuple[str, str] | None]) -> None:
        """Drop the prompts for which `why` returns a (reason, detail)."""
        prompts, self.prompts = self.prompts, []
        for prompt, columns in prompts:
            reason = why(prompt)
            if reason is None:
                self.prompts.append((prompt, columns))
            else:
                self.drop(prompt, *reason)


def read_prompts(rows: Iterable[Row], spec: PromptsSpec) -> Kept:
    """Return the prompts of the rows, and drop those that cannot be asked by themselves.

    Raise ConfigError if a row lacks a column, an id is invalid, or two different prompts share an id.
    """
    kept = Kept()
    taken: dict[str, Prompt] = {}
    for number, row in enumerate(rows, start=1):
        for column in (spec.column, *([spec.id_column] if spec.id_column else []), *spec.columns):
            if column not in row:
                columns = ", ".join(sorted(row)) or "none"
                raise ConfigError(f"{spec.dataset}, row {number} has no column {column!r}; it has: {columns}")
        try:
            talk = prompt_in(row, spec.column)
        except PromptError as error:
            kept.dropped.append(Dropped(id=f"row-{number}", reason=error.reason, detail=error.detail))
            continue
        category = row.get("category")
        prompt = Prompt(
            id=_id(row, spec, number) or talk.digest,
            turns=talk.turns,
            category=category if isinstance(category, str) and category else "all",
            system=talk.system,
            answered=talk.answered,
        )
        first = taken.setdefault(prompt.id, prompt)
        if first is not prompt:
            if messages(first) != messages(prompt):
                raise ConfigError(f"{spec.dataset}, row {number}: the id {prompt.id!r} belongs to another prompt")
            kept.drop(prompt, "duplicate", prompt.id)
            continue
        kept.prompts.append((prompt, {column: _text(row[column]) for column in spec.columns}))
    return kept


def duplicates() -> Callable[[Prompt], tuple[str, str] | None]:
    """Return a filter for `Kept.sift` that drops repeated prompts, also if only case, white space or width differ."""
    exact: dict[tuple[str | None, ...], str] = {}
    plain: dict[tuple[str | None, ...], str] = {}

    def why(prompt: Prompt) -> tuple[str, str] | None:
        texts = [message["content"] for message in messages(prompt) if message["role"] != "system"]
        first = exact.setdefault((prompt.system, *texts), prompt.id)
        if first != prompt.id:
            return "duplicate", first
        first = plain.setdefault((prompt.system, *map(normalised, texts)), prompt.id)
        return None if first == prompt.id else ("near_duplicate", first)

    return why


def normalised(text: str) -> str:
    """Remove differences of case, white space and Unicode form, but keep punctuation: 3 + 4 is not 3 - 4."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def with_parts(kept: Kept, spec: PromptsSpec) -> list[PromptRow]:
    """Return the prompts in use with their parts, in the data set's order.

    Raise ConfigError if there are none, or if holding out validation and test prompts leaves none to train on.
    """
    ids = (prompt.id for prompt, _ in kept.prompts)
    drawn = sorted(ids, key=lambda prompt_id: hashlib.sha256(f"{spec.seed}|{prompt_id}".encode()).hexdigest())
    for prompt_id in drawn[spec.limit :] if spec.limit is not None else []:
        kept.dropped.append(Dropped(id=prompt_id, reason="limit"))
    drawn = drawn[: spec.limit]
    if not drawn:
        reasons = Counter(record.reason for record in kept.dropped).most_common(1)
        raise ConfigError(f"{spec.dataset} has no usable prompt: {reasons[0][0] if reasons else 'it has no rows'}")
    # Held-out parts come first: a larger `limit` adds prompts to train on, and leaves those held out as they were.
    parts = [part for part, size in part_sizes(len(drawn), spec).items() for _ in range(size)]
    part = dict(zip(drawn, parts, strict=True))
    return [
        PromptRow(prompt=prompt, part=part[prompt.id], columns=columns)
        for prompt, columns in kept.prompts
        if prompt.id in part
    ]


def part_sizes(count: int, spec: PromptsSpec) -> dict[Part, int]:
    """Return how many of `count` prompts go to each part, in the order in which they are drawn.

    Raise ConfigError if holding out validation and test prompts leaves none to train on.
    """
    training = count - spec.validation - spec.test
    if training <= 0:
        raise ConfigError(
            f"prompts: only {count} are left, and holding out {spec.validation + spec.test} (validation "
            f"{spec.validation}, test {spec.test}) would leave none to train on"
        )
    sft = round(training * spec.sft_share)
    return {"validation": spec.validation, "test": spec.test, "sft": sft, "preference": training - sft}


def _id(row: Row, spec: PromptsSpec, number: int) -> str | None:
    if spec.id_column is None:
        return None
    prompt_id = str(row[spec.id_column])
    if not ID.fullmatch(prompt_id):
        raise ConfigError(
            f"{spec.dataset}, row {number}: {spec.id_column} = {prompt_id[:80]!r} is not a valid id (at most 128 "
            "letters, digits and . _ : -); leave id_column out to derive ids from the texts"
        )
    return prompt_id


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")
