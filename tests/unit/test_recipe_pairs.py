"""Stage `pairs`: y_ws, y_wt and y_l of a prompt, what is dropped and why, and the numbers beside them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Prompt
from harness.records.errors import ConfigError, IncompleteError
from recipes.layout import Chosen, PreferencePair
from recipes.pairs import DroppedPair, PairData, RewardedAnswer, best_source_answers, extremes, paired, spread
from recipes.spec import PairsSpec
from recipes.stages.pairs import pairs_steps
from recipes.steps import Step, run_step
from tests.fakes.recipe_files import answer, answers_step, prompt_rows, prompts_step, recipe, rewards_step

Values = Mapping[str, Sequence[tuple[str | None, float | None]]]
"""Prompt id -> (text, reward) of each sample."""
A: Values = {"p": [("a0", 1.0), ("a1", 3.0)], "q": [("a2", 0.5), (None, None)], "r": [("a3", 9.0), ("a4", None)]}
B: Values = {"p": [("b0", 3.0), ("b1", 2.0)], "q": [("b2", 0.75), ("b3", 0.75)], "r": [("b4", 8.0), ("b5", 7.0)]}
TARGET: Values = {
    "p": [("t0", 1.0), ("t1", 2.0), ("t2", 0.0)],
    "q": [("t3", 1.0), ("t4", 0.25), ("t5", 1.0)],
    "r": [("same", 4.0), ("same", 4.0), ("same", 4.0)],
}


def texts(of: Values) -> dict[str, list[str | None]]:
    return {one: [text for text, _ in samples] for one, samples in of.items()}


def rewards(of: Values) -> dict[str, list[float | None]]:
    return {one: [value for _, value in samples] for one, samples in of.items()}


@dataclass(frozen=True)
class Made:
    steps: dict[int, Step]

    def run(self, sources: int = 2) -> dict[str, PreferencePair]:
        step = self.steps[sources]
        run_step(step)
        lines = (step.folder / "pairs.jsonl").read_text().splitlines()
        return {row.prompt.id: row for row in map(PreferencePair.model_validate_json, lines)}

    def dropped(self, sources: int = 2) -> dict[str, str]:
        lines = (self.steps[sources].folder / "dropped.jsonl").read_text().splitlines()
        return {row.prompt_id: row.reason for row in map(DroppedPair.model_validate_json, lines)}

    def data(self, sources: int = 2) -> PairData:
        return PairData.model_validate_json((self.steps[sources].folder / "data.json").read_bytes())


def world(folder: Path, target: Values = TARGET, *, further: Sequence[str] = (), **spec: object) -> Made:
    made = recipe(folder, {"kind": "function"}, **spec)
    prompts = prompts_step(made, [*prompt_rows([*target, *further]), *prompt_rows(["held"], part="sft")])
    both = {"a": A, "b": B}.items()
    sources = [answers_step(made.source(name), f"sources/{name}", texts(of)) for name, of in both]
    rated = [rewards_step(made.source_rewards(name), f"rewards/{name}", texts(of), rewards(of)) for name, of in both]
    place = made.seed(42)
    own = answers_step(place / "target", "target", texts(target))
    own_rated = rewards_step(place / "target-rewards", "seed-42/target", texts(target), rewards(target))
    steps = pairs_steps(made, 42, prompts, [*sources, *rated, own, own_rated])
    return Made({len(chosen.sources): step for chosen, step in steps.items()})


def test_the_best_of_all_sources_meets_the_targets_best_and_worst(tmp_path: Path) -> None:
    found = world(tmp_path).run()

    p, q = found["p"], found["q"]
    assert list(found) == ["p", "q"]
    assert p.source == Chosen(text="a1", model="a", index=1, reward=3.0)  # b0 is as good: the first source's it is
    assert (p.target.text, p.rejected.text) == ("t1", "t2")
    assert q.source == Chosen(text="b2", model="b", index=0, reward=0.75)  # b3 is as good: the lower index
    assert (q.target.text, q.rejected.text) == ("t3", "t4")


def test_what_is_dropped_has_its_reason_and_is_counted(tmp_path: Path) -> None:
    target: Values = {**TARGET, "s": [("x", 1.0), ("y", 2.0)], "t": [("x", 1.0), ("y", 2.0)], "u": [(None, None)]}
    made = world(tmp_path, target, further=["v"])

    made.run()

    assert made.dropped() == {
        "r": "identical",
        "s": "no_source_answer",
        "t": "no_source_answer",
        "u": "no_target_answer",
        "v": "no_target_answer",
    }
    counts = run_step(made.steps[2]).counts
    assert (counts["prompts"], counts["pairs"], counts["dropped_no_source_answer"]) == (7, 2, 2)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([("x", 1.0)], "one_target_answer"),
        ([("x", 1.0), ("y", 1.0)], "equal_rewards"),
        ([("x", 1.0), ("x", 1.0)], "identical"),
        ([("x", 1.0), ("x", 2.0), ("y", 1.5)], "identical"),  # a judge that draws lots
        ([("x", 1.0), ("y", 1.5)], "margin_low"),
        ([("x", 1.0), ("y", 5.0)], "margin_high"),
        ([("x", 1.0), ("y", 2.0)], None),
    ],
)
def test_a_target_that_gives_no_pair(samples: list[tuple[str, float]], reason: str | None) -> None:
    rows = [RewardedAnswer(answer("p", place, text), value, "t") for place, (text, value) in enumerate(samples)]
    source = Chosen(text="s", model="s", index=0, reward=0.0)

    spec = PairsSpec(min_margin=0.75, max_margin=2.0)
    found = paired(Prompt(id="p", turns=("p",), category="c"), source, extremes(rows)["p"], spec)

    assert getattr(found, "reason", None) == reason


def test_margins_outside_the_limits_are_dropped(tmp_path: Path) -> None:
    made = world(tmp_path, pairs={"min_margin": 1.0, "max_margin": 1.5}, further=[])

    with pytest.raises(ConfigError, match=r"no pair is left from 3 prompts \(margin_high 1, margin_low 1, identical"):
        made.run()

    wide = world(tmp_path, pairs={"min_margin": 0.75, "max_margin": 2.0})  # the mended recipe goes on in its folder
    assert list(wide.run()) == ["p", "q"]  # margins 2.0 and 0.75: the limits themselves are inside


def test_fewer_sources_give_other_pairs_of_the_same_files(tmp_path: Path) -> None:
    made = world(tmp_path, variants={"wrpo": {}, "few": {"sources": 1}})

    assert list(made.steps) == [2, 1]
    assert made.run(1)["q"].source.text == "a2"
    assert made.run(2)["q"].source.text == "b2"
    assert made.steps[1].folder == tmp_path / "seed-42" / "pairs" / "sources-1"
    assert made.dropped(1) == {"r": "identical"}


def test_truncated_answers_are_left_out_unless_wanted(tmp_path: Path) -> None:
    target: Values = {"p": [("t0…", 9.0), ("t1", 2.0), ("t2", 0.0)], "q": [("t3…", 1.0), ("t4", 0.0)]}

    assert world(tmp_path / "all", target, pairs={"drop_truncated": False}).run()["p"].target.text == "t0…"
    made = world(tmp_path / "whole", target)
    assert made.run()["p"].target.text == "t1"
    assert made.dropped() == {"q": "one_target_answer"}
    assert made.data().target.truncated == 2


def test_the_numbers_beside_the_pairs_are_those_of_the_answers(tmp_path: Path) -> None:
    made = world(tmp_path)
    made.run()

    data = made.data()

    assert (data.prompts, data.pairs, data.dropped) == (3, 2, {"identical": 1})
    a, b = data.sources
    assert (a.model, a.wins, a.answers, a.failed, a.unrewarded) == ("a", 1, 6, 1, 1)
    assert (b.model, b.wins) == ("b", 1)
    assert a.rewards is not None
    assert (a.rewards.n, a.rewards.mean, a.rewards.low, a.rewards.high) == (4, (1 + 3 + 0.5 + 9) / 4, 0.5, 9.0)
    assert data.margins is not None
    assert (data.margins.low, data.margins.high) == (0.75, 2.0)
    assert data.source_margins is not None
    assert data.source_margins.mean == pytest.approx(((3 - 2) + (0.75 - 1)) / 2)
    assert data.source_better == 1
    json.loads((made.steps[2].folder / "data.json").read_text())


def test_a_spread_is_the_samples() -> None:
    found = spread([1.0, 2.0, 3.0, 4.0])
    assert found is not None
    assert found.mean == 2.5
    assert found.sd == pytest.approx(1.2909944487)  # sqrt(5/3)
    assert found.quantiles[1:4] == (1.75, 2.5, 3.25)
    assert spread([]) is None


def test_a_reward_that_tells_nothing_apart_is_one_sentence(tmp_path: Path) -> None:
    flat = {"p": [("t0", 1.0), ("t1", 1.0)], "q": [("t2", 1.0), ("t3", 1.0)]}
    with pytest.raises(ConfigError, match=r"no pair is left from 2 prompts \(equal_rewards 2\): the reward gives"):
        world(tmp_path, flat).run()


def test_no_preference_prompt_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(IncompleteError, match=r"none of the 1 prompts in .* is in the part 'preference'"):
        world(tmp_path, {}).run()


def test_the_sft_part_gets_its_best_source_answers(tmp_path: Path) -> None:
    made = recipe(tmp_path, {"kind": "function"})
    prompts = prompts_step(made, [*prompt_rows(["q", "p", "gone"], part="sft"), *prompt_rows(["r"])])
    files = []
    for name, of in (("a", A), ("b", B)):
        one = answers_step(made.source(name), f"sources/{name}", texts(of)).folder / "answers.jsonl"
        other = rewards_step(made.source_rewards(name), f"rewards/{name}", texts(of), rewards(of)).folder
        files.append((one, other / "rewards.jsonl"))
    answers, given_rewards = zip(*files, strict=True)

    found = list(best_source_answers(prompts.folder / "prompts.jsonl", answers, given_rewards, "sft"))

    assert [(prompt.id, chosen.model, chosen.text) for prompt, chosen in found] == [("q", "b", "b2"), ("p", "a", "a1")]
    with pytest.raises(IncompleteError, match=r"none of the 4 prompts in .* is in the part 'test'"):
        list(best_source_answers(prompts.folder / "prompts.jsonl", answers, given_rewards, "test"))


SAMPLES = st.lists(st.tuples(st.sampled_from("uvwxyz"), st.integers(-3, 3).map(float)), min_size=1, max_size=6)


@settings(deadline=None)
@given(SAMPLES, st.floats(0, 3), st.one_of(st.none(), st.floats(0.1, 6)))
def test_a_pair_is_never_worse_than_what_was_asked(
    samples: list[tuple[str, float]], low: float, high: float | None
) -> None:
    """Whatever the samples: y_wt is rewarded more than y_l by a margin inside the limits, or there is no pair."""
    rows = [RewardedAnswer(answer("p", place, text), value, "t") for place, (text, value) in enumerate(samples)]
    source = Chosen(text="s", model="s", index=0, reward=0.0)
    prompt = Prompt(id="p", turns=("p",), category="c")

    found = paired(prompt, source, extremes(rows)["p"], PairsSpec(min_margin=low, max_margin=high))
    backwards = paired(prompt, source, extremes(rows[::-1])["p"], PairsSpec(min_margin=low, max_margin=high))

    assert found == backwards  # the order of the file decides nothing
    values = [value for _, value in samples]
    if isinstance(found, PreferencePair):
        assert (found.target.reward, found.rejected.reward) == (max(values), min(values))
        assert found.target.text != found.rejected.text
        assert low <= max(values) - min(values) <= (high or 6)
    elif found.reason == "equal_rewards":
        assert len(set(values)) == 1
