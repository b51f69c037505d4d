"""Read a suite from a user's YAML file, or from a JSONL file of prompts alone.

>>> OwnJudging(kind="rubric", items=({"name": "polite"},)).items[0].is_yes_or_no
True

>>> items = Item(name="polite"), Item(name="correct", low=0, high=4, weight=3)
>>> read(rubric(items), "[[1: yes]] Fine. [[2: 3]]").value  # (1 + 3 * 3/4) of 4 points
81.25
>>> read(labels({"better": (1.0, 1), "worse": (0.0, 1)}), "The first is [[better]]").value
1.0

The file is data: nothing in it is executed, a check in Python is named and must be installed, files are named relative
to it and lie in its folder, and it cannot name a server that prompts or keys are sent to.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from ...records import Preference, Prompt, Rating, Record, Sampling, Verdict, digest
from ...records.asking import is_empty
from ...records.documents import SUITE_COPY, parse_json, read_yaml
from ...records.errors import ConfigError, VerdictParseError
from ...records.protocols import SuiteOptions
from ...records.settings import checked

# ------------------------------------------------------------------------------------------------------ reading a reply
# A suite's file states the grammar of its judge's replies: labels, a rating of any scale, or a rubric. A template names
# its grammar as `labels:{...}`, `scale:[...]` or `items:[...]`, so that the template's digest covers it. A verdict
# stands in double brackets. Nothing here repairs a reply: a verdict that is missing, doubtful or outside its scale is
# an error. Replies are as hostile as answers, so every pattern takes linear time.


PREFIXES = ("labels:", "scale:", "items:")
MARK = re.compile(r"\[\[([^\[\]\n]{1,80})\]\]")
"""Anything short in double brackets."""
NUMBER = re.compile(r"-?\d{1,6}(?:\.\d{1,6})?", re.ASCII)
ITEM = re.compile(r"\s*(\d{1,4})\s*:\s*([^:]+?)\s*", re.ASCII)
WORDS = {"yes": 1.0, "no": 0.0}
STRONG = 3
"""Battles that a label of this weight counts as; the other weight is 1 (`scoring.STRONG_WEIGHT`)."""
Labels = Mapping[str, tuple[float, int]]
"""Label -> points of the answer shown first (0..1), and weight (1 or 3)."""


class Item(Record):
    """One criterion of a rubric."""

    name: str = Field(pattern=r"^[\w.-]{1,60}$")
    text: str = ""
    """What the judge is asked; empty: the name."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    """Share in the score; negative: points are taken off, as for a harmful answer."""
    low: float = Field(default=0.0, allow_inf_nan=False)
    high: float = Field(default=1.0, allow_inf_nan=False)
    """Lowest and highest score; 0 and 1: the judge answers yes or no."""

    @field_validator("weight")
    @classmethod
    def _counts(cls, weight: float) -> float:
        if weight == 0:
            raise ValueError("a weight of 0 counts for nothing; leave the item out")
        return weight

    @model_validator(mode="after")
    def _has_a_scale(self) -> Item:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        return self

    @property
    def is_yes_or_no(self) -> bool:
        return (self.low, self.high) == (0.0, 1.0)

    def share(self, score: float) -> float:
        """Return where a score lies on the item's scale, 0..1."""
        return (score - self.low) / (self.high - self.low)


def labels(by_label: Labels) -> str:
    """Return the grammar of a reply with one of these labels."""
    return PREFIXES[0] + json.dumps(by_label, sort_keys=True)


def scale(low: float, high: float) -> str:
    """Return the grammar of a reply with one rating."""
    return PREFIXES[1] + json.dumps([low, high])


def rubric(items: Sequence[Item]) -> str:
    """Return the grammar of a reply with a score for each item."""
    # the texts are in the request to the judge; how its reply is read does not depend on them
    return PREFIXES[2] + json.dumps([item.model_dump(exclude={"text"}) for item in items], sort_keys=True)


