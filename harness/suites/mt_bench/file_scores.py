"""Score FastChat's judgment files: one card per model and judge, by our rules or as show_result.py does.

`JUDGE_single.jsonl` has ratings; a row of `JUDGE_pair.jsonl` has two games of two models, and each model gets a card.
Files are read once, row by row; only what scoring needs of a row stays in memory, never a prompt or a reply.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from sys import intern

from pydantic import JsonValue

from ...records import Failure, Judgment, Preference, Prompt, Rating, Score, ScoreCard, SuiteScores
from ...records.errors import ConfigError
from ...records.protocols import SuiteData
from ..exchange import FirstRows
from ..files import FAILED_CALL, FileResult, ScoreOptions, SourceFile, card_of, latest, stream_files
from ..scoring import RATINGS, Unit, categories, mean_score, score_notes
from .pairs import Games, score_pairs
from .rows import (
    FAILED,
    Answers,
    FailedAnswers,
    Reading,
    Row,
    failed_prompt,
    fitting_references,
    is_official,
    is_pair,
    is_single,
    judge_name,
    judged_other,
    question_of,
    questions,
    read_answers,
    read_game,
    read_rating,
    reference_set,
    stored_game,
    stored_score,
    turn_of,
)
from .suite import MtBench

RULES = "ours: rows deduplicated (last wins), words and stored score agree, 1..10; no backup pattern"
STRICT_RULES = "reference: every stored score but -1, duplicates included"
PAIR_RULES = "ours: rows deduplicated (last wins), words and stored winner agree; two games that differ are a tie"
STRICT_PAIR_RULES = "reference: stored winners, duplicates included; two games that differ are a tie"


@dataclass(frozen=True, slots=True)
class RatedTurn:
    """What scoring needs of one rating."""

    model: str
    judge: str
    question: str
    turn: int
    reading: Reading
    """By our rules, before failed answers are known."""
    stored: float | None
    failed: bool
    """A failed call was judged, according to the judge's prompt."""
    is_other: bool
    """The judge's prompt shows another answer than the answer files."""
    references: frozenset[str] | None
    """The reference sets that the prompt shows; None if it needs none."""
    file: str
    reply: str | None = None
    """The judge's words, if they were asked for."""


@dataclass(frozen=True, slots=True)
class PairedTurn:
    """What scoring needs of both games of one turn; readings are points of `model_1`."""

    model_1: str
    model_2: str
    judge: str
    question: str
    turn: int
    readings: tuple[Reading, Reading]
    stored: tuple[Reading, Reading]
    failed: bool
    references: frozenset[str] | None
    file: str
    replies: tuple[str | None, str | None] = (None, None)

    @property
    def models(self) -> tuple[str, str]:
        return self.model_1, self.model_2

    @property
    def slot(self) -> tuple[str, str, str, int, str]:
        return self.model_1, self.model_2, self.question, self.turn, self.judge


@dataclass
class Collected:
    """The judgments of all files, and which answers in them are failed calls."""

    ratings: list[RatedTurn] = field(default_factory=list)
    pairs: list[PairedTurn] = field(default_factory=list)
    failures: FailedAnswers = field(default_factory=FailedAnswers)
    names: dict[str, str] = field(default_factory=dict)
    """Location of a file -> its name, for the card."""

    def is_failed(self, row: RatedTurn | PairedTurn) -> bool:
        models = row.models if isinstance(row, PairedTurn) else (row.model,)
        return row.failed or any(self.failures.covers(model, row.question, row.turn) for model in models)

    def file_names(self, rows: Iterable[RatedTurn | PairedTurn]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.names[row.file] for row in rows))


def collect(
    files: Iterable[SourceFile], *, mirror: str | None, answers: Answers | None = None, replies: bool = False
) -> Collected:
    """Return the files' judgments. `answers`: judged answers from other files; `replies`: keep the judges' words."""
    answers = answers or {}
    collected, readings = Collected(), _Shared()
    collected.failures.add_texts(answers)
    for file in files:
        collected.names[file.location] = file.name
        for row in file.rows:
            if is_single(row) and "choices" not in row:
                references = fitting_references(row, mirror)
                collected.ratings.append(_rated(row, readings, answers, references, file.location, replies=replies))
            elif is_pair(row):
                references = fitting_references(row, mirror)
                collected.pairs.append(_paired(row, readings, answers, references, file.location, replies=replies))
            else:
                collected.failures.add_row(row, file.name)
    return collected


