"""Run a training as the work of a recipe step: in this process, in several of them, or on several machines.

>>> of_machines({"SLURM_NNODES": "2", "SLURM_NODEID": "1", "SLURM_JOB_NODELIST": "gpu[07-08]", "SLURM_JOB_ID": "5"})
Machines(count=2, rank=1, address='gpu07', port=20005)

`harness train` starts once on each machine, by srun or torchrun, and all machines see the same output folder. The first
one runs the recipe. The others wait, and start their share of the processes of each training that the first one calls
out over a `torch.distributed.TCPStore`. A launched process gets its job as a file, and the main process writes the
checkpoint. A process that fails with one of our errors writes it to `failed.json`, so that the caller can raise it
again; everything else goes to the log. torch is imported only when something is trained.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import ModelRef
from harness.records.documents import read_yaml
from harness.records.errors import CheckpointError, ConfigError, HarnessError, IncompleteError, StoreError
from harness.store import make_folder, write_atomic
from harness.store.checkpoint import Fusion

from ..estimate import DeviceTime, Estimator, Gpus, PlanItem, number
from ..layout import Counts, Recipe
from ..spec import PAIRED, WEIGHTED, Method, RecipeSpec, Training, VariantSpec, launch_path, sources_used
from ..steps import log_to_terminal
from .settings import Evaluation, TrainingJob, TrainingSettings

if TYPE_CHECKING:
    from torch.distributed import TCPStore

    from .rows import Rows
    from .run import Trained

log = logging.getLogger(__name__)

# ----------------------------------------------------------------------------------------------------- several machines
# They meet in a store and not in a shared file, because its connection ends if the first machine dies.


PORTS = range(20000, 30000)
"""Where the store listens under Slurm: the job's number decides, so that two jobs on one node rarely meet. Linux gives
none of these to outgoing connections (net.ipv4.ip_local_port_range begins at 32768)."""
JOIN = timedelta(minutes=10)
"""How long the first machine waits until the command runs on all of them. They may be minutes apart, because imports
from a shared file system are slow."""
LISTEN = timedelta(seconds=20)
"""How long one wait for a call lasts. A training may be called hours later, so waits are repeated."""
CLAIMED = "HARNESS_MACHINES"
"""Variable with which this process and those that it starts know the machines, once torchrun's are taken away."""
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Variables of torchrun. With them, every trainer and model in this process would wait for the other machines."""
LEAVE_SECONDS = 30.0
"""How long the store outlives the run, for the other machines to learn that it has ended. One that stays silent for so
long is gone."""


@dataclass(frozen=True)
class Machines:
    """The machines of one run, and which of them this is."""

    count: int
    rank: int
    address: str
    """Name of the first machine."""
    port: int
    """Where its store listens."""

    def arguments(self, processes: int, port: int) -> list[str]:
        """Return the options of `accelerate launch` here. `processes` run on each machine; the first has the port."""
        return [
            *("--num_machines", str(self.count), "--machine_rank", str(self.rank)),
            *("--num_processes", str(self.count * processes)),
            *("--main_process_ip", self.address, "--main_process_port", str(port)),
            # Each machine starts its own share. Under DeepSpeed accelerate's default would start all of them, by pdsh.
            *("--deepspeed_multinode_launcher", "standard"),
        ]

    def store(self, *, is_first: bool = False) -> TCPStore:
        """Open the store: the first machine's own, or a connection to it. Raise ConfigError if that fails."""
        from torch.distributed import DistError, TCPStore

        try:
            return TCPStore(self.address, self.port, is_master=is_first, wait_for_workers=False, timeout=JOIN)
        except (DistError, RuntimeError) as error:
            raise ConfigError(f"no connection to {self.address}:{self.port}, the first machine: {error}") from None

    def call(self, words: list[str], processes: int, port: int) -> None:
        """Ask the other machines to start `accelerate launch` with these words."""
        store = self.store()
        store.set(f"call-{store.add('calls', 1)}", json.dumps({"words": words, "processes": processes, "port": port}))


@contextmanager
def leading(machines: Machines) -> Iterator[None]:
    """Keep the store for the other machines, and tell them at the end that the run is over.

    Raise ConfigError if the command does not run on all machines.
    """
    from torch.distributed import DistError

    store = machines.store(is_first=True)
    try:
        store.wait([f"joined-{rank}" for rank in range(1, machines.count)], JOIN)
    except (DistError, RuntimeError):
        raise ConfigError(
            f"this is one of {machines.count} machines, but the command does not run on all of them; start it once on "
            "each (srun --ntasks-per-node=1 --cpu-bind=none), or on one only (srun --nodes=1)"
        ) from None
    try:
        yield
    finally:
        store.set(f"call-{store.add('calls', 1)}", json.dumps(None))
        limit = time.monotonic() + LEAVE_SECONDS
        while store.add("left", 0) < machines.count - 1 and time.monotonic() < limit:
            time.sleep(0.1)


