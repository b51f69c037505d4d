"""Order the steps of a recipe and run them, one by one or several at a time.

This module decides which step uses which, and when a step runs. `stages` defines what a step does, `steps` how it runs
once and resumes, `schedule` how several run in parallel.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import yaml

from harness.backends.devices import visible_devices
from harness.records import ModelRef
from harness.records.errors import CheckpointError, ConfigError, HarnessError, RunLockedError, UsageError
from harness.records.protocols import installed, load_plugin
from harness.store import LOCK, LOCK_FILES, FolderLock, write_atomic
from harness.store.checkpoint import resolve

from .estimate import Estimator
from .layout import DONE, STAGES, Recipe
from .preflight import preflight
from .prompts import is_missing_file
from .rewards.scoring import check_reward
from .schedule import check_fits, fill_devices, side_by_side
from .spec import WEIGHTED, RecipeSpec, Selection, sources_loaded
from .stages.answers import source_steps, target_step
from .stages.evaluate import held_out_steps, merged_held_out_steps, suite_steps
from .stages.merge import check_merges, merge_steps
from .stages.pairs import own_pairs_step, pairs_steps
from .stages.prompts import prompts_step
from .stages.report import report_step
from .stages.rewards import logps_steps, source_reward_steps, target_reward_step
from .stages.training import TrainedFrom, align_step, align_steps, sft_step, weighted_step
from .steps import Outcome, Step, check_unowned, finished, gpu_hours, is_done, remaining, run_step, undo

log = logging.getLogger(__name__)
RESOLVED = "resolved.yaml"
"""Not `recipe.yaml`, which is what users call the file they write."""
SIGNATURE = "# Written by harness train; a changed copy belongs under another name. sha256 of the rest: "


def all_steps(recipe: Recipe) -> list[Step]:
    """Return every step of the recipe, each after its inputs. Nothing is read or written."""
    if recipe.spec.has_own_pairs:
        return _steps_of_own_pairs(recipe)
    prompts = prompts_step(recipe)
    answers = source_steps(recipe, prompts)
    rewards = source_reward_steps(recipe, prompts, answers)
    steps = [prompts, *answers, *rewards]
    models: list[Step] = []
    for seed in recipe.seeds:
        sft = sft_step(recipe, seed, prompts, answers, rewards)
        trained = _training_steps(recipe, seed, prompts, [*answers, *rewards], sft)
        align = [step for step in trained if step.stage == "align"]
        held_out = held_out_steps(recipe, seed, prompts, [sft, *align])
        steps += [sft, *trained, *held_out]
        models += [sft, *align, *held_out]
    merged = merge_steps(recipe, models)
    merged += [step for seed in recipe.seeds for step in merged_held_out_steps(recipe, seed, prompts, merged)]
    steps += merged
    models += merged
    suites = suite_steps(recipe, models)
    return [*steps, *suites, report_step(recipe, [*steps, *suites])]


def _steps_of_own_pairs(recipe: Recipe) -> list[Step]:
    """Return the steps of a recipe with existing pairs: nothing is sampled but answers to held-out prompts."""
    held_out = recipe.spec.prompts.validation + recipe.spec.prompts.test
    prompts = prompts_step(recipe)
    steps: list[Step] = [prompts] if held_out else []
    models: list[Step] = []
    for seed in recipe.seeds:
        pairs, start = own_pairs_step(recipe, seed), sft_step(recipe, seed, prompts, [], [])
        align = align_steps(recipe, seed, start, pairs)
        answered = held_out_steps(recipe, seed, prompts, align)
        steps += [pairs, start, *align, *answered]  # wrong pairs stop a run that has made nothing yet
        models += [start, *align, *answered]
    merged = merge_steps(recipe, models)
    merged += [step for seed in recipe.seeds for step in merged_held_out_steps(recipe, seed, prompts, merged)]
    steps += merged
    models += merged
    suites = suite_steps(recipe, models)
    return [*steps, *suites, report_step(recipe, [*steps, *suites])]


def _training_steps(recipe: Recipe, seed: int, prompts: Step, answered: Sequence[Step], sft: Step) -> list[Step]:
    """Return the steps of one seed after SFT: samples of the models to train, rewards, pairs, and the variants.

    `answered` has the steps of the sources' answers and of their rewards.
    """
    steps: list[Step] = []
    models: dict[str | None, Step] = {None: sft}
    pairs: dict[str | None, dict[Selection, Step]] = {}
    for name, variant in recipe.variants.items():
        start = models[variant.after]
        if variant.method in WEIGHTED:
            first = None if variant.method == "fusesft" else start
            models[name] = weighted_step(recipe, seed, name, prompts, answered, first)
            steps.append(models[name])
            continue
        if variant.after not in pairs:
            target = target_step(recipe, seed, prompts, start, variant.after)
            rewards = target_reward_step(recipe, seed, prompts, target, variant.after)
            round_pairs = pairs_steps(recipe, seed, prompts, [*answered, target, rewards], variant.after)
            steps += [target, rewards, *round_pairs.values()]
            pairs[variant.after] = round_pairs
        own_pairs = pairs[variant.after][Selection.of(recipe.spec, variant)]
        logps = logps_steps(recipe, seed, name, own_pairs)
        # variants with equal pairs share the steps that read them, which have one name
        by_name = {step.name: step for step in steps}
        steps += [step for step in logps if step.name not in by_name]
        shared = tuple(by_name.get(step.name, step) for step in logps)
        models[name] = align_step(recipe, seed, name, TrainedFrom(start, own_pairs, shared))
        steps.append(models[name])
    return steps


def train(
    recipe: Recipe,
    *,
    first: str | None = None,
    last: str | None = None,
    jobs: int = 1,
    on_step: Callable[[Step], None] = lambda _: None,
) -> Iterator[Outcome]:
    """Run the steps up to and including stage `last`, and yield their outcomes.

    `jobs` of them run in parallel; with one job and several GPUs, as many as the GPUs have room for.
    Steps of stage `first` and later are archived and start over.
    """
    check_span(first, last)
    steps = all_steps(recipe)
    earlier = before(steps, first)
    selected = steps if last is None else up_to(steps, last)
    _check_settings(recipe, steps, earlier, last)
    devices = _devices(recipe, selected)
    resolved = _Resolved(recipe)
    for step in selected:
        check_unowned(step)
    for step in reversed(steps):  # a step after those that use it: a kill then leaves none without its inputs
        if step not in earlier:
            undo(step)
    absent = [path for path in _traces(recipe.out, selected) if not path.exists()]
    try:
        resolved.write()
        if jobs > 1:
            yield from side_by_side(selected, partial(all_steps, recipe), jobs)
        elif devices:
            hours = _gpu_hours(recipe, selected)
            start = recipe.spec.rates.start_minutes / 60
            yield from fill_devices(selected, partial(all_steps, recipe), devices, hours=hours, start_hours=start)
        else:
            yield from _one_by_one(selected, on_step)
    except RunLockedError:
        raise  # what is there belongs to another process
    except UsageError:
        if not _has_made(selected, absent):
            resolved.restore()
            _remove(absent)
        raise


def check_span(first: str | None, last: str | None) -> None:
    """Raise ConfigError if --from comes after --until."""
    if first is not None and last is not None and STAGES.index(first) > STAGES.index(last):
        raise ConfigError(f"--from {first} comes after --until {last}: nothing would run; stages: {', '.join(STAGES)}")


def before(steps: Sequence[Step], first: str | None) -> list[Step]:
    """Return the steps before stage `first` that use no later step: the target's rewards go with its answers."""
    if first is None:
        return list(steps)
    return _without(steps, lambda step: STAGES.index(step.stage) >= STAGES.index(first))


