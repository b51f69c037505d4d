"""Stage `report`: write the leaderboard of variants with paired differences, data report, figures and model cards.

The report is cheap, so it is rewritten every time, from everything that is finished in the recipe's folder.

report/variants.{json,md,html}   leaderboard of variants; the page also has curves and data
report/data.{json,md}            what the pairs were made from
report/curves-MODEL.svg          training curves of all seeds
report/methods.{json,md}         every model on every measure, against target and best source, with cost; methods-*.svg
report/sweeps.{json,md}          variants of each sweep against the one that it is of; sweep-VARIANT-KEY.svg
report/suites.{md,html}          leaderboard of the suites, if any were run
CHECKPOINT/README.md             model card, with training_curves.svg beside it
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from harness.analysis.leaderboard import RankOptions, rank, run_id
from harness.analysis.read_board import PairedRuns
from harness.analysis.reported import load_reported, reported_beside
from harness.pages.charts import Drawing
from harness.pages.tables import markdown_reported
from harness.records import ScoreCard
from harness.store import dump_json, write_atomic, write_bytes

from ..layout import Counts, Recipe, record_in
from ..report.board import best_by_validation, variant_board
from ..report.card import CardFacts, model_card
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
from ..report.methods import front_figure, method_board, methods_markdown, methods_section, read_costs, reported_section
from ..report.sweeps import SweepReport, sweep_figure, sweep_reports, sweep_section, sweeps_markdown
from ..report.tables import Section, VariantBoard, markdown
from ..steps import Step

BOARD = "variants.json"
CURVES = "training_curves.svg"


def report_step(recipe: Recipe, steps: Sequence[Step]) -> Step:
    """Return the step that writes the report after all of `steps`."""
    outputs = ("*.json", "*.md", "*.html", "*.svg", "*.png")
    return Step(
        "report", "report", recipe.report, {}, partial(write_report, recipe), tuple(steps), outputs, always=True
    )


def read_variant_board(recipe: Recipe) -> VariantBoard:
    """Return the leaderboard of variants from the answers and rewards so far."""
    preference = [name for name, variant in recipe.spec.variants.items() if variant.method != "sft"]
    measured = read_all_measured(recipe)
    compared = baselines(recipe.spec)
    measured = [result for result in measured if result.model not in _swept(recipe)]
    preference = [name for name in preference if name not in _swept(recipe)]
    sources = {source.name for source in recipe.spec.sources} & set(recipe.rivals)
    if (best := next((name for name in best_by_validation(measured) if name in sources), None)) is not None:
        compared = tuple(dict.fromkeys((*compared, best)))  # chosen on validation prompts, compared on test prompts
    merges = [name for name in recipe.spec.merges if name not in _swept(recipe)]
    stated = [*preference, *merges, *recipe.rivals]
    return variant_board(recipe.spec.name, measured, baselines=compared, preference=stated)


def _swept(recipe: Recipe) -> set[str]:
    return {name for sweep in recipe.spec.sweeps for name in sweep.variants}


def write_report(recipe: Recipe, folder: Path) -> Counts:
    """Write the whole report and the model cards; return the number of models, figures and cards."""
    from ..report.page import page  # imports jinja2

    board, data = read_variant_board(recipe), read_data(recipe)
    curves = {model: drawn for model, logs in read_logs(recipe).items() if (drawn := training_curves(model, logs))}
    write_atomic(folder / BOARD, dump_json(board.model_dump(mode="json")))
    write_atomic(folder / "variants.md", markdown(board))
    suites = read_suites(recipe)
    methods = _write_methods(recipe, board, suites, folder)
    sweeps = sweep_reports(recipe, read_all_measured(recipe), suites)
    if sweeps:
        _write_sweeps(recipe, sweeps, folder)
    sections = [*methods, *map(sweep_section, sweeps)]
    write_atomic(folder / "variants.html", page(board, data, list(curves.values()), sections))
    write_atomic(folder / "data.json", dump_json(data.model_dump(mode="json")))
    write_atomic(folder / "data.md", data_markdown(data))
    for model, drawing in curves.items():
        write_atomic(folder / f"curves-{model}.svg", drawing.standalone() + "\n")
    _write_suites(suites, folder)
    finished = list(checkpoints(recipe))
    for checkpoint in finished:
        name = recipe.label(checkpoint.model, checkpoint.seed)
        model_cards = [card for _, card in suites if card.model == name]
        boards = [sweep.board for sweep in sweeps if checkpoint.model in sweep.values and checkpoint.model != sweep.of]
        own_board = boards[0] if boards else board
        _write_card(recipe, checkpoint, own_board, model_cards, curves.get(checkpoint.model))
    return {"models": len({row.model for row in board.models}), "figures": len(curves), "model_cards": len(finished)}


def _write_sweeps(recipe: Recipe, sweeps: Sequence[SweepReport], folder: Path) -> None:
    write_atomic(folder / "sweeps.json", dump_json([sweep.model_dump(mode="json") for sweep in sweeps]))
    write_atomic(folder / "sweeps.md", sweeps_markdown(recipe.spec.name, sweeps))
    for sweep in sweeps:
        if (drawing := sweep_figure(sweep)) is not None:
            write_figure(folder, sweep.name, drawing)


def write_figure(folder: Path, name: str, drawing: Drawing) -> None:
    """Write a figure as .svg, and as .png if resvg is installed."""
    write_atomic(folder / f"{name}.svg", drawing.standalone() + "\n")
    if importlib.util.find_spec("resvg_py") is not None:
        from harness.pages.board import png  # imports jinja2

        write_bytes(folder / f"{name}.png", png(drawing))


def _write_methods(
    recipe: Recipe, board: VariantBoard, suites: Sequence[tuple[Path, ScoreCard]], folder: Path
) -> list[Section]:
    """Write what each model is worth and costs, and return it for the page; nothing if nothing was measured."""
    costs = read_costs(recipe, board)
    methods = method_board(recipe, board, costs, suites)
    if not methods.measures:
        return []
    write_atomic(folder / "methods.json", dump_json(methods.model_dump(mode="json")))
    reported = reported_beside([card for _, card in suites], load_reported())
    write_atomic(folder / "methods.md", methods_markdown(methods) + markdown_reported(reported))
    for measure in methods.measures:
        if (drawing := front_figure(methods, measure)) is not None:
            write_figure(folder, f"methods-{measure.file}", drawing)
    return [methods_section(methods), *([reported_section(reported)] if reported else [])]


def _write_suites(results: Sequence[tuple[Path, ScoreCard]], folder: Path) -> None:
    if not results:
        return
    from harness.pages.board import PageFacts, page
    from harness.pages.tables import markdown as leaderboard

    cards = [card for _, card in results]
    pairs = PairedRuns({run_id(card): path.parent for path, card in results})
    tables = rank(cards, pairs.question_sums(cards), options=RankOptions(difference=pairs.difference))
    reported = reported_beside(cards, load_reported())
    write_atomic(folder / "suites.md", leaderboard(tables) + markdown_reported(reported))
    about = PageFacts(title="Suites", pairs=pairs.of_tables(tables, cards))
    write_atomic(folder / "suites.html", page(tables, reported, about))


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
