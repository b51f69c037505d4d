"""Read and write Arena-Hard's own files: score them, export a run as them, import one model's rows.

Scores: one card per model and judge, with our interval and the reference's. A broken game is unscored, with its reason,
and counted. `rows.py` parses rows; `file_scores.py` computes scores, also under style control.

Export: `model_answer/NAME.jsonl` and `model_judgment/JUDGE/NAME.jsonl`, in the form of each version's gen_answer.py and
gen_judgment.py. A game without a verdict keeps its position with score null, which the tools leave out. A missing
answer is `$ERROR$` without a judgment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import cache

from pydantic import JsonValue

from ...records import (
    Answer,
    Failure,
    JudgeTask,
    Judgment,
    Preference,
    Prompt,
    Score,
    ScoreCard,
    SuiteScores,
    digest,
)
from ...records.errors import ConfigError
from ...store.official import ensure, is_available_offline
from ..exchange import (
    FinishedRun,
    FirstRows,
    Imported,
    ImportRequest,
    Line,
    answer_notes,
    answers_of,
    check_questions,
    json_lines,
    only,
    reply_text,
    sha_of,
    slug,
    user_prompt_of,
)
from ..files import FAILED_CALL, FileResult, ScoreOptions, SourceFile, card_of, latest, read_files, stream_files
from .file_scores import (
    BASELINES,
    ArenaGroup,
    closed_form,
    expected_games,
    pool_scores,
    reasons,
    scored,
    style_control,
    v01_reference,
    v2_reference,
)
from .rows import (
    V01_CATEGORY,
    Answers,
    ArenaQuestion,
    CollectedAnswers,
    Game,
    Row,
    is_judgment,
    label_of,
    read_answers,
    read_questions,
)
from .suite import ORDERS

OFFICIAL_IDS = {
    "arena_hard": "90c6a47fbb7657fcf61335f30d6518722259dda21df41dcda6b24054b1620fa3",
    "arena_hard_v2": "5d3226599bf48fec55ff6733788392b7560239d1ae920dcb751b598f6afef98a",
}
"""Suite -> digest of the sorted ids of its pinned questions."""


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model and judge. Raise ConfigError for files without Arena-Hard judgments or answers."""
    collected, answered = CollectedAnswers(), dict[str, None]()
    for file in stream_files(options.answers):
        for row in file.rows:
            collected.add_row(row, file.name)

    def other_row(row: Row, file: str) -> None:
        collected.add_row(row, file)
        answered[str(row.get("model_id", row.get("model")))] = None

    first_rows = FirstRows(files)
    questions = list(read_questions(first_rows, strict=options.strict_reference, other_row=other_row))
    answers = collected.by_model()
    groups = _grouped(questions, answers, options)
    judged = {group.model for group in groups}
    # a model without judgments still gets a card, which says that it has none
    alone = [model for model in answered if model in answers and model not in judged]
    groups += [ArenaGroup(model, "none", "v0.1", None, ()) for model in alone]
    if not groups:
        described = first_rows.described("arena_hard")
        raise ConfigError(f"no Arena-Hard judgment (a row with games) and no answer in {described}")
    suite_scores = score_groups(groups, answers, options)
    return [_card(group, scores, options) for group, scores in zip(groups, suite_scores, strict=True)]


def read_groups(files: Iterable[SourceFile], answers: Answers, options: ScoreOptions) -> list[ArenaGroup]:
    """Return the files' judgments by model and judge, in order of first appearance.

    Of several rows of one question the last counts; with --strict-reference all count, as in the reference.
    """
    return _grouped(read_questions(files, strict=options.strict_reference), answers, options)


def _grouped(questions: Iterable[ArenaQuestion], answers: Answers, options: ScoreOptions) -> list[ArenaGroup]:
    rows: dict[tuple[str, str, str | None, str], list[ArenaQuestion]] = {}
    for question in questions:
        suite = "arena_hard" if question.category == V01_CATEGORY else "arena_hard_v2"
        baseline = question.baseline if suite == "arena_hard" else None  # v2.0 has one baseline per category
        trusted = question if options.strict_reference else _without_broken_answers(question, answers, options)
        rows.setdefault((question.model, question.judge, baseline, suite), []).append(trusted)
    groups = []
    for (model, judge, baseline, _), group_rows in rows.items():
        for name, part in _by_baseline(group_rows, baseline):
            last = part if options.strict_reference else latest(part, _id, lambda question: question.verdict)
            duplicates = len(part) - len({question.id for question in part})
            groups.append(ArenaGroup(model, judge, last[0].version, name, tuple(last), duplicates))
    return groups


def _id(question: ArenaQuestion) -> str:
    return question.id