class _Shared(dict[Reading, Reading]):
    """One object per distinct reading: there are few, and files have many rows."""

    def __missing__(self, reading: Reading) -> Reading:
        self[reading] = reading
        return reading


def _rated(
    row: Row, readings: _Shared, answers: Answers, references: frozenset[str] | None, file: str, *, replies: bool
) -> RatedTurn:
    words = row.get("judgment")
    return RatedTurn(
        model=intern(str(row["model"])),
        judge=intern(judge_name(row)),
        question=intern(question_of(row)),
        turn=turn_of(row),
        reading=readings[read_rating(row)],
        stored=stored_score(row),
        failed=failed_prompt(row),
        is_other=judged_other(row, answers),
        references=references,
        file=file,
        reply=words if replies and isinstance(words, str) else None,
    )


def _paired(
    row: Row, readings: _Shared, answers: Answers, references: frozenset[str] | None, file: str, *, replies: bool
) -> PairedTurn:
    words = [row.get(f"g{number}_judgment") for number in (1, 2)]
    first, second = (text if replies and isinstance(text, str) else None for text in words)
    return PairedTurn(
        model_1=intern(str(row["model_1"])),
        model_2=intern(str(row["model_2"])),
        judge=intern(judge_name(row)),
        question=intern(question_of(row)),
        turn=turn_of(row),
        readings=(readings[read_game(row, 1)], readings[read_game(row, 2)]),
        stored=(readings[stored_game(row, 1)], readings[stored_game(row, 2)]),
        failed=failed_prompt(row),
        references=references,
        file=file,
        replies=(first, second),
    )


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model and judge, ratings and pairs separately. Raise ConfigError if no row is a judgment."""
    answers = read_answers(stream_files(options.answers))
    first_rows = FirstRows(files)
    collected = collect(first_rows, mirror=options.mirror, answers=answers)
    if not collected.ratings and not collected.pairs:
        raise ConfigError(f"no FastChat judgment in {first_rows.described('fastchat')}")
    ratings: dict[tuple[str, str], list[RatedTurn]] = defaultdict(list)
    pairs: dict[tuple[str, str], list[PairedTurn]] = defaultdict(list)
    strict = options.strict_reference  # show_result.py ignores the judge: all rows of a model form one mean
    for rated in collected.ratings:
        ratings[rated.model, "" if strict else rated.judge].append(rated)
    for paired in collected.pairs:
        for model in paired.models:
            pairs[model, "" if strict else paired.judge].append(paired)
    single_cards = [_single_card(model, rows, collected, options) for (model, _), rows in ratings.items()]
    return single_cards + [_pair_card(model, rows, collected, options) for (model, _), rows in pairs.items()]


# -------------------------------------------------------------------------------------------------------------- ratings


def _single_card(model: str, rows: Sequence[RatedTurn], collected: Collected, options: ScoreOptions) -> ScoreCard:
    protocol: dict[str, JsonValue] = {
        "mode": "single",
        "rules": STRICT_RULES if options.strict_reference else RULES,
        "references": reference_set((row.references for row in rows), options.mirror),
    }
    return card_of(
        FileResult(
            suite="mt_bench",
            suite_version="official-1" if is_official({row.question for row in rows}) else "files-1",
            model=model,
            judge="+".join(sorted({row.judge for row in rows})),
            headline="mt_bench",
            suite_scores=score_ratings(model, rows, collected.is_failed, options),
            protocol=protocol,
            files=collected.file_names(rows),
            counts={"rows": len(rows)},
            seed=options.seed,
        )
    )


def score_ratings(
    model: str, rows: Sequence[RatedTurn], is_failed: Callable[[RatedTurn], bool], options: ScoreOptions
) -> SuiteScores:
    """Return the scores of one model's ratings by one judge, for `harness score` and `harness import` alike."""
    seen = dict.fromkeys(row.question for row in rows)
    turns = max(2, *(row.turn for row in rows)) if is_official(seen) else None
    prompts = questions(seen, turns or max(row.turn for row in rows))
    if options.strict_reference:
        suite_scores = _strict(prompts, rows, sum(map(is_failed, rows)), options)
    else:
        suite_scores = _ours(model, prompts, rows, is_failed, options)
    mismatched = sum(row.is_other for row in rows)
    if not mismatched:
        return suite_scores
    note = f"{mismatched} judgments are of other answers than given"
    return suite_scores.model_copy(update={"notes": (*suite_scores.notes, note)})


