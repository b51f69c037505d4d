"""Turn FastChat's pair files into cards: each row has two games of two models, and each model gets a card."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from ...records import Failure, Judgment, Preference, Prompt, Rating, Score, ScoreCard, SuiteScores
from ...records.errors import ConfigError
from ...records.protocols import SuiteData
from ..files import FileResult, ScoreOptions, SourceFile, card_of, read_files
from ..scoring import Unit, categories, mean_score, unscored_note
from .pairs import Games, score_pairs
from .rows import (
    FAILED,
    FAILED_CALL,
    Answers,
    Reading,
    Row,
    is_official,
    is_pair,
    is_single,
    judge_name,
    judged_failure,
    judged_others,
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

PAIR_RULES = "ours: rows deduplicated (last wins), words and stored winner agree; two games that differ are a tie"
STRICT_PAIR_RULES = "reference: stored winners, duplicates included; two games that differ are a tie"


def pair_cards(named: Sequence[tuple[str, Row]], answers: Answers, options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model and judge; rows against all opponents count together, as in show_result.py."""
    groups: dict[tuple[str, str], list[tuple[str, Row]]] = defaultdict(list)
    for name, row in named:
        judge = "" if options.strict_reference else judge_name(row)
        for side in ("model_1", "model_2"):
            groups[str(row[side]), judge].append((name, row))
    return [_card(model, rows, answers, options) for (model, _), rows in groups.items()]


def _card(model: str, named: Sequence[tuple[str, Row]], answers: Answers, options: ScoreOptions) -> ScoreCard:
    rows = [row for _, row in named]
    strict = options.strict_reference
    kept = rows if strict else list({_key(row): row for row in rows}.values())
    ids = dict.fromkeys(question_of(row) for row in kept)
    opponents = sorted({_opponent(model, row) for row in kept})
    prompts = questions(ids, 2)
    # The official questions are judged in both turns against each opponent; for others only existing rows are known.
    slots = {_key(row)[:4] for row in kept}
    expected = max(len(kept), 2 * len(prompts) * len(opponents) + len(kept) - len(slots)) if is_official(ids) else 0
    readings = [_readings(row, failed=not strict and judged_failure(row, answers), strict=strict) for row in kept]
    games = [_games(model, row, suite_scores) for row, suite_scores in zip(kept, readings, strict=True)]
    seed, intervals = options.seed, options.intervals
    suite_scores = score_pairs(prompts, games, expected or len(kept), seed=seed, intervals=intervals)
    notes = [*suite_scores.notes]
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} duplicated rows dropped: the last wins")
    reasons = Counter(reading.why for pair in readings for reading in pair if reading.value is None)
    notes += [f"{count} games unscored: {why}" for why, count in reasons.items()]
    protocol: dict[str, JsonValue] = {"mode": "pairwise", "rules": STRICT_PAIR_RULES if strict else PAIR_RULES}
    return card_of(
        FileResult(
            suite="mt_bench",
            suite_version="official-1" if is_official(ids) else "files-1",
            model=model,
            judge="+".join(sorted({judge_name(row) for row in kept})),
            headline="win_rate_adjusted",
            suite_scores=suite_scores.model_copy(update={"notes": tuple(notes)}),
            protocol=protocol | {"opponents": list(opponents), "references": reference_set(kept, options.mirror)},
            files=tuple(dict.fromkeys(name for name, _ in named)),
            counts={"rows": len(rows)},
            seed=seed,
        )
    )


def _key(row: Row) -> tuple[str, str, str, int, str]:
    return str(row["model_1"]), str(row["model_2"]), question_of(row), turn_of(row), judge_name(row)


def _opponent(model: str, row: Row) -> str:
    return str(row["model_2"] if row["model_1"] == model else row["model_1"])


def _readings(row: Row, *, failed: bool, strict: bool) -> tuple[Reading, Reading]:
    if failed:
        broken = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}")
        return broken, broken
    read = stored_game if strict else read_game
    return read(row, 1), read(row, 2)


