"""`harness run`: serve a model, ask it the suites' questions, have the answers judged, print the score cards."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.text import Text

from ..analysis.trackers import log_scores, tracker_names
from ..pages.progress import progress
from ..records import ScoreCard
from ..records.errors import ConfigError, IncompleteError, StoppedRunError
from ..records.facts import reference_sets
from ..records.protocols import Backend, Placed
from ..records.results import what_is_missing
from ..records.settings import FileSpec, RunSpec
from ..running.estimate import Estimate, check_budget, dry_run, estimate, totals_of
from ..running.plan import Plan, namesake, plan
from ..running.resolve import judge_warnings, models_in, overlaid, resolve
from ..store.trusted import read_config
from .console import (
    STDERR,
    announce,
    estimate_rows,
    json_text,
    print_cost,
    print_estimate,
    set_up_logging,
    stdout_console,
    until_stopped,
)
from .options import DRY_RUN, NO_CACHE, RESULTS, Flags, JsonFlags, MirrorFlags, VerboseFlags, command

if TYPE_CHECKING:
    from ..analysis.leaderboard import Table
    from ..backends.adapters import SharedServer
    from ..running.baselines import BaselineJob
    from ..running.pipeline import ProgressCallback, SuiteRun

log = logging.getLogger(__name__)
T = TypeVar("T")
MOST_SHOWN = 12
"""Models in the table at the end; `harness leaderboard --summary` has all."""
Job = Callable[["list[SuiteRun]", "ProgressCallback"], Coroutine[Any, Any, T]]
serving = partial(typer.Option, rich_help_panel="Serving")
answering = partial(
    typer.Option, rich_help_panel="Answers (a change is a deviation of the protocol, named on the card)"
)


class ServeFlags(Flags):
    """`serve:` of harness.yaml."""

    chat_template: Annotated[str | None, serving(help="FILE.jinja or fastchat:NAME.")] = None
    tensor_parallel: Annotated[int | None, serving(help="GPUs that share each layer of the model.")] = None
    pipeline_parallel: Annotated[int | None, serving(help="Groups of GPUs that each hold some of the layers.")] = None
    data_parallel: Annotated[int | None, serving(help="Copies of the model that share the prompts.")] = None
    devices: Annotated[str | None, serving(help="GPUs of the candidate, e.g. 0,1; default: all.")] = None
    dtype: Annotated[str | None, serving(help="Type of the weights, e.g. bfloat16; default: the model's.")] = None
    quantization: Annotated[str | None, serving(help="Quantization method of the server, e.g. fp8.")] = None
    reasoning: Annotated[
        str | None, serving(help="vLLM's reasoning parser: auto (by the checkpoint, default), off, or a name.")
    ] = None
    reasoning_effort: Annotated[str | None, serving(help="Sent with each request, e.g. low, medium, high.")] = None
    reasoning_room: Annotated[
        int | None, serving(help="Tokens for reasoning, besides the benchmark's own limit: a deviation.")
    ] = None
    chat_template_kwargs: Annotated[
        str | None, serving(help="JSON object for the chat template, e.g. '{\"enable_thinking\": false}'.")
    ] = None
    max_model_len: Annotated[int | None, serving(help="Longest prompt plus answer, in tokens.")] = None
    engine_args: Annotated[list[str] | None, serving("--engine-arg", help="More server arguments; repeatable.")] = None
    allow_pickle: Annotated[bool | None, serving("--allow-pickle", help="Accept .bin/.pt weights.")] = None
    trust_remote_code: Annotated[
        bool | None, serving("--trust-remote-code", help="Run the Python code that the checkpoint contains.")
    ] = None
    concurrency: Annotated[int | None, serving(help="Prompts in flight.")] = None
    rpm: Annotated[float | None, serving(help="Most requests per minute to endpoint:.")] = None
    tpm: Annotated[float | None, serving(help="Most tokens per minute to endpoint:.")] = None
    patience: Annotated[
        float | None,
        serving(
            help="Seconds an endpoint, also a judge's, may stay down, from the first call on; default: 60, 15 if it "
            "never answered, 300 while it says 503 with Retry-After."
        ),
    ] = None


class SamplingFlags(Flags):
    """`sampling:` of harness.yaml."""

    temperature: Annotated[float | None, answering(help="Sampling temperature.")] = None
    top_p: Annotated[float | None, answering(help="Probability mass that nucleus sampling keeps.")] = None
    max_tokens: Annotated[int | None, answering(help="Longest answer, in tokens.")] = None
    n: Annotated[int | None, answering("--samples", help="Answers per prompt.")] = None
    max_completion_tokens: Annotated[
        int | None, answering(help="As --max-tokens, for servers that want this name.")
    ] = None
    top_k: Annotated[int | None, answering(help="How many of the likeliest tokens to choose among.")] = None
    min_p: Annotated[float | None, answering(help="Smallest share of the likeliest token's probability.")] = None
    presence_penalty: Annotated[float | None, answering(help="Penalty on tokens that have occurred.")] = None
    frequency_penalty: Annotated[float | None, answering(help="Penalty per occurrence of a token.")] = None
    repetition_penalty: Annotated[float | None, answering(help="Factor against repetition; 1: none.")] = None
    stop: Annotated[list[str] | None, answering(help="Text that ends an answer; repeatable.")] = None
    draw_seed: Annotated[int | None, answering(help="Seed of the answers, also sent to endpoint:.")] = None
    system_prompt: Annotated[str | None, answering(help="System prompt, e.g. the model card's.")] = None
    extra_body: Annotated[str | None, answering(help="JSON object with any other request fields.")] = None
    omit: Annotated[list[str] | None, answering(help="Request field to leave out; repeatable.")] = None


class RunFlags(MirrorFlags, JsonFlags, VerboseFlags):
    """The flags of `harness run`. Those named like a key of harness.yaml replace that key."""

    model: Annotated[
        str | None,
        typer.Option(
            help="DIR, hf:ORG/NAME@REVISION, endpoint:NAME@URL or moa:TEAM.yaml; A,B,C or @FILE (one per line): one "
            "after the other."
        ),
    ] = None
    parallel_models: Annotated[
        int, typer.Option(help="How many of A,B,C run at a time, each on GPUs of its own.", min=1)
    ] = 1
    name: Annotated[str | None, typer.Option(help="Name in tables and results; default: from --model.")] = None
    suite: Annotated[
        str | None, typer.Option(help="all, or a comma list of suites (harness ls suites) or FILE.yaml.")
    ] = None
    judge: Annotated[
        str | None,
        typer.Option(
            help="JUDGE for all suites, or SUITE=JUDGE,...: a name (harness judge list), PROVIDER:MODEL, FILE.yaml, "
            "endpoint:M@URL, local:PATH, alpaca_eval:NAME, reward_model:PATH, replay:RUN, A+B for a jury."
        ),
    ] = None
    judge_devices: Annotated[
        str | None, typer.Option(help="GPUs of a judge loaded here, e.g. 2,3: it then judges beside the candidate.")
    ] = None
    jury: Annotated[
        str | None,
        typer.Option(
            help="How a jury decides: mean (default), majority, median; cyclic: one judge per prompt, in turn."
        ),
    ] = None
    audit: Annotated[
        str | None,
        typer.Option(
            help="JUDGE:N or SUITE=JUDGE:N,...: an expensive judge judges N questions, too; scores are on its scale."
        ),
    ] = None
    baseline: Annotated[
        str | None,
        typer.Option(
            help="RUN, FILE of answers or MODEL (asked once) instead of the benchmark's own baseline: a deviation; or "
            "SUITE=BASELINE,..."
        ),
    ] = None
    repeats: Annotated[int | None, typer.Option(help="Times every judge is asked the same question.")] = None
    anchors: Annotated[
        list[str] | None, typer.Option(help="FILE of `harness judge anchors`, judged again; repeatable, one per suite.")
    ] = None
    backend: Annotated[str | None, typer.Option(help="vllm, sglang, transformers, llamacpp, endpoint, ray, ...")] = None
    edition: Annotated[str | None, typer.Option(help="official or pocket.")] = None
    references: Annotated[
        str | None,
        typer.Option(help=f"Which reference answers judges are shown: {', '.join(reference_sets())} or FILE."),
    ] = None
    strict_reference: Annotated[
        bool | None,
        typer.Option(
            "--strict-reference", help="Fill judges' prompts and read their replies as the original tools do."
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Prompts per suite, stratified by category.")] = None
    seed: Annotated[int | None, typer.Option(help="Seed of sampling and of --limit.")] = None
    results: Annotated[Path | None, RESULTS] = None
    no_cache: Annotated[bool, NO_CACHE] = False
    max_cost: Annotated[float | None, typer.Option(help="US dollars the judges may cost; stops before that.")] = None
    transport: Annotated[
        str | None, typer.Option(help="How judges are asked: live, or batch (OpenAI Batch API: half the price).")
    ] = None
    config: Annotated[Path | None, typer.Option(help="Configuration; default ./harness.yaml if it exists.")] = None
    dry_run: Annotated[bool, DRY_RUN] = False
    fresh: Annotated[bool, typer.Option("--fresh", help="Archive the earlier run and start over.")] = False
    same_model: Annotated[
        bool | None,
        typer.Option("--assume-same", help="Resume even if endpoint: states another model than before."),
    ] = None
    log_to: Annotated[str | None, typer.Option(help="Also log scores to wandb, mlflow, trackio (comma list).")] = None
    serve: ServeFlags = ServeFlags()
    sampling: SamplingFlags = SamplingFlags()

    def settings(self) -> FileSpec:
        """Return harness.yaml with these flags over it."""
        flags = self.model_dump(include=set(FileSpec.model_fields), mode="json")
        return overlaid(read_config(self.config), flags | {"cache": False if self.no_cache else None})


@command
def run(flags: RunFlags) -> None:
    """Serve a model, ask it a suite's questions, have the answers judged, score. The same command again resumes.

    Examples: harness run --model ./ckpt --suite all --edition pocket;
    harness run --model hf:org/name --suite mt_bench,arena_hard --judge openai:gpt-5.4 --limit 20
    """
    set_up_logging(verbose=flags.verbose)
    settings = flags.settings()
    models = models_in(settings.model) if settings.model is not None else ()
    if len(models) > 1:
        run_several(models, settings, flags)
        return
    if models:
        settings = settings.model_copy(update={"model": models[0]})
    trackers = tracker_names(flags.log_to)
    if flags.dry_run:
        run_plan = planned(settings, ask=False)
        print_estimate(dry_run(run_plan), [suite.name for suite in run_plan.own_runners], as_json=flags.as_json)
        return
    run_plan, cards = run_one(settings, trackers, fresh=flags.fresh)
    if flags.as_json:
        print(json_text("cards", cards), end="")
    else:
        show(run_plan, cards, verbose=flags.verbose)
    raise_if_incomplete(cards)


def planned(settings: FileSpec, *, ask: bool = True) -> Plan:
    """Return the plan, and log what should be known first. `ask` False: for a dry run."""
    spec = resolve(settings, needs_key=ask)
    run_plan = plan(spec, needs_keys=ask)
    if run_plan.baselines_to_ask and ask:
        ask_baselines(run_plan.baselines_to_ask)
        run_plan = plan(spec)
    for sentence in differences(run_plan) if not ask else ():  # a run prints them above its scores
        log.info("%s", sentence)
    for sentence in filter(None, map(namesake, run_plan.suites)):
        log.warning("%s", sentence)
    for sentence in judge_warnings(spec, date.today()):
        log.warning("%s", sentence)
    for job in run_plan.baselines_to_ask:
        log.info("first the baseline %s is asked %d questions, once", job.model.label, len(job.missing()))
    return run_plan


def run_one(
    settings: FileSpec,
    trackers: Sequence[str],
    *,
    fresh: bool,
    shared: SharedServer | None = None,
    later: Sequence[Backend] = (),
) -> tuple[Plan, list[ScoreCard]]:
    """Run one model; return its plan and its cards, complete or not.

    `shared` serves it if it can, and else its own server from then on. `later`: the backends of the models that follow.
    """
    run_plan = planned(settings)
    if shared is not None:
        hand_over(shared, run_plan, later)
    cards = ask_and_judge(run_plan, fresh=fresh)
    track(trackers, cards, run_plan.spec.results)
    return run_plan, cards


def track(trackers: Sequence[str], cards: Sequence[ScoreCard], results: Path) -> None:
    """Log the cards to each tracker, with the table, figures and files that trackers show."""
    if trackers:
        from ..analysis.read_board import read_board
        from ..pages.tracked import tracked_files

        log_scores(trackers, cards, tracked_files(read_board(results).tables, results))


def hand_over(shared: SharedServer, run_plan: Plan, later: Sequence[Backend]) -> None:
    """Let the shared server serve this model, unless a judge waits until the devices are free."""
    from ..running.pipeline import waits  # deferred: it needs numpy, which the help does not

    if any(waits(judge) for suite in run_plan.suites for judge in suite.judges):
        shared.close()
    else:
        shared.adopt(run_plan.backend, later)


def raise_if_incomplete(cards: Sequence[ScoreCard]) -> None:
    """Raise IncompleteError if a card lacks answers or verdicts."""
    incomplete = [card for card in cards if not card.complete]
    if incomplete:
        raise IncompleteError(what_is_missing(incomplete))


def run_several(models: Sequence[str], settings: FileSpec, flags: RunFlags) -> None:
    """Run several models, each with a plan and a resume of its own, then print one table of all.

    All plans are made before anything starts, so that a wrong name costs nothing (UsageError). A model that fails does
    not stop the others; IncompleteError names it at the end.
    """
    if settings.name is not None:
        raise ConfigError(f"--name {settings.name!r} is the name of one model, but --model has {len(models)}")
    trackers, each = tracker_names(flags.log_to), [settings.model_copy(update={"model": model}) for model in models]
    if flags.dry_run:
        print_estimates([planned(own_settings, ask=False) for own_settings in each], as_json=flags.as_json)
        return
    several = one_after_the_other if flags.parallel_models == 1 else at_once
    cards, failed = several(each, flags, trackers)
    if flags.as_json:
        print(json_text("cards", cards), end="")
    elif cards:
        show_summary(cards, resolve(settings.model_copy(update={"model": models[0]})).results)
    if failed:
        raise IncompleteError(
            f"{len(failed)} of {len(models)} models are incomplete: {', '.join(failed)}; the same command resumes them"
        )


def one_after_the_other(
    each: Sequence[FileSpec], flags: RunFlags, trackers: Sequence[str]
) -> tuple[list[ScoreCard], list[str]]:
    """Return the cards of all models, and which failed. Adapters of one base that follow each other share a server."""
    from ..backends.adapters import SharedServer  # deferred, like its neighbour: main imports commands when used
    from .main import exit_code_of

    backends = []
    for settings in each:
        run_plan = plan(resolve(settings))
        check_budget(run_plan)
        backends.append(run_plan.backend)
    cards: list[ScoreCard] = []
    failed = []
    shared = SharedServer()
    try:
        for number, settings in enumerate(each, start=1):
            log.info("model %d of %d: %s", number, len(each), settings.model)
            try:
                run_plan, new_cards = run_one(
                    settings, trackers, fresh=flags.fresh, shared=shared, later=backends[number:]
                )
                cards += new_cards
                if not flags.as_json:
                    show(run_plan, new_cards, verbose=flags.verbose, is_last=False)
                raise_if_incomplete(new_cards)
            except (BrokenPipeError, StoppedRunError):
                raise
            except Exception as error:  # also a crash: the other models have nothing to do with it
                exit_code_of(error)
                failed.append(str(settings.model))
    finally:
        shared.close()
    return cards, failed


def at_once(each: Sequence[FileSpec], flags: RunFlags, trackers: Sequence[str]) -> tuple[list[ScoreCard], list[str]]:
    """Return the cards of all models, and which failed; some run at a time, each on GPUs of its own."""
    from ..running.execute import execute, opened, side_by_side, slots_for
    from ..running.pipeline import rare_collections
    from .main import exit_code_of

    slots = slots_for([plan(resolve(settings)) for settings in each], flags.parallel_models)
    plans = [planned(settings) for settings in each]
    with rare_collections(), ExitStack() as stack:
        runs_of: list[list[SuiteRun]] = []
        totals: Counter[tuple[str, str]] = Counter()
        for run_plan in plans:
            runs = stack.enter_context(opened(run_plan, fresh=flags.fresh))
            estimates = announced(run_plan, runs)
            totals.update(totals_of(estimates, runs))
            runs_of.append(runs)
        on_progress = stack.enter_context(progress(STDERR, totals))

        async def job(run_plan: Plan, runs: Sequence[SuiteRun], devices: str | None) -> list[ScoreCard]:
            gpus = "" if devices is None else f" on GPU {devices}"
            log.info("%s starts%s", run_plan.spec.model.label, gpus)
            if devices is not None and isinstance(run_plan.backend, Placed):
                run_plan.backend.place(devices)
            return await execute(run_plan, runs, fresh=flags.fresh, on_progress=on_progress)

        jobs = [partial(job, run_plan, runs) for run_plan, runs in zip(plans, runs_of, strict=True)]
        outcomes = until_stopped(side_by_side(jobs, slots))
    cards: list[ScoreCard] = []
    failed = []
    for run_plan, outcome in zip(plans, outcomes, strict=True):
        try:
            if isinstance(outcome, Exception):
                raise outcome
            cards += outcome
            track(trackers, outcome, run_plan.spec.results)
            if not flags.as_json:
                show(run_plan, outcome, verbose=flags.verbose, is_last=False)
            raise_if_incomplete(outcome)
        except BrokenPipeError:
            raise
        except Exception as error:
            exit_code_of(error)
            failed.append(str(run_plan.spec.model))
    return cards, failed


def print_estimates(plans: Sequence[Plan], *, as_json: bool) -> None:
    """Print what each of several models would be asked; with `as_json` as one object, each row with its model."""
    if as_json:
        rows = [
            {"model": run_plan.spec.model.label, **row}
            for run_plan in plans
            for row in estimate_rows(dry_run(run_plan), [suite.name for suite in run_plan.own_runners])
        ]
        print(json.dumps({"dry_run": rows}, indent=2))
        return
    for run_plan in plans:
        print(f"{run_plan.spec.model.label}:")
        print_estimate(dry_run(run_plan), [suite.name for suite in run_plan.own_runners], as_json=False)


def ask_baselines(jobs: Sequence[BaselineJob]) -> None:
    """Ask the models that the candidate is compared with, and store their answers."""
    from ..running.baselines import ask

    for job in jobs:
        log.info("asking the baseline %s %d questions, once: %s", job.model.label, len(job.missing()), job.folder)
        until_stopped(ask(job))


def differences(run_plan: Plan) -> list[str]:
    """Return a sentence for each way in which a suite's judging differs from the benchmark's own."""
    return [f"{planned.suite.name}: {sentence}" for planned in run_plan.suites for sentence in planned.differences()]


def ask_and_judge(run_plan: Plan, *, fresh: bool) -> list[ScoreCard]:
    """Run the plan and return its cards."""
    from ..running.execute import execute  # deferred: it needs numpy, which the help does not

    return work(
        run_plan,
        lambda runs, on_progress: execute(run_plan, runs, fresh=fresh, on_progress=on_progress),
        fresh=fresh,
    )


def work(run_plan: Plan, job: Job[T], *, fresh: bool = False) -> T:
    """Lock the plan's run folders, do the job on them behind a progress display, and return its result."""
    from ..running.execute import opened
    from ..running.pipeline import rare_collections

    with (
        rare_collections(),
        opened(run_plan, fresh=fresh) as runs,
        progress(STDERR, totals_of(announced(run_plan, runs), runs)) as on_progress,
    ):
        return until_stopped(job(runs, on_progress))


