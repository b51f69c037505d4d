"""Turn AlpacaEval's annotations.json into score cards, one per model, judge and baseline."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pydantic import JsonValue

from ..errors import ConfigError
from ..records import Score, ScoreCard
from .alpaca_eval_data import Editions, load_editions
from .alpaca_eval_rows import Annotation, Row, is_annotation, is_logprobs, read_annotation, read_logprobs
from .alpaca_eval_scores import against_itself, score_ours, score_strictly
from .cards import FileResult, card_of
from .files import SourceFile, read_files
from .options import ScoreOptions

RULES = "ours: rows deduplicated by instruction (last wins), difficulty by instruction, 90 % must be scored"
STRICT_RULES = "reference: every row with a preference, difficulty by row position"
PLACEHOLDER = "example"
"""Generator name in the packaged example, kept in some copies (results/NullModel): it names no model."""


@dataclass
class AlpacaGroup:
    """One model's rows by one judge against one baseline, in the files' order."""

    rows: list[Annotation] = field(default_factory=list)
    files: dict[str, None] = field(default_factory=dict)


def cards(files: Iterable[SourceFile], options: ScoreOptions) -> list[ScoreCard]:
    """Return one card per model, annotator and baseline; raise ConfigError if no row is a judgment."""
    editions = load_editions(options.mirror)
    instructions = list(editions.official.ids) if editions.official else []
    groups: dict[tuple[str, str, str], AlpacaGroup] = defaultdict(AlpacaGroup)
    names = []
    for file in files:
        names.append(file.name)
        for row in file.rows:
            baseline = str(row.get("generator_1") or "unknown")
            if is_annotation(row):
                read: Annotation | None = read_annotation(row)
                key = (_model(row, file.name), str(row.get("annotator") or "unknown"), baseline)
            elif is_logprobs(row):
                read, key = read_logprobs(row, instructions), (str(row["model"]), "unknown", baseline)
            else:
                continue
            if read is not None:
                groups[key].rows.append(read)
                groups[key].files[file.name] = None
    if not groups:
        missing = f" ({editions.missing})" if editions.missing else ""
        raise ConfigError(f"no AlpacaEval annotation in {', '.join(names)}{missing}")
    lengths = _answer_lengths(options)
    return [_card(*key, group, editions, options, lengths) for key, group in groups.items()]


def _model(row: Row, file: str) -> str:
    """Return generator_2, or the file's name if that is a placeholder and the file's name is not."""
    name, stem = str(row.get("generator_2") or PLACEHOLDER), file.rsplit(".", 1)[0]
    return stem if name == PLACEHOLDER and stem != "annotations" else name


def _card(
    model: str,
    judge: str,
    baseline: str,
    group: AlpacaGroup,
    editions: Editions,
    options: ScoreOptions,
    lengths: Mapping[str, list[int]],
) -> ScoreCard:
    known = editions.of({row.instruction: row.category for row in group.rows})
    strict = options.strict_reference
    suite_scores = score_strictly(group.rows, known, options) if strict else score_ours(group.rows, known, options)
    scores, notes = dict(suite_scores.scores), [*suite_scores.notes]
    if all(row.output_2 is None for row in group.rows):
        notes.append("the files hold no answers, so there is no length to control for")
    if editions.missing and scores["lc_win_rate"].value is None:
        notes.append(editions.missing)
    if model == baseline:
        scores |= against_itself(scores["win_rate"])
        notes.append("the model is the baseline itself: its length-controlled win rate is 50 by definition")
    scores |= _answer_length(model, lengths, scores["avg_length"])
    protocol: dict[str, JsonValue] = {"baseline": baseline, "fold_order": options.fold_order}
    return card_of(
        FileResult(
            suite="alpaca_eval",
            suite_version=known.version,
            model=model,
            judge=judge,
            headline="lc_win_rate",
            suite_scores=suite_scores.model_copy(update={"scores": scores, "notes": tuple(notes)}),
            protocol=protocol | {"rules": STRICT_RULES if strict else RULES},
            files=tuple(group.files),
            counts={"rows": len(group.rows), **_derived(group.rows)},
            seed=options.seed,
        )
    )


def _derived(rows: Iterable[Annotation]) -> dict[str, JsonValue]:
    """Return how many stored preferences log-probabilities can reproduce, and the largest difference (0..1)."""
    pairs = [(row.stored, row.derived) for row in rows]
    gaps = [abs(stored - derived) for stored, derived in pairs if stored is not None and derived is not None]
    return {"derived_again": len(gaps), "largest_difference": max(gaps)} if gaps else {}


def _answer_lengths(options: ScoreOptions) -> dict[str, list[int]]:
    """Return generator -> lengths of its answers in characters, from model_outputs.json."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for file in read_files(options.answers):
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
