"""Plan a run before anything is asked or written: each suite's judges, prompts, protocol and folder.

>>> prompts = [Prompt(id=f"q{number}", turns=("hi",), category="math") for number in range(9)]
>>> len(limited(prompts, 3, seed=0))
3

A run's id is a digest of its manifest: the protocol (everything that makes two numbers comparable) and what is served.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from ..judging.anchors import AnchorSet, anchor_tasks, read_anchors
from ..judging.cache import ReplyCache, cache_path
from ..judging.calls import Calling, CallOptions
from ..judging.cost import Budget
from ..judging.jury import (
    CardProtocol,
    Identity,
    Jury,
    check_judges,
    judge_differences,
    judge_identities,
    judge_label,
    judge_protocol,
    turns,
)
from ..records import JudgeSpec, JudgeTask, ModelRef, Prompt, Sampling, ScoreCard, digest
from ..records.asking import slug_of
from ..records.documents import SUITE_COPY
from ..records.errors import ConfigError, MissingKeyError
from ..records.facts import facts_of, load_function
from ..records.judge_choice import judged_as
from ..records.protocols import (
    Backend,
    Definable,
    Judge,
    LoadedJudge,
    OwnRunner,
    ServeOptions,
    Serving,
    Suite,
    SuiteOptions,
    TakesBaseline,
    load_plugin,
)
from ..records.settings import RunSpec
from ..store import run_dir
from ..store.checkpoint import Fusion, read_checkpoint_fusion
from ..store.runs import read_baseline, read_definition
from .baselines import BaselineJob, BaselinePlan, check_used, with_baseline

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AuditPlan:
    """Who audits which prompts."""

    judge: Judge
    prompt_ids: frozenset[str]

    @property
    def name(self) -> str:
        return self.judge.spec.name


@dataclass(frozen=True)
class SuitePlan:
    """One judged suite of a run. Everything is computed once, when the plan is made."""

    suite: Suite
    judges: tuple[Judge, ...]
    """One judge, or the members of a jury, and last the judge of an audit; with distinct `spec.name`s."""
    prompts: tuple[Prompt, ...]
    """The prompts to ask, in the suite's order."""
    sampling: Callable[[Prompt], Sampling]
    """Answer settings of a prompt: the suite's own, with the user's deviations."""
    folder: Path
    """Folder of its rows and its card; the last part is the run's id."""
    repeats: int = 1
    """How often each judge repeats each task."""
    strict: bool = False
    """Whether prompts are filled and replies read as the original tool does."""
    jury: Jury | None = None
    """None: a single judge."""
    turns: dict[str, str] = field(default_factory=dict)
    """Prompt id -> the member of a cyclic jury that judges it; empty: every member judges every prompt."""
    audit: AuditPlan | None = None
    identities: dict[str, Identity] = field(default_factory=dict)
    """Judge -> its part of the protocol."""
    baseline: BaselinePlan | None = None
    """None: the suite's own."""
    anchors: AnchorSet | None = None
    """Recorded answers that the judges judge again."""
    anchor_tasks: tuple[JudgeTask, ...] = ()
    protocol: dict[str, JsonValue] = field(default_factory=dict)
    """Everything that makes two numbers comparable."""
    manifest: dict[str, JsonValue] = field(default_factory=dict)
    """What must be equal for the run to be resumed; its digest is the run's id."""

    @property
    def main_judges(self) -> tuple[Judge, ...]:
        """Return the judge or jury of all prompts, without that of an audit."""
        return self.judges if self.audit is None else self.judges[:-1]

    @property
    def judge_label(self) -> str:
        """Return the name of the judge on the card."""
        label = judge_label([judge.spec for judge in self.main_judges])
        return label if self.audit is None else f"{label} audited by {self.audit.name}"

    @property
    def scale(self) -> dict[str, JsonValue]:
        """Return the identity, as in a protocol, of the judge or jury on whose scale the scores are."""
        names = [self.audit.name] if self.audit is not None else [judge.spec.name for judge in self.main_judges]
        rule = "mean" if self.jury is None else self.jury.rule
        return judge_protocol({name: self.identities[name] for name in names}, rule)

    def asked(self, prompt: Prompt) -> list[tuple[Judge, int]]:
        """Return the judges of each task about this prompt, with the numbers of their repeats."""
        member = self.turns.get(prompt.id)
        judges = [judge for judge in self.main_judges if member in (None, judge.spec.name)]
        if self.audit is not None and prompt.id in self.audit.prompt_ids:
            judges.append(self.audit.judge)
        return [(judge, repeat) for repeat in range(self.repeats) for judge in judges]

    def differences(self) -> tuple[str, ...]:
        """Return how the judging differs from the benchmark's own, one sentence per difference."""
        other = () if self.baseline is None else self.baseline.differences()
        if self.audit is None:
            return (*other, *judge_differences(self.suite, self.judges))
        sentences = *other, *judge_differences(self.suite, [self.audit.judge])
        count, label = len(self.audit.prompt_ids), judge_label([judge.spec for judge in self.main_judges])
        return (*sentences, f"judge {self.audit.name} on {count} questions only, and {label} on all")


