"""FastChat's files in and out: score them, export a run as them, import one model's rows.

Scores: `JUDGE_single.jsonl` and `JUDGE_pair.jsonl` become one card per model and judge; a row of pairs has two games of
two models, and each model gets a card.

Export: `model_answer/NAME.jsonl` and `model_judgment/JUDGE_single.jsonl`, in pairwise mode `JUDGE_pair.jsonl`, in the
form of gen_api_answer.py and gen_judgment.py. A missing verdict has score -1, which show_result.py leaves out.
A missing answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import JsonValue

from ...records import (
    Answer,
    Failure,
    JudgeTask,
    Judgment,
    Order,
    Preference,
    Prompt,
    Rating,
    Score,
    ScoreCard,
    SuiteScores,
)
from ...records.errors import ConfigError
from ...records.protocols import SuiteData
from ..exchange import (
    FinishedRun,
    Imported,
    ImportRequest,
    Line,
    answers_of,
    check_questions,
    json_lines,
    only,
    question_id,
    reply_text,
    sha_of,
    slug,
    user_prompt_of,
)
from ..files import FAILED_CALL, FileResult, ScoreOptions, SourceFile, card_of, read_files
from ..scoring import Unit, categories, mean_score, score_notes
from .pairs import Games, score_pairs
from .rows import (
    FAILED,
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
from .suite import MtBench, pair_template_name

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
    opponents = sorted({str(row["model_2"] if row["model_1"] == model else row["model_1"]) for row in kept})
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


def _readings(row: Row, *, failed: bool, strict: bool) -> tuple[Reading, Reading]:
    if failed:
        broken = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}")
        return broken, broken
    read = stored_game if strict else read_game
    return read(row, 1), read(row, 2)


def _games(model: str, row: Row, readings: tuple[Reading, Reading]) -> Games:
    first, second = (_preference(reading, flipped=row["model_1"] != model) for reading in readings)
    return Games(prompt_id=question_of(row), turn=turn_of(row), first=first, second=second)


def _preference(reading: Reading, *, flipped: bool) -> Preference | None:
    if reading.value is None:
        return None
    return Preference(value=1.0 - reading.value if flipped else reading.value)


# -------------------------------------------------------------------------------------------------------------- ratings


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


# ------------------------------------------------------------------------------------------------------------ our rules


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


# ------------------------------------------------------------------------------------------------------ the reference's


def _strict(prompts: Sequence[Prompt], rows: Sequence[Row], failed: int, options: ScoreOptions) -> SuiteScores:
    """Return what show_result.py prints: means over stored rows, valid or not."""
    scores = _stored_means(prompts, rows, options)
    legacy = [Unit(question_of(row), score) for row in rows if (score := stored_score(row)) is not None]
    expected = scores["mt_bench"].n + scores["mt_bench"].unscored
    if not scores["mt_bench"].n:
        legacy = []  # the reference's -1 stands beside ratings; alone it would be a score made of failures only
    scores["legacy_mean"] = mean_score(legacy, expected, seed=options.seed, intervals=options.intervals)
    by_category = {}
    for category, ids in categories(prompts).items():
        category_rows = [row for row in rows if question_of(row) in ids]
        by_category[category] = _stored_means(
            [prompt for prompt in prompts if prompt.id in ids], category_rows, options
        )
    notes = _strict_notes(scores["mt_bench"], rows, intervals=options.intervals)
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


def _strict_notes(head: Score, rows: Sequence[Row], *, intervals: bool) -> tuple[str, ...]:
    notes = [
        "scored as the reference does: stored scores are believed",
        *score_notes(head, "rows", intervals=intervals),
    ]
    copies = len(rows) - len({(question_of(row), turn_of(row)) for row in rows})
    if copies:
        notes.append(f"{copies} rows are a second judgment of the same question and turn; they count, too")
    doubtful = [row for row in rows if stored_score(row) not in (None, FAILED) and read_rating(row).value is None]
    reasons = Counter(read_rating(row).why for row in doubtful)
    notes += [f"{count} scored all the same: {why}" for why, count in reasons.items()]
    return tuple(notes)


# --------------------------------------------------------------------------------------------------------------- export

WINNERS = {1.0: "model_1", 0.0: "model_2", 0.5: "tie"}
"""Winner of a game by the candidate's points: in gen_judgment.py --mode pairwise-baseline the candidate is model_1."""
GAMES: tuple[Order, Order] = ("ba", "ab")
"""Game 1 shows model_1 first, game 2 the baseline."""
NO_WINNER = "error"  # common.py play_a_match_pair
UNRATED = -1  # common.py run_judge_single


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_single.jsonl": json_lines(_judgments(run)),
    }