def _by_baseline(questions: list[ArenaQuestion], baseline: str | None) -> list[tuple[str | None, list[ArenaQuestion]]]:
    """Return the questions by baseline if a category was judged against several; else all of them."""
    names: dict[str, set[str | None]] = {}
    for question in questions:
        names.setdefault(question.category, set()).add(question.baseline)
    if all(len(category_names) == 1 for category_names in names.values()):
        return [(baseline, questions)]
    parts: dict[str | None, list[ArenaQuestion]] = {}
    for question in questions:
        official = question.baseline in (None, BASELINES.get(question.category))
        parts.setdefault(None if official else question.baseline, []).append(question)
    return list(parts.items())


def _without_broken_answers(question: ArenaQuestion, answers: Answers, options: ScoreOptions) -> ArenaQuestion:
    """Return the question without its games if the judged answer, or the baseline's, is a failed call."""
    baseline = question.baseline or options.baseline or BASELINES[V01_CATEGORY]
    facts = [answers.get(model, {}).get(question.id) for model in (question.model, baseline)]
    if not any(fact is not None and fact.broken for fact in facts):
        return question
    unscored = Game(None, reason=f"an answer is {FAILED_CALL}")
    return replace(question, games=tuple(unscored for _ in question.games))


def score_groups(groups: Sequence[ArenaGroup], answers: Answers, options: ScoreOptions) -> list[SuiteScores]:
    """Return the metrics of each group.

    The reference's v0.1 interval depends on the pool, which is all v0.1 groups of one judge.
    """
    headlines = [closed_form(group.main, options) for group in groups]
    references = _references(groups, headlines, options)
    fits = [style_control(groups, answers, options)] if options.style_control else []
    fits += [pool_scores(groups, options)] if options.pool else []
    suite_scores = []
    for index, group in enumerate(groups):
        by_category = _by_category(group, options)
        scores = {"arena_hard": headlines[index], "arena_hard_reference": references[index]}
        if "creative_writing" in by_category and group.main != group.by_category()["creative_writing"]:
            scores["creative_writing"] = by_category["creative_writing"]["arena_hard"]
        tokens = average_tokens(group, answers)
        if tokens is not None:
            scores["avg_tokens"] = tokens
        notes = _notes(group, options)
        for fit in fits:
            scores |= fit.scores[index]
            notes += fit.notes
        suite_scores.append(SuiteScores(scores=scores, by_category=by_category, notes=notes))
    return suite_scores


def _references(groups: Sequence[ArenaGroup], headlines: Sequence[Score], options: ScoreOptions) -> list[Score]:
    """Return the reference's interval around the same value; only the value without intervals."""
    references = list(headlines)
    if not options.intervals:
        return references
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
    return {name: {"arena_hard": closed_form(questions, options)} for name, questions in parts.items()}


