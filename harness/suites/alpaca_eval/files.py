"""Read and write AlpacaEval's files: score annotations.json, export a run, import one model's rows.

Annotations are scored by our rules, or as the reference scores them: by position, and as stored. Each model, judge and
baseline gets a card.

Export: `model_outputs.json`, `annotations.json` and a row of the leaderboard, in the form of alpaca_eval's
PairwiseAnnotator: a preference is 1 (the baseline) to 2 (the model), null if the judge gave none. The extra key `index`
is the instruction's position in the suite. With it alpaca_eval's metrics find the difficulty of the instruction even if
earlier rows are missing, instead of counting rows.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
from pydantic import JsonValue

from ...records import Answer, Failure, Judgment, Preference, Prompt, Score, ScoreCard, SuiteScores
from ...records.errors import ConfigError
from ...records.protocols import SuiteData
from ...stats.length_control import LengthRows, control_length
from ..exchange import (
    FinishedRun,
    FirstRows,
    Imported,
    ImportRequest,
    Line,
    TextIndex,
    answer_of,
    check_questions,
    differing_answers,
    only,
    respelled_note,
    sha_of,
)
from ..files import FileResult, ScoreOptions, SourceFile, card_of, latest, stream_files
from .rows import (
    COMPLETIONS,
    Annotation,
    Editions,
    InstructionSet,
    Row,
    editions_of,
    is_annotation,
    is_logprobs,
    load_editions,
    read_annotation,
    read_logprobs,
)
from .scores import JudgedAnswers, ScoreRules, reference_score, score_judged

REFERENCE_MIN = 0.0
"""The reference scores any number of rows; our rules need 90 %."""


def score_ours(rows: Sequence[Annotation], instruction_set: InstructionSet, options: ScoreOptions) -> SuiteScores:
    """Count each instruction once, difficulty by instruction; add the reference's rate if rows are missing or moved."""
    last = current_rows(rows)
    prompts = instruction_set.prompts
    by_id = {instruction_set.ids[row.instruction]: row for row in last}
    rules = ScoreRules(seed=options.seed, order=options.fold_order, intervals=options.intervals)
    suite_scores = _score(prompts, by_id, instruction_set, rules, believed=False)
    notes = [*suite_scores.notes, *_row_notes(len(last), len(rows) - len(last), instruction_set)]
    conflicts = sum(row.conflict for row in last)
    if conflicts:
        notes.append(f"{conflicts} unscored: the stored preference is not what the judge's log-probabilities say")
    scores = dict(suite_scores.scores)
    moved = [instruction_set.ids[row.instruction] for row in rows] != [prompt.id for prompt in prompts]
    if moved and instruction_set.difficulty:
        reference_rate = _reference_rate(rows, instruction_set, options, scores["win_rate"])
        if reference_rate is not None:
            scores["lc_win_rate_reference"] = reference_rate
            notes.append(
                "rows are missing or moved: lc_win_rate matches difficulty by instruction, "
                "lc_win_rate_reference by row position, as the reference does"
            )
    return suite_scores.model_copy(update={"scores": scores, "notes": tuple(notes)})


def current_rows(rows: Iterable[Annotation]) -> list[Annotation]:
    """Return one row per instruction, the last. Raise ConfigError if two files' preferences differ by our rules."""
    return latest(rows, lambda row: row.instruction, lambda row: row.verdict)


def score_strictly(rows: Sequence[Annotation], instruction_set: InstructionSet, options: ScoreOptions) -> SuiteScores:
    """Count every row, with difficulty by position."""
    by_id = {str(index): row for index, row in enumerate(rows)}
    seen = {row.instruction for row in rows}
    absent = [text for text in instruction_set.ids if text not in seen]
    prompts = [Prompt(id=key, turns=(row.instruction,), category=row.category) for key, row in by_id.items()]
    prompts += [
        Prompt(id=f"missing {index}", turns=(text,), category=instruction_set.categories.get(text, "none"))
        for index, text in enumerate(absent)
    ]
    rules = ScoreRules(
        seed=options.seed, order=options.fold_order, intervals=options.intervals, min_scored=REFERENCE_MIN
    )
    suite_scores = _score(prompts, by_id, instruction_set, rules, believed=True)
    notes = ["scored as the reference does: difficulty by row position, stored preferences are believed"]
    notes += [*suite_scores.notes, *_row_notes(len(seen), 0, instruction_set)]
    if len(seen) < len(rows):
        notes.append(f"{len(rows) - len(seen)} rows repeat an instruction; they count, too")
    scores, outside = dict(suite_scores.scores), sum(row.outside is not None for row in rows)
    if outside and instruction_set.difficulty:
        believed = [row if row.outside is None else replace(row, stored=row.outside) for row in rows]
        reference_rate = _reference_rate(believed, instruction_set, options, scores["win_rate"])
        if reference_rate is not None:
            bare = reference_rate.model_copy(update={"ci_low": None, "ci_high": None, "se": None})  # not of our fit
            scores |= {"lc_win_rate": bare, "lc_win_rate_reference": reference_rate}
            notes.append(
                f"{outside} stored numbers outside 1..2 are in the length-controlled fit and in no other figure, "
                "as the reference has it"
            )
    return suite_scores.model_copy(update={"scores": scores, "notes": tuple(notes)})


