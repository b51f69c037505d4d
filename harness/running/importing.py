"""Turn runs made elsewhere into run folders and cards, with a protocol that marks unknown fields.

What a file does not state (judge settings, prompts, answer settings) is "unknown" in the protocol. Such a run shares a
table only with runs whose protocols are unknown in the same fields.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import JsonValue

from ..records import Answer, ModelRef, ScoreCard, SuiteScores, digest
from ..records.errors import ConfigError
from ..records.protocols import Numbers, Suite, TakesBaseline
from ..records.reasoning import split_reasoning
from ..store import RunStore, write_atomic
from ..store.files import file_sha256, visible_files
from ..store.runs import BASELINE_ROWS
from ..suites.exchange import Imported
from ..suites.scoring import rules_of
from .card import count, empty_notes, numbers_card
from .plan import run_folder
from .trust import judging

UNKNOWN = "unknown"


@dataclass(frozen=True)
class Origin:
    """The source of imported rows."""

    file_format: str
    files: tuple[Path, ...]
    """As on the command line: files or folders."""

    def digests(self) -> list[JsonValue]:
        """Return name and sha256 of every file, with folders expanded. A name is never a path of this machine."""
        files = [file for path in self.files for file in (visible_files(path) if path.is_dir() else [path])]
        return [{"name": file.name, "sha256": file_sha256(file)} for file in files]


def write_script(results: Path, model: str, suite: str, imported: Imported, origin: Origin) -> Path:
    """Write the answers as a file for `--backend scripted --model FILE`. Missing answers stay unanswered.

    The file is named after the model, because a card takes the model's name from the file. Each row is marked as
    imported, so that the card does not claim the benchmark's answer settings.
    """
    path = results / "imported" / suite / ModelRef(scheme="endpoint", name=model).slug
    rows = [
        {"prompt_id": answer.prompt_id, "turns": list(answer.turns), "imported": origin.file_format}
        for answer in imported.answers.values()
        if answer.error is None
    ]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))
    return path


def judgments_card(results: Path, model: str, suite: Suite, imported: Imported, origin: Origin) -> ScoreCard:
    """Write a run's folder from judgments made elsewhere, and return its card."""
    judge = imported.judgments[0].judge
    official = suite
    if isinstance(suite, TakesBaseline):
        suite = suite.against(imported.baseline_answers)
    protocol: dict[str, JsonValue] = {
        "suite": suite.name,
        "suite_version": suite.version,
        "imported": origin.file_format,
        "judge": {"name": judge, "kind": UNKNOWN, "model": UNKNOWN, "params": UNKNOWN},
        **dict.fromkeys(suite.protocol(), UNKNOWN),  # every field, so that no run of ours has the same protocol
    }
    if "data" in suite.protocol():
        protocol["data"] = suite.protocol()["data"]  # the rows were matched with these questions
    notes: list[str] = []
    if imported.baseline is not None:
        protocol["baseline"] = imported.baseline
    if suite is not official:
        notes.append(f"compared with {imported.baseline}, whose answers are the files'")
        if suite.protocol().get("baseline") == official.protocol().get("baseline"):  # other texts under the same name
            answers_sha = sorted([answer.key, answer.sha] for answer in imported.baseline_answers.values())
            protocol["baseline_answers"] = digest(answers_sha)[:12]
    prompts, answers, judgments = suite.prompts(), list(imported.answers.values()), list(imported.judgments)
    scores = suite.score(prompts, answers, judgments)
    if imported.scores is not None:
        scores = _with_absent(imported.scores, scores)
    note = f"imported from {origin.file_format} files: judge prompts and settings are as the files' makers had them"
    notes = [*scores.notes, *notes, *imported.notes, note, *_reasoning_notes(answers), *empty_notes(answers)]
    numbers = Numbers(
        suite=suite.name,
        suite_version=suite.version,
        judge=judge,
        headline=suite.headline,
        scores=scores.model_copy(update={"notes": tuple(notes)}),
        protocol=protocol,
        counts=count(prompts, answers, judgments),
        judging=judging(
            sorted(judgments, key=lambda row: row.key),  # the order of the files must not change a last digit
            None,
            repeats=1 + max(row.repeat for row in judgments),
            rule=rules_of(suite.name, suite.headline, judgments)[0],
            categories={prompt.id: prompt.category for prompt in prompts},
            headline=lambda rows: suite.score(prompts, answers, rows).scores[suite.headline],
        ),
    )
    rows = imported if suite is not official else replace(imported, baseline_answers={})
    return write_numbers(results, model, numbers, origin, rows=rows)


