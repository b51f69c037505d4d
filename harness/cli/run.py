"""`harness run`: flags and harness.yaml -> RunSpec -> score cards."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from ..analysis.trackers import log_scores, tracker_names
from ..judging.jury import judge_differences
from ..records import ModelRef, ScoreCard
from ..records.errors import ConfigError, IncompleteError
from ..records.judge_choice import choose_judges, suite_names, with_devices
from ..records.settings import FileSpec, RunSpec, SamplingOverride, ServeSpec, checked, read_file_spec
from ..run.estimate import Estimate, estimate
from ..run.pipeline import SuiteRun
from ..run.plan import Plan, plan
from .console import announce, print_cost, print_estimate, progress, set_up_logging

log = logging.getLogger(__name__)

SERVING = "Serving"
ANSWERS = "Answers (a change is a deviation of the protocol, named on the card)"


def run(
    model: Annotated[str | None, typer.Option(help="DIR, hf:ORG/NAME@REVISION or endpoint:NAME@URL.")] = None,
    suite: Annotated[str | None, typer.Option(help="all, or a comma list of suites (harness ls suites).")] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            help="JUDGE for all suites, or SUITE=JUDGE,...: a name (harness judge list), FILE.yaml, endpoint:M@URL, "
            "local:PATH, alpaca_eval:NAME, reward_model:PATH, replay:RUN, A+B a jury."
        ),
    ] = None,
    judge_devices: Annotated[
        str | None, typer.Option(help="GPUs of a judge loaded here, e.g. 2,3: it then judges beside the candidate.")
    ] = None,
    jury: Annotated[
        str | None, typer.Option(help="How a jury's verdicts become one: mean (default), majority, median.")
    ] = None,
    repeats: Annotated[int | None, typer.Option(help="Times every judge is asked the same.")] = None,
    anchors: Annotated[
        list[str] | None, typer.Option(help="FILE of `harness judge anchors`, judged again; repeatable, one a suite.")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="vllm, transformers, endpoint, ray, ...")] = None,
    edition: Annotated[str | None, typer.Option(help="official or pocket.")] = None,
    references: Annotated[
        str | None, typer.Option(help="MT-Bench reference answers: official, pr3158 or FILE.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Prompts per suite, stratified by category.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of sampling and of --limit.")] = None,
    results: Annotated[Path | None, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = None,
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read nor fill the judges' reply cache.")
    ] = False,
    max_cost: Annotated[
        float | None, typer.Option(help="US dollars the judges of this run may cost; it stops before crossing.")
    ] = None,
    transport: Annotated[
        str | None, typer.Option(help="How judges are asked: live, or batch (OpenAI Batch API: half the price).")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration; default ./harness.yaml if it exists.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be asked; write nothing.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Set an earlier run aside and begin anew.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cards as JSON.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log everything.")] = False,
    log_to: Annotated[
        str | None, typer.Option(help="Also hand the scores to wandb, mlflow, trackio (comma list).")
    ] = None,
    chat_template: Annotated[
        str | None, typer.Option(help="FILE.jinja or fastchat:NAME.", rich_help_panel=SERVING)
    ] = None,
    tensor_parallel: Annotated[int | None, typer.Option(rich_help_panel=SERVING)] = None,
    pipeline_parallel: Annotated[int | None, typer.Option(rich_help_panel=SERVING)] = None,
    data_parallel: Annotated[int | None, typer.Option(rich_help_panel=SERVING)] = None,
    devices: Annotated[
        str | None, typer.Option(help="GPUs of the candidate, e.g. 0,1; default: all.", rich_help_panel=SERVING)
    ] = None,
    dtype: Annotated[str | None, typer.Option(rich_help_panel=SERVING)] = None,
    quantization: Annotated[str | None, typer.Option(rich_help_panel=SERVING)] = None,
    reasoning_parser: Annotated[str | None, typer.Option(rich_help_panel=SERVING)] = None,
    max_model_len: Annotated[int | None, typer.Option(rich_help_panel=SERVING)] = None,
    engine_arg: Annotated[
        list[str] | None, typer.Option(help="Any further server argument, repeatable.", rich_help_panel=SERVING)
    ] = None,
    allow_pickle: Annotated[
        bool | None, typer.Option("--allow-pickle", help="Accept .bin/.pt weights.", rich_help_panel=SERVING)
    ] = None,
    trust_remote_code: Annotated[bool | None, typer.Option("--trust-remote-code", rich_help_panel=SERVING)] = None,
    concurrency: Annotated[int | None, typer.Option(help="Prompts in flight.", rich_help_panel=SERVING)] = None,
    rpm: Annotated[
        float | None, typer.Option(help="Requests a minute to endpoint:, at most.", rich_help_panel=SERVING)
    ] = None,
    tpm: Annotated[
        float | None, typer.Option(help="Tokens a minute to endpoint:, at most.", rich_help_panel=SERVING)
    ] = None,
    temperature: Annotated[float | None, typer.Option(rich_help_panel=ANSWERS)] = None,
    top_p: Annotated[float | None, typer.Option(rich_help_panel=ANSWERS)] = None,
    max_tokens: Annotated[int | None, typer.Option(rich_help_panel=ANSWERS)] = None,
    samples: Annotated[int | None, typer.Option(help="Answers per prompt.", rich_help_panel=ANSWERS)] = None,
) -> None:
    """Serve a model, ask it a suite's questions, have the answers judged, score. The same command again resumes.

    Examples: harness run --model ./ckpt --suite all --edition pocket;
    harness run --model hf:org/name --suite mt_bench,arena_hard --judge gpt-4.1 --limit 20
    """
    console = Console(stderr=True)
    set_up_logging(console, verbose=verbose)
    file = read_file_spec(config)
    trackers = tracker_names(log_to)
    serve = {
        "chat_template": chat_template,
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "data_parallel": data_parallel,
        "devices": devices,
        "dtype": dtype,
        "quantization": quantization,
        "reasoning_parser": reasoning_parser,
        "max_model_len": max_model_len,
        "engine_args": engine_arg,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
        "concurrency": concurrency,
        "rpm": rpm,
        "tpm": tpm,
    }
    sampling = {"temperature": temperature, "top_p": top_p, "max_tokens": max_tokens, "n": samples}
    flags = {
        "model": model,
        "suite": suite,
        "judge": judge,
        "judge_devices": judge_devices,
        "jury": jury,
        "repeats": repeats,
        "anchors": anchors or None,
        "backend": backend,
        "edition": edition,
        "references": references,
        "limit": limit,
        "seed": seed,
        "results": None if results is None else str(results),
        "mirror": mirror,
        "cache": False if no_cache else None,
        "max_cost": max_cost,
        "transport": transport,
    }
    spec = resolve(file, flags, serve, sampling)
    made = plan(spec)
    found = estimate(made, exact=dry_run)
    for sentence in differences(made):
        log.info("%s", sentence)
    for sentence in retirements(made, date.today()):
        log.warning("%s", sentence)
    if dry_run:
        print_estimate(found, [suite.name for suite in made.own_runners], as_json=as_json)
        return
    announce(found)
    cards = work(made, console, found, fresh=fresh)
    log_scores(trackers, cards)
    finish(made, cards, as_json=as_json)


def resolve(file: FileSpec, flags: dict[str, Any], serve: dict[str, Any], sampling: dict[str, Any]) -> RunSpec:
    """Flags over harness.yaml over defaults."""
    chosen = {name: getattr(file, name) if value is None else value for name, value in flags.items()}
    if chosen["model"] is None:
        raise ConfigError("no model: give --model DIR, hf:ORG/NAME or endpoint:NAME@URL")
    model = ModelRef.parse(chosen.pop("model"))
    suites = suite_names(chosen.pop("suite") or "all")
    edition = chosen["edition"] or "official"
    judges = choose_judges(suites, chosen.pop("judge"), edition=edition, own_judges=file.judges)
    if isinstance(chosen.get("anchors"), str):
        chosen["anchors"] = [chosen["anchors"]]
    if chosen["backend"] is None and model.scheme == "endpoint":
        chosen["backend"] = "endpoint"
    served = _over(file.serve, serve, ServeSpec, "serving flags")
    judge_devices = chosen.pop("judge_devices", None)
    if judge_devices is not None:
        judges = with_devices(judges, judge_devices, served)
    sampled = _over(file.sampling, sampling, SamplingOverride, "sampling flags")
    found = {name: value for name, value in chosen.items() if value is not None}
    found |= {"model": model, "suites": suites, "judges": judges, "serve": served, "sampling": sampled}
    return checked(RunSpec, found, "command line")


def _over(base: Any, flags: dict[str, Any], kind: Any, where: str) -> Any:
    given = {name: value for name, value in flags.items() if value is not None}
    return checked(kind, base.model_dump() | given, where)


def differences(made: Plan) -> list[str]:
    """What of each suite's judging is not the benchmark's own."""
    return [
        f"{planned.suite.name}: {sentence}"
        for planned in made.suites
        for sentence in judge_differences(planned.suite, planned.judges)
    ]


def retirements(made: Plan, today: date) -> list[str]:
    """Judges whose day has come: what answers under that name may be another model."""
    found = {judge.spec.name: judge.spec.retired for planned in made.suites for judge in planned.judges}
    return [
        f"judge {name} was shut down on {day} (harness judge list): what answers under that name may be another model"
        for name, day in found.items()
        if day is not None and day <= today
    ]


def work(made: Plan, console: Console, estimates: Sequence[Estimate], *, fresh: bool) -> list[ScoreCard]:
    """Runs the pipeline; Ctrl-C and SIGTERM stop it cleanly and say how to go on."""
    from ..run.execute import execute, opened  # deferred: it needs numpy, and the command's help does not

    with opened(made, fresh=fresh) as runs:
        totals = totals_of(estimates, runs)
        try:
            with progress(console, totals) as on_progress:
                cards: list[ScoreCard] = asyncio.run(
                    stoppable(execute(made, runs, fresh=fresh, on_progress=on_progress))
                )
                return cards
        except (KeyboardInterrupt, asyncio.CancelledError):
            raise IncompleteError(
                "stopped; answers and judgments so far are kept: the same command goes on from there"
            ) from None


async def stoppable(job: Any) -> Any:
    """The job, cancelled by SIGTERM."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await job


