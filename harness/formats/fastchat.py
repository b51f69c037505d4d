"""Turn FastChat's MT-Bench judgments (`JUDGE_single.jsonl`, `JUDGE_pair.jsonl`) into score cards per model and
judge."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..errors import ConfigError
from ..protocols import SuiteData
from ..records import Failure, Judgment, Prompt, Rating, Score, ScoreCard, SuiteScores
from ..scoring import Unit, categories, mean_score, unscored_note
from ..suites.mt_bench import MtBench
from .cards import FileResult, card_of
from .fastchat_answers import Answers, judged_failure, judged_others, read_answers
from .fastchat_pair import pair_cards
from .fastchat_rows import (
    FAILED,
    FAILED_CALL,
    Reading,
    Row,
    is_pair,
    is_single,
    judge_name,
    question_of,
    read_rating,
    stored_score,
    turn_of,
)
from .files import SourceFile, read_files
from .mt_questions import is_official, questions
from .mt_references import reference_set
from .options import ScoreOptions

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