def up_to(steps: Sequence[Step], last: str) -> list[Step]:
    """Return the steps up to stage `last` that use no later step, e.g. no rewards of a target not sampled yet."""
    return _without(steps, lambda step: STAGES.index(step.stage) > STAGES.index(last))


def _without(steps: Sequence[Step], is_out: Callable[[Step], bool]) -> list[Step]:
    """Return the steps except those that are out and those that use them, directly or not."""
    out: set[str] = set()
    for step in steps:
        if is_out(step) or any(earlier.name in out for earlier in step.inputs):
            out.add(step.name)
    return [step for step in steps if step.name not in out]


def _devices(recipe: Recipe, steps: Sequence[Step]) -> tuple[str, ...]:
    """Return the GPUs to divide among the steps, or () to run one step after another.

    Raise ConfigError if the machine has fewer than the recipe or one of the steps needs.
    """
    visible, limit = visible_devices(), recipe.spec.devices
    if len(visible) < 2 and (limit is None or not visible):
        return ()
    if limit is not None and len(visible) < limit:
        raise ConfigError(
            f"devices = {limit}, but this machine shows {len(visible)} GPUs ({', '.join(visible)}); set `devices` to "
            "at most that number, and `launch` and tensor_parallel to match"
        )
    devices = visible[:limit]
    check_fits([step for step in steps if finished(step) is None], devices)
    return devices