def _with_absent(scores: SuiteScores, expected: SuiteScores) -> SuiteScores:
    """Return the files' scores with what the files lack counted as unscored.

    `expected` is of all the suite's questions; the tools that wrote the files count only what they find there.
    """
    absent = {
        name: (expected_score.n + expected_score.unscored) - (score.n + score.unscored)
        for name, score in scores.scores.items()
        if (expected_score := expected.scores.get(name)) is not None
    }
    counted = {
        name: score.model_copy(update={"unscored": score.unscored + max(0, absent.get(name, 0))})
        for name, score in scores.scores.items()
    }
    most = max(absent.values(), default=0)
    notes = (f"{most} of the suite's items are not in the files, and count as unscored",) * (most > 0)
    return scores.model_copy(update={"scores": counted, "notes": (*scores.notes, *notes)})


def _reasoning_notes(answers: Sequence[Answer]) -> list[str]:
    """Return one sentence if answers contain reasoning. It stays, because these verdicts are about the whole text."""
    turns = [turn for answer in answers for turn in answer.turns]
    turns_with_reasoning = sum(split_reasoning(turn).visible != turn for turn in turns)
    if not turns_with_reasoning:
        return []
    return [
        f"{turns_with_reasoning} of {len(turns)} answers contain reasoning, which their judge saw and which counts as "
        "their length"
    ]


def numbers_of_models(numbers: Sequence[Numbers], model: str | None) -> list[tuple[str, Numbers]]:
    """Return (model, results) for `--model`: that of the files, or a new name if all results are of one model.

    Without it, every result has its file's own name. Raise ConfigError if the files have several models, none of that
    name, or if a name is missing.
    """
    names = sorted({table.model or "" for table in numbers})
    if model is None:
        if "" in names:
            raise ConfigError("these files do not state the model's name: pass --model NAME")
        return [(table.model or "", table) for table in numbers]
    if model in names:
        return [(model, table) for table in numbers if table.model == model]
    if len(names) > 1:
        listed = ", ".join(name or "one without a name" for name in names)
        raise ConfigError(
            f"the files contain {len(names)} models, none named {model!r}: {listed}; pass one of these as --model, or "
            "leave --model out to import each under its own name"
        )
    return [(model, table) for table in numbers]


def write_numbers(
    results: Path, model: str, numbers: Numbers, origin: Origin, *, rows: Imported | None = None
) -> ScoreCard:
    """Write a run's folder with manifest, rows and card. The same files always give the same folder."""
    files = origin.digests()
    manifest: dict[str, JsonValue] = {
        "schema_version": 1,
        "model": model,
        "identity": {"imported": origin.file_format, "files": files},
        "protocol": numbers.protocol,
    }
    ref = ModelRef(scheme="endpoint", name=model)
    folder = run_folder(results, ref, numbers.suite, numbers.suite_version, manifest)
    store = RunStore(folder)
    store.open(manifest)
    try:
        for answer in rows.answers.values() if rows is not None else ():
            if answer.key not in store.answers:
                store.answers.append(answer)
        for judgment in rows.judgments if rows is not None else ():
            if judgment.key not in store.judgments:
                store.judgments.append(judgment)
        store.write_questions(numbers.questions)
        if rows is not None and rows.baseline_answers:
            lines = [answer.model_dump_json() + "\n" for answer in rows.baseline_answers.values()]
            write_atomic(store.folder / BASELINE_ROWS, "".join(lines))
        card = numbers_card(model, numbers, folder.name, {"imported": origin.file_format, "files": files})
        store.write_card(card)
    finally:
        store.close()
    return card
