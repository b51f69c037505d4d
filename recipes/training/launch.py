"""Run a training as the work of a recipe step: in this process, or in several with `accelerate launch`.

A launched process gets its job as a file, and the main process writes the checkpoint. A process that fails with one of
our errors writes it to `failed.json`, so that the caller can raise it again; everything else goes to the log. torch is
imported only when something is trained.
"""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import ModelRef
from harness.records.documents import read_yaml
from harness.records.errors import CheckpointError, ConfigError, HarnessError, IncompleteError, StoreError
from harness.store import make_folder, write_atomic
from harness.store.checkpoint import Fusion

from ..devices import Gpus
from ..estimate import DeviceTime, Estimator, PlanItem, number
from ..layout import Counts, Recipe
from ..spec import PAIRED, WEIGHTED, Method, RecipeSpec, Training, VariantSpec, launch_path, sources_used
from ..steps import log_to_terminal
from .nodes import Machines, of_machines
from .settings import Evaluation, TrainingJob

if TYPE_CHECKING:
    from .rows import Rows
    from .run import Trained


log = logging.getLogger(__name__)
FAILED = "failed.json"
FORWARD = 1 / 3
"""Cost of a forward pass relative to a training step: a backward pass is assumed to cost two forward passes."""
RAISED: dict[str, type[HarnessError]] = {kind.__name__: kind for kind in (ConfigError, CheckpointError, StoreError)}
KEEP = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.jinja", "*.model",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "fusion.json", "made_from.json", "*.jsonl",
)  # fmt: skip
"""Files of a checkpoint folder that belong to the step. The model card does not: it is written later."""


def fusion_of(recipe: Recipe, method: str, *, variant: VariantSpec | None = None, alpha: float | None = None) -> Fusion:
    """Return the record of how a model was fused, for the leaderboard, with the variant's sources or all."""
    spec = recipe.spec
    names = tuple(source.name for source in (spec.sources if variant is None else sources_used(spec, variant)))
    return Fusion(method=method, sources=names, alpha=alpha, target=ModelRef.parse(recipe.spec.target).label)


def evaluation_of(recipe: Recipe, model: str, seed: int) -> Evaluation | None:
    """Return the evaluation to run while `model` trains, or None if the recipe has no `evaluate_every`."""
    spec = recipe.spec.evaluate_every
    if spec is None:
        return None
    label = recipe.label(model, seed)
    # One seed for all models: it decides which questions `limit` draws, so scores can be compared.
    return Evaluation(spec=spec, results=recipe.results, label=label, seed=recipe.spec.seeds[0])


def do_job(recipe: Recipe, job: TrainingJob, rows: Rows) -> Counts:
    """Train in this process or with `accelerate launch`, and return the step's counts: rows, tokens, time, loss."""
    from .run import reference_path, store_reference, train

    job = job.model_copy(update={"reference": reference_path(job)})
    if recipe.spec.launch is not None:
        done = launch(job, launch_path(recipe.spec.launch))
    else:
        if job.reference is not None:
            store_reference(job)
        done = train(job)
    return _counts(job, rows, done)


def _counts(job: TrainingJob, rows: Rows, done: Trained) -> Counts:
    facts = rows.facts
    learned = ("prompt_ids", f"{job.answer}_ids") if job.method in ("sft", "distill") else tuple(facts.tokens)
    return {
        **facts.model_dump(mode="json", exclude={"tokens", "dropped_rows"}),
        "steps": done.steps,
        "tokens": sum(facts.tokens[name] for name in learned),
        "train_seconds": done.seconds,
        "batch": done.batch,
        "processes": done.processes,
        "final_loss": done.final_loss,
        **({} if done.changed is None else {"changed_weights": round(done.changed, 4)}),
    }


def training_estimate(
    known: Estimator, item: PlanItem, *, rows: int, method: Method, answer: str, keys: Training
) -> PlanItem:
    """Return the item with the tokens that a training still has to read, over all epochs, and its time."""
    epochs = keys.get("num_train_epochs", 1)
    tokens = rows * row_tokens(known, method, answer) * (float(epochs) if isinstance(epochs, int | float) else 1.0)
    item = item.model_copy(update={"trained_tokens": 0.0 if item.done else tokens})
    times = [training_time(known, item.trained_tokens, "training")]
    if method == "distill":  # the teacher reads every row too; it is assumed to be as large as the target
        times.append(training_time(known, item.trained_tokens * FORWARD, "training, forward"))
    return known.timed(item, *times)


def reference_estimate(known: Estimator, item: PlanItem, rows: int, method: Method) -> PlanItem:
    """Return the item with the tokens of which the reference still has to compute log-probabilities, and its time."""
    tokens = 0.0 if item.done else rows * row_tokens(known, method, "source")
    time = training_time(known, tokens * FORWARD, "training, forward")
    return known.timed(item.model_copy(update={"prompt_tokens": tokens}), time)