@dataclass(frozen=True)
class Plan:
    """What a run will do."""

    spec: RunSpec
    suites: tuple[SuitePlan, ...]
    backend: Backend
    identity: dict[str, JsonValue]
    """What is served, as the backend states it."""
    own_runners: tuple[OwnRunner, ...] = ()
    """Suites that ask and score by themselves."""
    calls: CallOptions = field(default_factory=CallOptions)
    """Cache and budget, which all judges share."""
    fusion: Fusion | None = None
    """The checkpoint's fusion.json."""

    @property
    def baselines_to_ask(self) -> list[BaselineJob]:
        """Return the models that must answer before this plan can run. Afterwards it is made again."""
        return [suite.baseline.job for suite in self.suites if suite.baseline is not None and suite.baseline.job]


def plan(spec: RunSpec, *, needs_keys: bool = True) -> Plan:
    """Load data, judges and the backend, which checks the checkpoint. Nothing is started or written.

    `needs_keys` False: a judge is planned even if its API key is not set, with a warning. Raise ConfigError if the
    settings do not fit together, DataError if a suite's files are missing.
    """
    options = ServeOptions(log_dir=spec.log_dir, seed=spec.seed, **spec.serve.model_dump())
    backend: Backend = load_plugin("backends", spec.backend)(spec.model, options)
    identity = backend.identity()
    loaded, own_runners = _load_suites(spec, identity)
    # before the judges: the baseline belongs to the suite that they are checked against
    suites = [with_baseline(spec, suite, limited(suite.prompts(), spec.limit, spec.seed)) for suite in loaded]
    check_used(spec, (baseline for _, baseline in suites))
    _check_backend(spec, backend, identity, own_runners)
    pool = JudgePool(spec, needs_keys=needs_keys)
    anchor_files = [(path, read_anchors(path)) for path in spec.anchors]
    planned = Plan(
        spec,
        tuple(
            suite_plan(
                spec,
                suite,
                pool.judges(asked_in(spec, suite.name)),
                identity,
                SuiteInputs(anchors=_anchors_of(suite, anchor_files), baseline=baseline),
            )
            for suite, baseline in suites
        ),
        backend,
        identity,
        own_runners,
        pool.calls,
        read_checkpoint_fusion(Path(spec.model.name).expanduser()) if spec.model.scheme == "path" else None,
    )
    if spec.transport == "batch":
        _use_batches(planned)
    return planned


