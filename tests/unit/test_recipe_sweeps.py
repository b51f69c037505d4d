"""Sweeps of a recipe: the variants they give, that nothing is sampled for them, and the pairs of a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.records.errors import ConfigError
from recipes.layout import Recipe
from recipes.pipeline import all_steps
from recipes.spec import RecipeSpec, Selection, read_recipe
from recipes.stages.pairs import pairs_steps
from recipes.steps import Step, is_done, run_step
from recipes.train import narrow
from tests.fakes.recipe_files import answers_step, prompt_rows, prompts_step, rewards_step
from tests.unit.test_recipe_methods import SOURCES, spec_of

THREE = [*SOURCES, {"name": "c", "model": "models/c", "backend": "in_process"}]


def swept(folder: Path, sweeps: list[dict[str, Any]], variants: dict[str, Any], **further: Any) -> RecipeSpec:
    return spec_of(folder, variants, sources=THREE, sweeps=sweeps, **further)


def test_a_training_key_gives_one_variant_per_value_and_none_for_its_own(tmp_path: Path) -> None:
    spec = swept(tmp_path, [{"of": "wrpo", "alpha": [0, 0.1, 0.5]}], {"wrpo": {"training": {"alpha": 0.5, "beta": 2}}})

    assert {name: variant.training for name, variant in spec.variants.items()} == {
        "wrpo": {"alpha": 0.5, "beta": 2},
        "wrpo-alpha0": {"alpha": 0, "beta": 2},
        "wrpo-alpha0.1": {"alpha": 0.1, "beta": 2},
    }
    (sweep,) = spec.sweeps
    assert (sweep.of, sweep.key) == ("wrpo", "alpha")
    assert sweep.variants == {"wrpo-alpha0": 0, "wrpo-alpha0.1": 0.1}


def test_a_value_of_the_shared_training_section_is_the_variants_own(tmp_path: Path) -> None:
    spec = swept(tmp_path, [{"of": "wrpo", "beta": [1, 2]}], {"wrpo": {}}, training={"beta": 2})

    assert list(spec.variants) == ["wrpo", "wrpo-beta1"]


def test_sources_samples_and_leaving_out_take_each(tmp_path: Path) -> None:
    each = [{"of": "wrpo", key: "each"} for key in ("sources", "samples", "leave_out")]
    spec = swept(tmp_path, each, {"wrpo": {}}, sampling={"n": 3})

    chosen = {name: Selection.of(spec, variant) for name, variant in spec.variants.items()}
    assert chosen == {
        "wrpo": (("a", "b", "c"), None),
        "wrpo-sources1": (("a",), None),
        "wrpo-sources2": (("a", "b"), None),
        "wrpo-samples1": (("a", "b", "c"), 1),
        "wrpo-samples2": (("a", "b", "c"), 2),
        "wrpo-without-a": (("b", "c"), None),
        "wrpo-without-b": (("a", "c"), None),
        "wrpo-without-c": (("a", "b"), None),
    }
    assert {selection.folder(spec) for selection in chosen.values()} == {
        "", "sources-1", "sources-2", "samples-1", "samples-2", "without-a", "without-b"
    }  # fmt: skip


def test_a_sweep_of_rounds_compares_last_rounds(tmp_path: Path) -> None:
    spec = swept(tmp_path, [{"of": "wrpo", "alpha": [0.1]}], {"wrpo": {"rounds": 2}})

    assert list(spec.variants) == ["wrpo-round1", "wrpo-round2", "wrpo-alpha0.1-round1", "wrpo-alpha0.1-round2"]
    assert (spec.sweeps[0].of, spec.sweeps[0].variants) == ("wrpo-round2", {"wrpo-alpha0.1-round2": 0.1})


def test_both_phases_of_fuserl_leave_the_source_out(tmp_path: Path) -> None:
    spec = swept(tmp_path, [{"of": "f", "leave_out": ["b"]}], {"f": {"method": "fuserl"}})

    assert spec.variants["f-without-b-sft"].sources == spec.variants["f-without-b"].sources == ("a", "c")
    assert spec.variants["f-without-b"].after == "f-without-b-sft"


def test_fusechat_without_a_source_merges_the_copies_that_exist(tmp_path: Path) -> None:
    spec = swept(tmp_path, [{"of": "f", "leave_out": "each"}], {"f": {"method": "fusechat"}})

    assert list(spec.variants) == ["f-a", "f-b", "f-c"]
    assert spec.merges["f-without-b"].models == ("f-a", "f-c")


def test_a_distilled_variant_cannot_leave_out_its_teacher(tmp_path: Path) -> None:
    distilled = {"d": {"method": "distill", "teacher": "b"}}

    assert list(swept(tmp_path, [{"of": "d", "leave_out": "each"}], distilled).variants) == [
        "d", "d-without-a", "d-without-c"
    ]  # fmt: skip


def test_the_resolved_recipe_reads_back_as_it_is(tmp_path: Path) -> None:
    sweeps: list[dict[str, Any]] = [{"of": "wrpo", "alpha": [0.1]}, {"of": "wrpo", "leave_out": ["a"]}]
    spec = swept(tmp_path, sweeps, {"wrpo": {}})
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(yaml.safe_dump(spec.model_dump(mode="json")))

    assert read_recipe(resolved) == spec


def test_a_recipe_with_variants_of_its_own_inherits_no_sweeps(tmp_path: Path) -> None:
    swept(tmp_path, [{"of": "wrpo", "alpha": [0.1]}], {"wrpo": {}})
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: recipe.yaml\nvariants: {dpo: {}}\n")

    assert (list(read_recipe(mine).variants), read_recipe(mine).sweeps) == (["dpo"], ())


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"of": "x", "alpha": [0.1]}, r"a sweep is of 'x', which is not a variant; variants: wrpo, two"),
        ({"of": "wrpo"}, r"is not `\{of: VARIANT, KEY: VALUES\}`"),
        ({"of": "wrpo", "alpha": [0.1], "beta": [1]}, r"is not `\{of: VARIANT, KEY: VALUES\}`"),
        ({"of": "wrpo", "alpha": 0.1}, r"alpha = 0.1 of 'wrpo' is not a list of values"),
        ({"of": "wrpo", "alpha": "each"}, r"alpha = 'each' of 'wrpo' is not a list of values"),
        ({"of": "wrpo", "alpha": [[1]]}, r"alpha of 'wrpo' cannot be \[1\]; give single values"),
        ({"of": "wrpo", "sources": [3]}, r"has no value but the one that 'wrpo' has anyway"),
        ({"of": "wrpo", "sources": [4]}, r"sources of 'wrpo' cannot be 4; choose from 1, 2, 3"),
        ({"of": "wrpo", "samples": [6]}, r"samples of 'wrpo' cannot be 6; choose from 1, 2, 3, 4, 5"),
        ({"of": "wrpo", "leave_out": ["x"]}, r"leave_out of 'wrpo' cannot be 'x'; choose from a, b, c"),
        ({"of": "two", "alpha": [0.3]}, r"'two' has a list of alpha already; sweep one variant"),
    ],
)
def test_a_sweep_that_cannot_be_written_out_is_one_sentence(
    tmp_path: Path, sweep: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        swept(tmp_path, [sweep], {"wrpo": {}, "two": {"training": {"alpha": [0.1, 0.2]}}})


def test_nothing_is_sampled_or_rewarded_for_a_sweep(tmp_path: Path) -> None:
    each = [{"of": "wrpo", key: "each"} for key in ("sources", "samples", "leave_out")]
    sampling = ("sources", "rewards", "sft", "target")

    def asked(sweeps: list[dict[str, Any]]) -> list[str]:
        spec = swept(tmp_path, sweeps, {"wrpo": {}})
        return [step.name for step in all_steps(narrow(spec, None, None)) if step.stage in sampling]

    assert asked(each) == asked([])


A = {"p": [("a0", 1.0), ("a1", 3.0)], "q": [("a2", 0.5), ("a3", 0.25)]}
B = {"p": [("b0", 2.0), ("b1", 4.0)], "q": [("b2", 0.75), ("b3", 0.75)]}
C = {"p": [("c0", 0.0), ("c1", 9.0)], "q": [("c2", 0.0), ("c3", 0.0)]}
TARGET = {"p": [("t0", 1.0), ("t1", 2.0)], "q": [("t2", 1.0), ("t3", 0.25)]}
Samples = dict[str, list[tuple[str, float]]]


def pairs_made(spec: RecipeSpec, sources: dict[str, Samples], samples: int = 2) -> dict[Selection, Step]:
    """Return the pairs steps of a recipe whose answers exist, run."""
    recipe = Recipe(spec, spec.variants, spec.seeds)
    prompts = prompts_step(recipe, prompt_rows(list(TARGET)))

    def steps(folder: Path, name: str, rows: Samples, kind: str) -> Step:
        texts = {key: [text for text, _ in drawn] for key, drawn in rows.items()}
        if kind == "answers":
            return answers_step(folder, name, texts)
        return rewards_step(folder, name, texts, {key: [reward for _, reward in drawn] for key, drawn in rows.items()})

    cut = {name: {key: drawn[:samples] for key, drawn in rows.items()} for name, rows in sources.items()}
    answers = [steps(recipe.source(name), f"sources/{name}", rows, "answers") for name, rows in cut.items()]
    rewards = [steps(recipe.source_rewards(name), f"rewards/{name}", rows, "rewards") for name, rows in cut.items()]
    place = recipe.seed(1)
    target = [
        steps(place / "target", "seed-1/target", TARGET, "answers"),
        steps(place / "target-rewards", "seed-1/target", TARGET, "rewards"),
    ]
    by_pairing = pairs_steps(recipe, 1, prompts, [*answers, *rewards, *target])
    for step in by_pairing.values():
        run_step(step)
    return by_pairing


@pytest.mark.parametrize(
    ("sweep", "kept", "samples", "best"),
    [
        ({"of": "wrpo", "leave_out": ["c"]}, "ab", 2, "b1"),
        ({"of": "wrpo", "sources": [1]}, "a", 2, "a1"),
        ({"of": "wrpo", "samples": [1]}, "abc", 1, "b0"),
        ({"of": "wrpo", "leave_out": ["b"]}, "ac", 2, "c1"),
    ],
)
def test_the_pairs_of_a_subset_are_those_of_a_recipe_that_only_had_it(
    tmp_path: Path, sweep: dict[str, Any], kept: str, samples: int, best: str
) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "part").mkdir()
    every: dict[str, Samples] = {"a": A, "b": B, "c": C}
    whole = pairs_made(swept(tmp_path / "whole", [sweep], {"wrpo": {}}, sampling={"n": 2}), every)
    only = spec_of(tmp_path / "part", {"wrpo": {}}, sources=[source for source in THREE if source["name"] in kept])
    (alone,) = pairs_made(only, {name: every[name] for name in kept}, samples).values()

    subset = whole[Selection(tuple(kept), samples if samples < 2 else None)]
    for file in ("pairs.jsonl", "dropped.jsonl", "data.json"):
        assert (subset.folder / file).read_bytes() == (alone.folder / file).read_bytes()
    assert f'"{best}"' in (subset.folder / "pairs.jsonl").read_text()


def test_adding_a_sweep_leaves_what_is_finished_as_it_is(tmp_path: Path) -> None:
    every: dict[str, Samples] = {"a": A, "b": B, "c": C}
    first = pairs_made(spec_of(tmp_path, {"wrpo": {}}, sources=THREE, sampling={"n": 2}), every)
    again = swept(tmp_path, [{"of": "wrpo", "leave_out": "each"}], {"wrpo": {}}, sampling={"n": 2})
    both = pairs_made(again, every)

    (whole,) = first.values()
    assert is_done(both[Selection(("a", "b", "c"), None)])
    assert both[Selection(("a", "b", "c"), None)].settings == whole.settings
    assert (tmp_path / "out" / "seed-1" / "pairs" / "without-a" / "pairs.jsonl").exists()