def read(grammar: str, reply: str) -> Verdict:
    """Return the verdict in a reply; a preference is for the answer shown first.

    Raise VerdictParseError if there is none, or if the reply has different ones.
    """
    parsed = _parsed(grammar)
    if parsed.items:
        return weighted(parsed.items, _scores(parsed.items, marks(grammar, reply)))
    found_marks = marks(grammar, reply)
    if not found_marks:
        raise VerdictParseError(f"no verdict in double brackets in the judge's reply: {_tail(reply)}", reaskable=True)
    # not asked again: a second reply would only pick one of the two
    if len(found_marks) > 1:
        raise VerdictParseError(f"different verdicts in one reply: {_listed(found_marks)}", reason="conflict")
    mark = found_marks.pop()
    if parsed.labels:
        points, weight = parsed.labels[mark]
        return Preference(value=points, strength=2 if weight == STRONG else 1)
    low, high = parsed.scale
    if not low <= float(mark) <= high:
        raise VerdictParseError(f"rating {mark} is outside {low:g}..{high:g}")
    return Rating(value=float(mark), low=low, high=high)


def marks(grammar: str, text: str) -> set[str]:
    """Return the different verdicts of this grammar that a text contains, e.g. to tell a quotation."""
    parsed = _parsed(grammar)
    bracketed = [mark.strip() for mark in MARK.findall(text)]
    if parsed.labels:
        # judges write a label in either case; `_check_labels` rejects two that differ only so
        by_upper = {label.upper(): label for label in parsed.labels}
        return {by_upper[mark.upper()] for mark in bracketed if mark.upper() in by_upper}
    if not parsed.items:
        return {f"{float(mark):g}" for mark in bracketed if NUMBER.fullmatch(mark)}
    pairs = [match for mark in bracketed if (match := ITEM.fullmatch(mark)) and int(match[1]) <= len(parsed.items)]
    return {f"{int(match[1])}: {match[2].lower()}" for match in pairs}


def weighted(items: Sequence[Item], scores: Mapping[str, float]) -> Rating:
    """Return the rubric's score, in percent of the points of all items of positive weight, with each item's score.

    It is below 0 if more points are taken off than given.
    """
    positive, low = sum(item.weight for item in items if item.weight > 0), lowest_share(items)
    value = 100 * sum(item.weight * item.share(scores[item.name]) for item in items) / positive
    return Rating(value=min(100.0, max(low, value)), low=low, high=100.0, items=dict(scores))


def lowest_share(items: Sequence[Item]) -> float:
    """Return the lowest score of a rubric, in percent: below 0 if points are taken off, 0 without items."""
    attainable = sum(item.weight for item in items if item.weight > 0)
    return 100 * sum(item.weight for item in items if item.weight < 0) / attainable if attainable else 0.0


def _scores(items: Sequence[Item], item_marks: set[str]) -> dict[str, float]:
    """Return item name -> score. Raise VerdictParseError for a missing, doubled or unreadable one."""
    scores: dict[str, float] = {}
    for mark in sorted(item_marks):
        number, _, word = mark.partition(": ")
        if int(number) < 1:
            continue
        item = items[int(number) - 1]
        if item.name in scores:
            raise VerdictParseError(f"different scores of item {number} ({item.name}) in one reply", reason="conflict")
        scores[item.name] = _score(item, word)
    missing = [f"{number} ({item.name})" for number, item in enumerate(items, start=1) if item.name not in scores]
    if missing:
        raise VerdictParseError(f"no score of item {', '.join(missing[:5])} in the judge's reply", reaskable=True)
    return {item.name: scores[item.name] for item in items}


def _score(item: Item, word: str) -> float:
    if item.is_yes_or_no and word in WORDS:
        return WORDS[word]
    if not NUMBER.fullmatch(word):
        raise VerdictParseError(f"the score of item {item.name} is not a number: {word[:20]!r}", reaskable=True)
    if not item.low <= float(word) <= item.high:
        raise VerdictParseError(f"the score of item {item.name}, {word}, is outside {item.low:g}..{item.high:g}")
    return float(word)


@dataclass(frozen=True)
class ParsedGrammar:
    """A grammar read from its text: labels, items, or else a scale."""

    labels: Labels
    items: tuple[Item, ...]
    scale: tuple[float, float]