def row_tokens(known: Estimator, method: Method, answer: str) -> float:
    """Return the expected tokens of one row, as `_counts` counts them: the prompt once, and the answers learned."""
    lengths = {"source": known.any_source_answer, "target": known.target_answer.value}
    answers = lengths[answer]
    if method in PAIRED:
        answers = lengths["source"] + 2 * lengths["target"]
    elif method in WEIGHTED:
        answers = lengths["source"] * (2 if method == "fusepo" else 1)
    return known.prompts.tokens.value + answers


def training_time(known: Estimator, tokens: float, work: str) -> DeviceTime:
    """Return the time in which the training devices read tokens, forward and backward."""
    recipe, spec = known.recipe, known.recipe.spec
    variants = [recipe.variant(name, seed) for seed in spec.seeds for name in spec.variants]
    rate = known.rate("training", spec.rates.training, [*map(recipe.sft, spec.seeds), *variants], _tokens_per_second)
    return DeviceTime(tokens, rate, training_devices(spec), work)


def _tokens_per_second(counts: Counts) -> float:
    rows, seconds = number(counts, "rows"), number(counts, "train_seconds")
    if not rows or not seconds:
        return 0.0
    epochs = number(counts, "steps") * number(counts, "batch") / rows
    return number(counts, "tokens") * epochs / seconds / max(1.0, number(counts, "processes"))


def training_devices(spec: RecipeSpec) -> int:
    """Return the number of processes per machine in the accelerate configuration, or 1 if the recipe names none."""
    return 1 if spec.launch is None else _processes(launch_path(spec.launch))


def _processes(config: Path) -> int:
    settings = read_yaml(config)
    processes, machines = settings.get("num_processes", 1), settings.get("num_machines", 1)
    if not isinstance(processes, int) or not isinstance(machines, int):
        return 1
    return max(1, processes // max(1, machines))


def training_gpus(spec: RecipeSpec) -> Gpus:
    """Return the GPUs of a training on this machine: one per process."""
    return Gpus(training_devices(spec), replicas=1)


def launch(job: TrainingJob, config: Path) -> Trained:
    """Train a job with `accelerate launch` and return its record, or the existing record if the job is finished.

    Raise the HarnessError that ended a process, or IncompleteError if the processes failed in another way.
    """
    from .run import trained

    if (before := trained(job)) is not None:
        return before
    if not config.is_file():
        raise ConfigError(f"launch: no accelerate configuration {str(config)!r}; give a file or a shipped name")
    make_folder(job.checkpoints)
    path = job.checkpoints / "job.json"
    write_atomic(path, job.model_dump_json(indent=2) + "\n")
    if job.reference is not None and not job.reference.is_file():
        _launch(job, config, "reference", path)
    _launch(job, config, "train", path)
    done = trained(job)
    if done is None:
        raise IncompleteError(f"{job.name}: the launched processes left no {job.checkpoints / 'trained.json'}")
    return done


def _launch(job: TrainingJob, config: Path, task: str, path: Path) -> None:
    failed = job.checkpoints / FAILED
    failed.unlink(missing_ok=True)
    words = [str(config), task, str(path)]
    machines, port = of_machines(), free_port()
    if machines is not None:
        machines.call(words, _processes(config), port)
    log.info("%s: accelerate launch with %s (%s)", job.name, config.name, task)
    code = launch_share(words, _processes(config), port, machines)
    if code == 0:
        return
    try:
        failure = json.loads(failed.read_text("utf-8"))
    except (OSError, ValueError):
        message = f"{job.name}: accelerate launch exited with code {code}; see {path.parent / task}.log"
        raise IncompleteError(message) from None
    raise RAISED.get(failure["error"], IncompleteError)(failure["message"])


def launch_share(words: list[str], processes: int, port: int, machines: Machines | None) -> int:
    """Run this machine's processes of a training and return the exit code. `words`: configuration, task, job."""
    config, task, path = words
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    if machines is not None:
        command += machines.arguments(processes, port)
    elif "main_process_port" not in Path(config).read_text("utf-8"):
        command += ["--main_process_port", "0"]  # any free port, so that two recipes can train on one machine
    name = task if machines is None or machines.rank == 0 else f"{task}-machine-{machines.rank}"
    command += ["-m", "recipes.training.launch", task, path]
    with (Path(path).parent / f"{name}.log").open("ab") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    return done.returncode


def free_port() -> int:
    """Return a port of this machine that nobody uses now."""
    with socket.socket() as listener:
        listener.bind(("", 0))
        port: int = listener.getsockname()[1]
    return port


def main(task: str, path: Path) -> int:
    """Run one launched process and return its exit code. `task` is `reference` or `train`."""
    log_to_terminal()
    from .run import store_reference, train

    job = TrainingJob.model_validate_json(path.read_text("utf-8"))
    try:
        (store_reference if task == "reference" else train)(job)
    except HarnessError as error:
        log.error("%s", error)
        facts = {"error": type(error).__name__, "message": str(error)}
        write_atomic(job.checkpoints / FAILED, json.dumps(facts) + "\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2])))