def _answers(run: FinishedRun) -> Iterator[Line]:
    for prompt in run.prompts():
        answers = run.answers_to(prompt)
        yield {
            "question_id": question_id(prompt),
            "answer_id": f"{answers[0].sha}-{prompt.id}",
            "model_id": run.card.model,
            "choices": [{"index": answer.index, "turns": list(_turns(prompt, answer))} for answer in answers],
            "tstamp": None,
        }


def _turns(prompt: Prompt, answer: Answer) -> tuple[str, ...]:
    return answer.turns if answer.error is None else (FAILED_CALL,) * len(prompt.turns)


def _judgments(run: FinishedRun) -> Iterator[Line]:
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            for task, judgments in run.judged(prompt, answer):
                yield from (_judgment_line(run, prompt, task, row) for row in judgments)


def _judgment_line(run: FinishedRun, prompt: Prompt, task: JudgeTask, row: Judgment) -> Line:
    return {
        "question_id": question_id(prompt),
        "model": run.card.model,
        "judge": [run.card.judge, task.template.name],
        "user_prompt": user_prompt_of(task),
        "judgment": reply_text(row),
        "score": row.verdict.value if isinstance(row.verdict, Rating) else UNRATED,
        "turn": task.turn,
        "tstamp": None,
    }


# ------------------------------------------------------------------------------------------------------ export of pairs


def export_pairs(run: FinishedRun) -> dict[str, str]:
    """Return the same for pairs, without the judge's prompts, because the run's folder lacks the baseline's answers."""
    return {
        f"model_answer/{slug(run.card.model)}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{slug(run.card.judge)}_pair.jsonl": json_lines(_pairs(run)),
    }


def _pairs(run: FinishedRun) -> Iterator[Line]:
    prompts = {prompt.id: prompt for prompt in run.suite.prompts()}
    games: dict[tuple[str, int, int, int], dict[Order | None, Judgment]] = {}
    for row in run.judgments:
        games.setdefault((row.prompt_id, row.turn or 1, row.index, row.repeat), {})[row.order] = row
    positions = {name: position for position, name in enumerate(prompts)}
    for (name, turn, _, _), orders in sorted(games.items(), key=lambda item: (positions[item[0][0]], *item[0][1:])):
        first, second = (orders.get(order) for order in GAMES)
        game = first or second
        yield {
            "question_id": question_id(prompts[name]),
            "model_1": run.card.model,
            "model_2": (game.baseline if game else None) or str(run.card.protocol.get("baseline", "baseline")),
            "g1_winner": _winner(first),
            "g2_winner": _winner(second),
            "judge": [run.card.judge, pair_template_name(prompts[name], turn)],
            "g1_user_prompt": None,
            "g1_judgment": reply_text(first) if first else FAILED_CALL,
            "g2_user_prompt": None,
            "g2_judgment": reply_text(second) if second else FAILED_CALL,
            "turn": turn,
            "tstamp": None,
        }


def _winner(game: Judgment | None) -> str:
    points = game.verdict.value if game is not None and isinstance(game.verdict, Preference) else None
    return NO_WINNER if points is None else WINNERS[points]


# ------------------------------------------------------------------------------------------------------ import of pairs


GAME_NUMBERS: tuple[Literal[1, 2], ...] = (1, 2)


