"""Turn FastChat's pair files into cards: each row has two games of two models, and each model gets a card."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

from pydantic import JsonValue

from ..records import Preference, ScoreCard
from ..suites.mt_bench_pairs import Games, score_pairs
from .cards import FileResult, card_of
from .fastchat_answers import Answers, judged_failure
from .fastchat_rows import FAILED_CALL, Reading, Row, judge_name, question_of, read_game, stored_game, turn_of
from .mt_questions import is_official, questions
from .mt_references import reference_set
from .options import ScoreOptions

RULES = "ours: rows deduplicated (last wins), words and stored winner agree; two games that differ are a tie"
STRICT_RULES = "reference: stored winners, duplicates included; two games that differ are a tie"


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
    protocol: dict[str, JsonValue] = {"mode": "pairwise", "rules": STRICT_RULES if strict else RULES}
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
