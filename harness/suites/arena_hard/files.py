"""Arena-Hard's own files in and out: score them, export a run as them, import one model's rows.

Scores: one card per model and judge, with our interval and the reference's. A broken game is unscored, with its reason,
and counted. `rows.py` parses rows; `scores.py` computes scores, also under style control.

Export: `model_answer/NAME.jsonl` and `model_judgment/JUDGE/NAME.jsonl`, in the form of each version's gen_answer.py and
gen_judgment.py. A game without a verdict keeps its position with score null, which the tools leave out. A missing
answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from pydantic import JsonValue

from ...records import (
    Answer,
    Failure,
    JudgeTask,
    Judgment,
    Order,
    Preference,
    Prompt,
    Score,
    ScoreCard,
    SuiteScores,
    digest,
)
from ...records.errors import ConfigError
from ...stats.intervals import ratio_interval
from ...store.official import ensure, is_available_offline
from ..exchange import (
    FinishedRun,
    Imported,
    ImportRequest,
    Line,
    Row,
    answers_of,
    check_questions,
    json_lines,
    only,
    reply_text,
    sha_of,
    slug,
    user_prompt_of,
)
from ..files import FAILED_CALL, FileResult, ScoreOptions, SourceFile, card_of, read_files
from .rows import Answers, ArenaQuestion, Game, is_judgment, label_of, read_answers, read_questions
from .scores import (
    BASELINES,
    ArenaGroup,
    Pooled,
    StyleControl,
    closed_form,
    expected_games,
    pool_scores,
    reasons,
    scored,
    style_control,
    table,
    v01_reference,
    v2_reference,
)
from .suite import ORDERS

OFFICIAL_IDS = {
    "arena_hard": "90c6a47fbb7657fcf61335f30d6518722259dda21df41dcda6b24054b1620fa3",
    "arena_hard_v2": "5d3226599bf48fec55ff6733788392b7560239d1ae920dcb751b598f6afef98a",
}
"""Suite -> digest of the sorted ids of its pinned questions."""


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model and judge; raise ConfigError for files without Arena-Hard judgments or answers."""
    sources = list(files)
    answers = read_answers([*read_files(options.answers), *sources])
    groups = _grouped(sources, answers, options)
    if not groups:
        raise ConfigError("no Arena-Hard judgment (a row with games) and no answer in these files")
    suite_scores = score_groups(groups, answers, options)
    return [_card(group, scores, options) for group, scores in zip(groups, suite_scores, strict=True)]


def read_groups(sources: Sequence[SourceFile], answers: Answers, options: ScoreOptions) -> list[ArenaGroup]:
    """Return the files' judgments by model and judge, in order of first appearance.

    Of several rows of one question the last counts; with --strict-reference all count, as in the reference.
    """
    rows: dict[tuple[str, str, str | None, str], list[ArenaQuestion]] = {}
    for question in read_questions(sources, strict=options.strict_reference):
        suite = "arena_hard" if question.category == "arena-hard-v0.1" else "arena_hard_v2"
        baseline = question.baseline if suite == "arena_hard" else None  # v2.0 has one baseline per category
        kept = question if options.strict_reference else _without_broken_answers(question, answers, options)
        rows.setdefault((question.model, question.judge, baseline, suite), []).append(kept)
    groups = []
    for (model, judge, baseline, _), questions in rows.items():
        latest = {question.id: question for question in questions}
        kept_rows = questions if options.strict_reference else list(latest.values())
        duplicates = len(questions) - len(latest)
        groups.append(ArenaGroup(model, judge, kept_rows[0].version, baseline, tuple(kept_rows), duplicates))
    return groups


def _grouped(sources: Sequence[SourceFile], answers: Answers, options: ScoreOptions) -> list[ArenaGroup]:
    """Return the judged models, then those with only answers in the files."""
    groups = read_groups(sources, answers, options)
    judged = {group.model for group in groups}
    rest = [
        replace(source, rows=tuple(row for row in source.rows if not is_judgment(row)))
        for source in sources
        if any(not is_judgment(row) for row in source.rows)
    ]
    named = dict.fromkeys(str(row.get("model_id", row.get("model"))) for source in rest for row in source.rows)
    alone = [model for model in named if model in answers and model not in judged]
    return groups + [ArenaGroup(model, "none", "v0.1", None, ()) for model in alone]