@lru_cache(maxsize=256)
def _parsed(grammar: str) -> ParsedGrammar:
    prefix = next(prefix for prefix in PREFIXES if grammar.startswith(prefix))
    content = json.loads(grammar.removeprefix(prefix))
    return ParsedGrammar(
        labels={label: (points, weight) for label, (points, weight) in content.items()} if prefix == "labels:" else {},
        items=tuple(Item(**item) for item in content) if prefix == "items:" else (),
        scale=(float(content[0]), float(content[1])) if prefix == "scale:" else (0.0, 0.0),
    )


def _listed(found_marks: set[str]) -> str:
    return ", ".join(f"[[{mark[:20]}]]" for mark in sorted(found_marks)[:5])


def _tail(reply: str) -> str:
    return repr(reply[-80:]) if reply.strip() else "it is empty"


# ------------------------------------------------------------------------------------------------------- a suite's file


Kind = Literal["pairwise", "rating", "rubric", "checks"]
NAME = re.compile(r"[\w.-]{1,60}", re.ASCII)
SUFFIXES = (".yaml", ".yml", ".jsonl")
MAX_BYTES = 64_000_000
"""Largest file of prompts, in bytes."""
MAX_PROMPTS = 100_000
SLOTS: Mapping[Kind, tuple[str, ...]] = {
    "pairwise": ("prompt", "answer_a", "answer_b", "reference", "system", "category", "instructions"),
    "rating": ("prompt", "answer", "reference", "system", "category", "instructions"),
    "rubric": ("prompt", "answer", "reference", "system", "category", "instructions", "rubric"),
    "checks": (),
}
"""What a template of the user's may name in braces."""
NEEDED: Mapping[Kind, tuple[str, ...]] = {
    "pairwise": ("answer_a", "answer_b"),
    "rating": ("answer",),
    "rubric": ("answer", "rubric"),
    "checks": (),
}
SLOT = re.compile(r"\{([A-Za-z_]\w*)\}", re.ASCII)
UNPINNED = "give it a --baseline on the command line instead"


class OwnTemplate(Record):
    """A judge's prompt in the user's words; `{NAME}` is a slot, any other brace is text."""

    system: str | None = None
    user: str


class LabelPoints(Record):
    """What a verdict's label is worth."""

    points: float = Field(ge=0, le=1)
    """For the answer shown first (answer_a): 1 it wins, 0.5 a draw, 0 it loses."""
    weight: Literal[1, 3] = 1
    """Games that it counts as."""


class OwnJudging(Record):
    """`judge:` of a suite's file."""

    kind: Kind
    instructions: str = ""
    """What makes an answer good; it becomes part of the judge's prompt."""
    template: OwnTemplate | None = None
    """None: our own."""
    labels: dict[str, LabelPoints] = {}
    """pairwise: label -> points; empty: A>>B, A>B, A=B, B>A, B>>A."""
    low: float = 1
    high: float = 10
    """rating: lowest and highest."""
    items: tuple[Item, ...] = ()
    """rubric: the criteria of every prompt; prompts may have more of their own."""
    checks: tuple[str, ...] = ()
    """checks: names of installed checks (`harness ls checks`)."""
    length_control: bool = False
    """pairwise: rank by the win rate that answers of equal length would have."""
    style_control: bool = Field(default=False, exclude_if=is_empty)
    """pairwise: the same for length, headers, lists and bold together."""
    temperature: float = Field(default=0.0, ge=0, le=2)
    max_tokens: int = Field(default=2048, gt=0)
    """Of the judge's reply."""

    @field_validator("labels", mode="before")
    @classmethod
    def _numbers(cls, value: object) -> object:
        """Return points for labels that are given as a number alone."""
        if not isinstance(value, Mapping):
            return value
        return {
            str(label): {"points": points} if isinstance(points, int | float) else points
            for label, points in value.items()
        }

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        own_keys = {"labels": "pairwise", "length_control": "pairwise", "style_control": "pairwise"}
        own_keys |= {"items": "rubric", "checks": "checks"}
        if self.length_control and self.style_control:
            raise ValueError("style_control contains length: give it or length_control, not both")
        for key, kind in {**own_keys, "low": "rating", "high": "rating"}.items():
            is_set = key in self.model_fields_set and getattr(self, key) != type(self).model_fields[key].default
            if is_set and self.kind != kind:
                raise ValueError(f"{key} is for kind {kind}, not {self.kind}")
        if self.kind == "checks" and not self.checks:
            raise ValueError("kind checks needs checks: [NAME, ...] (harness ls checks)")
        if self.kind == "checks" and len(set(self.checks)) < len(self.checks):
            raise ValueError(f"a check is named twice: {', '.join(self.checks)}")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        _check_labels(self.labels)
        if self.template is not None:
            _check_template(self.kind, self.template)
        return self