def announced(run_plan: Plan, runs: Sequence[SuiteRun]) -> list[Estimate]:
    """Log who judges and what that costs, and return it."""
    estimates = estimate(run_plan, runs)
    announce(estimates)
    return estimates


def show(run_plan: Plan, cards: list[ScoreCard], *, verbose: bool, is_last: bool = True) -> None:
    """Print the headline scores, or all if `verbose`, where they stand, what qualifies them, and the next command.

    Unless it is the last model, where they stand and the next command are left to `show_summary`.
    """
    from ..pages.judge_text import judging_table  # deferred, like its neighbours: they need numpy, the help does not
    from ..pages.summary import summary, summary_table
    from ..pages.tables import card_table, headline_table
    from ..pages.text import plain

    console = stdout_console()
    sentences = differences(run_plan)
    for sentence in sentences:
        console.print(Text(plain(sentence)))
    console.print(headline_table(cards))
    if verbose:
        console.print(card_table(cards))
    if (verbose or asks_about_judging(run_plan.spec)) and (judging := judging_table(cards)) is not None:
        console.print(judging)
    if is_last and len((standing := summary(neighbours(run_plan.spec.results, cards))).models) > 1:
        console.print(summary_table(standing.top(MOST_SHOWN)))
    suites_of_note: dict[str, list[str]] = {}
    for card in cards:
        for note in card.notes:
            if f"{card.suite}: {note}" not in sentences:
                suites_of_note.setdefault(note, []).append(card.suite)
    for note, suites in suites_of_note.items():
        console.print(Text(plain(f"{', '.join(suites)}: {note}")))
    for line in lost_verdicts(run_plan, cards):
        console.print(Text(plain(line)))
    print_cost(cards)
    folders = {planned.folder.parents[1] for planned in run_plan.suites} or {run_plan.spec.model_dir}
    print(f"cards, answers and judgments: {', '.join(sorted(map(str, folders)))}")
    if not verbose and is_last:
        print("all metrics: the same command with --verbose")
    if is_last:
        print(f"next: harness leaderboard --results {run_plan.spec.results}")


