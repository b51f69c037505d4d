"""Turn Arena-Hard's own files into score cards, one per model and judge, with our interval and the reference's.

A broken game is unscored, with its reason, and counted. `arena_hard_rows` parses rows and `arena_hard_scores` computes
scores; style control is optional and lives in `arena_hard_style`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache

from pydantic import JsonValue

from ...records import Score, ScoreCard, SuiteScores, digest
from ...records.errors import ConfigError
from ...stats.intervals import ratio_interval
from ...store.official import ensure, is_available_offline
from ..files import FileResult, ScoreOptions, SourceFile, card_of, read_files
from .rows import ERROR, Answers, ArenaQuestion, Game, is_judgment, read_answers, read_questions
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
    unscored = Game(None, reason=f"an answer is {ERROR}")
    return replace(question, games=tuple(unscored for _ in question.games))


# ----------------------------------------------------------------------------------------------------------- scores


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


# ------------------------------------------------------------------------------------------------------------ cards


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
