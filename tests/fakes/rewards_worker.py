"""Scores one source's answers in a process of its own, as `harness train` does: `rewards_worker.py OUT FILE.py:NAME`.

The prompts and the answers are there already. Ends as the command line ends.
"""

from __future__ import annotations

import sys
from pathlib import Path

from harness.records.errors import HarnessError
from recipes.stages.rewards import source_reward_steps
from recipes.steps import Step, run_step
from tests.fakes.recipe_files import Texts, answers_step, prompt_rows, prompts_step, recipe

TEXTS: Texts = {f"p{number}": [f"answer {number} {draw}" for draw in range(4)] for number in range(15)}


def step(out: Path, function: str) -> Step:
    made = recipe(out, {"kind": "function", "model": function, "batch_size": 2})
    prompts = prompts_step(made, prompt_rows(list(TEXTS)))
    answers = [answers_step(made.source(name), f"sources/{name}", TEXTS) for name in "ab"]
    return source_reward_steps(made, prompts, answers)[0]


if __name__ == "__main__":
    try:
        run_step(step(Path(sys.argv[1]), sys.argv[2]))
    except HarnessError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