def lost_verdicts(run_plan: Plan, cards: Sequence[ScoreCard]) -> list[str]:
    """Return a sentence per suite with calls that gave no verdict: how many, why, and what one of the replies was."""
    from ..analysis.judge_probe import lost_calls
    from ..running.pipeline import current_judgments
    from ..store.runs import read_rows

    folders = {suite_plan.suite.name: suite_plan.folder for suite_plan in run_plan.suites}
    sentences = []
    for card in cards:
        if card.counts.get("unjudged") and card.suite in folders:
            answers, judgments = read_rows(folders[card.suite])
            sentence = lost_calls(current_judgments(answers, iter(judgments)))
            sentences += [] if sentence is None else [f"{card.suite}: {sentence}"]
    return sentences


def asks_about_judging(spec: RunSpec) -> bool:
    """Return whether the run was told to measure its judging: by a jury, repeats, anchors or an audit."""
    several = any(len(judges) > 1 for judges in spec.judges.values())
    return several or spec.repeats > 1 or bool(spec.anchors) or bool(spec.audit)


def show_summary(cards: Sequence[ScoreCard], results: Path) -> None:
    """Print one table of several models or suites, and the next command; a lone score was printed before."""
    from ..analysis.leaderboard import rank  # deferred, like its neighbour: they need numpy, the help does not
    from ..pages.summary import summary, summary_table

    content = summary(rank(cards))
    if len(content.models) > 1 or len(content.columns) > 1:
        stdout_console().print(summary_table(content))
    print(f"next: harness leaderboard --results {results}")


def neighbours(results: Path, cards: Sequence[ScoreCard]) -> Sequence[Table]:
    """Return the tables of these cards' protocols, from the cards of the results folder alone."""
    from ..analysis.leaderboard import rank, readable
    from ..store import find_cards

    protocols = {(card.suite, card.protocol_sha) for card in cards}
    stored = [card for _, card in readable(find_cards(results))[0]]
    return rank(card for card in stored if (card.suite, card.protocol_sha) in protocols)