def totals_of(estimates: Sequence[Estimate], runs: Sequence[SuiteRun]) -> dict[tuple[str, str], int]:
    """Rows still to come by suite and stage; judgments are an upper bound (failed answers are not judged)."""
    calls = {found.suite: found.judge_calls for found in estimates}
    totals: dict[tuple[str, str], int] = {}
    for run in runs:
        name = run.plan.suite.name
        totals[name, "answers"] = run.answers_open
        totals[name, "judgments"] = calls[name] - run.store.judgments.count_succeeded
        totals[name, "judgments"] -= len(run.plan.anchor_tasks) - len(run.anchors_open)
        done = len(run.plan.prompts) - run.answers_open
        if done > 0:
            log.info("%s: resuming, %d answers and %d judgments are there", name, done, len(run.store.judgments))
    return totals


def finish(made: Plan, cards: list[ScoreCard], *, as_json: bool) -> None:
    """Prints the cards; IncompleteError (exit 4) when one of them is too incomplete to rank."""
    if as_json:
        print(json.dumps({"cards": [card.model_dump(mode="json") for card in cards]}, indent=2))
    else:
        # deferred: they need numpy, and the command's help does not
        from ..pages.judge_text import judging_table
        from ..pages.tables import card_table
        from ..pages.text import plain

        console = Console(width=None if os.isatty(1) else 140)
        for sentence in differences(made):
            console.print(Text(plain(sentence)), soft_wrap=True)
        console.print(card_table(cards))
        trust = judging_table(cards)
        if trust is not None:
            console.print(trust)
        for card in cards:
            for note in [note for note in card.notes if f"{card.suite}: {note}" not in differences(made)]:
                console.print(Text(f"{card.suite}: {note}"), soft_wrap=True)
        print_cost(cards)
        print(f"cards, answers and judgments: {made.spec.model_dir}")
        print(f"next: harness leaderboard --results {made.spec.results}")
    broken = [card.suite for card in cards if not card.complete]
    if broken:
        raise IncompleteError(
            f"too much unscored in {', '.join(broken)} (see the notes); the same command asks the failed ones again"
        )