def follow(machines: Machines, launch: Callable[[list[str], int, int], int]) -> None:
    """Start this machine's share of every training that is called, until the run is over.

    `launch(words, processes, port)` returns an exit code. A share that fails is only logged, because the first machine
    notices. Raise IncompleteError if the first machine is gone.
    """
    from torch.distributed import DistNetworkError, DistStoreError

    store = machines.store()
    store.set(f"joined-{machines.rank}", "")
    number = 1  # calls are numbered keys, so a machine that is slow to answer misses none
    while True:
        try:
            store.wait([f"call-{number}"], LISTEN)
            call = json.loads(store.get(f"call-{number}"))
        except DistStoreError:
            continue  # nothing yet
        except (DistNetworkError, RuntimeError):
            raise IncompleteError(f"the first machine, {machines.address}, is gone; the same command resumes") from None
        if call is None:
            store.add("left", 1)
            return
        code = launch(call["words"], call["processes"], call["port"])
        if code:
            log.error("machine %d: its share of the training ended with exit code %d", machines.rank, code)
        number += 1


def claimed_machines() -> Machines | None:
    """Return the machines of this run, and take torchrun's variables out of the environment."""
    machines = of_machines()
    for name in RANKS:
        os.environ.pop(name, None)
    if machines is not None:
        os.environ[CLAIMED] = json.dumps(asdict(machines))
    return machines