def against_itself(win_rate: Score) -> dict[str, Score]:
    """Return a win rate of 50 without a fit for a model against itself (glm_winrate.py)."""
    half = Score(value=50.0, se=0.0, n=win_rate.n, unscored=win_rate.unscored)
    return {"lc_win_rate": half, "lc_win_rate_reference": half}


def _score(
    prompts: Sequence[Prompt],
    by_id: dict[str, Annotation],
    instruction_set: InstructionSet,
    rules: ScoreRules,
    *,
    believed: bool,
) -> SuiteScores:
    verdicts = {key: row.stored if believed else row.verdict for key, row in by_id.items()}
    judged = JudgedAnswers(
        lengths={key: [row.length_2] for key, row in by_id.items() if row.length_2 is not None},
        baseline_lengths={key: row.length_1 for key, row in by_id.items() if row.length_1 is not None},
        preferences={prompt.id: [] if (value := verdicts.get(prompt.id)) is None else [value] for prompt in prompts},
    )
    data = SuiteData(
        version=instruction_set.version,
        prompts=tuple(prompts),
        templates={},
        difficulty=instruction_set.difficulty,
        gamed=instruction_set.gamed,
    )
    return score_judged(data, prompts, judged, rules)


def _reference_rate(
    rows: Sequence[Annotation], instruction_set: InstructionSet, options: ScoreOptions, win_rate: Score
) -> Score | None:
    """Return the reference's length-controlled rate, or None if it has none.

    It takes rows as they are stored, and an instruction's difficulty by its position."""
    lengths = [(row.length_1, row.length_2) for row in rows]
    if win_rate.value is None or len(rows) > len(instruction_set.ids):
        return None
    differences = [first - second for first, second in lengths if first is not None and second is not None]
    if len(differences) < len(rows):
        return None
    table = LengthRows(
        preference=np.array([math.nan if row.stored is None else row.stored for row in rows]),
        length_difference=np.array(differences, dtype=np.float64),
        difficulty=np.array([instruction_set.difficulty[str(index)] for index in range(len(rows))]),
    )
    fit = control_length(table, instruction_set.gamed, order=options.fold_order)
    return None if fit is None else reference_score(fit, win_rate)


def _row_notes(present: int, dropped: int, instruction_set: InstructionSet) -> list[str]:
    notes = []
    if present < len(instruction_set.ids):
        notes.append(f"only {present} of {len(instruction_set.ids)} instructions have a row")
    if dropped:
        notes.append(f"{dropped} duplicated rows dropped: of one instruction the last wins")
    return notes


# ---------------------------------------------------------------------------------------------------------------- cards


RULES = "ours: rows deduplicated by instruction (last wins), difficulty by instruction, 90 % must be scored"
STRICT_RULES = "reference: every row with a preference, difficulty by row position"
PLACEHOLDER = "example"
"""Generator name in the packaged example, kept in some copies (results/NullModel): it names no model."""


@dataclass
class AlpacaGroup:
    """One model's rows by one judge against one baseline, in the files' order."""

    rows: list[Annotation] = field(default_factory=list)
    files: dict[str, None] = field(default_factory=dict)


