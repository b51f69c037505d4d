"""The study of fusion methods: an exact reward, settings chosen by validation, intervals worked out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fusion.findings import GREEDY, SAMPLED, WorldResults, by_world, difference, may_be_best
from benchmarks.fusion.results import read_results, write_results
from benchmarks.fusion.study import PairFacts, Trained
from benchmarks.fusion.world import FIRST_WORD, LENGTH, SOURCES, START, WORDS, World, text, tokens

PROMPT = np.array([[FIRST_WORD + word for word in range(LENGTH)] + [START]])


def test_the_reward_is_the_share_of_right_translations() -> None:
    world = World.drawn(known_by_sources=0.6, seed=1)
    answer = world.right[:LENGTH].copy()
    answer[[0, 3, 5]] = world.misconception[[0, 3, 5]]

    assert world.rewards(PROMPT, answer[None]).tolist() == [5 / 8]
    assert world.rewards(PROMPT, world.right[None, :LENGTH]).tolist() == [1.0]


def test_misconceptions_are_wrong_and_shares_are_exact() -> None:
    world = World.drawn(known_by_sources=0.8, seed=2)

    assert (world.right != world.misconception).all()
    # 15 % of 64 words are 10 that nobody knows; 0.4 and 0.8 of the other 54 are 22 and 43
    assert world.known.sum(axis=1).tolist() == [22, 43, 43, 43]
    assert (~world.known.any(axis=0)).sum() >= 10
    assert world.known.shape == (1 + SOURCES, WORDS)


def test_worlds_of_one_seed_differ_in_their_sources_only() -> None:
    equal, better = (World.drawn(known_by_sources=share, seed=3) for share in (0.4, 0.8))
    another = World.drawn(known_by_sources=0.4, seed=4)

    assert (equal.right == better.right).all()
    assert (equal.known[0] == better.known[0]).all()
    assert (equal.right != another.right).any()
    # a source that knows more keeps what it knew
    assert (better.known[1:] >= equal.known[1:]).all()


def test_lessons_are_right_as_often_as_expected() -> None:
    world, rng = World.drawn(known_by_sources=0.6, seed=1), np.random.default_rng(0)
    prompts = world.prompts(4000, rng)
    # 22 of 64 words known: 22/64 * (0.85 + 0.05/10) + 42/64 * (0.15 + 0.05/10)
    assert world.expected_reward(0) == pytest.approx(0.3956, abs=1e-4)
    assert world.rewards(prompts, world.lessons(0, prompts, rng)).mean() == pytest.approx(0.3956, abs=0.01)


def test_texts_have_one_letter_per_token() -> None:
    every = np.arange(START + 1)

    assert len(set(text(every))) == len(every)
    assert tokens(text(every)) == every.tolist()


def trained(method: str, seed: int, setting: int, validation: float, test: float) -> Trained:
    return Trained(
        gap="better",
        sft="short",
        seed=seed,
        method=method,
        settings={"beta": setting},
        validation=(validation, 1 - validation),
        test=(test, test / 2),
    )


def test_settings_are_chosen_by_validation_for_each_seed_and_decoding() -> None:
    rows = [
        trained("dpo", 1, 0, validation=0.5, test=0.9),
        trained("dpo", 1, 1, validation=0.6, test=0.4),  # chosen greedily, though its test reward is lower
        trained("dpo", 2, 0, validation=0.7, test=0.5),
        trained("dpo", 2, 1, validation=0.7, test=0.8),  # a tie: the earlier setting
        trained("sft", 1, 0, validation=0.1, test=0.2),
        trained("sft", 2, 0, validation=0.1, test=0.3),
    ]

    (greedy,) = by_world(rows, GREEDY)
    (sampled,) = by_world(rows, SAMPLED)

    assert greedy.chosen["dpo"] == ({"beta": 1}, {"beta": 0})
    assert greedy.rewards["dpo"].tolist() == [0.4, 0.5]
    assert greedy.trained == ("dpo",)
    assert sampled.chosen["dpo"] == ({"beta": 0}, {"beta": 0})
    assert sampled.rewards["dpo"].tolist() == [0.45, 0.25]


def test_a_method_without_all_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match="dpo in"):
        by_world(
            [trained("sft", 1, 0, 0.1, 0.1), trained("sft", 2, 0, 0.1, 0.1), trained("dpo", 1, 0, 0.1, 0.1)], GREEDY
        )


def test_differences_are_paired_by_seed() -> None:
    # differences 1, 2, 3: mean 2, sd 1, error 1/sqrt(3); t(0.975, 2 degrees of freedom) = 4.303
    apart = difference(np.array([3.0, 5.0, 4.0]), np.array([2.0, 3.0, 1.0]))
    assert (apart.mean, apart.low, apart.high) == pytest.approx((2.0, -0.484, 4.484), abs=1e-3)
    assert apart.sign == 0

    # the same as one of five: t(0.995, 2) = 9.925
    assert difference(np.array([3.0, 5.0, 4.0]), np.array([2.0, 3.0, 1.0]), comparisons=5).low == pytest.approx(
        2 - 9.925 / 3**0.5, abs=1e-3
    )


def test_a_method_may_be_best_unless_another_is_shown_to_beat_it() -> None:
    rewards = {
        "good": np.array([0.80, 0.82, 0.81, 0.83]),
        "level": np.array([0.83, 0.79, 0.80, 0.82]),
        "bad": np.array([0.50, 0.53, 0.51, 0.52]),
    }
    results = WorldResults(("better", "short"), (1, 2, 3, 4), rewards, {}, ())

    assert may_be_best(results, list(rewards)) == ["good", "level"]


def test_the_best_is_kept_as_often_as_promised() -> None:
    """Eight equal methods with correlated errors, five seeds: the first is left out in at most 5 % of all studies."""
    rng = np.random.default_rng(0)
    names = [f"m{number}" for number in range(8)]
    kept = 0
    for _ in range(400):
        shared = rng.standard_normal((5, 1))
        values = shared + rng.standard_normal((5, 8))
        results = WorldResults(("w", "s"), tuple(range(5)), dict(zip(names, values.T, strict=True)), {}, ())
        kept += "m0" in may_be_best(results, names)
    assert kept / 400 >= 0.94


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    facts = PairFacts(pairs=630, source_less_target=-0.0123, source_better=0.25, target_less_rejected=0.3)
    rows = [
        trained("dpo", 1, 1, validation=0.25, test=0.5).model_copy(
            update={"settings": {"learning_rate": 0.003, "beta": 1.0}}
        ),
        trained("sft", 2, 0, validation=0.1, test=0.2).model_copy(update={"settings": {}, "facts": facts}),
    ]
    path = tmp_path / "results.csv"
    write_results(path, rows)

    assert read_results(path) == rows
    assert (
        path.read_text("utf-8").splitlines()[1]
        == "better,short,1,dpo,learning_rate=0.003 beta=1,0.25,0.75,0.5,0.25,,,,"
    )
