"""One of two machines: `python -m tests.fakes.machine OUT TARGET CONFIG` trains a variant, or takes part in it."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from recipes.steps import run_step
from recipes.training.launch import claimed_machines, follow, launch_share, leading
from tests.fakes.training_steps import QUICK, aligned, made, pairs_of, sft_of

ROWS = 96
TRAINING = {**QUICK, "beta": 0.1, "alpha": 0.3, "save_strategy": "steps", "save_steps": 2}


def main(out: Path, target: Path, config: str) -> None:
    logging.basicConfig(level=logging.INFO)
    machines = claimed_machines()
    assert machines is not None
    if machines.rank:
        follow(machines, lambda words, processes, port: launch_share(words, processes, port, machines))
        return
    recipe = made(out, target, training={**TRAINING, "per_device_train_batch_size": 2}, launch=config)
    sft = sft_of(made(out, target))  # in this process: one start less of those that take most of the time
    run_step(sft)
    with leading(machines):
        run_step(aligned(recipe, sft, pairs_of(recipe, ROWS))[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
