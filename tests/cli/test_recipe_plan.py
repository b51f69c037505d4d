"""harness train --dry-run: numbers worked out by hand, what is done costs nothing, nothing is written or loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from rich.console import Console

from harness.records.errors import ConfigError
from recipes.layout import Recipe
from recipes.pipeline import all_steps
from recipes.plan import RecipePlan, make_plan, plan_tables, quantity, total
from recipes.spec import read_recipe, recipe_path
from recipes.train import narrow

RECIPE = """
name: toy
output_dir: {folder}/out
target: {folder}/target
prompts: {{dataset: {folder}/prompts.jsonl, validation: 1, test: 2, decontaminate: []}}
sources:
  - {{name: a, model: {folder}/a, serve: {{tensor_parallel: 2}}}}
  - {{name: b, model: "endpoint:b@http://127.0.0.1:9/v1", price_in: 1, price_out: 2}}
sampling: {{n: 2}}
reward: {{kind: armorm, model: "hf:org/armorm"}}
sft: {{num_train_epochs: 2}}
variants: {{wrpo: {{}}, sft-cont: {{method: sft}}}}
evaluate: {{temperatures: [0.0, 0.8], samples: 2}}
rates: {{answer_tokens: 20, generation: {{a: 10, target: 5}}, reward: 100, training: 50, gpu_hour_price: 3600}}
"""
# 12 prompts of 40 characters: 10 tokens each. 3 are held out; of the other 9, 3 are for SFT and 6 for preferences.


@pytest.fixture
def toy(tmp_path: Path) -> Recipe:
    return made(tmp_path)


def made(folder: Path, before: str = "", after: str = "") -> Recipe:
    rows = [{"prompt": f"{number:02}" + "x" * 38} for number in range(12)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(folder=folder).replace(before or "\0", after))
    return narrow(read_recipe(folder / "recipe.yaml"), None, None)


def seconds(plan: RecipePlan, name: str) -> float:
    """Device time of a step."""
    (item,) = [item for item in plan.items if item.name == name]
    assert item.gpu_hours is not None
    return item.gpu_hours * 3600


def finish(folder: Path, stage: str, counts: Mapping[str, float]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    facts = {"stage": stage, "settings": {}, "inputs": {}, "outputs": {}, "counts": dict(counts), "seconds": 1.0}
    (folder / "step.json").write_text(json.dumps(facts))


def test_every_stage_by_hand(toy: Recipe) -> None:
    plan = make_plan(toy)

    times = {item.name: round((item.gpu_hours or 0) * 3600, 6) for item in plan.items if item.gpu_hours}
    assert times == pytest.approx(
        {
            "sources/a": 9 * 2 * 20 / 10,
            "rewards/a": 18 * 30 / 100,
            "rewards/b": 18 * 30 / 100,
            "seed-42/sft": 3 * 30 * 2 / 50,
            "seed-42/target": 6 * 2 * 20 / 5,
            "seed-42/target-rewards": 12 * 30 / 100,
            "seed-42/reference": 6 * (10 + 3 * 20) / 50 / 3,  # one pass forward
            "seed-42/align/wrpo": 6 * (10 + 3 * 20) / 50,
            "seed-42/align/sft-cont": 6 * 30 / 50,
            # greedy once and two samples of 3 prompts: 9 answers, written and rewarded
            "held-out/target": 36 + 2.7,
            **dict.fromkeys((f"seed-42/held-out/{model}" for model in ("sft", "wrpo", "sft-cont")), 36 + 2.7),
        }
    )
    sources = {item.name: item for item in plan.items if item.stage == "sources"}
    assert sources["sources/a"].hours == pytest.approx(0.01 / 2)  # two devices
    assert sources["sources/a"].dollars == pytest.approx(36)  # a dollar a device's second
    assert sources["sources/b"].dollars == pytest.approx((18 * 10 * 1 + 18 * 20 * 2) / 1e6)


def test_what_is_there_is_not_counted_again(toy: Recipe) -> None:
    folder = toy.source("a")
    folder.mkdir(parents=True)
    (folder / "answers.jsonl").write_text("{}\n" * 5)
    (folder / "begun.json").write_text("{}")

    (item,) = [item for item in make_plan(toy).items if item.name == "sources/a"]

    assert (item.calls, item.calls_done) == (13, 5)
    (again,) = [item for item in make_plan(toy, first="sources").items if item.name == "sources/a"]
    assert again.calls == 18


def test_what_was_measured_goes_before_what_was_given(toy: Recipe) -> None:
    (toy.seed(42) / "sft").mkdir(parents=True)
    # 60 tokens, 2 epochs (8 steps of 3 rows over 12), 4 s, 3 processes: 10 a second and device
    counts = {"rows": 12, "steps": 8, "batch": 3, "tokens": 60, "train_seconds": 4, "processes": 3}
    plan = _with_done(toy, "sft", counts)

    assert seconds(plan, "seed-42/sft") == 0
    assert seconds(plan, "seed-42/align/sft-cont") == pytest.approx(6 * 30 / 10)


def _with_done(toy: Recipe, stage: str, counts: Mapping[str, float]) -> RecipePlan:
    """The plan with one step done, whatever it was made from."""
    from recipes import plan

    finish(toy.seed(42) / stage, stage, counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "check_finished", lambda steps: None)
        return make_plan(toy)


def test_a_step_of_the_plan_is_a_step_of_the_run(tmp_path: Path) -> None:
    toy = made(tmp_path, "{wrpo: {}, ", "{wrpo: {}, both: {sources: 2}, first: {sources: 1}, ")

    names = [item.name for item in make_plan(toy).items]

    references = ["seed-42/reference", "seed-42/reference/sources-1"]  # part of the first variant that needs them
    assert [name for name in names if name not in references] == [step.name for step in all_steps(toy)]
    assert [name for name in names if "reference" in name] == references
    up_to_sft = [item.name for item in make_plan(toy, last="sft").items]
    assert up_to_sft == ["prompts", "sources/a", "sources/b", "rewards/a", "rewards/b", "seed-42/sft"]


def test_a_reference_that_one_variant_stored_is_not_counted_for_the_next(toy: Recipe) -> None:
    plan = _with_done(toy, "align/wrpo", {})

    assert [item.done for item in plan.items if item.name == "seed-42/reference"] == [True]


@pytest.mark.parametrize(
    ("suite", "edition", "limit", "calls"),
    [
        ("mt_bench", "official", 10, 10 * 2),  # both turns of a prompt that was drawn
        ("mt_bench", "official", 100, 80 * 2),
        ("mt_bench,arena_hard", "official", None, 80 * 2 + 500),
        ("alpaca_eval", "official", 100, 100),
        ("mt_bench", "pocket", 4, 4 * 2),
        ("alpaca_eval", "pocket", 4, 4),
    ],
)
def test_limit_counts_prompts_with_all_their_turns(
    tmp_path: Path, suite: str, edition: str, limit: int | None, calls: int
) -> None:
    evaluate = f"evaluate: {{suite: '{suite}', edition: {edition}, limit: {limit or 'null'}, models: [sft], "
    toy = made(tmp_path, "evaluate: {", evaluate)

    (item,) = [item for item in make_plan(toy).items if item.name == "seed-42/suites/sft"]

    assert item.calls == calls


def test_too_few_prompts_are_refused_as_the_run_would(tmp_path: Path) -> None:
    toy = made(tmp_path, "test: 2", "test: 11")

    with pytest.raises(ConfigError, match=r"holding out 12 .* would leave none to train on"):
        make_plan(toy)


def test_a_step_made_with_other_settings_is_refused_as_the_run_would(toy: Recipe) -> None:
    finish(toy.prompts, "prompts", {})

    with pytest.raises(ConfigError, match="was made with"):
        make_plan(toy)


def test_without_a_rate_time_is_not_known_and_never_zero(tmp_path: Path) -> None:
    toy = made(tmp_path, "training: 50, ", "")

    sums = total(item for item in make_plan(toy).items if item.stage == "align")

    assert (sums["gpu_hours"], sums["gpu_hours_unknown"]) == (0, 3)


def test_a_data_set_that_is_not_here_needs_its_number_of_prompts(tmp_path: Path) -> None:
    toy = made(tmp_path, f"{tmp_path}/prompts.jsonl", "hf:org/data")

    with pytest.raises(ConfigError, match=r"give rates.prompts \(or prompts.limit\)"):
        make_plan(toy)


def test_a_rate_of_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rates\.generation names 'c'; models are target, a, b"):
        made(tmp_path, "{a: 10,", "{c: 10,")


@pytest.mark.slow
def test_nothing_is_written_and_no_model_server_is_loaded(toy: Recipe, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    code = (
        "import sys\nfrom harness.cli.main import app\n"
        "try:\n    app(['train', 'recipe.yaml', '--dry-run', '--json'])\n"
        "except SystemExit:\n    pass\nassert 'vllm' not in sys.modules"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=180)

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["by_stage"]["sources"]["calls"] == 36
    assert sorted(tmp_path.rglob("*")) == before


def test_quantities_are_short() -> None:
    assert [quantity(value) for value in (999, 46_325, 194_335, 583_000_000, 1.458e9)] == [
        "999",
        "46,325",
        "194 k",
        "583 M",
        "1.46 G",
    ]


def shipped(name: str, folder: Path, speed: float | dict[str, float]) -> RecipePlan:
    """The plan of a shipped recipe with one speed of generation, or one per model, as if nothing had run."""
    spec = read_recipe(recipe_path(name))
    rate = speed if isinstance(speed, int | float) else 1500
    rates = spec.rates.model_copy(update={"generation": speed, "reward": rate * 6, "training": rate * 2})
    return make_plan(narrow(spec.model_copy(update={"rates": rates, "output_dir": folder}), None, None))


def test_the_paper_s_recipe_fills_eight_gpus(tmp_path: Path) -> None:
    plan = shipped("wrpo-llama3-8b", tmp_path, 1500)
    devices = {step.name: step.devices for step in plan.schedule}
    gpu_hours = sum(item.gpu_hours or 0.0 for item in plan.items)

    assert plan.busy_devices >= 6.5
    assert plan.wall_hours <= 60
    assert plan.busy_devices * plan.wall_hours == pytest.approx(gpu_hours)
    # large sources one after another or two at a time, small ones side by side, each with two replicas
    assert devices["sources/deepseek-v2-chat-0628"] == 8
    assert devices["sources/mistral-large-2407"] == devices["sources/qwen2-72b"] == 4
    assert {devices[f"sources/{name}"] for name in ("gemma2-27b", "gemma2-9b", "internlm2.5-20b")} == {2}
    assert devices["seed-42/target"] == devices["seed-42/target-rewards"] == devices["seed-42/align/wrpo"] == 8


def test_no_plan_gives_a_gpu_to_two_steps_at_once(tmp_path: Path) -> None:
    steps = [step for step in shipped("wrpo-llama3-8b", tmp_path, 1500).schedule if step.devices]

    for moment in {step.start for step in steps}:
        assert sum(step.devices for step in steps if step.start <= moment < step.start + step.hours) <= 8


def test_the_machine_s_hours_are_shown_instead_of_those_of_steps_one_after_another(tmp_path: Path) -> None:
    toy = made(tmp_path, "variants:", "devices: 4\nvariants:")
    plan = make_plan(toy)
    shown = plan.as_dict()["machine"]
    console = Console(width=120, record=True)
    for table in plan_tables(plan):
        console.print(table)
    text = console.export_text()

    assert isinstance(shown, dict)
    assert (shown["devices"], shown["wall_hours"]) == (4, plan.wall_hours)
    assert "on 4 GPUs: when each step runs, and how many GPUs work" in text
    assert any("a model starts in 5 minutes, by rates.start_minutes" in note for note in plan.notes)
    assert "machine" not in make_plan(made(tmp_path)).as_dict()


def test_one_speed_for_all_sources_is_named_as_an_assumption(tmp_path: Path) -> None:
    sources = [source.name for source in read_recipe(recipe_path("wrpo-llama3-8b")).sources]

    assumed = shipped("wrpo-llama3-8b", tmp_path, 1500).notes[0]
    stated = shipped("wrpo-llama3-8b", tmp_path, dict.fromkeys([*sources, "target"], 900.0)).notes

    assert assumed.startswith("GPU-hours of the 10 sources assume 1,500 tokens per second and GPU for each")
    assert not any("assume" in note for note in stated)


def test_more_gpus_than_the_recipe_shares_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="step 'sources/a' needs 2 GPUs, but 1 are available"):
        make_plan(made(tmp_path, "variants:", "devices: 1\nvariants:"))


RIVALS = "evaluate: {suite: alpaca_eval, edition: pocket, limit: 4, models: [a, best_source, moa, route], "
LAYERS = f"{RIVALS}moa: {{layers: 3}}, temperatures: [0.0]}}"


def calls_of(plan: RecipePlan, name: str) -> tuple[int, float, float]:
    """Calls, tokens read and tokens written of a step."""
    (item,) = [item for item in plan.items if item.name == name]
    return item.calls, item.prompt_tokens, item.answer_tokens


@pytest.fixture
def rivals(tmp_path: Path) -> RecipePlan:
    """Sources and ensembles answer 3 held-out prompts greedily and 4 questions; the mixture has 3 layers."""
    return make_plan(made(tmp_path, "evaluate: {temperatures: [0.0, 0.8], samples: 2}", LAYERS))


def test_every_call_of_an_ensemble_is_counted(rivals: RecipePlan) -> None:
    # layer 1 reads the prompt; layer 2 and the aggregator read it and two answers of 20 tokens
    assert calls_of(rivals, "held-out/moa") == (15, 2 * 30 + 2 * 150 + 150, 5 * 60)
    assert calls_of(rivals, "suites/moa") == (20, 2 * 40 + 2 * 200 + 200, 5 * 80)
    assert calls_of(rivals, "held-out/route") == (3, 2 * 30 + 30, 60)  # both read each prompt, one answers it too
    assert calls_of(rivals, "suites/best_source") == (8, 80, 160)
    assert calls_of(rivals, "held-out/best_source") == (0, 0, 0)  # chosen from answers that are there


def test_a_source_s_answers_take_its_own_time_or_cost_its_price(rivals: RecipePlan) -> None:
    reward = 3 * 30 / 100
    assert seconds(rivals, "held-out/a") == pytest.approx(60 / 10 + reward)
    assert seconds(rivals, "held-out/b") == pytest.approx(reward)  # an endpoint
    assert seconds(rivals, "held-out/moa") == pytest.approx(2 * 60 / 10 + 60 / 5 + reward)
    assert seconds(rivals, "held-out/route") == pytest.approx(30 / 10 + reward)
    assert seconds(rivals, "suites/best_source") == pytest.approx(80 / 10 + (80 + 160) / 100)
    dollars = {item.name: item.dollars for item in rivals.items}
    assert dollars["held-out/b"] == pytest.approx(reward + (30 * 1 + 60 * 2) / 1e6)
    assert dollars["held-out/moa"] == pytest.approx(24 + reward + ((30 + 150) * 1 + 120 * 2) / 1e6)


INFIFPO = "{wrpo: {}, infifpo: {method: infifpo, sources: [a]}, "


@pytest.mark.parametrize(
    ("rates", "per_second", "origin"),
    [
        ("reading: 30, training: 50", 30, "rates.reading"),
        ("reading: {a: 60}, training: 50", 60, "rates.reading"),
        ("training: 50", 10, "generation's, rates.generation: an upper bound, as reading is faster"),
    ],
)
def test_log_probabilities_of_sources_take_time(tmp_path: Path, rates: str, per_second: int, origin: str) -> None:
    toy = made(tmp_path, "{wrpo: {}, ", INFIFPO)
    spec = (tmp_path / "recipe.yaml").read_text().replace("training: 50", rates)
    (tmp_path / "recipe.yaml").write_text(spec)
    toy = narrow(read_recipe(tmp_path / "recipe.yaml"), None, None)

    plan = make_plan(toy)

    # 6 pairs, whose three answers are each read with the prompt
    assert seconds(plan, "seed-42/logps/sources-1/a") == pytest.approx(6 * (3 * 10 + 3 * 20) / per_second)
    (item,) = [item for item in plan.items if item.stage == "logps"]
    assert item.rates == (f"log-probabilities: {origin}",)


def test_the_speed_of_log_probabilities_is_measured_in_another_seed(tmp_path: Path) -> None:
    from recipes import plan

    toy = made(tmp_path, "{wrpo: {}, ", INFIFPO)
    toy = narrow(toy.spec.model_copy(update={"seeds": (42, 43)}), None, None)
    # 6 pairs of 90 tokens in 3 s on two devices: 90 a second and device
    finish(toy.seed(42) / "logps" / "sources-1" / "a", "logps", {"session_pairs": 6, "session_seconds": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "check_finished", lambda steps: None)
        hours = make_plan(toy)

    assert seconds(hours, "seed-43/logps/sources-1/a") == pytest.approx(540 / 90)


def test_a_reading_rate_of_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"rates\.reading names 'c'; models are target, a, b"):
        made(tmp_path, "training: 50", "reading: {c: 1}, training: 50")


def test_teachers_and_references_of_weighted_pairs_take_a_pass_forward(tmp_path: Path) -> None:
    variants = "{wrpo: {}, distill: {method: distill, teacher: a}, fusepo: {method: fusepo}, "

    plan = make_plan(made(tmp_path, "{wrpo: {}, ", variants))

    assert seconds(plan, "seed-42/align/distill") == pytest.approx(6 * 30 / 50 * (1 + 1 / 3))
    assert seconds(plan, "seed-42/reference/fusepo") == pytest.approx(6 * 2 * (10 + 2 * 20) / 50 / 3)
