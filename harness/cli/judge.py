"""`harness judge`: list judges, freeze anchors of a run, find answers that address the judge, print a template."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from ..analysis.finished_runs import find_runs
from ..judging.anchors import anchor_set
from ..judging.calibrated import measured_agreement
from ..judging.cost import is_free, price
from ..judging.injection import KINDS, Injections, count_injections
from ..pages.progress import progress
from ..pages.text import plain, rich_table
from ..records import JudgeSpec, digest
from ..records.asking import distinct_slug
from ..records.errors import ConfigError, did_you_mean, printable
from ..records.facts import Facts, all_facts
from ..records.judge_choice import find_judge, judge_files, judge_presets, judge_templates, usable_judge
from ..records.providers import providers
from ..running.estimate import REPLY_TOKENS
from ..running.pipeline import current_judgments
from ..running.plan import limited, suite_of_card
from ..store import RunStore, dump_json, read_card, write_atomic
from ..store.runs import find_run, read_rows
from ..store.trusted import listed_judges, read_config
from .calibrate import calibrate
from .console import STDERR, json_text, print_tables, refuse_overwriting, set_up_logging, stdout_console, until_stopped
from .options import NO_CACHE, Flags, JsonFlags, MirrorFlags, ResultsFlags, VerboseFlags, command, command_group

if TYPE_CHECKING:
    from ..analysis.judge_probe import ProbeResult
    from ..pages.text import FittedTable

judge_app = command_group("List judges, calibrate one, write one; find answers that address the judge.")


@judge_app.callback()
def judge() -> None:
    """List and check what can be given as --judge."""


judge_app.command("calibrate")(calibrate)


class InjectionsFlags(ResultsFlags, JsonFlags):
    run: Annotated[
        list[str], typer.Argument(help="RUN: a run's folder, its card, or a model under --results: all its runs.")
    ]


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
    for run in (run for name in flags.run for run in find_runs(name, flags.results)):
        if run.folder is None:
            raise ConfigError(
                f"the card of {run.card.model!r} lies outside a run's folder, so there are no answers to search"
            )
        card, (answers, judgments) = run.card, read_rows(run.folder)
        # answers are searched again, as rules may be newer than the run; flags say what its judge was told
        flagged = sum("injection" in row.flags for row in judgments)
        suite = f"{card.suite}@{card.suite_version}"
        rows.append(RunInjections(card.model, suite, count_injections(answers), flagged))
    if flags.as_json:
        print(json.dumps({"injections": [row.as_dict() for row in rows]}, indent=2))
        return
    head = ("model", "suite", "answers", "suspect", *KINDS, "judgments flagged", "prompts")
    order = ("model", "suspect", "answers", "suite", "judgments flagged")
    cells, texts = [row.cells() for row in rows], ("model", "suite", "prompts")
    print_tables(rich_table("Answers that address the judge", head, cells, texts, order, 3))


class TemplateFlags(Flags):
    name: Annotated[str | None, typer.Argument(help="Name of the template; default: list them.")] = None


@judge_app.command("template")
@command
def template(flags: TemplateFlags) -> None:
    """Print a judge's YAML file to fill in: endpoint, azure, reasoning, local, reward_model, evaluator, or a preset.

    Example: harness judge template azure > azure.yaml
    """
    templates = {**judge_templates(), **judge_presets()}
    if flags.name is None:
        width = max(map(len, templates)) + 2
        for name, path in templates.items():
            # a file begins with comments, whose first two sentences say what it is for
            comment = path.read_text("utf-8").partition("\nname:")[0].replace("#", " ")
            sentences = re.split(r"(?<=\.)\s+(?=[A-Z])", " ".join(comment.split()))[:2]
            print(f"{name:{width}}" + f"\n{'':{width}}".join(textwrap.wrap(" ".join(sentences), 99 - width)))
        return
    if flags.name not in templates:
        near = did_you_mean(flags.name, templates)
        raise ConfigError(f"no judge template named {flags.name!r}{near}; known: {', '.join(templates)}")
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
    text = dump_json(frozen.model_dump(mode="json"))
    refuse_overwriting({flags.out: text})
    write_atomic(flags.out, text)
    category = {prompt.id: prompt.category for prompt in suite.prompts()}
    sizes = Counter(category[anchor.answer.prompt_id] for anchor in frozen.anchors)
    counts = ", ".join(f"{name} {size}" for name, size in sorted(sizes.items()))
    print(
        f"wrote {flags.out}: {len(frozen.anchors)} answers of {printable(frozen.model)} to {frozen.suite}, "
        f"set {frozen.sha}"
    )
    print(f"by category: {counts}")
    print(f"verdicts of {printable(', '.join(frozen.judges))}; next: harness run ... --anchors {flags.out}")


class ProbeFlags(ResultsFlags, JsonFlags, VerboseFlags):
    judge: Annotated[str, typer.Option(help="A judge as for `harness run`; not a jury.")]
    no_cache: Annotated[bool, NO_CACHE] = False


@judge_app.command("probe")
@command
def probe(flags: ProbeFlags) -> None:
    """Ask a judge about easy questions with a right and a wrong answer, 96 calls: does it see which, in both orders?

    Also with padded answers and another wording of its prompt. Exits with 1 if it fails; the same command resumes.

    Example: harness judge probe --judge openai:gpt-5.4
    """
    from ..analysis.judge_probe import FOLDER, loaded_for_probe, lost_calls, probe_judge, probe_manifest, probe_results

    set_up_logging(verbose=flags.verbose)
    own_judges = read_config(None).judges
    spec = usable_judge(flags.judge, own_judges)
    judge = loaded_for_probe(spec)
    settings = probe_manifest(judge)
    store = RunStore(flags.results / FOLDER / distinct_slug(spec.name) / digest(settings)[:12]).open(settings)
    try:
        with progress(STDERR, {("probe", "judgments"): 96}) as on_progress:
            until_stopped(probe_judge(judge, store, cache=not flags.no_cache, on_progress=on_progress))
        judgments = list(store.judgments.all())
    finally:
        store.close()
    results, lost = probe_results(judgments), lost_calls(judgments)
    if flags.as_json:
        report = {"judge": spec.name, "probes": [result.as_dict() for result in results]}
        print(json.dumps(report | ({} if lost is None else {"failures": lost}), indent=2))
    else:
        print_tables(probe_table(spec.name, results))
        if lost is not None:
            stdout_console().print(plain(lost), markup=False, highlight=False)
    raise typer.Exit(0 if all(result.passed for result in results) else 1)


def probe_table(judge: str, results: Sequence[ProbeResult]) -> FittedTable:
    """Return one line per probe: what is expected, in how many questions it came, and whether that passes."""
    head = ("probe", "expected", "right", "no verdict", "needed", "result")
    rows = [
        (
            result.probe.name,
            result.probe.asks,
            f"{result.right} of {result.judged}",
            str(result.unscored),
            f"{result.probe.passes:.0%}",
            "pass" if result.passed else "FAIL",
        )
        for result in results
    ]
    order = ("probe", "result", "right", "needed", "no verdict")
    return rich_table(f"Judge {judge}", head, rows, ("probe", "expected", "result"), order, 3)


class ListFlags(ResultsFlags, JsonFlags):
    pass


@judge_app.command("list")
@command
def list_judges(flags: ListFlags) -> None:
    """List the configured judges: price of one model per suite, day of shutdown, agreement with people measured here.

    Any model of a provider can be a judge too: --judge openai:gpt-5.4. Example: harness judge list
    """
    # listing asks nothing, so it does not need a trusted harness.yaml
    own_judges = listed_judges()
    specs = [find_judge(name, own_judges) for name in [*own_judges, *judge_files(), *judge_presets()]]
    if flags.as_json:
        print(json_text("judges", specs), end="")
        return
    priced = [facts for facts in all_facts() if facts.judge_tokens is not None]
    agreements = measured_agreement(flags.results)
    rows = [
        (
            spec.name,
            spec.kind,
            _prices_text(spec, priced),
            _shutdown_text(spec.retired, date.today()),
            agreements.get(spec.name, ""),
        )
        for spec in specs
    ]
    head = ("name", "kind", "$ of one model", "shutdown", "agrees with people")
    title = f"Judges; $ on {' / '.join(facts.name for facts in priced)}, without reasoning"
    print_tables(rich_table(title, head, rows, (*head[:2], *head[3:]), ("name", "$ of one model", "shutdown"), 3))
    stdout_console().print(
        f"Others: PROVIDER:MODEL ({', '.join(providers())}), endpoint:MODEL@URL, local:PATH. Agreement is what "
        "`harness judge calibrate --judge NAME` measured here. Dollars are those of `harness run --dry-run` "
        "at 4 characters per token.",
        markup=False,
        highlight=False,
    )


def _shutdown_text(day: date | None, today: date) -> str:
    return "" if day is None else f"gone, {day}" if day <= today else str(day)


def _prices_text(spec: JudgeSpec, suites: Iterable[Facts]) -> str:
    """Return what judging one model costs on each suite; an empty text without a price."""
    if is_free(spec):
        return "free"
    amounts = (price(spec, *_tokens(spec, facts)) for facts in suites)
    return " / ".join(f"{amount:.2f}" for amount in amounts if amount is not None)


def _tokens(spec: JudgeSpec, facts: Facts) -> tuple[int, int]:
    """Return the tokens sent and received, with the judge's room for reasoning as far as a dry run counts it."""
    assert facts.judge_tokens is not None
    sent, received = facts.judge_tokens
    calls = facts.all_judge_calls
    if calls is None:
        return sent, received
    return sent, max(received, min(calls * REPLY_TOKENS, received + calls * spec.reasoning_room))