def _games(model: str, row: Row, readings: tuple[Reading, Reading]) -> Games:
    """Return the two games as the model's own preferences."""
    first, second = (_preference(reading, flipped=row["model_1"] != model) for reading in readings)
    return Games(prompt_id=question_of(row), turn=turn_of(row), first=first, second=second)


def _preference(reading: Reading, *, flipped: bool) -> Preference | None:
    if reading.value is None:
        return None
    return Preference(value=1.0 - reading.value if flipped else reading.value)


# ----------------------------------------------------------------------------------------------------
# Turn FastChat's MT-Bench judgments (`JUDGE_single.jsonl`, `JUDGE_pair.jsonl`) into score cards per model and judge.


RULES = "ours: rows deduplicated (last wins), words and stored score agree, 1..10; no backup pattern"
STRICT_RULES = "reference: every stored score but -1, duplicates included"


@dataclass
class FastChatGroup:
    """One model's rows by one judge, in the files' order."""

    rows: list[Row] = field(default_factory=list)
    files: list[str] = field(default_factory=list)


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model and judge, ratings and pairs separately; raise ConfigError if no row is a judgment."""
    single: dict[tuple[str, str], FastChatGroup] = defaultdict(FastChatGroup)
    pairs: list[tuple[str, Row]] = []
    names = []
    for file in files:
        names.append(file.name)
        for row in file.rows:
            if is_single(row):
                # show_result.py ignores the judge: all rows of a model form one mean
                judge = "" if options.strict_reference else judge_name(row)
                group = single[str(row["model"]), judge]
                group.rows.append(row)
                if file.name not in group.files:
                    group.files.append(file.name)
            elif is_pair(row):
                pairs.append((file.name, row))
    if not single and not pairs:
        raise ConfigError(f"no FastChat judgment in {', '.join(names)}")
    answers = read_answers(read_files(options.answers))
    single_cards = [_single_card(model, group, answers, options) for (model, _), group in single.items()]
    return single_cards + pair_cards(pairs, answers, options)


def _single_card(model: str, group: FastChatGroup, answers: Answers, options: ScoreOptions) -> ScoreCard:
    seen = dict.fromkeys(question_of(row) for row in group.rows)
    turns = max(2, *(turn_of(row) for row in group.rows)) if is_official(seen) else None
    prompts = questions(seen, turns or max(turn_of(row) for row in group.rows))
    strict = options.strict_reference
    failed = [judged_failure(row, answers) for row in group.rows]
    if strict:
        suite_scores = _strict(prompts, group.rows, sum(failed), options)
    else:
        suite_scores = _ours(model, prompts, list(zip(group.rows, failed, strict=True)), options)
    mismatched = judged_others(group.rows, answers)
    if mismatched:
        suite_scores = suite_scores.model_copy(
            update={"notes": (*suite_scores.notes, f"{mismatched} judgments are of other answers than given")}
        )
    judges = sorted({judge_name(row) for row in group.rows})
    references = reference_set(group.rows, options.mirror)
    protocol: dict[str, JsonValue] = {
        "mode": "single",
        "rules": STRICT_RULES if strict else RULES,
        "references": references,
    }
    return card_of(
        FileResult(
            suite="mt_bench",
            suite_version="official-1" if is_official(seen) else "files-1",
            model=model,
            judge="+".join(judges),
            headline="mt_bench",
            suite_scores=suite_scores,
            protocol=protocol,
            files=tuple(group.files),
            counts={"rows": len(group.rows)},
            seed=options.seed,
        )
    )


# --------------------------------------------------------------------------------------------------------- our rules


def _ours(
    model: str, prompts: Sequence[Prompt], rows: Sequence[tuple[Row, bool]], options: ScoreOptions
) -> SuiteScores:
    """Score the rows as judgments with the suite's own scorer; True beside a row: a failed call was judged."""
    last = {(question_of(row), turn_of(row)): (row, failed) for row, failed in rows}
    judgments = [_judgment(model, row, failed=failed) for row, failed in last.values()]
    data = SuiteData(version="files-1", prompts=tuple(prompts), templates={})
    suite = MtBench(data, seed=options.seed, intervals=options.intervals)
    suite_scores = suite.score(prompts, [], judgments)
    notes = [*suite_scores.notes]
    if len(last) < len(rows):
        notes.append(f"{len(rows) - len(last)} duplicated rows dropped: of one question and turn the last wins")
    reasons = Counter(row.error.message for row in judgments if row.error is not None)
    notes += [f"{count} unscored: {why}" for why, count in reasons.items()]
    return suite_scores.model_copy(update={"notes": tuple(notes)})


