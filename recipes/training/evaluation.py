"""Run suites while training: every N steps, score the current weights as `harness run` would and add them to the board.

The main process writes the weights to a folder and runs the suites; the other processes wait. Evaluation does not
change the random numbers that training draws. If an evaluation fails, it is logged as a warning and training continues.
"""

from __future__ import annotations

import asyncio
import logging
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback, TrainerControl, TrainerState
from transformers import TrainingArguments as Arguments

from harness.config import RunSpec, choose_judges, suite_names
from harness.errors import HarnessError
from harness.plan import plan
from harness.records import ModelRef, ScoreCard
from harness.run import execute, opened
from harness.store import make_folder

from ..spec import EvaluateEverySpec
from .checkpoint import write_weights
from .job import Evaluation, TrainingJob

log = logging.getLogger(__name__)


class EvaluateEvery(TrainerCallback):
    """Put the scores of step N on the board as LABEL-stepN and in the training log as `suite/NAME/METRIC`."""

    def __init__(
        self, job: TrainingJob, evaluation: Evaluation, trainer: Trainer, tokenizer: PreTrainedTokenizerBase
    ) -> None:
        self._job = job
        self._evaluation = evaluation
        self._trainer = trainer
        self._tokenizer = tokenizer

    def on_step_end(self, args: Arguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
        if state.global_step % self._evaluation.spec.steps or state.global_step >= state.max_steps:
            return
        folder = self._job.checkpoints / "evaluated" / f"{self._evaluation.label}-step{state.global_step}"
        with randomness_kept():
            write_weights(self._trainer, folder, self._job.model, self._tokenizer)
            if state.is_world_process_zero:
                scores = self._scores(folder)
                if scores:
                    entry = {"step": state.global_step, "epoch": state.epoch, **scores}
                    state.log_history.append(entry)
                    due = control.should_log  # on_log clears this flag, and the trainer's own log may still be due
                    self._trainer.callback_handler.on_log(args, state, control, dict(scores))
                    control.should_log = due
                shutil.rmtree(folder)
        self._trainer.accelerator.wait_for_everyone()

    def _scores(self, folder: Path) -> dict[str, float]:
        evaluation = self._evaluation
        try:
            cards = run_suites(folder, evaluation.spec, evaluation.results, seed=evaluation.seed)
        except HarnessError as error:
            log.warning("%s: no scores: %s", folder.name, error)
            return {}
        values = {f"suite/{card.suite}/{card.headline}": card.scores[card.headline].value for card in cards}
        return {name: value for name, value in values.items() if value is not None}


def run_suites(folder: Path, spec: EvaluateEverySpec, results: Path, *, seed: int) -> list[ScoreCard]:
    """Run the suites on a model folder and return one card per suite; calling it again resumes.

    Files are written to `results` exactly as `harness run` writes them.
    """
    suites = suite_names(spec.suite)
    run = RunSpec(
        model=ModelRef(scheme="path", name=str(folder)),
        suites=suites,
        edition=spec.edition,
        backend=spec.backend,
        judges=choose_judges(suites, spec.judge, edition=spec.edition, own_judges={}),
        limit=spec.limit,
        seed=seed,
        results=results,
        serve=spec.serve,
    )
    logs = results / "runs" / run.model.slug / "logs"
    run_plan = plan(run, log_dir=logs)
    with opened(run_plan, fresh=False) as runs:
        make_folder(logs)
        return asyncio.run(execute(run_plan, runs))


@contextmanager
def randomness_kept() -> Iterator[None]:
    """Restore the state of Python's, numpy's and torch's random generators afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)
