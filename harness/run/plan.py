"""What a run will be, before anything is asked or written: suites, judges, prompts, identities, estimates.

The run's id is a digest of its manifest: the protocol (all that makes two numbers comparable) and what is served.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import JsonValue

from ..judging.anchors import AnchorSet, anchor_tasks, read_anchors
from ..judging.cache import ReplyCache, cache_path
from ..judging.calls import Calling, CallOptions
from ..judging.cost import Budget
from ..judging.jury import check_judges, judge_protocol
from ..records import JudgeSpec, Prompt, Sampling, ScoreCard, digest
from ..records.errors import ConfigError
from ..records.facts import facts_of, load_function
from ..records.protocols import (
    Backend,
    Judge,
    LoadedJudge,
    OwnRunner,
    ServeOptions,
    Serving,
    Suite,
    SuiteOptions,
    load_plugin,
)
from ..records.settings import RunSpec
from ..store import run_dir
from ..store.checkpoint import Fusion, read_checkpoint_fusion


@dataclass(frozen=True)
class Plan:
    """What a run will do, before anything is written."""

    spec: RunSpec
    suites: tuple[Suite, ...]
    judges: dict[str, tuple[Judge, ...]]
    prompts: dict[str, tuple[Prompt, ...]]
    backend: Backend
    identity: dict[str, JsonValue]
    own: tuple[OwnRunner, ...] = ()
    """Suites that ask and score by themselves."""
    calls: CallOptions = field(default_factory=CallOptions)
    """What the judges share."""
    fusion: Fusion | None = None
    """What the checkpoint's fusion.json says."""
    anchors: dict[str, AnchorSet] = field(default_factory=dict)
    """Suite name -> recorded answers that its judges are asked again."""

    def sampling(self, suite: Suite) -> Callable[[Prompt], Sampling]:
        """The suite's answer settings with the spec's deviations."""
        changed = {key: value for key, value in self.spec.sampling.model_dump().items() if value is not None}
        return lambda prompt: suite.sampling(prompt).model_copy(update=changed)


def plan(spec: RunSpec, log_dir: Path) -> Plan:
    """Loads data, judges and the backend (which checks the checkpoint); starts and writes nothing."""
    options = ServeOptions(log_dir=log_dir, seed=spec.seed, **spec.serve.model_dump())
    backend: Backend = load_plugin("backends", spec.backend)(spec.model, options)
    identity = backend.identity()
    generation = identity.get("generation_config")
    suite_options = SuiteOptions(
        edition=spec.edition,
        references=spec.references,
        mirror=spec.mirror,
        generation_config=generation if isinstance(generation, dict) else {},
    )
    loaded: list[Suite | OwnRunner] = [load_suite(name, suite_options) for name in spec.suites]
    suites = tuple(suite for suite in loaded if not isinstance(suite, OwnRunner))
    own = tuple(suite for suite in loaded if isinstance(suite, OwnRunner))
    if own and not isinstance(backend, Serving):
        raise ConfigError(f"suite {own[0].name!r} needs a served model; backend {spec.backend!r} has no server")
    judges, calls = load_judges(spec, suites, log_dir)
    prompts = {suite.name: limited(suite.prompts(), spec.limit, spec.seed) for suite in suites}
    fusion = read_checkpoint_fusion(Path(spec.model.name).expanduser()) if spec.model.scheme == "path" else None
    anchors = suite_anchors(spec, suites)
    planned = Plan(spec, suites, judges, prompts, backend, identity, own, calls, fusion, anchors)
    if spec.transport == "batch":
        _use_batches(planned)
    return planned


def _use_batches(made: Plan) -> None:
    """Has every judge ask through batches, each keeping their state in the run folder of its first suite."""
    from ..judging.batch import BatchWire  # loads the openai package

    def through(folder: Path) -> CallOptions:
        return replace(made.calls, wire=lambda spec, _: BatchWire(spec, folder))

    given: set[int] = set()
    for suite in made.suites:
        for judge in made.judges[suite.name]:
            if isinstance(judge, Calling) and id(judge) not in given:
                given.add(id(judge))
                judge.use(through(folder_of(made, suite) / "batches"))


def suite_anchors(spec: RunSpec, suites: Sequence[Suite]) -> dict[str, AnchorSet]:
    """The anchor sets of the suites that are run. Raises ConfigError for a set of another version, or a second one."""
    found: dict[str, AnchorSet] = {}
    by_name = {suite.name: suite for suite in suites}
    for path in spec.anchors:
        anchors = read_anchors(path)
        if anchors.suite not in by_name:
            continue
        suite = by_name[anchors.suite]
        if anchors.suite_version != suite.version:
            raise ConfigError(f"{path} holds anchors of {suite.name}@{anchors.suite_version}; this is {suite.version}")
        if anchors.suite in found:
            raise ConfigError(f"{path} is the second anchor file of {suite.name}; give one a suite")
        anchor_tasks(suite, anchors, [])  # raises where the prompts are not the suite's
        found[anchors.suite] = anchors
    return found


