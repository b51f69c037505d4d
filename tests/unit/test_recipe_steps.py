"""A step is done once, resumed in its folder, never mixed with another's settings; a recipe's keys are checked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.records.errors import ConfigError, IncompleteError, UsageError
from recipes import pipeline
from recipes.layout import Counts, Recipe
from recipes.pipeline import all_steps, before, train, up_to
from recipes.spec import read_recipe
from recipes.steps import Step, finished, is_done, run_step, undo

RECIPE = """
name: toy
output_dir: out
target: models/target
prompts: {dataset: prompts.jsonl}
sources: [{name: a, model: models/a}, {name: b, answers: b.jsonl}]
reward: {kind: function, model: "world:reward"}
variants:
  dpo: {training: {alpha: 0}}
  wrpo: {training: {alpha: [0.1, 0.5]}}
  few: {sources: [1, 2]}
"""


def step(folder: Path, *, value: int = 1, inputs: tuple[Step, ...] = (), calls: list[int] | None = None) -> Step:
    def work(into: Path) -> Counts:
        if calls is not None:
            calls.append(value)
        (into / "rows.jsonl").write_text(f"{value}\n")
        return {"rows": 1}

    return Step("sources", folder.name, folder, {"value": value}, work, inputs)


def recipe_file(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return path


def test_a_finished_step_is_not_done_again(tmp_path: Path) -> None:
    calls: list[int] = []
    first = run_step(step(tmp_path / "a", calls=calls))

    again = run_step(step(tmp_path / "a", calls=calls))

    assert calls == [1]
    assert again == first
    assert list(first.outputs) == ["rows.jsonl"]


def test_a_step_made_with_other_settings_is_refused_and_can_be_set_aside(tmp_path: Path) -> None:
    run_step(step(tmp_path / "a"))

    with pytest.raises(ConfigError, match="was made with value = 1, now 2; restore the old value, use --from sources"):
        run_step(step(tmp_path / "a", value=2))

    aside = undo(step(tmp_path / "a"))
    assert aside is not None
    assert (aside / "rows.jsonl").read_text() == "1\n"
    assert run_step(step(tmp_path / "a", value=2)).counts == {"rows": 1}


def test_a_step_begun_with_other_settings_is_not_gone_on_with(tmp_path: Path) -> None:
    run_step(step(tmp_path / "a"))
    (tmp_path / "a" / "step.json").unlink()  # as kill -9 leaves it

    with pytest.raises(ConfigError, match="was made with value = 1, now 2"):
        is_done(step(tmp_path / "a", value=2))
    assert not is_done(step(tmp_path / "a"))


def test_settings_that_could_not_be_used_and_made_nothing_can_be_mended(tmp_path: Path) -> None:
    def refuse(into: Path) -> Counts:
        (into / "rows.jsonl").touch()
        raise ConfigError("value = 1 is too few")

    with pytest.raises(ConfigError, match="too few"):
        run_step(Step("sources", "a", tmp_path / "a", {"value": 1}, refuse))

    assert run_step(step(tmp_path / "a", value=2)).counts == {"rows": 1}


def test_a_changed_input_is_seen_by_what_was_built_on_it(tmp_path: Path) -> None:
    first = step(tmp_path / "a")
    run_step(first)
    second = step(tmp_path / "b", inputs=(first,))
    run_step(second)
    undo(first)
    changed = step(tmp_path / "a", value=2)
    run_step(changed)

    with pytest.raises(ConfigError, match="was made with a = "):
        run_step(step(tmp_path / "b", inputs=(changed,)))


def test_a_file_that_is_no_longer_whole_is_named(tmp_path: Path) -> None:
    run_step(step(tmp_path / "a"))
    (tmp_path / "a" / "rows.jsonl").write_text("")

    with pytest.raises(ConfigError, match=r"rows\.jsonl has changed since the step 'a' wrote it"):
        run_step(step(tmp_path / "a"))


def test_the_same_work_has_the_same_digest(tmp_path: Path) -> None:
    one, other = run_step(step(tmp_path / "a")), run_step(step(tmp_path / "b"))

    assert one.digest == other.digest
    assert finished(step(tmp_path / "a")) == one


def test_lists_in_a_variant_become_variants(tmp_path: Path) -> None:
    spec = read_recipe(recipe_file(tmp_path, RECIPE))

    assert list(spec.variants) == ["dpo", "wrpo-alpha0.1", "wrpo-alpha0.5", "few-sources1", "few-sources2"]
    assert spec.variants["wrpo-alpha0.5"].training == {"alpha": 0.5}
    assert spec.variants["few-sources2"].sources == 2


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        ("name: toy", "name: toy\nbata: 1", "unknown key 'bata'; known: chat_template, "),
        ("name: a,", "name: b,", "two sources are named 'b'; rename one"),
        (
            "model: models/a}",
            "model: models/a, answers: x.jsonl}",
            "source 'a' needs exactly one of `model` and `answers`",
        ),
        ("  dpo:", "  sft:", "a variant may not be named 'sft'"),
        ("sources: [1, 2]", "sources: 3", "variant 'few' needs 3 sources, but the recipe has 2"),
        ("name: toy", "name: a/b", "name = 'a/b'"),
        ("name: toy", "name: toy\nseeds: [1, 1]", "seeds = [1, 1] contains a seed twice"),
    ],
)
def test_a_wrong_recipe_is_one_sentence(tmp_path: Path, before: str, after: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        read_recipe(recipe_file(tmp_path, RECIPE.replace(before, after)))

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("missing", "sentence"),
    [
        ("models/target", "no such model folder: 'models/target'; use an existing folder or hf:ORG/NAME"),
        ("models/a", "no such model folder: 'models/a'; use an existing folder or hf:ORG/NAME"),
        ("b.jsonl", "source 'b': no such file of answers: 'b.jsonl'"),
        ("prompts.jsonl", "prompts.jsonl"),
    ],
)
def test_what_is_not_there_is_said_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in {"models/target", "models/a"} - {missing}:
        Path(folder).mkdir(parents=True)
    for file in {"prompts.jsonl", "b.jsonl"} - {missing}:
        Path(file).write_text("")
    spec = read_recipe(recipe_file(tmp_path, RECIPE))

    with pytest.raises(UsageError) as raised:
        list(train(Recipe(spec, spec.variants, spec.seeds), last="sources"))

    assert sentence in str(raised.value)
    assert not Path("out").exists()


def toy_inputs(folder: Path, monkeypatch: pytest.MonkeyPatch, *, prompts: str | None = None) -> None:
    """Work in `folder`, with the models and files that RECIPE names; without prompts the first step refuses it."""
    monkeypatch.chdir(folder)
    for name in ("models/target", "models/a"):
        Path(name).mkdir(parents=True)
    Path("b.jsonl").touch()
    Path("prompts.jsonl").write_text(prompts or "no JSON")


def toy(file: Path, out: str = "out") -> Recipe:
    spec = read_recipe(file).model_copy(update={"output_dir": Path(out)})
    return Recipe(spec, spec.variants, spec.seeds)


def tree(folder: Path) -> dict[str, str | None]:
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_recipe_kept_in_its_output_dir_is_neither_overwritten_nor_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int
) -> None:
    toy_inputs(tmp_path, monkeypatch)
    Path("out/notes").mkdir(parents=True)
    recipe = toy(recipe_file(tmp_path / "out", "# mine\n" + RECIPE))
    there = tree(tmp_path)

    with pytest.raises(UsageError, match=r"prompts\.jsonl"):
        list(train(recipe, last="prompts", jobs=jobs))

    assert tree(tmp_path) == there


def test_a_refused_run_leaves_no_new_folder_above_its_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_inputs(tmp_path, monkeypatch)
    there = tree(tmp_path)

    with pytest.raises(UsageError, match=r"prompts\.jsonl"):
        list(train(toy(recipe_file(tmp_path, RECIPE), "a/b/out"), last="prompts"))

    assert tree(tmp_path) == there | {"recipe.yaml": RECIPE}


def test_the_resolved_recipe_is_written_beside_the_users_and_can_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_inputs(tmp_path, monkeypatch)
    Path("out").mkdir()
    file = recipe_file(tmp_path / "out", "# mine\n" + RECIPE)

    pipeline._Resolved(toy(file)).write()
    pipeline._Resolved(toy(file)).write()  # ours, so it may be replaced

    assert file.read_text() == "# mine\n" + RECIPE
    assert read_recipe(Path("out/resolved.yaml")) == toy(file).spec


def test_a_refused_run_puts_the_earlier_resolved_recipe_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy_inputs(tmp_path, monkeypatch)
    pipeline._Resolved(toy(recipe_file(tmp_path, RECIPE))).write()
    before_it = Path("out/resolved.yaml").read_text()

    with pytest.raises(UsageError, match=r"prompts\.jsonl"):
        list(train(toy(recipe_file(tmp_path, RECIPE.replace("name: toy", "name: toy2"))), last="prompts"))

    assert tree(Path("out")) == {"resolved.yaml": before_it}


@pytest.mark.parametrize("text", ["name: mine\n", None])
def test_a_resolved_recipe_that_is_not_ours_or_was_edited_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    toy_inputs(tmp_path, monkeypatch)
    recipe = toy(recipe_file(tmp_path, RECIPE))
    if text is None:
        pipeline._Resolved(recipe).write()
        text = Path("out/resolved.yaml").read_text() + "# my note\n"
    Path("out").mkdir(exist_ok=True)
    Path("out/resolved.yaml").write_text(text)

    with pytest.raises(ConfigError, match=r"resolved\.yaml was not written by harness train, or was edited since"):
        list(train(recipe, last="prompts"))

    assert tree(Path("out")) == {"resolved.yaml": text}


def test_a_users_file_in_a_steps_folder_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_inputs(tmp_path, monkeypatch, prompts='{"prompt": "Why?"}\n')
    Path("out/sources/b").mkdir(parents=True)
    Path("out/sources/b/answers.jsonl").write_text("mine\n")
    recipe = toy(recipe_file(tmp_path, RECIPE.replace("model: models/a", "model: 'endpoint:a@http://127.0.0.1:9/v1'")))
    there = tree(tmp_path)

    with pytest.raises(ConfigError, match=r"out/sources/b/answers\.jsonl was not written by harness train"):
        list(train(recipe, first="prompts", last="sources"))

    assert tree(tmp_path) == there


def test_more_failed_answers_may_be_tolerated_without_starting_over(tmp_path: Path) -> None:
    """`sampling.max_failed` decides no answer: those that exist are kept, of unfinished and finished steps alike."""

    def stopped(folder: Path) -> Counts:
        raise IncompleteError("too many failed")

    strict = Step("sources", "a", tmp_path / "a", {"model": "a", "max_failed": 0.05}, stopped)
    with pytest.raises(IncompleteError):
        run_step(strict)
    tolerant = Step("sources", "a", tmp_path / "a", {"model": "a", "max_failed": 0.5}, lambda folder: {"answers": 9})

    assert run_step(tolerant).counts == {"answers": 9}
    assert is_done(strict)
    with pytest.raises(ConfigError, match="was made with model = 'a', now 'b'"):
        is_done(Step("sources", "a", tmp_path / "a", {"model": "b", "max_failed": 0.5}, stopped))


def test_a_step_does_not_overwrite_a_file_that_no_step_wrote(tmp_path: Path) -> None:
    mine = step(tmp_path / "a")
    mine.folder.mkdir()
    (mine.folder / "rows.jsonl").write_text("mine\n")

    with pytest.raises(ConfigError, match=r"rows\.jsonl was not written by harness train, and step 'a' could"):
        run_step(mine)

    assert undo(mine) is None
    assert (mine.folder / "rows.jsonl").read_text() == "mine\n"


def steps_of(folder: Path) -> list[Step]:
    spec = read_recipe(recipe_file(folder, RECIPE))
    return all_steps(Recipe(spec, spec.variants, spec.seeds))


def test_rewards_of_the_target_wait_for_its_answers(tmp_path: Path) -> None:
    steps = steps_of(tmp_path)
    first, asked = ({step.name for step in up_to(steps, stage)} for stage in ("rewards", "target"))

    assert first == {"prompts", "sources/a", "sources/b", "rewards/a", "rewards/b"}
    assert asked - first == {"seed-42/sft", "seed-42/target", "seed-42/target-rewards"}


def test_what_builds_on_a_step_made_anew_is_made_anew(tmp_path: Path) -> None:
    steps = steps_of(tmp_path)

    assert before(steps, None) == steps
    kept = {step.name for step in before(steps, "target")}
    assert kept == {"prompts", "sources/a", "sources/b", "rewards/a", "rewards/b", "seed-42/sft"}


def test_from_after_until_is_refused_with_nothing_touched(tmp_path: Path) -> None:
    spec = read_recipe(recipe_file(tmp_path, RECIPE))

    with pytest.raises(ConfigError, match="--from align comes after --until pairs: nothing would run"):
        list(train(Recipe(spec, spec.variants, spec.seeds), first="align", last="pairs"))


def test_a_nested_setting_is_named_with_its_values(tmp_path: Path) -> None:
    def with_beta(beta: float) -> Step:
        plain = step(tmp_path / "a")
        return replace(plain, settings={"training": {"beta": beta, "alpha": 0.1}})

    run_step(with_beta(0.5))

    with pytest.raises(ConfigError, match=r"was made with training\.beta = 0\.5, now 0\.7; restore the old"):
        run_step(with_beta(0.7))
