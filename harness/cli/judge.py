"""`harness judge calibrate`: flags -> a replay of recorded comparisons -> tables and calibration.json."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..analysis.judge_replay import (
    RECORDED,
    CalibrationSpec,
    ask,
    check,
    chosen_items,
    counted,
    estimate,
    folder_of,
    load_sets,
    manifest,
    published_judgments,
    recorded_judgments,
    report,
    write,
)
from ..judging.anchors import anchor_set
from ..judging.calibrated import Calibration
from ..judging.cost import priced
from ..judging.injection import KINDS, Injections, count_injections
from ..pages.judge_text import grids, markdown_grid, remarks, rich_grid
from ..pages.text import escape_markdown, plain
from ..records import Judgment, JuryRule
from ..records.errors import ConfigError, IncompleteError, printable
from ..records.judge_choice import find_judge, find_jury, judge_files, judge_templates
from ..records.protocols import SuiteOptions
from ..records.settings import read_file_spec
from ..run.pipeline import current_judgments
from ..run.plan import limited, suite_of_card
from ..store import RunStore, dump_json, read_card, write_atomic
from ..store.runs import find_run, read_rows
from ..suites.recorded import CalibrationSet, Item, data_folder
from .console import progress, set_up_logging
from .groups import command_group

log = logging.getLogger(__name__)

SAMPLE = 500
"""Items asked of a judge that is paid by the call, where --sample says nothing: the interval of an agreement is then
about +-0.06 within a suite."""


def calibrate(
    judge: Annotated[str, typer.Option(help="A judge as for `harness run`, or recorded: the retired judge's records.")],
    jury: Annotated[str, typer.Option(help="How a jury's verdicts become one: mean, majority, median.")] = "mean",
    suite: Annotated[str, typer.Option(help=f"all, or a comma list of {', '.join(recorded_judgments())}.")] = "all",
    sample: Annotated[
        int | None, typer.Option(help=f"Items in all, stratified; 0: every one. Default {SAMPLE}; of recorded, all.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Seed of --sample.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Times every judge is asked the same.")] = 1,
    data: Annotated[Path | None, typer.Option(help="Folder of recorded judgments (HARNESS_PUBLISHED).")] = None,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    out: Annotated[Path | None, typer.Option(help="Write calibration.json here as well.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier calibration aside and begin anew.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor fill the reply cache.")] = False,
    max_cost: Annotated[float | None, typer.Option(help="US dollars; it stops before crossing.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print calibration.json.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the tables as Markdown.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log everything.")] = False,
) -> None:
    """Replay recorded comparisons through a judge: agreement with people and with the retired judge, biases, ranks.

    The same command again resumes; cards of this judge cite what is found.

    Examples: harness judge calibrate --judge gpt-4.1 --sample 300 --data published;
    harness judge calibrate --judge recorded --suite mt_bench
    """
    console = Console(stderr=True)
    set_up_logging(console, verbose=verbose)
    spec = replace(_spec(judge, jury, suite, sample, seed), cache=not no_cache, max_cost=max_cost, repeats=repeats)
    _check_budget(spec)
    sets = load_sets(spec.suites, data_folder(data), SuiteOptions(mirror=mirror))
    items = chosen_items(spec, sets)
    if not items:
        raise ConfigError(f"nothing to ask about in {', '.join(spec.suites)}: the answers' texts are not in the data")
    log.info("%s: %s", judge, ", ".join(f"{n} {kind}" for kind, n in counted(items).items()))
    expected = estimate(spec, sets, items)
    cost = "" if expected.dollars is None else f", about ${expected.dollars:.2f}"
    log.info("%d judge calls%s", expected.calls, cost)
    if dry_run:
        print(f"{len(items)} items, {expected.calls} judge calls{cost}; nothing was asked, nothing written")
        return
    made = manifest(spec, sets, items)
    folder = folder_of(results, spec, made)
    said: list[Judgment] = []
    if spec.judges:
        check(spec, sets, items)
        store = RunStore(folder).open(made, fresh=fresh)
        said = _asked(spec, sets, items, store, expected.calls, console)
    found = report(spec, sets, items, said)
    places = [folder / "calibration.json", *([out] if out is not None else [])]
    write(found, *places)
    log.info("written: %s", ", ".join(map(str, places)))
    _show(found, as_json=as_json, markdown=markdown)


def _spec(judge: str, jury: str, suite: str, sample: int | None, seed: int) -> CalibrationSpec:
    rule = next((rule for rule in get_args(JuryRule) if rule == jury), None)
    if rule is None:
        raise ConfigError(f"no jury rule {jury!r}; known: {', '.join(get_args(JuryRule))}")
    if sample is not None and sample < 0:
        raise ConfigError(f"--sample {sample} is below 0; give the number of items, or 0 for every one")
    published = published_judgments()
    suites = published if suite == "all" else tuple(dict.fromkeys(part.strip() for part in suite.split(",")))
    judges = () if judge == RECORDED else find_jury(judge, read_file_spec(None).judges)
    if not judges and any(name in recorded_judgments() and name not in published for name in suites):
        raise ConfigError(f"--judge {RECORDED} has said nothing of your own comparisons; name a judge to ask")
    wanted = (SAMPLE if judges else 0) if sample is None else sample
    return CalibrationSpec(judges=judges, suites=suites, sample=wanted or None, seed=seed, jury=rule)


def _check_budget(spec: CalibrationSpec) -> None:
    if spec.max_cost is None:
        return
    if not spec.max_cost > 0:
        raise ConfigError(f"--max-cost {spec.max_cost:g} is not above 0")
    for judge in spec.judges:
        if not priced(judge):
            raise ConfigError(
                f"--max-cost needs the price of judge {judge.name!r}: give price_in and price_out, US dollars per "
                "million tokens, in its YAML file or under judges: in harness.yaml"
            )


def _asked(
    spec: CalibrationSpec, sets: list[CalibrationSet], items: list[Item], store: RunStore, total: int, console: Console
) -> list[Judgment]:
    """Asks what is still open and closes the store; Ctrl-C keeps what there is."""
    try:
        there = store.judgments.count_succeeded
        if there:
            log.info("resuming: %d of %d judgments are there", there, total)
        with progress(console, {("calibration", "judgments"): total - there}) as on_progress:
            asyncio.run(ask(spec, sets, items, store, on_progress))
        return list(store.judgments.all())
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise IncompleteError("stopped; judgments so far are kept: the same command goes on from there") from None
    finally:
        store.close()


def _show(found: Calibration, *, as_json: bool, markdown: bool) -> None:
    if as_json:
        print(json.dumps(found.model_dump(mode="json"), indent=2))
        return
    if markdown:
        print("\n".join(markdown_grid(grid) for grid in grids(found)))
        print("\n".join(f"- {escape_markdown(remark)}" for remark in remarks(found)))
        return
    console = Console(width=None if os.isatty(1) else 160)
    for grid in grids(found):
        console.print(rich_grid(grid))
    for remark in remarks(found):
        console.print(Text(plain(remark)))


# ----------------------------------------------------------------------------------------------------
# `harness judge anchors`: recorded answers and verdicts of a run -> a file that later runs judge again.


def anchors(
    run: Annotated[str, typer.Argument(help="A judged run: its folder, its card.json, or a model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    n: Annotated[int, typer.Option("--n", help="Answers, drawn by category in proportion.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    references: Annotated[str, typer.Option(help="The FILE of reference answers, where the run had its own.")] = "",
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
) -> None:
    """Freeze answers of a run with its judges' verdicts; `harness run --anchors FILE` judges them again.

    The file holds a model's answers to the suite's questions: keep it where the run itself may be kept.

    Example: harness judge anchors results/runs/my-model/arena_hard@official-1/0123456789ab --n 40 --out anchors.json
    """
    if n < 1:
        raise ConfigError(f"--n {n} is no number of answers; 40 is usual")
    folder = find_run(run, results)
    card = read_card(folder / "card.json")
    suite = suite_of_card(card, references=references, mirror=mirror)
    answers, judgments = read_rows(folder)
    rows = current_judgments(answers, iter(judgments))
    found = anchor_set(card, suite, answers, rows, lambda prompts: limited(prompts, n, seed))
    write_atomic(out, dump_json(found.model_dump(mode="json")))
    category = {prompt.id: prompt.category for prompt in suite.prompts()}
    sizes = Counter(category[anchor.answer.prompt_id] for anchor in found.anchors)
    print(f"wrote {out}: {len(found.anchors)} answers of {printable(found.model)} to {found.suite}, set {found.sha}")
    print(f"by category: {', '.join(f'{name} {size}' for name, size in sorted(sizes.items()))}")
    print(f"verdicts of {printable(', '.join(found.judges))}; next: harness run ... --anchors {out}")


# ----------------------------------------------------------------------------------------------------
# `harness judge injections` and `harness judge template`.


def injections(
    run: Annotated[list[str], typer.Argument(help="RUN: a run's folder, its card, or a model under --results.")],
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Count the answers that speak to the judge: verdict marks, prompt delimiters, chat tokens, instructions.

    A hit is no proof of ill will; it says which judgments to read. Example: harness judge injections ckpt
    """
    found: list[tuple[str, str, Injections, int]] = []
    for name in run:
        folder = find_run(name, results)
        card = read_card(folder / "card.json")
        answers, judgments = read_rows(folder)
        flagged = sum("injection" in row.flags for row in judgments)
        found.append((card.model, f"{card.suite}@{card.suite_version}", count_injections(answers), flagged))
    if as_json:
        rows = [
            {
                "model": model,
                "suite": suite,
                "answers": one.answers,
                "suspect": one.suspect,
                "by_kind": one.by_kind,
                "prompt_ids": list(one.prompt_ids),
                "judgments_flagged": flagged,
            }
            for model, suite, one, flagged in found
        ]
        print(json.dumps({"injections": rows}, indent=2))
        return
    table = Table(title="Answers that speak to the judge", title_justify="left")
    for column in ("model", "suite", "answers", "suspect", *KINDS, "judgments flagged", "prompts"):
        table.add_column(
            column, overflow="fold", justify="left" if column in ("model", "suite", "prompts") else "right"
        )
    for model, suite, one, flagged in found:
        shown = ", ".join(one.prompt_ids[:10]) + (", …" if len(one.prompt_ids) > 10 else "")
        counts = (one.answers, one.suspect, *(one.by_kind[kind] for kind in KINDS), flagged)
        table.add_row(*(Text(plain(text)) for text in (model, suite, *map(str, counts), shown)))
    Console(width=None if os.isatty(1) else 160).print(table)