def _check_items(path: Path, prompt_id: str, items: Sequence[Item]) -> None:
    names = [item.name for item in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"{path}: prompt {prompt_id!r} has two items called {twice!r}")
    if not any(item.weight > 0 for item in items):
        raise ConfigError(
            f"{path}: prompt {prompt_id!r} has no item of positive weight; kind rubric needs items: [{{name: NAME, "
            "text: TEXT}, ...], under judge: or with each prompt"
        )


def _check_labels(labels: Mapping[str, LabelPoints]) -> None:
    if not labels:
        return
    if len({label.upper() for label in labels}) < len(labels):
        raise ValueError("two labels differ only in upper and lower case")
    strange = next((label for label in labels if not re.fullmatch(r"[^\[\]\n]{1,80}", label.strip())), None)
    if strange is not None:
        raise ValueError(f"label {strange!r} is empty, too long, or contains a bracket")
    # otherwise no answer could win or lose, and 50 % would not mean equal
    if {0.0, 1.0} - {value.points for value in labels.values()}:
        raise ValueError("labels need one of points 1 (the first answer wins) and one of points 0 (it loses)")


def _check_template(kind: Kind, template: OwnTemplate) -> None:
    if kind == "checks":
        raise ValueError("template is for a judge that is a model; checks have none")
    slots = set(SLOT.findall(template.user))
    unknown = sorted(slots - set(SLOTS[kind]))
    if unknown:
        raise ValueError(f"the template has no slot {{{unknown[0]}}}; slots of {kind}: {', '.join(SLOTS[kind])}")
    missing = [slot for slot in NEEDED[kind] if slot not in slots]
    if missing:
        raise ValueError(f"the template does not show {{{missing[0]}}}")


class BaselineChoice(Record):
    """`baseline:` of a suite's file: one of three."""

    run: str | None = None
    """A finished run: its folder's name under --results, or its model's name."""
    file: str | None = None
    """A file of answers beside the suite's file."""
    model: str | None = None
    """hf:ORG/NAME@REVISION, asked once; its answers are stored."""

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len([value for value in (self.run, self.file, self.model) if value]) != 1:
            raise ValueError("give one of run, file and model")
        if self.model is not None and not self.model.startswith("hf:"):
            raise ValueError(f"model {self.model!r} is not hf:ORG/NAME@REVISION; {UNPINNED}")
        if self.run is not None and (self.run.startswith("/") or ".." in Path(self.run).parts):
            raise ValueError(f"run {self.run!r} is not the name of a model or run; {UNPINNED}")
        return self

    @property
    def text(self) -> str:
        """Return the baseline as `--baseline` has it; a file is already a path."""
        return f"run:{self.run}" if self.run is not None else self.file or self.model or ""