def _check_backend(
    spec: RunSpec, backend: Backend, identity: dict[str, JsonValue], own_runners: Sequence[OwnRunner]
) -> None:
    """Raise ConfigError for suites or settings that this backend cannot honour."""
    if own_runners and not isinstance(backend, Serving):
        raise ConfigError(f"suite {own_runners[0].name!r} needs a served model; backend {spec.backend!r} has no server")
    if own_runners and identity.get("thinking"):
        raise ConfigError(
            f"suite {own_runners[0].name!r} asks the model by itself, so it cannot honour --chat-template-kwargs, "
            "--reasoning-effort or --reasoning-room; run it without them"
        )
    if spec.sampling.server_settings and not getattr(backend, "takes_parameters", False):
        raise ConfigError(
            f"backend {spec.backend!r} cannot honour {', '.join(spec.sampling.server_settings)} of sampling, which are "
            "for servers; use --backend vllm, or endpoint:NAME@URL"
        )
    if own_runners and (spec.sampling.omit or spec.sampling.max_completion_tokens):
        raise ConfigError(
            f"suite {own_runners[0].name!r} asks the model by itself, so it cannot honour omit or max_completion_tokens"
        )


@dataclass(frozen=True)
class SuiteInputs:
    """Prompts, anchors and baseline of one suite of a run, if they are not the suite's own."""

    prompts: Sequence[Prompt] | None = None
    """None: those that `RunSpec.limit` draws."""
    anchors: AnchorSet | None = None
    baseline: BaselinePlan | None = None


def suite_plan(
    spec: RunSpec,
    suite: Suite,
    judges: tuple[Judge, ...],
    identity: dict[str, JsonValue],
    inputs: SuiteInputs | None = None,
) -> SuitePlan:
    """Return the plan of one suite, judged by `judges` (those of `asked_in`). `identity` is the backend's.

    Raise ConfigError if a judge cannot handle the suite's tasks, or if the anchors' prompts are not the suite's.
    """
    check_judges(suite, judges)
    inputs = inputs or SuiteInputs()
    anchors, baseline = inputs.anchors, inputs.baseline
    chosen = limited(suite.prompts(), spec.limit, spec.seed) if inputs.prompts is None else tuple(inputs.prompts)
    identities = judge_identities(judges)
    audit, main = None, judges
    auditor = spec.audit.get(judged_as(suite.name))
    if auditor is not None:
        # the auditor is last in `judges`; all others judge every question
        audit, main = audit_plan(suite.name, chosen, judges[-1], auditor.questions, spec.seed), judges[:-1]
    names = [judge.spec.name for judge in main]
    jury = Jury.of([judge.spec for judge in main], spec.jury)
    judge = judge_protocol({name: identities[name] for name in names}, spec.jury)
    protocol = _protocol(spec, suite, judge, chosen, identity)
    if audit is not None:
        # which questions were drawn is part of what makes two numbers comparable
        draw = digest(sorted(audit.prompt_ids))[:12]
        protocol["audit"] = {"judge": identities[audit.name], "n": len(audit.prompt_ids), "questions": draw}
    if baseline is not None:
        protocol["baseline_answers"] = baseline.sha
    manifest = _manifest(spec, suite, protocol, identity)
    changes = spec.sampling.changes
    return SuitePlan(
        suite=suite,
        judges=judges,
        prompts=chosen,
        sampling=(lambda prompt: spec.sampling.applied(suite.sampling(prompt))) if changes else suite.sampling,
        folder=run_folder(spec.results, spec.model, suite.name, suite.version, manifest),
        repeats=spec.repeats,
        strict=spec.strict_reference,
        jury=jury,
        turns=turns(suite.prompts(), names) if jury is not None and jury.rule == "cyclic" else {},
        audit=audit,
        identities=identities,
        baseline=baseline,
        anchors=anchors,
        anchor_tasks=() if anchors is None else anchor_tasks(suite, anchors, identities, strict=spec.strict_reference),
        protocol=protocol,
        manifest=manifest,
    )


