"""Variants that are written out or continue from one another (rounds, FuseRL, FuseChat), and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.records.errors import ConfigError
from harness.store.checkpoint import weights_digest
from recipes.expansion import _with_copies
from recipes.hub import pushes
from recipes.layout import Recipe
from recipes.pipeline import all_steps
from recipes.report.methods import _made_of
from recipes.sampling import record_weights
from recipes.spec import RecipeSpec, read_recipe
from recipes.train import narrow

SOUP = {"method": "merge", "seeds": "all"}
SOURCES = [{"name": name, "model": f"models/{name}", "backend": "in_process"} for name in "ab"]


def spec_of(folder: Path, variants: dict[str, Any], **further: Any) -> RecipeSpec:
    sections = {
        "name": "toy",
        "output_dir": str(folder / "out"),
        "target": "models/target",
        "prompts": {"dataset": "prompts.jsonl", "decontaminate": []},
        "sources": SOURCES,
        "reward": {"kind": "function", "model": "world:reward"},
        "variants": variants,
        "seeds": [1],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(sections | further, sort_keys=False))
    return read_recipe(path)


def inputs_of(spec: RecipeSpec, variant: str | None = None) -> dict[str, list[str]]:
    return {step.name: [earlier.name for earlier in step.inputs] for step in all_steps(narrow(spec, variant, None))}


def test_each_round_continues_from_the_one_before_and_samples_it_again(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"wrpo": {"rounds": 3, "training": {"alpha": 0.1}}})
    steps = inputs_of(spec)

    assert {name: variant.after for name, variant in spec.variants.items()} == {
        "wrpo-round1": None,
        "wrpo-round2": "wrpo-round1",
        "wrpo-round3": "wrpo-round2",
    }
    assert steps["seed-1/align/wrpo-round1"] == ["seed-1/sft", "seed-1/pairs"]
    assert steps["seed-1/rounds/wrpo-round1/target"] == ["prompts", "seed-1/align/wrpo-round1"]
    assert steps["seed-1/rounds/wrpo-round1/pairs"][-2:] == [
        "seed-1/rounds/wrpo-round1/target",
        "seed-1/rounds/wrpo-round1/target-rewards",
    ]
    assert steps["seed-1/align/wrpo-round2"] == ["seed-1/align/wrpo-round1", "seed-1/rounds/wrpo-round1/pairs"]
    assert steps["seed-1/align/wrpo-round3"] == ["seed-1/align/wrpo-round2", "seed-1/rounds/wrpo-round2/pairs"]
    assert list(steps) == list(dict.fromkeys(steps))


def test_a_selected_variant_brings_those_it_continues_from(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"dpo": {}, "wrpo": {"rounds": 2}, "both": {"after": "dpo"}})

    assert list(narrow(spec, "wrpo-round2", None).variants) == ["wrpo-round1", "wrpo-round2"]
    assert list(narrow(spec, "both", None).variants) == ["dpo", "both"]
    assert "seed-1/align/dpo" not in inputs_of(spec, "wrpo-round2")


def test_rounds_of_infifpo_score_the_pairs_of_their_own_round(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"x": {"method": "infifpo", "rounds": 2}, "y": {"method": "infifpo", "sources": 1}})
    steps = inputs_of(spec)

    assert steps["seed-1/align/x-round1"][2:] == ["seed-1/logps/a", "seed-1/logps/b"]
    assert steps["seed-1/align/x-round2"][2:] == [f"seed-1/rounds/x-round1/logps/{name}" for name in "ab"]
    assert steps["seed-1/align/y"] == ["seed-1/sft", "seed-1/pairs/sources-1", "seed-1/logps/sources-1/a"]
    assert steps["seed-1/logps/a"] == ["seed-1/pairs"]


def test_fuserl_is_weighted_sft_of_the_target_and_weighted_preferences_after_it(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"f": {"method": "fuserl", "training": {"tau": 0.2, "beta": 0.5}}})
    steps = inputs_of(spec)
    answered = ["prompts", "sources/a", "sources/b", "rewards/a", "rewards/b"]

    assert spec.variants["f-sft"].training == {"tau": 0.2}
    assert (spec.variants["f"].method, spec.variants["f"].after) == ("fusepo", "f-sft")
    assert steps["seed-1/align/f-sft"] == answered
    assert steps["seed-1/align/f"] == [*answered, "seed-1/align/f-sft"]
    assert not any("/target" in name or "/pairs" in name for name in steps)  # the target's answers are not used


def test_fusechat_is_one_distilled_copy_per_source_and_their_merge() -> None:
    variants = _with_copies(
        {"fuse": {"method": "fusechat", "training": {"beta": 0.5}, "topk": 0.1}}, ["a", "b"], "r.yaml"
    )

    assert variants == {
        "fuse-a": {"method": "distill", "teacher": "a", "training": {"beta": 0.5}},
        "fuse-b": {"method": "distill", "teacher": "b", "training": {"beta": 0.5}},
        "fuse": {"method": "merge", "merge": "sce", "base": "sft", "models": ["fuse-a", "fuse-b"], "topk": 0.1},
    }


def test_a_selected_merge_brings_its_copies(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"dpo": {}, "fuse": {"method": "fusechat"}})
    steps = inputs_of(spec, "fuse")

    assert list(narrow(spec, "fuse", None).variants) == ["fuse-a", "fuse-b"]
    assert {"seed-1/align/fuse-a", "seed-1/align/fuse-b"} <= set(steps["seed-1/align/fuse"])
    assert "seed-1/align/dpo" not in steps


def test_a_merge_is_run_planned_and_pushed_if_it_is_selected_and_its_parts_are_only_trained(tmp_path: Path) -> None:
    both = {"method": "merge", "merge": "ties", "models": ["dpo", "wrpo"], "base": "start"}
    variants = {"start": {}, "dpo": {}, "wrpo": {}, "both": both, "soup": {**SOUP, "models": ["wrpo"]}}
    spec = spec_of(tmp_path, variants, seeds=[1, 2])

    chosen = narrow(spec, "both", None)

    assert (list(chosen.variants), list(chosen.merges)) == (["start", "dpo", "wrpo"], ["both"])
    assert [push.repo for push in pushes(chosen, "org")] == ["org/toy-both-seed1", "org/toy-both-seed2"]
    assert [push.repo for push in pushes(narrow(spec, "soup", None), "org/mine")] == ["org/mine"]
    assert pushes(narrow(spec, "soup", [1]), "org") == []  # it needs all seeds
    assert list(narrow(spec, "wrpo", None).merges) == []
    assert list(narrow(spec, None, None).merges) == ["both", "soup"]


def test_training_that_a_model_costs_is_all_that_led_to_it(tmp_path: Path) -> None:
    variants = {"wrpo": {"rounds": 2}, "f": {"method": "fuserl"}, "dpo": {}, "both": {**SOUP, "models": ["dpo", "f"]}}
    recipe = narrow(spec_of(tmp_path, variants, seeds=[1, 2]), None, None)

    assert _made_of(recipe, "wrpo-round2", 1) == [("sft", 1), ("wrpo-round1", 1), ("wrpo-round2", 1)]
    assert _made_of(recipe, "f", 1) == [("f-sft", 1), ("f", 1)]  # weighted SFT starts from the target
    assert _made_of(recipe, "both", 1) == [(name, seed) for seed in (1, 2) for name in ("sft", "dpo", "f-sft", "f")]
    assert _made_of(recipe, "target", 1) == []


ENDPOINT = [{"name": "a", "model": "endpoint:x@http://localhost:1/v1"}, SOURCES[1]]
ANSWERS = [{"name": "a", "answers": "a.jsonl"}, SOURCES[1]]


@pytest.mark.parametrize(
    ("variants", "sources", "message"),
    [
        ({"x": {"method": "distill"}}, SOURCES, r"teacher = None is not a source; give one of a, b"),
        ({"x": {"method": "distill", "teacher": "c"}}, SOURCES, r"teacher = 'c' is not a source"),
        ({"x": {"teacher": "a"}}, SOURCES, r"only method distill has a `teacher`, not preference"),
        (
            {"x": {"method": "distill", "teacher": "a"}},
            ENDPOINT,
            r"needs the weights of source 'a', which is an endpoi",
        ),
        ({"x": {"method": "infifpo"}}, ANSWERS, r"infifpo needs the weights of source 'a', which is answers only"),
        ({"x": {"method": "infifpo"}}, [SOURCES[0] | {"backend": "ray"}], r"backend 'ray', which returns no log-prob"),
        ({"x": {"after": "y"}, "y": {}}, SOURCES, r"comes after 'y', which is not a variant listed above it"),
        (
            {"x": {"method": "fuserl", "rounds": 2}},
            SOURCES,
            r"fuserl starts from the target itself; leave out `rounds`",
        ),
        ({"x": {"method": "fusechat", "rounds": 2}}, SOURCES, r"method fusechat has no key 'rounds'"),
        ({"x": {"method": "fusechat", "training": {"beta": [1, 2]}}}, SOURCES, r"cannot be swept by lists"),
        ({"x": {"rounds": 0}}, SOURCES, r"rounds"),
    ],
)
def test_what_a_method_lacks_is_said_before_anything_runs(
    tmp_path: Path, variants: dict[str, Any], sources: list[dict[str, str]], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        spec_of(tmp_path, variants, sources=sources)


def test_a_source_that_infifpo_does_not_use_may_be_an_endpoint(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, {"x": {"method": "infifpo", "sources": 1}}, sources=[SOURCES[1], ENDPOINT[0]])

    assert isinstance(Recipe(spec, spec.variants, (1,)), Recipe)


def test_a_checkpoint_is_not_resumed_from_other_weights_of_the_same_name(tmp_path: Path) -> None:
    teacher, folder = tmp_path / "teacher", tmp_path / "step"
    teacher.mkdir()
    folder.mkdir()
    (teacher / "model.safetensors").write_bytes(b"one")
    record_weights(folder, {"big": teacher}, "x")
    record_weights(folder, {"big": teacher}, "x")
    digest = weights_digest(folder, None)
    (folder / "made_from.json").unlink()
    assert weights_digest(folder, None) == digest  # the record is not part of the checkpoint's identity

    record_weights(folder, {"big": teacher}, "x")
    (teacher / "model.safetensors").write_bytes(b"two")
    with pytest.raises(ConfigError, match=r"has a checkpoint of 'x' with big '[0-9a-f]{64}', which is now"):
        record_weights(folder, {"big": teacher}, "x")