class GroupKey(NamedTuple):
    """What the rows of a card have in common."""

    model: str
    judge: str
    baseline: str


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model, annotator and baseline. Raise ConfigError if no row is a judgment."""
    editions = load_editions(options.mirror)
    first_rows = FirstRows(files)
    groups = read_groups(first_rows, editions)
    if not groups:
        missing = f" ({editions.missing})" if editions.missing else ""
        raise ConfigError(f"no AlpacaEval annotation in {first_rows.described('alpaca_eval')}{missing}")
    lengths = _answer_lengths(stream_files(options.answers))
    return [_card(key, group, editions, options, lengths) for key, group in groups.items()]


def read_groups(files: Iterable[SourceFile], editions: Editions) -> dict[GroupKey, AlpacaGroup]:
    """Return the files' annotations, for `harness score` and `harness import` alike."""
    instructions = list(editions.official.ids) if editions.official else []
    groups: dict[GroupKey, AlpacaGroup] = defaultdict(AlpacaGroup)
    for file in files:
        for row in file.rows:
            key = group_key(row, file.name)
            if key is None:
                continue
            if is_annotation(row):
                text = editions.text_of(str(row["instruction"]))
                annotation: Annotation | None = read_annotation(row, text, file=file.location)
            else:
                annotation = read_logprobs(row, instructions, file=file.location)
            if annotation is not None:
                groups[key].rows.append(annotation)
                groups[key].files[file.name] = None
    return groups


def group_key(row: Row, file: str) -> GroupKey | None:
    """Return whose annotation a row is, or None if the row is not an annotation."""
    baseline = str(row.get("generator_1") or "unknown")
    if is_annotation(row):
        return GroupKey(_model(row, file), str(row.get("annotator") or "unknown"), baseline)
    return GroupKey(str(row["model"]), "unknown", baseline) if is_logprobs(row) else None


def _model(row: Row, file: str) -> str:
    """Return generator_2, or the file's name if that is a placeholder and the file's name is not."""
    name, stem = str(row.get("generator_2") or PLACEHOLDER), file.rsplit(".", 1)[0]
    return stem if name == PLACEHOLDER and stem != "annotations" else name


def _card(
    key: GroupKey, group: AlpacaGroup, editions: Editions, options: ScoreOptions, lengths: Mapping[str, list[int]]
) -> ScoreCard:
    instruction_set = editions.of({row.instruction: row.category for row in group.rows})
    protocol: dict[str, JsonValue] = {"baseline": key.baseline, "fold_order": options.fold_order}
    return card_of(
        FileResult(
            suite="alpaca_eval",
            suite_version=instruction_set.version,
            model=key.model,
            judge=key.judge,
            headline="lc_win_rate",
            suite_scores=score_group(key, group, editions, options, lengths),
            protocol=protocol | {"rules": STRICT_RULES if options.strict_reference else RULES},
            files=tuple(group.files),
            counts={"rows": len(group.rows), **_derived(group.rows)},
            seed=options.seed,
        )
    )


def score_group(
    key: GroupKey, group: AlpacaGroup, editions: Editions, options: ScoreOptions, lengths: Mapping[str, list[int]]
) -> SuiteScores:
    """Return the scores of a group. `lengths`: generator -> characters of all its answers, judged or not."""
    instruction_set = editions.of({row.instruction: row.category for row in group.rows})
    score = score_strictly if options.strict_reference else score_ours
    suite_scores = score(group.rows, instruction_set, options)
    scores, notes = dict(suite_scores.scores), [*suite_scores.notes]
    if all(row.length_2 is None for row in group.rows):
        notes.append("the files hold no answers, so there is no length to control for")
    if editions.missing and scores["lc_win_rate"].value is None:
        notes.append(editions.missing)
    if key.model == key.baseline:
        scores |= against_itself(scores["win_rate"])
        notes.append("the model is the baseline itself: its length-controlled win rate is 50 by definition")
    notes += respelled_note(len({row.instruction for row in group.rows if row.respelled}), "instructions")
    scores |= _answer_length(key.model, lengths, scores["avg_length"])
    return suite_scores.model_copy(update={"scores": scores, "notes": tuple(notes)})


def _derived(rows: Iterable[Annotation]) -> dict[str, JsonValue]:
    """Return how many stored preferences log-probabilities can reproduce, and the largest difference (0..1)."""
    pairs = [(row.stored, row.derived) for row in rows]
    gaps = [abs(stored - derived) for stored, derived in pairs if stored is not None and derived is not None]
    return {"derived_again": len(gaps), "largest_difference": max(gaps)} if gaps else {}