def read_pairs(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and both games of each turn against one baseline; of several rows of one turn the last wins.

    Games are read by the rules of `harness score` (`rows.read_game`), so that the card has the same numbers.
    Raise ConfigError if the files leave the model or its baseline open.
    """
    rows: list[Row] = [row for file in files for row in file.rows if is_pair(row)]
    if not rows:
        return Imported(answers_of(files, request), ())
    model = only("model", paired_models(files) - {request.baseline}, request.model)
    rows = [row for row in rows if model in _models(row)]
    baseline = _baseline(model, rows, request)
    rows = [row for row in rows if sorted(_models(row)) == sorted((model, baseline))]
    judge = only("judge", map(judge_name, rows), request.judge)
    rows = [row for row in rows if judge_name(row) == judge]
    check_questions(map(question_of, rows), request.prompts)
    last = {(question_of(row), turn_of(row)): row for row in rows}
    _check_sides(rows, len(last), model, baseline)
    answers = _answers_of_exactly(model, files, request)
    texts = read_answers(files)
    judgments = (
        _pair_judgment(row, game, (model, baseline, judge), request, answers, failed=judged_failure(row, texts))
        for row in last.values()
        for game in GAME_NUMBERS
    )
    return Imported(answers, tuple(judgments), baseline)


def rated_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model with a rating."""
    return {str(row["model"]) for file in files for row in file.rows if is_single(row)}


def paired_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model of a pair."""
    return {name for file in files for row in file.rows if is_pair(row) for name in _models(row)}


def _models(row: Row) -> tuple[str, str]:
    return str(row["model_1"]), str(row["model_2"])


def _baseline(model: str, rows: Sequence[Row], request: ImportRequest) -> str:
    met = sorted({second if first == model else first for first, second in map(_models, rows)})
    if request.baseline in met:
        return request.baseline or ""
    if request.baseline is None and len(met) == 1:
        return met[0]
    shown = ", ".join(met[:10])
    if request.baseline is None:
        raise ConfigError(f"{model!r} is compared with {len(met)} models; pass --baseline, one of: {shown}")
    raise ConfigError(f"no row compares {model!r} with {request.baseline!r}; compared with: {shown}")


def _check_sides(rows: Sequence[Row], turns: int, model: str, baseline: str) -> None:
    """Raise ConfigError if the files contain a turn outside 1 and 2, or the same pair in both directions."""
    strange = sorted({turn_of(row) for row in rows} - {1, 2})
    if strange:
        raise ConfigError(f"turn {strange[0]} in the files: MT-Bench has turns 1 and 2")
    if len({(question_of(row), turn_of(row), _models(row)) for row in rows}) > turns:
        raise ConfigError(
            f"the files compare {model!r} with {baseline!r} and the other way round on the same turn; "
            "import one of the two files"
        )


def _answers_of_exactly(model: str, files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the model's answers if the files have any; the baseline's answers are never taken for them."""
    if model not in read_answers(files):
        return {}
    answers = answers_of(files, ImportRequest(request.prompts, model))
    return {name: answer.model_copy(update={"model": request.model}) for name, answer in answers.items()}


def _pair_judgment(
    row: Row,
    game: Literal[1, 2],
    named: tuple[str, str, str],
    request: ImportRequest,
    answers: dict[str, Answer],
    *,
    failed: bool,
) -> Judgment:
    """Return one game as a judgment. `named`: model, baseline and judge as in the file."""
    model, baseline, judge = named
    reading = Reading(reason="answer", why=f"an answer judged is {FAILED_CALL}") if failed else read_game(row, game)
    is_first = _models(row)[0] == model
    # game 1 shows model_1 as A, game 2 shows model_2 as A
    order: Order = "ba" if is_first == (game == 1) else "ab"
    points, words, prompt_id = reading.value, row.get(f"g{game}_judgment"), question_of(row)
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        baseline=baseline,
        judge=judge,
        template_sha="unknown",
        answer_sha=answers[prompt_id].sha if prompt_id in answers else None,
        turn=turn_of(row),
        order=order,
        verdict=None if points is None else Preference(value=points if is_first else 1.0 - points),
        reply=words if isinstance(words, str) else None,
        error=Failure(reason=reading.reason, message=reading.why) if points is None else None,
    )


# ---------------------------------------------------------------------------------------------------- import of ratings


def read_ratings(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and ratings of single answers; of several ratings of one turn the last wins."""
    answers = answers_of(files, request)
    rows = [row for file in files for row in file.rows if is_single(row) and "choices" not in row]
    model = only("model", (str(row["model"]) for row in rows), request.model)
    rows = [row for row in rows if row["model"] == model]
    judge = only("judge", map(judge_name, rows), request.judge)
    rows = [row for row in rows if judge_name(row) == judge]
    check_questions(map(question_of, rows), request.prompts)
    last = {(question_of(row), turn_of(row)): row for row in rows}
    return Imported(answers, tuple(_rating(row, request, judge, answers) for row in last.values()))


def _rating(row: Row, request: ImportRequest, judge: str, answers: dict[str, Answer]) -> Judgment:
    reading, words = read_rating(row), row.get("judgment")
    prompt_id = question_of(row)
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        judge=judge,
        template_sha="unknown",
        answer_sha=sha_of(answers, prompt_id),
        turn=turn_of(row),
        verdict=None if reading.value is None else Rating(value=reading.value),
        reply=words if isinstance(words, str) else None,
        error=Failure(reason=reading.reason, message=reading.why) if reading.value is None else None,
    )