def average_tokens(group: ArenaGroup, answers: Answers) -> Score | None:
    """Return the mean token count of the model's answers, rounded down as in published tables, or None without any."""
    facts = answers.get(group.model)
    if not facts:
        return None
    counts = [fact.tokens for fact in facts.values() if fact.tokens is not None]
    expected = max(expected_games(group.questions) // 2, len(facts))
    value = float(sum(counts) // len(counts)) if counts else None
    return Score(value=value, n=len(counts), unscored=expected - len(counts))


def _notes(group: ArenaGroup, options: ScoreOptions) -> tuple[str, ...]:
    questions, notes = group.questions, []
    if not questions:
        return ("no judgments: the files hold this model's answers alone",)
    left_out = reasons(questions, is_scored=False)
    absent = expected_games(questions) - 2 * len({question.id for question in questions})
    if absent > 0:
        left_out["missing question"] = absent
    if left_out:
        listed = ", ".join(f"{reason} ({count})" for reason, count in left_out.items())
        notes.append(f"{sum(left_out.values())} of {expected_games(questions)} games are unscored: {listed}")
    scored_anyway = reasons(questions, is_scored=True)
    if scored_anyway:
        listed = ", ".join(f"{reason} ({count})" for reason, count in scored_anyway.items())
        notes.append(
            f"strict reference: {sum(scored_anyway.values())} broken games are scored as the reference does: {listed}"
        )
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
        "baseline": named_baseline if group.suite == "arena_hard" else own_baselines(group) or "one a category",
        "questions": "official" if official else digest(sorted({question.id for question in questions}))[:12],
        "rules": "strict reference" if options.strict_reference else "harness",
    }
    if options.style_control:
        protocol["style_control"] = options.style_control
    if options.pool:
        protocol["pool"] = True
    unscored: dict[str, JsonValue] = {**reasons(questions, is_scored=False)}
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


def own_baselines(group: ArenaGroup) -> dict[str, JsonValue]:
    """Return category -> baseline of a v2.0 group, or nothing if they are the official ones, or not stated."""
    names = {question.category: question.baseline for question in group.questions if question.baseline is not None}
    official = all(name == BASELINES.get(category, name) for category, name in names.items())
    return {} if official else dict(sorted(names.items()))


def _is_official(group: ArenaGroup, mirror: str | None) -> bool:
    """Return whether all questions are pinned ones: by digest if complete, else if the pinned file is available."""
    ids = {question.id for question in group.questions}
    if digest(sorted(ids)) == OFFICIAL_IDS[group.suite]:
        return True
    official_ids = _known_ids(f"{group.suite}/questions", mirror)
    return official_ids is not None and ids <= official_ids


@cache
def _known_ids(name: str, mirror: str | None) -> frozenset[str] | None:
    """Return ids of the pinned questions if their file is available; never downloads it."""
    if not is_available_offline(name, mirror):
        return None
    path = ensure([name], mirror)[name]  # raises DataError if the file is not the pinned one
    [source] = read_files([path])
    return frozenset(str(row.get("question_id", row.get("uid"))) for row in source.rows)


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v0.1."""
    return _export(run, _answer, _judgment)


def export_v2(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text, for v2.0: the same paths with v2.0's keys."""
    return _export(run, _answer_v2, _judgment_v2)


Games = list[tuple[JudgeTask | None, list[Judgment]]]
"""The judgments of both games; no task if the run lacks the answer."""


def _export(
    run: FinishedRun,
    answer_row: Callable[[ScoreCard, Prompt, Answer], Line],
    judgment_row: Callable[[ScoreCard, Prompt, Games], Line],
) -> dict[str, str]:
    """Return both files with each prompt's first draw, because the tools support only one."""
    card, judgments = run.card, []
    answers = [(prompt, run.answers_to(prompt)[0]) for prompt in run.prompts()]
    for prompt, answer in answers:
        games: Games = [*run.judged(prompt, answer)]
        if any(verdicts for _, verdicts in games):
            judgments.append(judgment_row(card, prompt, games))
    for prompt, rows in run.judged_unseen():
        first_draws = [row for row in rows if row.index == 0]
        games = [(None, [row for row in first_draws if row.order == order]) for order in ORDERS]
        judgments.append(judgment_row(card, prompt, games))
    name, judge = slug(card.model), slug(card.judge)
    return {
        f"model_answer/{name}.jsonl": json_lines(answer_row(card, prompt, answer) for prompt, answer in answers),
        f"model_judgment/{judge}/{name}.jsonl": json_lines(judgments),
    }


def _text(answer: Answer) -> str:
    return answer.turns[0] if answer.error is None else FAILED_CALL


def _answer(card: ScoreCard, prompt: Prompt, answer: Answer) -> Line:
    turn: Line = {"content": _text(answer)}
    if answer.visible_tokens is not None:
        turn["token_len"] = answer.visible_tokens  # by the served model's tokenizer, not cl100k_base
    return {
        "question_id": prompt.id,
        "answer_id": f"{answer.sha}-{prompt.id}",
        "model_id": card.model,
        "choices": [{"index": 0, "turns": [turn]}],
        "tstamp": None,
    }


def _answer_v2(card: ScoreCard, prompt: Prompt, answer: Answer) -> Line:
    return {
        "uid": prompt.id,
        "ans_id": f"{answer.sha}-{prompt.id}",
        "model": card.model,
        "messages": [
            {"role": "user", "content": prompt.turns[0]},
            {"role": "assistant", "content": {"answer": _text(answer)}},
        ],
        "tstamp": None,
        "metadata": {"token_len": answer.visible_tokens or 0},
    }


def _judgment(card: ScoreCard, prompt: Prompt, games: Games) -> Line:
    return {
        "question_id": prompt.id,
        "model": card.model,
        "judge": card.judge,
        "games": [_game(task, judgments) for task, judgments in games],
    }


def _game(task: JudgeTask | None, judgments: list[Judgment]) -> Line:
    last = judgments[-1] if judgments else None
    return {
        "user_prompt": user_prompt_of(task) if task is not None and _is_against(last, task) else None,
        "judgment": reply_text(last) if last is not None else FAILED_CALL,
        "score": _label(last, task),
    }


def _judgment_v2(card: ScoreCard, prompt: Prompt, games: Games) -> Line:
    baseline = next((task.baseline for task, _ in games if task is not None), None)
    stated = next((row.baseline for _, judgments in games for row in judgments if row.baseline is not None), None)
    return {
        "uid": prompt.id,
        "category": prompt.category,
        "judge": card.judge,
        "model": card.model,
        "baseline": stated or (baseline.model if baseline is not None else None),
        "games": [_game_v2(task, judgments) for task, judgments in games],
    }


def _game_v2(task: JudgeTask | None, judgments: list[Judgment]) -> Line | None:
    """Return a game, or None without a reply, as v2.0's gen_judgment.py stores a failed call."""
    last = judgments[-1] if judgments else None
    if last is None or (last.reply is None and last.verdict is None):
        return None
    shown = user_prompt_of(task) if task is not None and _is_against(last, task) else None
    prompt: list[JsonValue] = [{"role": "user", "content": shown}]
    if task is not None and task.template.system is not None:
        prompt.insert(0, {"role": "system", "content": task.template.system})
    return {"score": _label(last, task), "judgment": {"answer": reply_text(last)}, "prompt": prompt}


def _is_against(judgment: Judgment | None, task: JudgeTask) -> bool:
    """Return whether the task has the baseline that was judged: an imported run may lack the answers of its own."""
    stated = judgment.baseline if judgment is not None else None
    return stated is None or task.baseline is None or task.baseline.model == stated


def _label(judgment: Judgment | None, task: JudgeTask | None) -> str | None:
    """Return the label as the judge saw the answers: A is the first."""
    verdict = judgment.verdict if judgment is not None else None
    if judgment is None or not isinstance(verdict, Preference):
        return None
    order = judgment.order if task is None else task.order
    shown = verdict.value if order == "ba" else 1.0 - verdict.value
    return label_of(shown, verdict.strength)


def read_rows(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers, and two games per question, from v0.1's or v2.0's files, read and scored as by `harness score`.

    The baseline's answers are returned if the files have them and it is not the benchmark's own.
    """
    all_answers = read_answers(files)
    options = ScoreOptions(mirror=request.mirror)
    groups, prompt_ids = read_groups(files, all_answers, options), {prompt.id for prompt in request.prompts}
    groups = [group for group in groups if any(question.id in prompt_ids for question in group.questions)] or groups
    answer_files = [_without_judgments(file) for file in files]
    answers, notes = _counted(answers_of(answer_files, request), files, request), answer_notes(answer_files, request)
    if not groups:
        return Imported(answers, (), notes=notes)
    model = only("model", (group.model for group in groups), request.model)
    groups = [group for group in groups if group.model == model]
    judge = only("judge", (group.judge for group in groups), request.judge)
    by_baseline = {_baseline_of(group) or "": group for group in groups if group.judge == judge}
    baseline = only("baseline", by_baseline, request.baseline)
    group = by_baseline[baseline]
    check_questions((question.id for question in group.questions), request.prompts)
    judgments = tuple(row for question in group.questions for row in _imported_games(question, request, answers))
    is_custom = group.baseline not in (None, BASELINES[V01_CATEGORY]) or bool(own_baselines(group))
    scores = score_groups([group], all_answers, options)[0]
    return Imported(
        answers,
        judgments,
        baseline or None,
        baseline_answers=_texts_of(baseline, files, request) if is_custom else {},
        scores=scores if _is_official(group, request.mirror) else None,
        notes=notes,
    )


def _baseline_of(group: ArenaGroup) -> str | None:
    """Return the name of a group's baseline, or its categories' names if they are not the official ones."""
    names = {question.baseline for question in group.questions}
    if len(names) == 1:
        return names.pop()
    return ", ".join(f"{category}: {name}" for category, name in own_baselines(group).items()) or None


def _texts_of(baseline: str, files: Sequence[SourceFile], request: ImportRequest) -> dict[str, Answer]:
    """Return the baseline's answers in the files, or nothing if there are none."""
    if baseline not in read_answers(files):
        return {}
    return answers_of([_without_judgments(file) for file in files], replace(request, model=baseline))


def content_of(row: Row) -> str:
    """Return what a row of Arena-Hard's files is, or nothing for any other row."""
    return "Arena-Hard's judgments" if is_judgment(row) else ""


def v01_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model judged in v0.1's files."""
    return _models(files, has_uid=False)


def v2_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model judged in v2.0's files."""
    return _models(files, has_uid=True)


def _models(files: Sequence[SourceFile], *, has_uid: bool) -> set[str]:
    rows = (row for file in files for row in file.rows)
    return {str(row.get("model")) for row in rows if is_judgment(row) and ("uid" in row) == has_uid}


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


def _without_judgments(file: SourceFile) -> SourceFile:
    return replace(file, rows=tuple(row for row in file.rows if not is_judgment(row)))


def _imported_games(question: ArenaQuestion, request: ImportRequest, answers: dict[str, Answer]) -> Iterator[Judgment]:
    for order, game in zip(ORDERS, question.games, strict=False):
        failure = Failure(reason="missing" if game.reason == "missing game" else "parse", message=game.reason or "")
        verdict = Preference(value=game.points, strength=game.strength) if game.points is not None else None
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