def _answer_lengths(files: Iterable[SourceFile]) -> dict[str, list[int]]:
    """Return generator -> lengths of its answers in characters, from model_outputs.json."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for file in files:
        for row in file.rows:
            output = row.get("output")
            if isinstance(output, str):
                lengths[str(row.get("generator"))].append(len(output))
    return lengths


def _answer_length(model: str, lengths: Mapping[str, list[int]], judged: Score) -> dict[str, Score]:
    """Return `avg_length` over all answers, judged or not, as on the board."""
    model_lengths = lengths.get(model)
    if not model_lengths:
        return {}
    expected = judged.n + judged.unscored
    return {
        "avg_length": Score(
            value=float(sum(model_lengths) // len(model_lengths)),
            n=len(model_lengths),
            unscored=max(0, expected - len(model_lengths)),
        )
    }


# --------------------------------------------------------------------------------------------------------------- export

COLUMNS = {  # of the published leaderboard -> metric of the card
    "win_rate": "win_rate",
    "standard_error": "standard_error",
    "n_wins": "n_wins",
    "n_wins_base": "n_wins_base",
    "n_draws": "n_draws",
    "n_total": None,
    "discrete_win_rate": "discrete_win_rate",
    "mode": None,
    "avg_length": "avg_length",
    "length_controlled_winrate": "lc_win_rate",
    "lc_standard_error": None,
}
COUNTS = ("n_wins", "n_wins_base", "n_draws", "avg_length")
MODE = "community"  # alpaca_eval main.evaluate, current_leaderboard_mode


def export(run: FinishedRun) -> dict[str, str]:
    """Return path below the output folder -> text."""
    return {
        "model_outputs.json": _dump(list(_outputs(run))),
        "annotations.json": _dump(list(_annotations(run))),
        "leaderboard.csv": _leaderboard(run),
    }


def _dump(rows: list[Line]) -> str:
    return json.dumps(rows, indent=2) + "\n"


def _outputs(run: FinishedRun) -> Iterator[Line]:
    """Yield the answers; a missing answer gets no row, because alpaca_eval joins on the instruction."""
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            if answer.error is None:
                yield {
                    "dataset": prompt.category,
                    "instruction": prompt.turns[0],
                    "output": answer.turns[0],
                    "generator": run.card.model,
                }


def _annotations(run: FinishedRun) -> Iterator[Line]:
    positions = {prompt.id: position for position, prompt in enumerate(run.suite.prompts())}
    for prompt in run.prompts():
        for answer in run.answers_to(prompt):
            for task, judgments in run.judged(prompt, answer):
                if task.baseline is not None:
                    facts: Line = {"instruction": prompt.turns[0], "dataset": prompt.category}
                    yield (
                        facts
                        | _pair(run, task.baseline, answer)
                        | _verdict(judgments)
                        | {"index": positions[prompt.id]}
                    )


def _pair(run: FinishedRun, baseline: Answer, answer: Answer) -> Line:
    return {
        "output_1": baseline.turns[0],
        "generator_1": baseline.model,
        "output_2": answer.turns[0],
        "generator_2": run.card.model,
        "annotator": run.card.judge,
    }


def _verdict(judgments: list[Judgment]) -> Line:
    values = [row.verdict.value for row in judgments if isinstance(row.verdict, Preference)]
    costs = [row.cost for row in judgments if row.cost is not None]
    return {
        "preference": 1 + sum(values) / len(values) if values else None,
        "price_per_example": sum(costs) if costs else None,
        "time_per_example": sum(row.seconds for row in judgments) if judgments else None,
        COMPLETIONS[0]: _raw(judgments[0]) if judgments else None,
    }


def _raw(judgment: Judgment) -> JsonValue:
    """Return the part of the judge's completion that `logprob_parser` reads."""
    tops: list[JsonValue] = [{"token": top.token, "logprob": top.logprob} for top in judgment.logprobs]
    return {"text": judgment.reply, "logprobs": {"content": [{"top_logprobs": tops}]}} if tops else judgment.reply


def _leaderboard(run: FinishedRun) -> str:
    scores = run.card.scores
    cells: dict[str, float | int | str | None] = {}
    for column, metric in COLUMNS.items():
        value = scores[metric].value if metric in scores else None
        cells[column] = int(value) if value is not None and column in COUNTS else value
    cells["n_total"] = scores["win_rate"].n
    cells["mode"] = MODE
    reference = scores.get("lc_win_rate_reference")
    cells["lc_standard_error"] = reference.se if reference is not None else None
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *cells])
    writer.writerow([run.card.model, *("" if value is None else value for value in cells.values())])
    return text.getvalue()


# --------------------------------------------------------------------------------------------------------------- import


def judged_models(files: Sequence[SourceFile]) -> set[str]:
    """Return every model with an annotation."""
    keys = (group_key(row, file.name) for file in files for row in file.rows)
    return {key.model for key in keys if key is not None}


