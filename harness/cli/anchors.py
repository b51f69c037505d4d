"""`harness judge anchors`: recorded answers and verdicts of a run -> a file that later runs judge again."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError, printable
from ..judging.anchors import anchor_set
from ..pipeline import current_judgments
from ..plan import limited, suite_of_card
from ..runs import find_run, read_rows
from ..store import dump_json, read_card, write_atomic


def anchors(
    run: Annotated[str, typer.Argument(help="A judged run: its folder, its card.json, or a model's name.")],
    out: Annotated[Path, typer.Option(help="The file to write.")],
    n: Annotated[int, typer.Option("--n", help="Answers, drawn by category in proportion.")] = 40,
    seed: Annotated[int, typer.Option(help="Seed of the draw.")] = 0,
    results: Annotated[Path, typer.Option(help="Results folder.", envvar="HARNESS_RESULTS")] = Path("results"),
    references: Annotated[str, typer.Option(help="The FILE of reference answers, where the run had its own.")] = "",
    mirror: Annotated[str | None, typer.Option(help="Folder or URL with the official files.")] = None,
) -> None:
    """Freeze answers of a run with its judges' verdicts; `harness run --anchors FILE` judges them again.

    The file holds a model's answers to the suite's questions: keep it where the run itself may be kept.

    Example: harness judge anchors results/runs/my-model/arena_hard@official-1/0123456789ab --n 40 --out anchors.json
    """
    if n < 1:
        raise ConfigError(f"--n {n} is no number of answers; 40 is usual")
    folder = find_run(run, results)
    card = read_card(folder / "card.json")
    suite = suite_of_card(card, references=references, mirror=mirror)
    answers, judgments = read_rows(folder)
    rows = current_judgments(answers, iter(judgments))
    found = anchor_set(card, suite, answers, rows, lambda prompts: limited(prompts, n, seed))
    write_atomic(out, dump_json(found.model_dump(mode="json")))
    category = {prompt.id: prompt.category for prompt in suite.prompts()}
    sizes = Counter(category[anchor.answer.prompt_id] for anchor in found.anchors)
    print(f"wrote {out}: {len(found.anchors)} answers of {printable(found.model)} to {found.suite}, set {found.sha}")
    print(f"by category: {', '.join(f'{name} {size}' for name, size in sorted(sizes.items()))}")
    print(f"verdicts of {printable(', '.join(found.judges))}; next: harness run ... --anchors {out}")
