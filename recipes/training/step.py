"""Run a training as the work of a recipe step, and return the step's counts. Imports torch only when it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.records import ModelRef
from harness.store.fusion import Fusion

from ..recipe import Recipe
from ..shipped import launch_path
from ..steps import Counts
from .job import Evaluation, TrainingJob

if TYPE_CHECKING:
    from .rows import Rows
    from .run import Trained

KEEP = (
    "config.json", "generation_config.json", "*.safetensors", "*.safetensors.index.json", "*.jinja", "*.model",
    "tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt",
    "fusion.json", "*.jsonl",
)  # fmt: skip
"""Files of a checkpoint folder that belong to the step. The model card does not: it is written later."""


def fusion_of(recipe: Recipe, method: str, *, sources: int | None = None, alpha: float | None = None) -> Fusion:
    """Return the record of how a model was fused, for the leaderboard. `sources`: only the first so many."""
    names = tuple(source.name for source in recipe.spec.sources[:sources])
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
        from .launch import launch

        done = launch(job, launch_path(recipe.spec.launch))
    else:
        if job.reference is not None:
            store_reference(job)
        done = train(job)
    return _counts(job, rows, done)


def _counts(job: TrainingJob, rows: Rows, done: Trained) -> Counts:
    facts = rows.facts
    learned = ("prompt_ids", f"{job.answer}_ids") if job.method == "sft" else tuple(facts.tokens)
    return {
        **facts.model_dump(mode="json", exclude={"tokens"}),
        "steps": done.steps,
        "tokens": sum(facts.tokens[name] for name in learned),
        "train_seconds": done.seconds,
        "batch": done.batch,
        "processes": done.processes,
        "final_loss": done.final_loss,
    }
