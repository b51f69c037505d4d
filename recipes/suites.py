"""Run suites on a recipe's models exactly as `harness run` does: in the stage `evaluate`, and while a model trains."""

from __future__ import annotations

import asyncio
from pathlib import Path

from pydantic import JsonValue

from harness.records import ModelRef, ScoreCard, digest
from harness.records.facts import facts_of
from harness.records.judge_choice import choose_judges, judged_as, suite_names
from harness.records.protocols import Definable, OwnRunner, SuiteOptions
from harness.records.settings import RunSpec, checked
from harness.running.execute import execute, opened
from harness.running.plan import limited, load_suite, plan

from .spec import SuitesSpec, shipped_file


def named_suites(spec: SuitesSpec) -> tuple[str, ...]:
    """Return the suites by name. `NAME:FILE` may be a file that ships with the recipes."""
    names = (name.partition(":") for name in suite_names(spec.suite or "all"))
    return tuple(f"{name}:{shipped_file(argument)}" if argument else name for name, _, argument in names)


def own_suites(spec: SuitesSpec) -> dict[str, JsonValue]:
    """Return suite -> digest of its content, of suites in users' files: a file that changed must be asked again."""
    contents: dict[str, JsonValue] = {}
    for name in named_suites(spec):
        suite = load_suite(name, SuiteOptions(edition=spec.edition)) if facts_of(name).by_argument else None
        if isinstance(suite, Definable):
            contents[judged_as(name)] = digest(suite.definition())[:12]
    return contents


def check_suites(spec: SuitesSpec) -> None:
    """Raise ConfigError if a suite or judge does not exist."""
    suites = named_suites(spec)
    if spec.judge is not None:  # otherwise the environment may set it, perhaps only in a later session
        choose_judges(suites, spec.judge, edition=spec.edition, own_judges={})


def run_suites(spec: SuitesSpec, model: ModelRef, results: Path, *, seed: int) -> list[ScoreCard]:
    """Run the suites on a model and return one card per suite; calling it again resumes.

    Files are written to `results` as `harness run` writes them. `seed` decides which prompts `limit` draws. Raise
    ConfigError if the options are not valid.
    """
    suites = named_suites(spec)
    options = {
        "model": model,
        "suites": suites,
        "judges": choose_judges(suites, spec.judge, edition=spec.edition, own_judges={}),
        "edition": spec.edition,
        "backend": model.scheme if model.scheme == "endpoint" or model.is_ensemble else spec.backend,
        "limit": spec.limit,
        "seed": seed,
        "results": results,
        "serve": spec.serve,
    }
    run_plan = plan(checked(RunSpec, options, "evaluate"))
    with opened(run_plan, fresh=False) as runs:
        return asyncio.run(execute(run_plan, runs))


def suite_calls(spec: SuitesSpec, *, seed: int) -> int:
    """Return how many calls one model gets from the suites: one per turn of the prompts that `limit` leaves."""
    calls = 0
    for name in named_suites(spec):
        facts = facts_of(name)
        if spec.edition == "official" and facts.questions is not None:  # so that a plan does not download the files
            calls += min(facts.questions, spec.limit or facts.questions) * facts.turns
        else:
            suite = load_suite(name, SuiteOptions(edition=spec.edition))
            assert not isinstance(suite, OwnRunner), "checked: recipes evaluate judged suites"
            calls += sum(len(prompt.turns) for prompt in limited(tuple(suite.prompts()), spec.limit, seed))
    return calls