def current_ratings(
    rows: Iterable[RatedTurn], is_failed: Callable[[RatedTurn], bool]
) -> list[tuple[RatedTurn, Reading]]:
    """Return the last rating of each turn with its reading by our rules; a judged failed call has none."""
    last = latest(rows, lambda row: (row.question, row.turn), lambda row: row.reading.value)
    broken = Reading(reason="answer", why=f"the answer judged is {FAILED_CALL}")
    return [(row, broken if is_failed(row) else row.reading) for row in last]


def _ours(
    model: str,
    prompts: Sequence[Prompt],
    rows: Sequence[RatedTurn],
    is_failed: Callable[[RatedTurn], bool],
    options: ScoreOptions,
) -> SuiteScores:
    """Score the rows as judgments with the suite's own scorer."""
    last = current_ratings(rows, is_failed)
    judgments = [_judgment(model, row, reading) for row, reading in last]
    data = SuiteData(version="files-1", prompts=tuple(prompts), templates={})
    suite = MtBench(data, intervals=options.intervals)
    suite_scores = suite.score(prompts, [], judgments)
    notes = [*suite_scores.notes]
    if len(last) < len(rows):
        notes.append(f"{len(rows) - len(last)} duplicated rows dropped: of one question and turn the last wins")
    reasons = Counter(reading.why for _, reading in last if reading.value is None)
    notes += [f"{count} unscored: {why}" for why, count in reasons.items()]
    return suite_scores.model_copy(update={"notes": tuple(notes)})


def _judgment(model: str, row: RatedTurn, reading: Reading) -> Judgment:
    return Judgment(
        prompt_id=row.question,
        model=model,
        judge=row.judge,
        template_sha="",
        turn=row.turn,
        verdict=None if reading.value is None else Rating(value=reading.value),
        error=Failure(reason=reading.reason, message=reading.why) if reading.value is None else None,
    )


def _strict(prompts: Sequence[Prompt], rows: Sequence[RatedTurn], failed: int, options: ScoreOptions) -> SuiteScores:
    """Return what show_result.py prints: means over stored rows, valid or not."""
    scores = _stored_means(prompts, rows, options)
    legacy = [Unit(row.question, row.stored) for row in rows if row.stored is not None]
    expected = scores["mt_bench"].n + scores["mt_bench"].unscored
    if not scores["mt_bench"].n:
        legacy = []  # the reference's -1 stands beside ratings; alone it would be a score made of failures only
    scores["legacy_mean"] = mean_score(legacy, expected, bounds=(FAILED, RATINGS[1]), intervals=options.intervals)
    by_category = {}
    for category, ids in categories(prompts).items():
        category_rows = [row for row in rows if row.question in ids]
        by_category[category] = _stored_means(
            [prompt for prompt in prompts if prompt.id in ids], category_rows, options
        )
    notes = _strict_notes(scores["mt_bench"], rows, intervals=options.intervals)
    if failed:
        notes += (f"{failed} scored all the same: the answer judged is {FAILED_CALL}",)
    return SuiteScores(scores=scores, by_category=by_category, notes=notes)


def _stored_means(prompts: Sequence[Prompt], rows: Sequence[RatedTurn], options: ScoreOptions) -> dict[str, Score]:
    means = {}
    judged_slots = {(row.question, row.turn) for row in rows}
    for name, turn in (("mt_bench", None), ("turn_1", 1), ("turn_2", 2)):
        turn_rows = [row for row in rows if turn in (None, row.turn)]
        turns = [(prompt.id, number) for prompt in prompts for number in range(1, len(prompt.turns) + 1)]
        slots = {(prompt_id, number) for prompt_id, number in turns if turn in (None, number)}
        units = [Unit(row.question, row.stored) for row in turn_rows if row.stored is not None and row.stored != FAILED]
        expected = len(turn_rows) + len(slots - judged_slots)
        means[name] = mean_score(units, expected, bounds=RATINGS, intervals=options.intervals)
    return means