def of_machines(environ: Mapping[str, str] = os.environ) -> Machines | None:
    """Return the machines of this run by torchrun's variables or Slurm's, or None if there is only one.

    Raise ConfigError if a variable is missing, or if torchrun started more than one process on a machine.
    """
    if CLAIMED in environ:
        return Machines(**json.loads(environ[CLAIMED]))
    if "RANK" in environ and "WORLD_SIZE" in environ:
        if int(environ.get("LOCAL_WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "torchrun started several processes on this machine, but `harness train` starts its own; use "
                "--nproc_per_node=1"
            )
        count, rank = int(environ["WORLD_SIZE"]), int(environ["RANK"])
        # torchrun itself listens on MASTER_PORT
        address, port = environ.get("MASTER_ADDR", ""), int(environ.get("MASTER_PORT", "29500")) + 1
        missing = "MASTER_ADDR"
    else:
        count = int(environ.get("SLURM_STEP_NUM_NODES") or environ.get("SLURM_NNODES") or 1)
        rank = int(environ.get("SLURM_NODEID", "0"))
        address = first_host(environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", ""))
        port, missing = PORTS[int(environ.get("SLURM_JOB_ID", "0")) % len(PORTS)], "SLURM_JOB_NODELIST"
    if count < 2:
        return None
    if not address:
        raise ConfigError(f"{count} machines, but {missing} does not name the first one")
    return Machines(count, rank, address, port)


def first_host(nodes: str) -> str:
    """Return the first host of a list as Slurm writes it.

    >>> [first_host(nodes) for nodes in ("a1,a2", "gpu[07-08,11]", "rack[1-2]n[3-4]", "one.example", "gpu[7]-ib")]
    ['a1', 'gpu07', 'rack1n3', 'one.example', 'gpu7-ib']
    """
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[(\w+)[^\]]*\]", r"\1", first[0]) if first else ""


# --------------------------------------------------------------------------------------------------------- one training


FAILED = "failed.json"
OFF = (False, "none", "false", None)
"""Values of accelerate's keys for offloading that leave everything on the GPUs."""
ACCELERATES_STAGE = 2
"""ZeRO's stage if a configuration names none (accelerate's `DeepSpeedPlugin`)."""
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
        result = launch(job, launch_path(recipe.spec.launch))
    else:
        if job.reference is not None:
            store_reference(job)
        result = train(job)
    return _counts(job, rows, result)


def _counts(job: TrainingJob, rows: Rows, result: Trained) -> Counts:
    facts = rows.facts
    learned = ("prompt_ids", f"{job.answer}_ids") if job.method in ("sft", "distill") else tuple(facts.tokens)
    return {
        **facts.model_dump(mode="json", exclude={"tokens", "dropped_rows"}),
        "steps": result.steps,
        "tokens": sum(facts.tokens[name] for name in learned),
        "train_seconds": result.seconds,
        "batch": result.batch,
        "processes": result.processes,
        "final_loss": result.final_loss,
        **({} if result.changed is None else {"changed_weights": round(result.changed, 4)}),
    }


# ------------------------------------------------------------------------------------------------ what a training takes
# `--dry-run` adds these up. Rates are those of earlier trainings of the recipe, or `rates.training`.


FORWARD = 1 / 3
"""Cost of a forward pass relative to a training step: a backward pass is assumed to cost two forward passes (Kaplan et
al., arXiv 2001.08361, section 2.1)."""


def training_estimate(
    estimator: Estimator, item: PlanItem, *, rows: int, method: Method, answer: str, keys: Training
) -> PlanItem:
    """Return the item with the tokens that a training still has to read, over all epochs, and its time."""
    epochs = keys.get("num_train_epochs", 1)
    tokens = rows * row_tokens(estimator, method, answer) * (float(epochs) if isinstance(epochs, int | float) else 1.0)
    item = item.model_copy(update={"trained_tokens": 0.0 if item.done else tokens})
    times = [training_time(estimator, item.trained_tokens, "training")]
    if method == "distill":  # the teacher reads every row too; it is assumed to be as large as the target
        times.append(training_time(estimator, item.trained_tokens * FORWARD, "training, forward"))
    return estimator.timed(item, *times)


def reference_estimate(estimator: Estimator, item: PlanItem, rows: int, method: Method) -> PlanItem:
    """Return the item with the tokens of which the reference still has to compute log-probabilities, and its time."""
    tokens = 0.0 if item.done else rows * row_tokens(estimator, method, "source")
    time = training_time(estimator, tokens * FORWARD, "training, forward")
    return estimator.timed(item.model_copy(update={"prompt_tokens": tokens}), time)


def row_tokens(estimator: Estimator, method: Method, answer: str) -> float:
    """Return the expected tokens of one row, as `_counts` counts them: the prompt once, and the answers learned."""
    lengths = {"source": estimator.any_source_answer, "target": estimator.target_answer.value}
    answers = lengths[answer]
    if method in PAIRED:
        answers = lengths["source"] + 2 * lengths["target"]
    elif method in WEIGHTED:
        answers = lengths["source"] * (2 if method == "fusepo" else 1)
    return estimator.prompts.tokens.value + answers


def training_time(estimator: Estimator, tokens: float, work: str) -> DeviceTime:
    """Return the time in which the training devices read tokens, forward and backward."""
    recipe, spec = estimator.recipe, estimator.recipe.spec
    variants = [recipe.variant(name, seed) for seed in spec.seeds for name in spec.variants]
    rate = estimator.rate(
        "training", spec.rates.training, [*map(recipe.sft, spec.seeds), *variants], _tokens_per_second
    )
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


def state_bytes(spec: RecipeSpec, settings: TrainingSettings, parameters: int) -> float | None:
    """Return the bytes of weights, gradients and optimizer state on each GPU: the least that a training takes.

    Activations come on top. A frozen parameter has only its weight, and optimizers other than Adam count as nothing.
    None: the training uses no GPU, keeps some of its state elsewhere, or is set up by a file of DeepSpeed's own.
    """
    facts = {} if spec.launch is None else read_yaml(launch_path(spec.launch))
    kind = facts.get("distributed_type")
    sections = [facts.get(name) for name in ("deepspeed_config", "fsdp_config")]
    keys = {key: value for section in sections if isinstance(section, dict) for key, value in section.items()}
    elsewhere = [value for key, value in keys.items() if "offload" in key or key == "deepspeed_config_file"]
    if facts.get("use_cpu") or settings.trainer.get("use_cpu") or any(value not in OFF for value in elsewhere):
        return None
    weight, gradient, optimizer = _bytes_per_parameter(settings, of_deepspeed=kind == "DEEPSPEED")
    machines, stage = of_machines(), 3 if kind == "FSDP" else 0
    if kind == "DEEPSPEED":
        stage = named if isinstance(named := keys.get("zero_stage"), int) else ACCELERATES_STAGE
    processes = training_devices(spec) * (1 if machines is None else machines.count)
    # ZeRO's stages split the optimizer's state (1), gradients too (2), and weights too (3), as FSDP does
    parts = ((weight, 3), (gradient, 2), (optimizer, 1))
    return parameters * sum(size / (processes if stage >= least else 1) for size, least in parts)


def _bytes_per_parameter(settings: TrainingSettings, *, of_deepspeed: bool) -> tuple[float, float, float]:
    """Return the bytes of a weight, its gradient, and its share of the optimizer's state."""
    model, optim = settings.model, settings.trainer.get("optim", "adamw_torch")
    weight = 4.0 if model.get("dtype", "float32") == "float32" else 2.0
    if model.get("load_in_4bit") or model.get("load_in_8bit"):
        weight = 0.5 if model.get("load_in_4bit") else 1.0
    moments = 2 * weight if optim in ("adamw_torch", "adamw_torch_fused") else 0.0
    if of_deepspeed and weight == 4.0:  # weights and gradients in bfloat16, and float32 weights in the optimizer
        weight, moments = 2.0, 4.0 + moments
    return (weight, 0.0, 0.0) if model.get("use_peft") else (weight, weight, moments)


# ---------------------------------------------------------------------------------------------------- accelerate launch


def launch(job: TrainingJob, config: Path) -> Trained:
    """Train a job with `accelerate launch` and return its record, or the existing record if the job is finished.

    Raise the HarnessError that ended a process, or IncompleteError if the processes failed in another way.
    """
    from .run import trained

    if (finished := trained(job)) is not None:
        return finished
    if not config.is_file():
        raise ConfigError(f"launch: no accelerate configuration {str(config)!r}; give a file or a shipped name")
    make_folder(job.checkpoints)
    path = job.checkpoints / "job.json"
    write_atomic(path, job.model_dump_json(indent=2) + "\n")
    if job.reference is not None and not job.reference.is_file():
        _launch(job, config, "reference", path)
    _launch(job, config, "train", path)
    result = trained(job)
    if result is None:
        raise IncompleteError(f"{job.name}: the launched processes left no {job.checkpoints / 'trained.json'}")
    return result


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
        process = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    return process.returncode


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