def namesake(suite_plan: SuitePlan) -> str | None:
    """Return a sentence if an earlier run under the name of a user's suite asked other questions."""
    if not isinstance(suite_plan.suite, Definable):
        return None
    questions = suite_plan.suite.definition().get("prompts")
    runs = suite_plan.folder.parents[2]
    for copy in sorted(runs.glob(f"*/{suite_plan.folder.parent.name}/*/{SUITE_COPY}")):
        if (read_definition(copy.parent) or {}).get("prompts") != questions:
            return (
                f"{suite_plan.suite.name}: {copy.parent} asked other questions under this name, which is that of the "
                "file without its suffix. If that was another suite, rename one file, or give one a `name:`"
            )
    return None


def asked_in(spec: RunSpec, suite: str) -> tuple[JudgeSpec, ...]:
    """Return a suite's judge or jury, and last the judge of its audit."""
    suite = judged_as(suite)
    audit = spec.audit.get(suite)
    return spec.judges[suite] if audit is None else (*spec.judges[suite], audit.judge)


def _protocol(
    spec: RunSpec, suite: Suite, judge: dict[str, JsonValue], prompts: Sequence[Prompt], identity: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    protocol: dict[str, JsonValue] = {
        "suite": suite.name,
        "suite_version": suite.version,
        **suite.protocol(),
        "judge": judge,
    }
    if spec.repeats > 1:
        protocol["judge_repeats"] = spec.repeats
    if spec.strict_reference:
        protocol["strict_reference"] = True
    if identity.get("answer_settings") is not None:
        protocol["answer_settings"] = identity["answer_settings"]  # the answers were not generated for this suite
    deviation = spec.sampling.deviation(map(suite.sampling, prompts))
    if spec.serve.reasoning_room is not None:
        deviation["reasoning_room"] = spec.serve.reasoning_room  # the answers may be longer by it
    if deviation:
        protocol["sampling_deviation"] = deviation
    if len(prompts) < len(suite.prompts()):
        protocol["limit"] = {"n": len(prompts), "seed": spec.seed}
    return protocol


def _manifest(
    spec: RunSpec, suite: Suite, protocol: dict[str, JsonValue], identity: dict[str, JsonValue]
) -> dict[str, JsonValue]:
    urls: list[JsonValue] = [judge.url for judge in asked_in(spec, suite.name)]
    return {
        "schema_version": 1,
        "model": manifest_model(spec),
        "identity": identity,
        "protocol": protocol,
        "judge_url": urls[0] if len(urls) == 1 else urls,
        "seed": spec.seed,
    }


def run_folder(results: Path, model: ModelRef, suite: str, version: str, manifest: Mapping[str, JsonValue]) -> Path:
    """Return the folder of a run. Its last part is the run's id, a digest of the manifest."""
    return run_dir(
        results,
        model=model.slug,
        suite=slug_of(suite),
        version=version,
        run_id=digest(manifest)[:12],
        earlier=model.earlier_slugs,
    )


def manifest_model(spec: RunSpec) -> str:
    """Return the model as manifests name it, without the path of a folder on this machine."""
    return str(spec.model) if spec.model.scheme in ("hf", "endpoint") else spec.model.short


def limited(prompts: Sequence[Prompt], limit: int | None, seed: int) -> tuple[Prompt, ...]:
    """Return at most `limit` prompts in their own order.

    Each category gives a share in proportion to its size (largest remainder), drawn with `seed`.
    """
    if limit is None or limit >= len(prompts):
        return tuple(prompts)
    sizes = Counter(prompt.category for prompt in prompts)
    exact = {category: limit * size / len(prompts) for category, size in sizes.items()}
    share = {category: int(value) for category, value in exact.items()}
    for category in sorted(exact, key=lambda name: (share[name] - exact[name], name))[: limit - sum(share.values())]:
        share[category] += 1
    chosen: set[str] = set()
    for category in sorted(sizes):
        ids = [prompt.id for prompt in prompts if prompt.category == category]
        chosen.update(random.Random(f"{seed}:{category}").sample(ids, share[category]))
    return tuple(prompt for prompt in prompts if prompt.id in chosen)


def drawn(prompts: Sequence[Prompt], count: int, seed: int) -> frozenset[str]:
    """Return the ids of `count` prompts, each drawn with the same probability and stratified by category.

    A systematic sample of the prompts, shuffled within shuffled categories: each category gets its exact share, rounded
    up or down by chance, so that the smallest are neither always left out nor always in.
    """
    draw = random.Random(f"audit:{seed}")
    by_category: dict[str, list[str]] = {}
    for prompt in sorted(prompts, key=lambda prompt: (prompt.category, prompt.id)):
        by_category.setdefault(prompt.category, []).append(prompt.id)
    names = list(by_category)
    draw.shuffle(names)
    ordered = []
    for name in names:
        draw.shuffle(by_category[name])
        ordered += by_category[name]
    step = len(ordered) / count
    start = draw.random() * step
    return frozenset(ordered[min(len(ordered) - 1, int(start + position * step))] for position in range(count))


def audit_plan(suite: str, prompts: Sequence[Prompt], judge: Judge, count: int, seed: int) -> AuditPlan:
    """Raise ConfigError if the audit would be of all questions or more."""
    if count >= len(prompts):
        raise ConfigError(
            f"--audit {judge.spec.name}:{count}: {suite} asks only {len(prompts)} questions; audit fewer (--audit "
            f"SUITE=JUDGE:N), or let {judge.spec.name} judge all (--judge)"
        )
    return AuditPlan(judge, drawn(prompts, count, seed))


# Suites


def _load_suites(spec: RunSpec, identity: dict[str, JsonValue]) -> tuple[list[Suite], tuple[OwnRunner, ...]]:
    generation = identity.get("generation_config")
    options = SuiteOptions(
        edition=spec.edition,
        references=spec.references,
        mirror=spec.mirror,
        generation_config=generation if isinstance(generation, dict) else {},
    )
    loaded = [load_suite(name, options) for name in spec.suites]
    names = [suite.name for suite in loaded]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigError(f"two suites of this run are called {twice!r}; rename a file, or run them one by one")
    own_runners = tuple(suite for suite in loaded if isinstance(suite, OwnRunner))
    return [suite for suite in loaded if not isinstance(suite, OwnRunner)], own_runners


def load_suite(name: str, options: SuiteOptions, folder: Path | None = None) -> Suite | OwnRunner:
    """Return the suite of `NAME` or `NAME:ARGUMENT`. Raise PluginError if there is none.

    `folder`: that of a run of the suite, which has the suite's content if that came from the user.
    """
    plugin, _, argument = name.partition(":")
    definition = read_definition(folder) if facts_of(plugin).by_argument else None
    suite: Suite | OwnRunner = load_plugin("suites", plugin)(replace(options, argument=argument, definition=definition))
    return suite


def suite_for_rows(name: str, options: SuiteOptions) -> Suite:
    """Return the suite that scores finished rows. It may have no judge tasks (`Facts.build_for_rows`)."""
    build = facts_of(name).build_for_rows
    suite: Suite = load_function(build)(options) if build else load_plugin("suites", name)(options)
    return suite


def with_baseline_of(suite: Suite, folder: Path | None) -> Suite:
    """Return the suite with the baseline that a run's folder states, if it is not the suite's own."""
    answers = read_baseline(folder)
    return suite.against(answers) if isinstance(suite, TakesBaseline) and answers else suite


def options_of(card: ScoreCard, *, mirror: str | None, references: str = "") -> SuiteOptions:
    """Return the options that load a card's suite as its run did. `references` replaces the run's set of them."""
    stated = CardProtocol.read(card.protocol).references or ""
    known = stated if stated in facts_of(card.suite).references else "official"
    return SuiteOptions(edition=card.edition, references=references or known, mirror=mirror)


def suite_of_card(card: ScoreCard, folder: Path | None = None, *, references: str, mirror: str | None) -> Suite:
    """Return the suite that asked a finished run. Raise ConfigError if the local data differ from the run's.

    `folder`: the run's, which has the answers of a baseline other than the suite's.
    """
    if facts_of(card.suite).build_for_rows:  # its files have no judge prompts, so nothing has to be rebuilt
        return suite_for_rows(card.suite, SuiteOptions(mirror=mirror))
    options = options_of(card, mirror=mirror, references=references)
    suite = load_suite(card.suite, options, folder)
    assert not isinstance(suite, OwnRunner), "a run with rows is judged"
    local = suite.protocol()
    for key in ("data", "references", "templates"):
        if card.protocol.get(key) not in (None, "unknown", local.get(key)):
            hint = "; give --references FILE" if card.protocol.get("references") == "file" else ""
            raise ConfigError(
                f"the run's {key} are not those of this installation, so its judge prompts cannot be rebuilt{hint}"
            )
    return with_baseline_of(suite, folder)


# Judges


class JudgePool:
    """The judges of one run: one object per configuration, so suites with the same judge share its rate limits."""

    def __init__(self, spec: RunSpec, *, needs_keys: bool = True) -> None:
        self._needs_keys = needs_keys
        budget = Budget(spec.max_cost, waves=3 if spec.transport == "batch" else None)
        self.calls = CallOptions(cache=ReplyCache(cache_path() if spec.cache else None), budget=budget)
        self._log_dir = spec.log_dir
        self._loaded: dict[str, Judge] = {}

    def judges(self, specs: Iterable[JudgeSpec]) -> tuple[Judge, ...]:
        """Return the judges of these configurations. Raise PluginError for an unknown kind."""
        return tuple(self._judge(spec) for spec in specs)

    def _judge(self, spec: JudgeSpec) -> Judge:
        key = spec.model_dump_json()
        if key not in self._loaded:
            self._loaded[key] = load_judge(spec, needs_key=self._needs_keys)
            connect_judges([self._loaded[key]], self.calls, self._log_dir)
        return self._loaded[key]


def load_judge(spec: JudgeSpec, *, needs_key: bool = True) -> Judge:
    """Return the judge of a configuration. `needs_key` False: it will not be asked, so its API key may be missing."""
    kind = load_plugin("judges", spec.kind)
    try:
        judge: Judge = kind(spec)
    except MissingKeyError as error:
        if needs_key:
            raise
        log.warning("%s for the run; a dry run needs none", error)
        judge = kind(spec.model_copy(update={"key_env": ""}))
    return judge


def connect_judges(judges: Iterable[Judge], calls: CallOptions, log_dir: Path) -> None:
    """Give the judges the cache and budget that they share, and the folder for their servers' logs."""
    for judge in judges:
        if isinstance(judge, Calling):
            judge.use(calls)
        if isinstance(judge, LoadedJudge):
            judge.logs_to(log_dir)


def _use_batches(planned: Plan) -> None:
    """Make every judge ask through batches, whose state is in the run folder of the judge's first suite."""
    from ..judging.batch import BatchWire  # loads the openai package

    def through(folder: Path) -> CallOptions:
        return replace(planned.calls, wire=lambda spec, _: BatchWire(spec, folder))

    ready: set[int] = set()
    for suite in planned.suites:
        for judge in suite.judges:
            if isinstance(judge, Calling) and id(judge) not in ready:
                ready.add(id(judge))
                judge.use(through(suite.folder / "batches"))


def _anchors_of(suite: Suite, files: Iterable[tuple[Path, AnchorSet]]) -> AnchorSet | None:
    """Return the suite's anchor set, or None without one. Raise ConfigError for another version, or a second set."""
    chosen: AnchorSet | None = None
    for path, anchors in files:
        if anchors.suite != suite.name:
            continue
        if anchors.suite_version != suite.version:
            raise ConfigError(
                f"{path} contains anchors of {suite.name}@{anchors.suite_version}, but this run uses {suite.version}"
            )
        if chosen is not None:
            raise ConfigError(f"{path} is the second anchor file of {suite.name}; give one per suite")
        chosen = anchors
    return chosen