def template(name: Annotated[str | None, typer.Argument(help="Which one; left out: list them.")] = None) -> None:
    """Print a judge's YAML file to fill in: endpoint, azure, reasoning, local, reward_model, evaluator.

    Example: harness judge template azure > azure.yaml
    """
    known = judge_templates()
    if name is None:
        for each, path in known.items():
            print(f"{each:14} {path.read_text('utf-8').splitlines()[0].lstrip('# ')}")
        return
    if name not in known:
        raise ConfigError(f"no judge template named {name!r}; known: {', '.join(known)}")
    print(known[name].read_text("utf-8"), end="")


# ----------------------------------------------------------------------------------------------------
# `harness judge`: the judges that can be named, and how far one agrees with people.


judge_app = command_group("List judges, calibrate one, write one; find answers that speak to a judge.")


@judge_app.callback()
def judge() -> None:
    """Judges: what can be given as --judge."""


judge_app.command("calibrate")(calibrate)
judge_app.command("injections")(injections)
judge_app.command("template")(template)
judge_app.command("anchors")(anchors)


@judge_app.command("list")
def list_judges(as_json: Annotated[bool, typer.Option("--json")] = False) -> None:
    """Names, kinds, models, prices and notes of all configured judges.

    Example: harness judge list
    """
    own = read_file_spec(None).judges
    specs = [find_judge(name, own) for name in [*own, *judge_files()]]
    if as_json:
        print(json.dumps({"judges": [spec.model_dump(mode="json") for spec in specs]}, indent=2))
        return
    table = Table()
    for name in ("name", "kind", "model", "key", "$/M in", "$/M out", "retired", "note"):
        table.add_column(name, overflow="fold")
    for spec in specs:
        key = "" if spec.key_env is None else f"{spec.key_env} ({'set' if os.environ.get(spec.key_env) else 'not set'})"
        prices = ["" if price is None else f"{price:g}" for price in (spec.price_in, spec.price_out)]
        retired = "" if spec.retired is None else spec.retired.isoformat()
        texts = (spec.name, spec.kind, spec.model or "", key, *prices, retired, spec.note or "")
        table.add_row(*(Text(text) for text in texts))
    Console(width=None if os.isatty(1) else 160).print(table)