def _judgment(model: str, row: Row, *, failed: bool) -> Judgment:
    reading = Reading(reason="answer", why=f"the answer judged is {FAILED_CALL}") if failed else read_rating(row)
    words = row.get("judgment")
    return Judgment(
        prompt_id=question_of(row),
        model=model,
        judge=judge_name(row),
        template_sha="",
        turn=turn_of(row),
        verdict=None if reading.value is None else Rating(value=reading.value),
        reply=words if isinstance(words, str) else None,
        error=Failure(reason=reading.reason, message=reading.why) if reading.value is None else None,
    )


# -------------------------------------------------------------------------------------------------- the reference's


def _strict(prompts: Sequence[Prompt], rows: Sequence[Row], failed: int, options: ScoreOptions) -> SuiteScores:
    """Return what show_result.py prints: means over stored rows, valid or not."""
    scores = _stored_means(prompts, rows, options)
    legacy = [Unit(question_of(row), score) for row in rows if (score := stored_score(row)) is not None]
    expected = scores["mt_bench"].n + scores["mt_bench"].unscored
    scores["legacy_mean"] = mean_score(legacy, expected, seed=options.seed, intervals=options.intervals)
    by_category = {}
    for category, ids in categories(prompts).items():
        category_rows = [row for row in rows if question_of(row) in ids]
        by_category[category] = _stored_means(
            [prompt for prompt in prompts if prompt.id in ids], category_rows, options
        )
    notes = _strict_notes(scores["mt_bench"], rows)
    if failed:
        notes += (f"{failed} scored all the same: the answer judged is {FAILED_CALL}",)
    return SuiteScores(scores=scores, by_category=by_category, notes=notes)


def _stored_means(prompts: Sequence[Prompt], rows: Sequence[Row], options: ScoreOptions) -> dict[str, Score]:
    means = {}
    judged_slots = {(question_of(row), turn_of(row)) for row in rows}
    for name, turn in (("mt_bench", None), ("turn_1", 1), ("turn_2", 2)):
        turn_rows = [row for row in rows if turn in (None, turn_of(row))]
        slots = {(prompt.id, at) for prompt in prompts for at in range(1, len(prompt.turns) + 1) if turn in (None, at)}
        units = [
            Unit(question_of(row), score) for row in turn_rows if (score := stored_score(row)) not in (None, FAILED)
        ]
        expected = len(turn_rows) + len(slots - judged_slots)
        means[name] = mean_score(units, expected, seed=options.seed, intervals=options.intervals)
    return means


def _strict_notes(head: Score, rows: Sequence[Row]) -> tuple[str, ...]:
    notes = ["scored as the reference does: stored scores are believed", *unscored_note(head, "rows")]
    copies = len(rows) - len({(question_of(row), turn_of(row)) for row in rows})
    if copies:
        notes.append(f"{copies} rows are a second judgment of the same question and turn; they count, too")
    doubtful = [row for row in rows if stored_score(row) not in (None, FAILED) and read_rating(row).value is None]
    reasons = Counter(read_rating(row).why for row in doubtful)
    notes += [f"{count} scored all the same: {why}" for why, count in reasons.items()]
    return tuple(notes)
