"""The study of fusion methods runs, resumes, and gives every method the same budget."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.fusion.__main__ import FIGURE, PAGE, RESULTS, SMOKE, default_design, main
from benchmarks.fusion.evaluation import HeldOut
from benchmarks.fusion.methods import METHODS, STEPS
from benchmarks.fusion.model import TinyTransformer, answer_logits, sample
from benchmarks.fusion.pages import SECTIONS, figure
from benchmarks.fusion.preparation import Prepared, prepare, prepare_sources
from benchmarks.fusion.results import read_results
from benchmarks.fusion.study import UNTRAINED, collected, rows_path, run_part
from benchmarks.fusion.world import LENGTH, World
from benchmarks.sections import filled

WORLD = World.drawn(known_by_sources=0.8, seed=1)


@pytest.fixture(scope="module")
def prepared() -> Prepared:
    torch.set_num_threads(1)
    return prepare(prepare_sources(WORLD, 1), 10)


def test_a_model_sees_the_prompt_and_earlier_tokens_only() -> None:
    torch.manual_seed(0)
    model, prompts = TinyTransformer(), torch.from_numpy(WORLD.prompts(1, np.random.default_rng(0)))
    answers = torch.tensor([[1, 2, 3, 4, 5, 6, 7, 8]])
    changed = answers.clone()
    changed[0, 4:] = 0

    first, second = (answer_logits(model, prompts, each) for each in (answers, changed))

    assert torch.allclose(first[:, :5], second[:, :5])
    assert not torch.allclose(first[:, 5], second[:, 5])


@pytest.mark.slow
def test_greedy_answers_are_the_most_likely_tokens(prepared: Prepared) -> None:
    """Sampling extends answers token by token; the whole answer at once gives the same probabilities."""
    prompts = WORLD.prompts(50, np.random.default_rng(4))
    answers = sample([prepared.sft], prompts, temperature=0.0, seed=0)

    logits = answer_logits(prepared.sft, torch.from_numpy(prompts), torch.from_numpy(answers))
    assert (logits.argmax(-1).numpy() == answers).all()


@pytest.mark.slow
def test_taught_models_answer_as_they_believe(prepared: Prepared) -> None:
    prompts = WORLD.prompts(1500, np.random.default_rng(5))
    for number, model in enumerate([prepared.sources.target, *prepared.sources.models]):
        answers = sample([model], prompts, temperature=1.0, seed=0)
        assert WORLD.rewards(prompts, answers).mean() == pytest.approx(WORLD.expected_reward(number), abs=0.05)


@pytest.mark.slow
def test_pairs_prefer_what_the_reward_prefers(prepared: Prepared) -> None:
    prompts = prepared.prompts.numpy()
    source, target, rejected = (WORLD.rewards(prompts, each.numpy()) for each in prepared.answers)

    assert (target > rejected).all()
    assert prepared.data.source_margins is not None
    assert source.mean() == pytest.approx(target.mean() + prepared.data.source_margins.mean, abs=1e-9)
    assert len(prompts) == prepared.data.pairs


@pytest.fixture
def optimizer_steps() -> Iterator[Counter[str]]:
    counts: Counter[str] = Counter()
    hook = register_optimizer_step_post_hook(lambda *_: counts.update(steps=1))
    yield counts
    hook.remove()


def test_every_method_has_four_settings() -> None:
    assert {len(method.settings) for method in METHODS.values()} == {4}
    assert all(len({tuple(each.items()) for each in method.settings}) == 4 for method in METHODS.values())


@pytest.mark.parametrize("name", [name for name in METHODS if name not in ("fuserl", "distill")])
def test_every_method_takes_the_same_steps(name: str, prepared: Prepared, optimizer_steps: Counter[str]) -> None:
    METHODS[name].train(prepared, METHODS[name].settings[0])

    assert optimizer_steps["steps"] == STEPS


def test_fuserl_replaces_sft_by_its_own_of_as_many_steps(prepared: Prepared, optimizer_steps: Counter[str]) -> None:
    METHODS["fuserl"].train(prepared, METHODS["fuserl"].settings[0])

    assert optimizer_steps["steps"] == prepared.sft_steps + STEPS


@pytest.mark.slow  # imports trl
def test_distillation_comes_closer_to_the_teacher(prepared: Prepared, optimizer_steps: Counter[str]) -> None:
    model = METHODS["distill"].train(prepared, METHODS["distill"].settings[-1])

    held_out = HeldOut(WORLD, WORLD.prompts(300, np.random.default_rng(6)), 1)
    assert optimizer_steps["steps"] == STEPS
    assert held_out.means([model])[1] > held_out.means([prepared.sft])[1]


def test_dpo_does_not_read_the_sources_answers(prepared: Prepared) -> None:
    """Alpha 0 leaves y_ws out, alpha 1 leaves y_wt out."""
    unrelated = prepared.answers.clone()
    unrelated[0] = torch.randint(0, 10, (unrelated.shape[1], LENGTH), generator=torch.Generator().manual_seed(0))
    changed = replace(prepared, answers=unrelated)
    setting = METHODS["dpo"].settings[0]

    first, second = (METHODS["dpo"].train(each, setting) for each in (prepared, changed))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))

    first, second = (METHODS["wrpo-0.5"].train(each, setting) for each in (prepared, changed))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.slow
def test_a_killed_study_resumes_with_the_same_rows(tmp_path: Path) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    for folder in (whole, torn):
        folder.mkdir()
    count = run_part(SMOKE, whole, "better", 1)
    assert count == len(UNTRAINED) + 4 * len(SMOKE.methods)

    lines = rows_path(whole, "better", 1).read_bytes().splitlines(keepends=True)
    # killed in the middle of its tenth line
    rows_path(torn, "better", 1).write_bytes(b"".join(lines[:9]) + lines[9][:20])
    assert run_part(SMOKE, torn, "better", 1) == count - 9
    assert rows_path(torn, "better", 1).read_bytes() == rows_path(whole, "better", 1).read_bytes()

    assert run_part(SMOKE, torn, "better", 1) == 0, "nothing is trained twice"


@pytest.mark.slow
def test_a_seed_repeats_everything(tmp_path: Path) -> None:
    design = SMOKE.model_copy(update={"methods": ()})
    for seed in (1, 2):
        run_part(design, tmp_path, "better", seed)

    rewards = [row.test for row in collected(design, tmp_path) if row.method == "target"]
    assert len(rewards) == 2
    assert rewards[0] != rewards[1]


def test_another_design_has_another_folder() -> None:
    design = default_design(5)

    assert design.folder == default_design(9).folder, "more seeds are added to the same results"
    assert design.folder != SMOKE.folder
    assert design.folder != design.model_copy(update={"sfts": {"short": 11}}).folder


@pytest.mark.slow
def test_the_smoke_run_prints_every_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--smoke", "--out", str(tmp_path), "--jobs", "1"]) == 0

    printed = capsys.readouterr().out
    assert "| better, short |" in printed
    assert "| wrpo-0.5 | WRPO, alpha rising to 0.5 |" in printed


@pytest.mark.parametrize("name", SECTIONS)
def test_the_page_shows_the_committed_results(name: str) -> None:
    page = PAGE.read_text("utf-8")

    assert filled(page, name, SECTIONS[name](read_results(RESULTS)), "python -m benchmarks.fusion") == page


def test_the_figure_shows_the_committed_results() -> None:
    assert FIGURE.read_text("utf-8") == figure(read_results(RESULTS)) + "\n"


def test_the_committed_results_are_of_the_default_design() -> None:
    rows = read_results(RESULTS)
    seeds = {row.seed for row in rows}
    design = default_design(len(seeds))

    assert len(seeds) >= 5
    assert len(rows) == len(seeds) * len(design.worlds) * (len(UNTRAINED) + 4 * len(METHODS))