class AnswerSettings(Record):
    """`sampling:` of a suite's file: how candidates answer."""

    temperature: float | None = Field(default=0.0, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int = Field(default=2048, gt=0)
    n: int = Field(default=1, ge=1)
    stop: tuple[str, ...] = ()


Texts = Annotated[tuple[str, ...], Field(min_length=1)]


class WrittenPrompt(Record):
    """One prompt as users write it: a line of JSONL, or an entry of `prompts:`."""

    id: str | int | None = None
    """None: its position, from 1."""
    prompt: str | None = None
    turns: Texts | None = None
    """Several turns of the user; the model answers each."""
    category: str = "all"
    reference: str | Texts | None = None
    """A good answer, which the judge sees; several: one per turn."""
    system: str | None = None
    cluster: str | None = None
    """Prompts that resemble each other: intervals count each cluster once."""
    items: tuple[Item, ...] = ()
    """rubric: criteria of this prompt alone, after those of all prompts."""

    @model_validator(mode="after")
    def _has_a_question(self) -> Self:
        if (self.prompt is None) == (self.turns is None):
            raise ValueError("give prompt (one turn) or turns (several), and only one of them")
        if not all(turn.strip() for turn in self.turns or (self.prompt or "",)):
            raise ValueError("a turn is empty")
        return self

    def as_prompt(self, position: int, system: str | None) -> Prompt:
        reference = (self.reference,) if isinstance(self.reference, str) else self.reference or ()
        return Prompt(
            id=str(position if self.id is None else self.id),
            turns=self.turns or (self.prompt or "",),
            category=self.category,
            reference=reference,
            system=self.system if self.system is not None else system,
            cluster=self.cluster,
        )


class SuiteFile(Record):
    """The keys of a suite's YAML file."""

    prompts: str | list[dict[str, JsonValue]]
    """A JSONL file beside this one, or the prompts themselves."""
    system: str | None = None
    """System prompt of prompts without one."""
    judge: dict[str, JsonValue]
    baseline: BaselineChoice | None = None
    sampling: AnswerSettings = AnswerSettings()
    margin: float | None = Field(default=None, gt=0)
    """The largest drop that `harness gate` tolerates by default, in the headline's unit."""


class Definition(Record):
    """A suite, resolved: what its file and the files that it names contain. Its run's folder has a copy."""

    schema_version: Literal[1] = 1
    name: str = Field(pattern=NAME.pattern)
    prompts: tuple[Prompt, ...] = Field(min_length=1)
    judge: OwnJudging | None
    """None: a file of prompts alone, judged against a baseline if there is one, else rated."""
    sampling: Sampling
    margin: float | None = Field(default=None, gt=0, exclude_if=is_empty)
    items: dict[str, tuple[Item, ...]] = Field(default={}, exclude_if=is_empty)
    """Prompt id -> criteria of this prompt alone."""

    @property
    def data_sha(self) -> str:
        """Return the digest of what is asked: cards of other prompts are never compared."""
        return digest([prompt.model_dump(mode="json") for prompt in self.prompts])


def read_definition(argument: str) -> tuple[Definition, BaselineChoice | None]:
    """Return the suite in a file, and the baseline that it names. Raise ConfigError if something in it is wrong."""
    path = _file(argument)
    if path.name == SUITE_COPY:
        return checked(Definition, parse_json(path.read_text("utf-8"), str(path)), str(path)), None
    name = path.name.removesuffix(path.suffix)
    if not NAME.fullmatch(name):
        raise ConfigError(f"{path}: rename it: a suite is called like its file, with letters, digits, `.`, `-`, `_`")
    if path.suffix == ".jsonl":
        rows = read_prompt_rows(path)
        prompts = _prompts(rows, None, path)
        if any(row.items for row in rows):
            raise ConfigError(f"{path}: items need a YAML file with judge: {{kind: rubric}} that names these prompts")
        return Definition(
            name=name, prompts=prompts, judge=None, sampling=Sampling(**AnswerSettings().model_dump())
        ), None
    file = checked(SuiteFile, read_yaml(path), str(path))
    if isinstance(file.prompts, str):
        rows = read_prompt_rows(file_beside(path, file.prompts))
    else:
        entries = enumerate(file.prompts, start=1)
        rows = tuple(checked(WrittenPrompt, entry, f"{path}: prompts, entry {number}") for number, entry in entries)
    baseline = file.baseline
    if baseline is not None and baseline.file is not None:
        baseline = BaselineChoice(file=str(file_beside(path, baseline.file)))
    judge = checked(OwnJudging, _with_template(path, file.judge), f"{path}: judge")
    if baseline is not None and judge.kind != "pairwise":
        raise ConfigError(f"{path}: baseline is for kind pairwise, and this suite's judge is of kind {judge.kind}")
    prompts = _prompts(rows, file.system, path)
    items = {prompt.id: row.items for prompt, row in zip(prompts, rows, strict=True) if row.items}
    if items and judge.kind != "rubric":
        raise ConfigError(f"{path}: prompt {next(iter(items))!r} has items, but the judge is of kind {judge.kind}")
    for prompt in prompts if judge.kind == "rubric" else ():
        _check_items(path, prompt.id, (*judge.items, *items.get(prompt.id, ())))
    if judge.length_control and any(len(prompt.turns) > 1 for prompt in prompts):
        raise ConfigError(f"{path}: judge.length_control needs prompts of one turn each")
    return (
        Definition(
            name=name,
            prompts=prompts,
            judge=judge,
            sampling=Sampling(**file.sampling.model_dump()),
            margin=file.margin,
            items=items,
        ),
        baseline,
    )


def judge_of(argument: str) -> str | None:
    """Return the only judge that can judge the suite in a file, or None if any model can."""
    judge = read_definition(argument)[0].judge
    return "checks" if judge is not None and judge.kind == "checks" else None


def load(options: SuiteOptions) -> tuple[Definition, BaselineChoice | None]:
    """Return the suite of the command line, or the one whose copy is in a run's folder."""
    if options.definition is None:
        return read_definition(options.argument)
    if not isinstance(options.definition, dict):
        raise ConfigError("suite.json in the run's folder is not an object")
    return checked(Definition, options.definition, "suite.json in the run's folder"), None


def _file(argument: str) -> Path:
    path = Path(argument).expanduser()
    if not argument or (path.suffix not in SUFFIXES and path.name != SUITE_COPY):
        raise ConfigError(f"suite custom needs a file, custom:FILE.yaml or custom:PROMPTS.jsonl, not {argument!r}")
    if not path.is_file():
        raise ConfigError(f"no suite file {argument!r}")
    return path


def file_beside(file: Path, name: str) -> Path:
    """Return a file in the folder of the suite's file, or below it. Raise ConfigError for any other."""
    folder = file.parent.resolve()
    path = (folder / name).resolve()
    if Path(name).is_absolute() or not path.is_relative_to(folder):
        raise ConfigError(f"{file} names {name!r}, which is not in its folder; move it there")
    if not path.is_file():
        raise ConfigError(f"{file} names {name!r}, but there is no such file beside it")
    return path


def read_prompt_rows(path: Path) -> tuple[WrittenPrompt, ...]:
    """Return the prompts of a JSONL file. Raise ConfigError with the line's number if one is wrong."""
    if path.suffix != ".jsonl":
        raise ConfigError(f"{path}: prompts are in a .jsonl file, one JSON object per line")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes; at most {MAX_BYTES:,} are read")
        lines = path.read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8'}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = parse_json(line, f"{path}, line {number}")
            if not isinstance(row, dict):
                raise ConfigError(f"{path}, line {number} is not a JSON object")
            rows.append(checked(WrittenPrompt, row, f"{path}, line {number}"))
    return tuple(rows)


def _prompts(rows: Sequence[WrittenPrompt], system: str | None, path: Path) -> tuple[Prompt, ...]:
    if not 0 < len(rows) <= MAX_PROMPTS:
        raise ConfigError(f"{path} has {len(rows):,} prompts; a suite has 1 to {MAX_PROMPTS:,}")
    prompts = tuple(row.as_prompt(position, system) for position, row in enumerate(rows, start=1))
    seen: set[str] = set()
    for prompt in prompts:
        if not prompt.id.strip() or len(prompt.id) > 200 or not prompt.id.isprintable():
            raise ConfigError(f"{path}: id {prompt.id[:40]!r} is empty, too long or not printable")
        if prompt.id in seen:
            raise ConfigError(f"{path}: two prompts have the id {prompt.id!r}")
        if len(prompt.reference) > len(prompt.turns):
            raise ConfigError(f"{path}: prompt {prompt.id!r} has more references than turns")
        seen.add(prompt.id)
    return prompts


def _with_template(path: Path, judge: Mapping[str, Any]) -> dict[str, Any]:
    """Return the judging with the template of a file that it names read in."""
    settings = dict(judge)
    template = settings.get("template")
    if isinstance(template, str):
        settings["template"] = dict(read_yaml(file_beside(path, template)))
    return settings
