"""Stage `report`: write the leaderboard of variants with paired differences, data report, figures and model cards.

The report is cheap, so it is rewritten every time, from everything that is finished in the recipe's folder.

report/variants.{json,md,html}   leaderboard of variants; the page also has curves and data
report/data.{json,md}            what the pairs were made from
report/curves-MODEL.svg          training curves of all seeds
report/costs.{json,md,svg}       cost of training and per answer, if there are sources, ensembles or merges
report/suites.{md,html}          leaderboard of the suites, if any were run
CHECKPOINT/README.md             model card, with training_curves.svg beside it
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.analysis.leaderboard import rank, read_questions
from harness.pages.charts import Drawing
from harness.records import ScoreCard
from harness.store import dump_json, write_atomic

from ..layout import Counts, Recipe, record_in
from ..report.board import best_by_validation, variant_board
from ..report.card import CardFacts, model_card
from ..report.costs import cost_figure, cost_grid, read_costs
from ..report.curves import training_curves
from ..report.data import (
    FinishedCheckpoint,
    baselines,
    checkpoints,
    data_markdown,
    read_all_measured,
    read_data,
    read_logs,
    read_suites,
)
from ..report.tables import TextGrid, VariantBoard, markdown, markdown_grid
from ..steps import Step

BOARD = "variants.json"
CURVES = "training_curves.svg"


def report_step(recipe: Recipe, steps: Sequence[Step]) -> Step:
    """Return the step that writes the report after all of `steps`."""
    kept = ("*.json", "*.md", "*.html", "*.svg")
    return Step("report", "report", recipe.report, {}, partial(write_report, recipe), tuple(steps), kept, always=True)


def read_variant_board(recipe: Recipe) -> VariantBoard:
    """Return the leaderboard of variants from the answers and rewards so far."""
    preference = [name for name, variant in recipe.spec.variants.items() if variant.method != "sft"]
    measured = read_all_measured(recipe)
    compared = baselines(recipe.spec)
    sources = {source.name for source in recipe.spec.sources} & set(recipe.rivals)
    if (best := next((name for name in best_by_validation(measured) if name in sources), None)) is not None:
        compared = tuple(dict.fromkeys((*compared, best)))  # chosen on validation prompts, compared on test prompts
    stated = [*preference, *recipe.spec.merges, *recipe.rivals]
    return variant_board(recipe.spec.name, measured, baselines=compared, preference=stated)


def write_report(recipe: Recipe, folder: Path) -> Counts:
    """Write the whole report and the model cards; return the number of models, figures and cards."""
    from ..report.page import page  # imports jinja2

    board, data = read_variant_board(recipe), read_data(recipe)
    curves = {model: drawn for model, logs in read_logs(recipe).items() if (drawn := training_curves(model, logs))}
    write_atomic(folder / BOARD, dump_json(board.model_dump(mode="json")))
    write_atomic(folder / "variants.md", markdown(board))
    costs, figure = _write_costs(recipe, board, folder)
    write_atomic(folder / "variants.html", page(board, data, [*figure, *curves.values()], costs))
    write_atomic(folder / "data.json", dump_json(data.model_dump(mode="json")))
    write_atomic(folder / "data.md", data_markdown(data))
    for model, drawing in curves.items():
        write_atomic(folder / f"curves-{model}.svg", drawing.standalone() + "\n")
    suites = read_suites(recipe)
    _write_suites(suites, folder)
    finished = list(checkpoints(recipe))
    for checkpoint in finished:
        name = recipe.label(checkpoint.model, checkpoint.seed)
        model_cards = [card for _, card in suites if card.model == name]
        _write_card(recipe, checkpoint, board, model_cards, curves.get(checkpoint.model))
    return {"models": len({row.model for row in board.models}), "figures": len(curves), "model_cards": len(finished)}


def _write_costs(recipe: Recipe, board: VariantBoard, folder: Path) -> tuple[list[TextGrid], list[Drawing]]:
    """Write what models cost, if the recipe compares ways to fuse, and return the table and the figure for the page."""
    if not recipe.rivals and not recipe.spec.merges:
        return [], []
    rows = read_costs(recipe, board)
    grid, drawing = cost_grid(rows), cost_figure(board, rows)
    write_atomic(folder / "costs.json", dump_json([row.model_dump(mode="json") for row in rows]))
    write_atomic(folder / "costs.md", f"# {grid.title}\n\n{markdown_grid(grid)}")
    if drawing is None:
        return [grid], []
    write_atomic(folder / "costs.svg", drawing.standalone() + "\n")
    return [grid], [drawing]


def _write_suites(results: Sequence[tuple[Path, ScoreCard]], folder: Path) -> None:
    if not results:
        return
    from harness.pages.board import page
    from harness.pages.tables import markdown as leaderboard

    tables = rank([card for _, card in results], read_questions(results))
    write_atomic(folder / "suites.md", leaderboard(tables))
    write_atomic(folder / "suites.html", page(tables, ()))


def _write_card(
    recipe: Recipe,
    checkpoint: FinishedCheckpoint,
    board: VariantBoard,
    suites: Sequence[ScoreCard],
    curves: Drawing | None,
) -> None:
    facts = CardFacts(
        spec=recipe.spec,
        model=checkpoint.model,
        seed=checkpoint.seed,
        method=_method(recipe, checkpoint.model),
        settings=checkpoint.record.settings,
        digests=_digests(recipe, checkpoint),
        board=board,
        suites=tuple(suites),
        adapter=(checkpoint.folder / "adapter_config.json").exists(),
        curves=curves is not None,
    )
    if curves is not None:
        write_atomic(checkpoint.folder / CURVES, curves.standalone() + "\n")
    write_atomic(checkpoint.folder / "README.md", model_card(facts))


def _method(recipe: Recipe, model: str) -> str:
    if model == "sft":
        return "sft"
    return "merge" if model in recipe.spec.merges else recipe.spec.variants[model].method


def _digests(recipe: Recipe, checkpoint: FinishedCheckpoint) -> dict[str, str]:
    """Return the digests of all steps that the checkpoint comes from, of its own step and of its weights."""
    sft = record_in(recipe.sft(checkpoint.seed))
    digests = dict(sft.inputs) if sft is not None else {}
    digests |= checkpoint.record.inputs
    digests[checkpoint.model] = checkpoint.record.digest
    weights = {name: out.sha256 for name, out in checkpoint.record.outputs.items() if name.endswith(".safetensors")}
    return digests | weights
