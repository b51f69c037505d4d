"""`harness judge`: list judges, freeze anchors of a run, find answers that address the judge, print a template."""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic import JsonValue
from rich.table import Table
from rich.text import Text

from ..judging.anchors import anchor_set
from ..judging.injection import KINDS, Injections, count_injections
from ..pages.text import plain
from ..records import JudgeSpec
from ..records.errors import ConfigError, printable
from ..records.judge_choice import find_judge, judge_files, judge_templates
from ..running.pipeline import current_judgments
from ..running.plan import limited, suite_of_card
from ..store import dump_json, read_card, write_atomic
from ..store.runs import find_run, read_rows
from ..store.trusted import listed_judges
from .calibrate import calibrate
from .console import json_text, stdout_console
from .options import Flags, JsonFlags, MirrorFlags, ResultsFlags, command, command_group

judge_app = command_group("List judges, calibrate one, write one; find answers that address the judge.")


@judge_app.callback()
def judge() -> None:
    """List and check what can be given as --judge."""


judge_app.command("calibrate")(calibrate)


class InjectionsFlags(ResultsFlags, JsonFlags):
    run: Annotated[list[str], typer.Argument(help="RUN: a run's folder, its card, or a model under --results.")]


@dataclass(frozen=True)
class RunInjections:
    """What `injections` reports about one run."""

    model: str
    suite: str
    injections: Injections
    judgments_flagged: int

    def as_dict(self) -> dict[str, JsonValue]:
        return {
            "model": self.model,
            "suite": self.suite,
            "answers": self.injections.answers,
            "suspect": self.injections.suspect,
            "by_kind": {str(kind): count for kind, count in self.injections.by_kind.items()},
            "prompt_ids": list(self.injections.prompt_ids),
            "judgments_flagged": self.judgments_flagged,
        }

    def cells(self) -> list[str]:
        prompt_ids = self.injections.prompt_ids
        prompts = ", ".join(prompt_ids[:10]) + (", …" if len(prompt_ids) > 10 else "")
        by_kind = [self.injections.by_kind[kind] for kind in KINDS]
        counts = [self.injections.answers, self.injections.suspect, *by_kind, self.judgments_flagged]
        return [self.model, self.suite, *map(str, counts), prompts]


@judge_app.command("injections")
@command
def injections(flags: InjectionsFlags) -> None:
    """Count the answers that address the judge: verdict marks, prompt delimiters, chat tokens, instructions.

    A hit proves no intent; it shows which judgments to read. Example: harness judge injections ckpt
    """
    rows = []
    for name in flags.run:
        folder = find_run(name, flags.results)
        card = read_card(folder / "card.json")
        answers, judgments = read_rows(folder)
        flagged = sum("injection" in row.flags for row in judgments)
        suite = f"{card.suite}@{card.suite_version}"
        rows.append(RunInjections(card.model, suite, count_injections(answers), flagged))
    if flags.as_json:
        print(json.dumps({"injections": [row.as_dict() for row in rows]}, indent=2))
        return
    table = Table(title="Answers that address the judge", title_justify="left")
    for column in ("model", "suite", "answers", "suspect", *KINDS, "judgments flagged", "prompts"):
        table.add_column(
            column, overflow="fold", justify="left" if column in ("model", "suite", "prompts") else "right"
        )
    for row in rows:
        table.add_row(*(Text(plain(text)) for text in row.cells()))
    stdout_console(160).print(table)


class TemplateFlags(Flags):
    name: Annotated[str | None, typer.Argument(help="Name of the template; default: list them.")] = None


@judge_app.command("template")
@command
def template(flags: TemplateFlags) -> None:
    """Print a judge's YAML file to fill in: endpoint, azure, reasoning, local, reward_model, evaluator.

    Example: harness judge template azure > azure.yaml
    """
    templates = judge_templates()
    if flags.name is None:
        for name, path in templates.items():
            print(f"{name:14} {path.read_text('utf-8').splitlines()[0].lstrip('# ')}")
        return
    if flags.name not in templates:
        raise ConfigError(f"no judge template named {flags.name!r}; known: {', '.join(templates)}")
    print(templates[flags.name].read_text("utf-8"), end="")


class AnchorsFlags(ResultsFlags, MirrorFlags):
    run: Annotated[str, typer.Argument(help="A judged run: its folder, its card.json, or a model's name.")]
    out: Annotated[Path, typer.Option(help="The file to write.")]
    n: Annotated[int, typer.Option("--n", help="Answers, drawn in proportion to the categories.")] = 40
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0
    references: Annotated[str, typer.Option(help="The FILE of reference answers, if the run had its own.")] = ""


@judge_app.command("anchors")
@command
def anchors(flags: AnchorsFlags) -> None:
    """Freeze answers of a run with its judges' verdicts; `harness run --anchors FILE` judges them again.

    The file contains a model's answers to the suite's questions: store it only where the run itself may be stored.

    Example: harness judge anchors results/runs/my-model/arena_hard@official-1/0123456789ab --n 40 --out anchors.json
    """
    if flags.n < 1:
        raise ConfigError(f"--n {flags.n} is not a number of answers; 40 is usual")
    folder = find_run(flags.run, flags.results)
    card = read_card(folder / "card.json")
    suite = suite_of_card(card, folder, references=flags.references, mirror=flags.mirror)
    answers, judgments = read_rows(folder)
    current = current_judgments(answers, iter(judgments))
    frozen = anchor_set(card, suite, answers, current, lambda prompts: limited(prompts, flags.n, flags.seed))
    write_atomic(flags.out, dump_json(frozen.model_dump(mode="json")))
    category = {prompt.id: prompt.category for prompt in suite.prompts()}
    sizes = Counter(category[anchor.answer.prompt_id] for anchor in frozen.anchors)
    counts = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
    print(
        f"wrote {flags.out}: {len(frozen.anchors)} answers of {printable(frozen.model)} to {frozen.suite}, "
        f"set {frozen.sha}"
    )
    print(f"by category: {counts}")
    print(f"verdicts of {printable(', '.join(frozen.judges))}; next: harness run ... --anchors {flags.out}")


@judge_app.command("list")
@command
def list_judges(flags: JsonFlags) -> None:
    """List names, kinds, models, prices and notes of all configured judges.

    Example: harness judge list
    """
    own_judges = listed_judges()
    specs = [find_judge(name, own_judges) for name in [*own_judges, *judge_files()]]
    if flags.as_json:
        print(json_text("judges", specs), end="")
        return
    table = Table()
    for name in ("name", "kind", "model", "key", "$/M in", "$/M out", "retired", "note"):
        table.add_column(name, overflow="fold")
    for spec in specs:
        table.add_row(*(Text(text) for text in _judge_cells(spec)))
    stdout_console(160).print(table)


def _judge_cells(spec: JudgeSpec) -> list[str]:
    key = "" if spec.key_env is None else f"{spec.key_env} ({'set' if os.environ.get(spec.key_env) else 'not set'})"
    prices = ["" if price is None else f"{price:g}" for price in (spec.price_in, spec.price_out)]
    retired = "" if spec.retired is None else spec.retired.isoformat()
    return [spec.name, spec.kind, spec.model or "", key, *prices, retired, spec.note or ""]