def load_suite(name: str, options: SuiteOptions) -> Suite | OwnRunner:
    """The suite of `NAME` or `NAME:ARGUMENT`."""
    plugin, _, argument = name.partition(":")
    suite: Suite | OwnRunner = load_plugin("suites", plugin)(replace(options, argument=argument))
    return suite


def suite_for_rows(name: str, options: SuiteOptions) -> Suite:
    """Return the suite that scores finished rows; it may have no judge tasks (`Facts.build_for_rows`)."""
    build = facts_of(name).build_for_rows
    suite: Suite = load_function(build)(options) if build else load_plugin("suites", name)(options)
    return suite


def suite_of_card(card: ScoreCard, *, references: str, mirror: str | None) -> Suite:
    """Return the suite that asked a finished run. Raise ConfigError if its data here are not the run's."""
    if facts_of(card.suite).build_for_rows:  # its files have no judge prompts, so nothing has to be rebuilt
        return suite_for_rows(card.suite, SuiteOptions(mirror=mirror))
    named = str(card.protocol.get("references", "official"))
    options = SuiteOptions(
        edition=card.suite_version.rpartition("-")[0],
        references=references or (named if named in ("official", "pr3158") else "official"),
        mirror=mirror,
    )
    suite: Suite = load_plugin("suites", card.suite)(options)
    for key in ("data", "references", "templates"):
        theirs, here = card.protocol.get(key), suite.protocol().get(key)
        if theirs not in (None, "unknown", here):
            hint = "; give --references FILE" if named == "file" else ""
            raise ConfigError(f"the run's {key} are not those at hand, so its judge prompts cannot be rebuilt{hint}")
    return suite


def load_judges(
    spec: RunSpec, suites: Sequence[Suite], log_dir: Path
) -> tuple[dict[str, tuple[Judge, ...]], CallOptions]:
    """Suite name -> its judges, and what they share. One judge object for all suites that name it: they share its
    limits."""
    made = {one.model_dump_json(): one for suite in suites for one in spec.judges[suite.name]}
    loaded = {text: load_judge(one) for text, one in made.items()}
    judges = {suite.name: tuple(loaded[one.model_dump_json()] for one in spec.judges[suite.name]) for suite in suites}
    budget = Budget(spec.max_cost, waves=3 if spec.transport == "batch" else None)
    calls = CallOptions(cache=ReplyCache(cache_path() if spec.cache else None), budget=budget)
    for judge in loaded.values():
        if isinstance(judge, Calling):
            judge.use(calls)
        if isinstance(judge, LoadedJudge):
            judge.logs_to(log_dir)
    for suite in suites:
        check_judges(suite, judges[suite.name])
    return judges, calls


def load_judge(spec: JudgeSpec) -> Judge:
    judge: Judge = load_plugin("judges", spec.kind)(spec)
    return judge


def limited(prompts: Sequence[Prompt], limit: int | None, seed: int) -> tuple[Prompt, ...]:
    """At most `limit` prompts in their own order, drawn by category in proportion (largest remainder), seeded."""
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


# ----------------------------------------------------------------------------------------------------- identities


def protocol(made: Plan, suite: Suite) -> dict[str, JsonValue]:
    """Everything that makes two numbers comparable."""
    spec = made.spec
    deviations = {key: value for key, value in spec.sampling.model_dump().items() if value is not None}
    found: dict[str, JsonValue] = {
        "suite": suite.name,
        "suite_version": suite.version,
        **suite.protocol(),
        "judge": judge_protocol(made.judges[suite.name], spec.jury),
    }
    if spec.repeats > 1:
        found["judge_repeats"] = spec.repeats
    if made.identity.get("answer_settings") is not None:
        found["answer_settings"] = made.identity["answer_settings"]  # answers that were not asked for by these suites
    if deviations:
        found["sampling_deviation"] = deviations
    if len(made.prompts[suite.name]) < len(suite.prompts()):
        found["limit"] = {"n": len(made.prompts[suite.name]), "seed": spec.seed}
    return found


def manifest(made: Plan, suite: Suite) -> dict[str, JsonValue]:
    """What must be equal for a run to be resumed; its digest is the run's id."""
    urls: list[JsonValue] = [judge.url for judge in made.spec.judges[suite.name]]
    return {
        "schema_version": 1,
        "model": str(made.spec.model) if made.spec.model.scheme != "path" else made.spec.model.label,
        "identity": made.identity,
        "protocol": protocol(made, suite),
        "judge_url": urls[0] if len(urls) == 1 else urls,
        "seed": made.spec.seed,
    }


def folder_of(made: Plan, suite: Suite) -> Path:
    spec = made.spec
    run_id = digest(manifest(made, suite))[:12]
    return run_dir(spec.results, model=spec.model.slug, suite=suite.name, version=suite.version, run_id=run_id)