def _without_broken_answers(question: ArenaQuestion, answers: Answers, options: ScoreOptions) -> ArenaQuestion:
    """Return the question without its games if the judged answer, or the baseline's, is a failed call."""
    baseline = question.baseline or options.baseline or BASELINES["arena-hard-v0.1"]
    facts = [answers.get(model, {}).get(question.id) for model in (question.model, baseline)]
    if not any(fact is not None and fact.broken for fact in facts):
        return question
    unscored = Game(None, reason=f"an answer is {FAILED_CALL}")
    return replace(question, games=tuple(unscored for _ in question.games))


# --------------------------------------------------------------------------------------------------------------- scores


def score_groups(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> list[SuiteScores]:
    """Return the metrics of each group. The reference's v0.1 interval depends on the pool: all v0.1 groups of one
    judge."""
    headlines = _closed_forms([group.main for group in groups], options)
    references = _references(groups, headlines, options)
    parts = [_by_category(group, options) for group in groups]
    styled: list[dict[str, Score]] = [{} for _ in groups]
    control: StyleControl | None = None
    if options.style_control:
        control = style_control(groups, answers, options)
        styled = [dict(scores) for scores in control.scores]
    pooled: Pooled | None = pool_scores(groups, options) if options.pool else None
    if pooled:
        styled = [{**style, **scores} for style, scores in zip(styled, pooled.scores, strict=True)]
    suite_scores = []
    for group, headline, reference, by_category, style in zip(
        groups, headlines, references, parts, styled, strict=True
    ):
        scores = {"arena_hard": headline, "arena_hard_reference": reference}
        if "creative_writing" in by_category and group.main != group.by_category()["creative_writing"]:
            scores["creative_writing"] = by_category["creative_writing"]["arena_hard"]
        tokens = average_tokens(group, answers)
        if tokens is not None:
            scores["avg_tokens"] = tokens
        notes = _notes(group, options) + (control.notes if control else ()) + (pooled.notes if pooled else ())
        suite_scores.append(SuiteScores(scores=scores | style, by_category=by_category, notes=notes))
    return suite_scores


def _closed_forms(parts: Sequence[Sequence[ArenaQuestion]], options: ScoreOptions) -> list[Score]:
    tables = [table(part) for part in parts]
    intervals = [
        ratio_interval(sums[:, 0], sums[:, 1], seed=options.seed) if options.intervals else None for sums in tables
    ]
    return [closed_form(*arguments) for arguments in zip(parts, tables, intervals, strict=True)]


def _references(groups: Sequence[ArenaGroup], headlines: Sequence[Score], options: ScoreOptions) -> list[Score]:
    """Return the reference's interval around the same value; only the value without intervals."""
    if not options.intervals:
        return list(headlines)
    references = list(headlines)
    pools: dict[tuple[str, str | None], list[int]] = {}
    for index, group in enumerate(groups):
        if group.version == "v2.0":
            references[index] = v2_reference(group.main, headlines[index])
        else:
            pools.setdefault((group.judge, group.baseline), []).append(index)
    for indices in pools.values():
        pool, values = [groups[index] for index in indices], [headlines[index] for index in indices]
        rated = v01_reference(pool, values, strict=options.strict_reference, anchored=not options.unanchored)
        for index, score in zip(indices, rated, strict=True):
            references[index] = score
    return references


def _by_category(group: ArenaGroup, options: ScoreOptions) -> dict[str, dict[str, Score]]:
    parts = group.by_category()
    if len(parts) < 2:
        return {}
    scores = _closed_forms(list(parts.values()), options)
    return {name: {"arena_hard": score} for name, score in zip(parts, scores, strict=True)}


def average_tokens(group: ArenaGroup, answers: Answers) -> Score | None:
    """Return the floor of the mean token count of the model's answers, as in published tables; None without answers."""
    facts = answers.get(group.model)
    if not facts:
        return None
    counts = [fact.tokens for fact in facts.values() if fact.tokens is not None]
    expected = max(expected_games(group.questions) // 2, len(facts))
    value = float(sum(counts) // len(counts)) if counts else None
    return Score(value=value, n=len(counts), unscored=expected - len(counts))


# ---------------------------------------------------------------------------------------------------------------- cards


def _notes(group: ArenaGroup, options: ScoreOptions) -> tuple[str, ...]:
    questions, notes = group.questions, []
    if not questions:
        return ("no judgments: the files hold this model's answers alone",)
    left_out = reasons(questions, kept=False)
    absent = expected_games(questions) - 2 * len({question.id for question in questions})
    if absent > 0:
        left_out["missing question"] = absent
    if left_out:
        listed = ", ".join(f"{reason} ({count})" for reason, count in left_out.items())
        notes.append(f"{sum(left_out.values())} of {expected_games(questions)} games are unscored: {listed}")
    kept = reasons(questions, kept=True)
    if kept:
        listed = ", ".join(f"{reason} ({count})" for reason, count in kept.items())
        notes.append(f"strict reference: {sum(kept.values())} broken games are scored as the reference does: {listed}")
    differing = sum(game.differs for question in questions for game in question.games)
    if differing:
        notes.append(f"{differing} stored verdicts are not the label in the judge's text; the stored one holds")
    if group.duplicates:
        rule = "all are scored" if options.strict_reference else "the last of each is scored"
        notes.append(f"{group.duplicates} rows repeat a question: {rule}")
    if group.version == "v2.0" and options.intervals:
        notes.append("arena_hard_reference is a 90 % interval, as v2.0 has it; arena_hard a 95 % one")
    return tuple(notes)


def _card(group: ArenaGroup, suite_scores: SuiteScores, options: ScoreOptions) -> ScoreCard:
    official = bool(group.questions) and _is_official(group, options.mirror)
    questions = group.questions
    named_baseline = group.baseline or options.baseline or "not stated in the files"
    protocol: dict[str, JsonValue] = {
        "format": f"arena_hard {group.version}",
        "baseline": named_baseline if group.suite == "arena_hard" else "one a category",
        "questions": "official" if official else digest(sorted({question.id for question in questions}))[:12],
        "rules": "strict reference" if options.strict_reference else "harness",
    }
    if options.style_control:
        protocol["style_control"] = options.style_control
    if options.pool:
        protocol["pool"] = True
    unscored: dict[str, JsonValue] = {**reasons(questions, kept=False)}
    return card_of(
        FileResult(
            suite=group.suite,
            suite_version="official-1" if official else "files-1",
            model=group.model,
            judge=group.judge,
            headline="arena_hard",
            suite_scores=suite_scores,
            protocol=protocol,
            files=tuple(dict.fromkeys(question.file for question in questions)),
            counts={
                "questions": len({question.id for question in questions}),
                "games": len(scored(questions)),
                "unscored": unscored,
                "differing": sum(game.differs for question in questions for game in question.games),
                "duplicates": group.duplicates,
            },
            seed=options.seed,
        )
    )


def _is_official(group: ArenaGroup, mirror: str | None) -> bool:
    """Return whether all questions are pinned ones: by digest if complete, else only if the pinned file is
    available."""
    ids = {question.id for question in group.questions}
    if digest(sorted(ids)) == OFFICIAL_IDS[group.suite]:
        return True
    name = f"{group.suite}/questions"
    known = _known_ids(name, mirror)
    return known is not None and ids <= known


@cache
def _known_ids(name: str, mirror: str | None) -> frozenset[str] | None:
    """Return ids of the pinned questions if their file is available; never downloads it."""
    if not is_available_offline(name, mirror):
        return None
    path = ensure([name], mirror)[name]  # raises DataError if the file is not the pinned one
    [source] = read_files([path])
    return frozenset(str(row.get("question_id", row.get("uid"))) for row in source.rows)


# --------------------------------------------------------------------------------------------------------------- export


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v0.1."""
    name, judge = slug(run.card.model), slug(run.card.judge)
    return {
        f"model_answer/{name}.jsonl": json_lines(_answers(run)),
        f"model_judgment/{judge}/{name}.jsonl": json_lines(_judgments(run)),
    }


def export_v2(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v2.0: the same paths with v2.0's keys."""
    name, judge = slug(run.card.model), slug(run.card.judge)
    return {
        f"model_answer/{name}.jsonl": json_lines(_answers_v2(run)),
        f"model_judgment/{judge}/{name}.jsonl": json_lines(_judgments_v2(run)),
    }


def _first(run: FinishedRun) -> Iterator[tuple[Prompt, Answer]]:
    """Yield each prompt's first draw, because the tools support only one."""
    for prompt in run.prompts():
        yield prompt, run.answers_to(prompt)[0]


def _text(answer: Answer) -> str:
    return answer.turns[0] if answer.error is None else FAILED_CALL


def _answers(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        turn: Line = {"content": _text(answer)}
        if answer.completion_tokens:
            turn["token_len"] = sum(answer.completion_tokens)  # by the served model's tokenizer, not cl100k_base
        yield {
            "question_id": prompt.id,
            "answer_id": f"{answer.sha}-{prompt.id}",
            "model_id": run.card.model,
            "choices": [{"index": 0, "turns": [turn]}],
            "tstamp": None,
        }


def _answers_v2(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        yield {
            "uid": prompt.id,
            "ans_id": f"{answer.sha}-{prompt.id}",
            "model": run.card.model,
            "messages": [
                {"role": "user", "content": prompt.turns[0]},
                {"role": "assistant", "content": {"answer": _text(answer)}},
            ],
            "tstamp": None,
            "metadata": {"token_len": sum(answer.completion_tokens)},
        }


def _judgments(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        games = run.judged(prompt, answer)
        if any(judgments for _, judgments in games):
            yield {
                "question_id": prompt.id,
                "model": run.card.model,
                "judge": run.card.judge,
                "games": [_game(task, judgments) for task, judgments in games],
            }


def _game(task: JudgeTask, judgments: list[Judgment]) -> Line:
    last = judgments[-1] if judgments else None
    return {
        "user_prompt": user_prompt_of(task),
        "judgment": reply_text(last) if last is not None else FAILED_CALL,
        "score": _label(last, task.order),
    }


def _judgments_v2(run: FinishedRun) -> Iterator[Line]:
    for prompt, answer in _first(run):
        games = run.judged(prompt, answer)
        if any(judgments for _, judgments in games):
            baseline = games[0][0].baseline
            yield {
                "uid": prompt.id,
                "category": prompt.category,
                "judge": run.card.judge,
                "model": run.card.model,
                "baseline": baseline.model if baseline is not None else None,
                "games": [_game_v2(task, judgments) for task, judgments in games],
            }


def _game_v2(task: JudgeTask, judgments: list[Judgment]) -> Line | None:
    """Return a game, or None without a reply, as v2.0's gen_judgment.py stores a failed call."""
    last = judgments[-1] if judgments else None
    if last is None or last.reply is None:
        return None
    prompt: list[JsonValue] = [{"role": "user", "content": user_prompt_of(task)}]
    if task.template.system is not None:
        prompt.insert(0, {"role": "system", "content": task.template.system})
    return {"score": _label(last, task.order), "judgment": {"answer": last.reply}, "prompt": prompt}


def _label(judgment: Judgment | None, order: Order | None) -> str | None:
    """Return the label as the judge saw the answers: A is the first."""
    verdict = judgment.verdict if judgment is not None else None
    if not isinstance(verdict, Preference):
        return None
    shown = verdict.value if order == "ba" else 1.0 - verdict.value
    return label_of(shown, verdict.strength)


# --------------------------------------------------------------------------------------------------------------- import


def read_rows(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and two games per question, from v0.1's or v2.0's files."""
    answers = _counted(answers_of([SourceFile(file.name, _not_games(file)) for file in files], request), files, request)
    questions = list(read_questions(files, strict=False))
    model = only("model", (question.model for question in questions), request.model)
    questions = [question for question in questions if question.model == model]
    judge = only("judge", (question.judge for question in questions), request.judge)
    last = {question.id: question for question in questions if question.judge == judge}
    check_questions(last, request.prompts)
    judgments = tuple(row for question in last.values() for row in _games(question, request, answers))
    baselines = {question.baseline for question in last.values()}
    return Imported(answers, judgments, baselines.pop() if len(baselines) == 1 else None)


def v01_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model judged in v0.1's files."""
    return {str(row.get("model")) for file in files for row in file.rows if is_judgment(row) and "uid" not in row}


def v2_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model judged in v2.0's files."""
    return {str(row.get("model")) for file in files for row in file.rows if is_judgment(row) and "uid" in row}


def _counted(answers: dict[str, Answer], files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the answers with the token counts of their rows, which `avg_tokens` averages."""
    facts = read_answers(files)
    model_facts = facts.get(request.model) or (
        next(iter(facts.values())) if len({*map(id, facts.values())}) == 1 else {}
    )
    tokens = {name: fact.tokens for name, fact in model_facts.items() if fact.tokens is not None}
    return {
        name: answer.model_copy(update={"completion_tokens": (tokens[name],)})
        if answer.error is None and name in tokens
        else answer
        for name, answer in answers.items()
    }


def _not_games(file: SourceFile) -> tuple[Row, ...]:
    return tuple(row for row in file.rows if "games" not in row and "winner" not in row)


def _games(question: ArenaQuestion, request: ImportRequest, answers: dict[str, Answer]) -> Iterator[Judgment]:
    for order, game in zip(ORDERS, question.games, strict=False):
        failure = Failure(reason="missing" if game.reason == "missing game" else "parse", message=game.reason or "")
        verdict = None
        if game.points is not None:
            verdict = Preference(value=game.points, strength=2 if game.weight > 1 else 1)
        yield Judgment(
            prompt_id=question.id,
            model=request.model,
            baseline=question.baseline,
            judge=question.judge,
            template_sha="unknown",
            answer_sha=sha_of(answers, question.id),
            order=order,
            verdict=verdict,
            error=failure if verdict is None else None,
        )