def _strict_notes(head: Score, rows: Sequence[RatedTurn], *, intervals: bool) -> tuple[str, ...]:
    notes = ["scored as the reference does: stored scores are believed"]
    notes += score_notes(head, "rows", intervals=intervals)
    copies = len(rows) - len({(row.question, row.turn) for row in rows})
    if copies:
        notes.append(f"{copies} rows are a second judgment of the same question and turn; they count, too")
    doubtful = [row.reading for row in rows if row.stored not in (None, FAILED) and row.reading.value is None]
    reasons = Counter(reading.why for reading in doubtful)
    notes += [f"{count} scored all the same: {why}" for why, count in reasons.items()]
    return tuple(notes)


# ---------------------------------------------------------------------------------------------------------------- pairs


def _pair_card(model: str, rows: Sequence[PairedTurn], collected: Collected, options: ScoreOptions) -> ScoreCard:
    counted = rows if options.strict_reference else current_pairs(rows)
    opponents = sorted({row.model_2 if row.model_1 == model else row.model_1 for row in counted})
    protocol: dict[str, JsonValue] = {
        "mode": "pairwise",
        "rules": STRICT_PAIR_RULES if options.strict_reference else PAIR_RULES,
        "opponents": list(opponents),
        "references": reference_set((row.references for row in counted), options.mirror),
    }
    return card_of(
        FileResult(
            suite="mt_bench",
            suite_version="official-1" if is_official({row.question for row in counted}) else "files-1",
            model=model,
            judge="+".join(sorted({row.judge for row in counted})),
            headline="win_rate_adjusted",
            suite_scores=score_paired(model, rows, collected, options),
            protocol=protocol,
            files=collected.file_names(rows),
            counts={"rows": len(rows)},
            seed=options.seed,
        )
    )


def score_paired(model: str, rows: Sequence[PairedTurn], collected: Collected, options: ScoreOptions) -> SuiteScores:
    """Return the scores of one model's pairs; rows against all opponents count together, as in show_result.py."""
    strict = options.strict_reference
    counted = rows if strict else current_pairs(rows)
    ids = dict.fromkeys(row.question for row in counted)
    opponents = {row.model_2 if row.model_1 == model else row.model_1 for row in counted}
    prompts = questions(ids, 2)
    # The official questions are judged in both turns against each opponent; for others only existing rows are known.
    slots = {row.slot[:4] for row in counted}
    expected = (
        max(len(counted), 2 * len(prompts) * len(opponents) + len(counted) - len(slots)) if is_official(ids) else 0
    )
    readings = [row.stored if strict else pair_readings(row, collected) for row in counted]
    games = [_games(model, row, pair) for row, pair in zip(counted, readings, strict=True)]
    suite_scores = score_pairs(prompts, games, expected or len(counted), intervals=options.intervals)
    notes = [*suite_scores.notes]
    if len(counted) < len(rows):
        notes.append(f"{len(rows) - len(counted)} duplicated rows dropped: the last wins")
    reasons = Counter(reading.why for pair in readings for reading in pair if reading.value is None)
    if missing := max(0, expected - len(counted)):
        notes.append(f"{missing} {'pair' if missing == 1 else 'pairs'} unscored: no row in the files")
    notes += [f"{count} {'game' if count == 1 else 'games'} unscored: {why}" for why, count in reasons.items()]
    return suite_scores.model_copy(update={"notes": tuple(notes)})


def current_pairs(rows: Iterable[PairedTurn]) -> list[PairedTurn]:
    """Return the last row of each pair, turn and judge."""
    return latest(rows, lambda row: row.slot, _verdicts)


def _verdicts(row: PairedTurn) -> tuple[float | None, ...] | None:
    values = tuple(reading.value for reading in row.readings)
    return values if any(value is not None for value in values) else None


def pair_readings(row: PairedTurn, collected: Collected) -> tuple[Reading, Reading]:
    """Return both games' readings by our rules; games about a failed call have none."""
    if not collected.is_failed(row):
        return row.readings
    broken = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}")
    return broken, broken


def _games(model: str, row: PairedTurn, readings: tuple[Reading, Reading]) -> Games:
    first, second = (_preference(reading, flipped=row.model_1 != model) for reading in readings)
    return Games(prompt_id=row.question, turn=row.turn, first=first, second=second)


def _preference(reading: Reading, *, flipped: bool) -> Preference | None:
    if reading.value is None:
        return None
    return Preference(value=1.0 - reading.value if flipped else reading.value)