def _gpu_hours(recipe: Recipe, steps: Sequence[Step]) -> dict[str, float]:
    """Return the GPU-hours of each step as far as they can be estimated."""
    try:
        return gpu_hours(remaining(Estimator(recipe, frozenset(step.name for step in steps)), steps))
    except HarnessError as error:
        log.info("all steps are assumed to take equally long: %s", error)
        return {}


def _one_by_one(steps: Sequence[Step], on_step: Callable[[Step], None]) -> Iterator[Outcome]:
    for step in steps:
        on_step(step)
        skipped = is_done(step)
        yield Outcome(step, run_step(step), skipped)


class _Resolved:
    """The resolved specification in the output folder.

    Raise ConfigError if a file of that name is there that harness train did not write, or that was edited since.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._path = recipe.out / RESOLVED
        self._text = _signed(yaml.safe_dump(recipe.spec.model_dump(mode="json"), sort_keys=False, allow_unicode=True))
        try:
            self._before: str | None = self._path.read_text("utf-8")
        except (FileNotFoundError, NotADirectoryError):
            self._before = None
        except (OSError, ValueError) as error:
            raise ConfigError(f"{self._path} cannot be read: {error}; move it away") from None
        if self._before is not None and self._before != _signed(self._before.partition("\n")[2]):
            raise ConfigError(
                f"{self._path} was not written by harness train, or was edited since; rename it, or give another "
                "output_dir"
            )

    def write(self) -> None:
        if self._text != self._before:
            write_atomic(self._path, self._text)

    def restore(self) -> None:
        """Put back what was there before `write`."""
        if self._before is None:
            self._path.unlink(missing_ok=True)
        elif self._text != self._before:
            write_atomic(self._path, self._before)


def _signed(text: str) -> str:
    return f"{SIGNATURE}{hashlib.sha256(text.encode('utf-8')).hexdigest()}\n{text}"


def _traces(out: Path, steps: Sequence[Step]) -> list[Path]:
    """Return step records and locks, their folders, and all folders above, each path before the folder it is in."""
    folders = {out, *out.parents}
    for step in steps:
        folders |= {step.folder, *step.folder.parents}
    files = [step.folder / name for step in steps for name in (*LOCK_FILES, DONE)]
    return [*files, *sorted(folders, key=lambda folder: len(folder.parts), reverse=True)]


def _has_made(steps: Sequence[Step], absent: Sequence[Path]) -> bool:
    """Whether a step is finished that was not, or has left more than its lock in a new folder."""
    if any((step.folder / DONE).exists() for step in steps if step.folder / DONE in absent):
        return True
    new = [step.folder for step in steps if step.folder in absent]
    return any(path.name not in LOCK_FILES for folder in new for path in folder.rglob("*") if not path.is_dir())


def _remove(absent: Sequence[Path]) -> None:
    """Remove those of the paths that are there: lock files that nobody holds, and folders that are empty."""
    for path in absent:
        if not path.exists():
            continue
        with suppress(OSError, RunLockedError):
            if path.name == LOCK:
                with FolderLock(path.parent):
                    path.unlink()
            else:
                path.rmdir()


def _check_settings(recipe: Recipe, steps: Sequence[Step], earlier: Sequence[Step], last: str | None) -> None:
    """Raise ConfigError now instead of hours later if a training key or the reward is wrong.

    The reward must exist and be the one that scored the existing answers; checking it may download it, so that is
    skipped if the run ends earlier. `preflight` checks the rest.
    """
    unfinished = [step for step in steps if step not in earlier or finished(step) is None]
    stages = {step.stage for step in unfinished}
    for error in _missing(recipe, unfinished):
        raise error
    reached = STAGES[: STAGES.index(last) + 1] if last is not None else STAGES
    if recipe.merges and "align" in stages & set(reached):
        check_merges(recipe)
    if recipe.spec.reward.kind and stages & {"rewards", "evaluate"} & set(reached):
        scored = [step.folder for step in earlier if step.stage == "rewards"]
        asks_questions = any(step.name == "suites/best_source" for step in unfinished)
        check_reward(recipe.spec.reward, scored, of_questions=asks_questions)
    if "sft" in stages and "sft" not in reached:  # another machine trains, but its keys are worth checking now
        preflight(recipe, frozenset(stages & {"sft", "align", "target"}), runs_here=False)
    for sentence in preflight(recipe, frozenset(stages & set(reached)), runs_here=True):
        log.warning("%s", sentence)


def notes_beforehand(recipe: Recipe, first: str | None, last: str | None) -> list[str]:
    """Return what a run would warn of or stop at on this machine. Raise what is wrong with the recipe itself."""
    steps = all_steps(recipe)
    earlier = {step.name for step in before(steps, first)}
    selected = steps if last is None else up_to(steps, last)
    to_do = [step for step in selected if step.name not in earlier or finished(step) is None]
    missing = list(_missing(recipe, to_do))
    if recipe.spec.models_from is not None:  # whoever runs the recipe makes its models first
        missing = [error for error in missing if not isinstance(error, CheckpointError)]
    absent = [f"before a run on this machine: {error}" for error in missing]
    return absent + preflight(recipe, frozenset(step.stage for step in to_do), runs_here=False)


def _missing(recipe: Recipe, unfinished: Sequence[Step]) -> Iterator[UsageError]:
    """Yield an error per absent backend, model folder or data file that unfinished steps need."""
    spec, names = recipe.spec, {step.name for step in unfinished}
    yield from _missing_backends(spec)
    loaded = {
        source.name
        for name, variant in recipe.variants.items()
        if any(f"seed-{seed}/align/{name}" in names for seed in recipe.seeds)
        for source in sources_loaded(spec, variant)
    }
    needed = [source for source in spec.sources if f"sources/{source.name}" in names or source.name in loaded]
    models = [source.model for source in needed if source.model is not None]
    if "prompts" in names:
        models.insert(0, spec.target)
    for text in dict.fromkeys(models):
        model = ModelRef.parse(text)
        if model.scheme == "path" and not resolve(model).is_dir():
            advice = spec.models_from or "use an existing folder or hf:ORG/NAME"
            yield CheckpointError(f"no such model folder: {text!r}; {advice}")
    if "prompts" in names and is_missing_file(spec.prompts.dataset):
        yield ConfigError(f"prompts: no such data file: {spec.prompts.dataset!r}")
    pairs = spec.pairs.dataset
    if pairs is not None and any(step.stage == "pairs" for step in unfinished) and is_missing_file(pairs):
        yield ConfigError(f"pairs: no such data file: {pairs!r}")
    for source in needed:
        if source.answers is not None and is_missing_file(source.answers):
            yield ConfigError(f"source {source.name!r}: no such file of answers: {source.answers!r}")


def _missing_backends(spec: RecipeSpec) -> Iterator[UsageError]:
    suites = [section.backend for section in (spec.evaluate, spec.evaluate_every) if section is not None]
    for name in sorted({*(source.backend for source in spec.sources), spec.target_backend, *suites}):
        if name not in installed("backends"):
            try:
                load_plugin("backends", name)
            except UsageError as error:  # which lists the installed ones
                yield error