def read_rows(files: Sequence[SourceFile], request: ImportRequest) -> Imported:
    """Return answers of `model_outputs.json`, or answers with preferences of `annotations.json`, by instruction.

    If the files have both, an annotation's answer counts, because it is the one that was judged.
    """
    editions = editions_of(request.prompts, request.mirror)
    groups = read_groups(files, editions)
    outputs = [row for file in files for row in file.rows if _is_output(row)]
    key = _requested_key(outputs, groups, request)
    outputs = [row for row in outputs if row.get("generator", key.model) == key.model]
    annotations = [
        row for file in files for row in file.rows if is_annotation(row) and group_key(row, file.name) == key
    ]
    ids = _prompt_ids([*outputs, *annotations], request.prompts)
    unjudged = [(ids[str(row["instruction"])], row["output"]) for row in outputs]
    judged = [(ids[str(row["instruction"])], row["output_2"]) for row in annotations]
    answers = _answers([*unjudged, *judged], request.model)
    notes = differing_answers(unjudged)
    if key not in groups:
        return Imported(answers, (), notes=notes)
    is_benchmark = not editions.of({row.instruction: row.category for row in groups[key].rows}).version.startswith(
        "files"
    )
    options = ScoreOptions(mirror=request.mirror)
    return Imported(
        answers,
        _preferences(groups[key], key, request, answers),
        key.baseline,
        baseline_answers=_answers(
            [(ids[str(row["instruction"])], row.get("output_1")) for row in annotations], key.baseline
        ),
        scores=score_group(key, groups[key], editions, options, _answer_lengths(files)) if is_benchmark else None,
        notes=notes,
    )


def _requested_key(outputs: Sequence[Row], groups: Collection[GroupKey], request: ImportRequest) -> GroupKey:
    """Return whose rows are imported. Raise ConfigError if the files leave a choice that the request does not make."""
    named = {str(row["generator"]) for row in outputs if "generator" in row}
    model = only("model", named | {key.model for key in groups}, request.model)
    judge = only("judge", (key.judge for key in groups if key.model == model), request.judge)
    keys = [key for key in groups if (key.model, key.judge) == (model, judge)]
    return GroupKey(model, judge, only("baseline", (key.baseline for key in keys), request.baseline))


def _prompt_ids(rows: Sequence[Row], prompts: Sequence[Prompt]) -> dict[str, str]:
    """Return instruction, as the rows spell it -> prompt id. Raise ConfigError if one is not a prompt's."""
    texts = TextIndex(prompt.turns[0] for prompt in prompts)
    ids = {prompt.turns[0]: prompt.id for prompt in prompts}
    instructions = dict.fromkeys(str(row["instruction"]) for row in rows)
    prompt_ids = {text: ids.get(texts.find(text) or text, text) for text in instructions}
    check_questions(prompt_ids.values(), prompts)
    return prompt_ids


def _answers(texts: Iterable[tuple[str, JsonValue]], model: str) -> dict[str, Answer]:
    """Return prompt id -> answer, the last if there are several; a row without a text has none."""
    last = dict(texts)
    return {prompt_id: answer_of(prompt_id, model, [text]) for prompt_id, text in last.items() if isinstance(text, str)}


def _preferences(
    group: AlpacaGroup, key: GroupKey, request: ImportRequest, answers: dict[str, Answer]
) -> tuple[Judgment, ...]:
    """Return one judgment per instruction. Raise ConfigError if one is not a prompt's."""
    ids = {prompt.turns[0]: prompt.id for prompt in request.prompts}
    judgments = tuple(
        _preference(ids.get(row.instruction, row.instruction), row, request, key, answers)
        for row in current_rows(group.rows)
    )
    check_questions((row.prompt_id for row in judgments), request.prompts)
    return judgments


def content_of(row: Row) -> str:
    """Return what a row of AlpacaEval's files is, or nothing for any other row."""
    if group_key(row, "") is not None:
        return "AlpacaEval annotations"
    return "AlpacaEval answers without judgments" if _is_output(row) else ""


def _is_output(row: Row) -> bool:
    return isinstance(row.get("instruction"), str) and isinstance(row.get("output"), str)


def _preference(
    prompt_id: str, row: Annotation, request: ImportRequest, key: GroupKey, answers: dict[str, Answer]
) -> Judgment:
    conflict = Failure(reason="conflict", message="the stored preference is not what the log-probabilities say")
    missing = conflict if row.conflict else Failure(reason="parse", message="the file has no preference")
    return Judgment(
        prompt_id=prompt_id,
        model=request.model,
        baseline=key.baseline,
        judge=key.judge,
        template_sha="unknown",
        answer_sha=sha_of(answers, prompt_id),
        verdict=None if row.verdict is None else Preference(value=row.verdict),
        error=missing if row.verdict is None else None,
    )
