"""Evaluate checkpoints during training with transformers or TRL: the scores become metrics of the trainer.

`trainer.add_callback(HarnessCallback(trainer, "mt_bench", limit=20, serve={"devices": "7"}))` is all it takes.
Each checkpoint is evaluated when it is saved, and training waits for it: give the server GPUs that training does not
use. On several ranks the others wait at their next collective operation, so an evaluation must end within the process
group's timeout; `harness watch` evaluates beside the training instead.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..records.errors import HarnessError
from .api import Cards, run

log = logging.getLogger(__name__)


class HarnessCallback(TrainerCallback):  # type: ignore[misc]
    """Run suites on every `every`-th saved checkpoint and log `SUITE/METRIC`, with `_low` and `_high` (95 %).

    `trainer` needs only a method `log(metrics)`. `settings` are those of `harness.run`. An evaluation that fails is
    logged as a warning and never ends the training.
    """

    def __init__(self, trainer: Any, suite: str = "all", *, every: int = 1, **settings: Any) -> None:
        self._trainer, self._suite, self._every, self._settings = trainer, suite, every, settings
        self._saved = 0

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Evaluate the checkpoint that was saved, on the first process only."""
        self._saved += 1
        if not state.is_world_process_zero or self._saved % self._every:
            return
        checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        settings = {"name": f"{checkpoint.parent.name}-{state.global_step}"} | self._settings
        try:
            cards = run(str(checkpoint), self._suite, **settings)
        except HarnessError as error:
            log.warning("%s was not evaluated: %s", checkpoint, error)
            return
        self._trainer.log(metrics_of(cards))


def metrics_of(cards: Cards) -> dict[str, float]:
    """Return the complete cards' headlines and their intervals, by metric name."""
    metrics: dict[str, float] = {}
    for card in cards:
        score = card.scores.get(card.headline)
        if not card.complete or score is None:
            continue
        ends = {"": score.value, "_low": score.ci_low, "_high": score.ci_high}
        metrics |= {f"{card.suite}/{card.headline}{end}": value for end, value in ends.items() if value is not None}
    return metrics
