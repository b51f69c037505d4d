"""The pocket recipe end to end, made smaller: all its stages but the suites, and the same files after kill -9."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from harness.records import Answer
from recipes.layout import PromptRow, messages, rows_in
from recipes.spec import read_recipe, recipe_path
from recipes.train import narrow
from recipes.worlds.embedded import finished
from recipes.worlds.pocket import TARGET, Taught, course, make_models, teach
from recipes.worlds.pocket_task import SPECIALISTS
from recipes.worlds.pocket_task import prompts as pocket_prompts

SCALE = 0.02
"""Of the models' training steps: they know nothing yet, but answer."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("models")
    for name in (TARGET, *SPECIALISTS):
        teach(out, name, course(name, scale=SCALE))
    return out


def small_recipe(folder: Path, models: Path, **changes: Any) -> Path:
    """pocket.yaml with few prompts and steps, one seed, two variants, no suites."""
    found = yaml.safe_load(recipe_path("pocket").read_text())
    found |= {"output_dir": str(folder / "out"), "target": str(models / TARGET), "seeds": [1]}
    found["prompts"] |= {"limit": 90, "validation": 15, "test": 15}
    found["sources"] = [one | {"model": str(models / one["name"])} for one in found["sources"]]
    found["sampling"] |= {"n": 3, "max_tokens": 8, "max_failed": 1.0}
    found["sft"] |= {"num_train_epochs": 1}
    found["training"] |= {"per_device_train_batch_size": 8}
    found["variants"] = {name: found["variants"][name] for name in ("wrpo", "sft-cont")}
    found["evaluate"] = {"temperatures": [0.8]}  # greedily, untaught models say nothing
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(found | changes))
    return path


@pytest.mark.slow
def test_the_recipe_goes_from_prompts_to_a_board_of_variants(tmp_path: Path, models: Path) -> None:
    from recipes.pipeline import train

    recipe = narrow(read_recipe(small_recipe(tmp_path, models)), None, None)

    done = {one.step.name: one.record.counts for one in train(recipe)}

    assert next(iter(done)) == "prompts"
    assert list(done)[-1] == "report"
    assert done["prompts"]["sft"] == 20  # 90 less 30 held out: a third, and two thirds
    assert done["prompts"]["preference"] == 40
    assert {"seed-1/align/wrpo", "seed-1/align/sft-cont", "seed-1/held-out/wrpo", "held-out/target"} <= set(done)
    board = json.loads((tmp_path / "out" / "report" / "variants.json").read_text())
    assert {"target", "sft", "wrpo", "sft-cont"} <= set(json.dumps(board).split('"'))
    parts: dict[str, set[str]] = {}
    for line in (tmp_path / "out" / "prompts" / "prompts.jsonl").read_text().splitlines():
        row = json.loads(line)
        parts.setdefault(row["part"], set()).add(row["prompt"]["turns"][0])
    assert sum(map(len, parts.values())) == len(set().union(*parts.values())) == 90


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_every_way_to_fuse_is_a_row_of_one_board(tmp_path: Path, models: Path) -> None:
    """pocket-methods made smaller, with the sources, ensembles and merges of pocket, on a suite too."""
    pytest.importorskip("mergekit")
    from recipes.pipeline import train

    variants = yaml.safe_load(recipe_path("pocket-methods").read_text())["variants"]
    rows = yaml.safe_load(recipe_path("pocket").read_text())
    merges = {name for name, entry in variants.items() if entry.get("method") == "merge"} - {"mean", "sources-ties"}
    variants = {name: entry for name, entry in variants.items() if name not in merges}  # test_merges.py has them all
    rivals = [*SPECIALISTS, "best_source", "moa", "route"]
    suite = {"suite": "mt_bench", "edition": "pocket", "limit": 4, "backend": "in_process"}
    evaluate = {"temperatures": [0.8], "models": ["best", *rivals], "moa": rows["evaluate"]["moa"], **suite}
    recipe = narrow(read_recipe(small_recipe(tmp_path, models, variants=variants, evaluate=evaluate)), None, None)

    done = {outcome.step.name: outcome.record.counts for outcome in train(recipe)}

    names = {*recipe.spec.variants, *recipe.spec.merges}
    assert {"infifpo", "fuserl-sft", "fuserl", "distill-own", "fusechat-code", "fusechat", "wrpo-again-round2"} <= names
    assert {f"seed-1/align/{name}" for name in names} <= set(done)
    assert done["seed-1/align/fusechat"]["models"] == len(SPECIALISTS)
    assert {f"suites/{name}" for name in rivals} | {"seed-1/suites/best"} <= set(done)
    board = json.loads((tmp_path / "out" / "report" / "variants.json").read_text())
    assert {row["model"] for row in board["models"]} == {*names, *rivals, "sft", "target"}
    assert all(row["reward"]["value"] is not None for row in board["models"])
    methods = json.loads((tmp_path / "out" / "report" / "methods.json").read_text())
    costs = {row["model"]: row for row in methods["costs"]}
    assert (costs["best_source"]["calls"], costs["fusechat"]["calls"]) == (3, 1)
    assert 3 < costs["moa"]["calls"] <= 4  # without any member's answer, the aggregator is not asked
    assert costs["fusechat"]["trained_tokens"] > costs["fusechat-code"]["trained_tokens"]


@pytest.mark.slow
def test_conversations_are_sampled_rewarded_and_learned_as_a_whole(tmp_path: Path, models: Path) -> None:
    from recipes.pipeline import train
    from recipes.training.rows import Rows
    from recipes.training.templates import load_tokenizer

    plain = pocket_prompts()[:90]
    earlier = [{"role": "user", "content": "7 + 1 = ?"}, {"role": "assistant", "content": "8"}]
    rows = [{**row, "prompt": [*earlier, {"role": "user", "content": row["prompt"]}]} for row in plain]
    (tmp_path / "talks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = small_recipe(tmp_path, models, evaluate={"temperatures": [0.8], "models": ["moa"]})
    written = yaml.safe_load(path.read_text())
    written["prompts"] |= {"dataset": str(tmp_path / "talks.jsonl"), "decontaminate": []}
    path.write_text(yaml.safe_dump(written))
    recipe = narrow(read_recipe(path), "wrpo", None)

    done = {outcome.step.name for outcome in train(recipe)}

    tokenizer = load_tokenizer(str(recipe.sft(1)))
    prompts = {row.prompt.id: row.prompt for row in rows_in(recipe.prompts / "prompts.jsonl", PromptRow)}
    assert {prompt.answered for prompt in prompts.values()} == {("8",)}
    folders = [recipe.source("code"), recipe.target(1), recipe.held_out("wrpo", 1) / "t0.8"]
    for folder in folders:
        answers = [row for row in rows_in(folder / "answers.jsonl", Answer) if row.error is None]
        assert answers
        for answer in answers:
            ids = tokenizer.apply_chat_template(
                messages(prompts[answer.prompt_id]), add_generation_prompt=True, return_dict=True
            )["input_ids"]
            assert answer.prompt_tokens == (len(ids),)
            assert len(answer.turns) == 1
    texts = [
        tokenizer.decode(ids)
        for folder in (recipe.seed(1) / "rows").iterdir()
        for ids in Rows(folder).load()["prompt_ids"]
    ]
    assert all("7 + 1 = ?" in text and "8" in text for text in texts)
    assert {"held-out/moa", "seed-1/align/wrpo", "report"} <= done
    talks = [row for row in rows_in(recipe.held_out("moa", 1) / "t0.8" / "answers.jsonl", Answer) if row.error is None]
    assert {len(row.turns) for row in talks} == {1}
    assert {work.calls for row in talks for work in row.work} == {1}  # the earlier turn was not asked again


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_seeds_and_two_suites_make_one_board(tmp_path: Path) -> None:
    """With models that have learned a little: untaught ones say nothing greedily, and an ensemble of them fails."""
    from recipes.pipeline import train

    models = tmp_path / "models"
    for name in (TARGET, *SPECIALISTS):
        teach(models, name, course(name, scale=10 * SCALE))
    written = yaml.safe_load(recipe_path("pocket").read_text())
    variants = {name: written["variants"][name] for name in ("wrpo", "sft-cont")}
    rivals = ["code", "best_source", "moa", "route"]
    suites = {"suite": "mt_bench,alpaca_eval", "edition": "pocket", "limit": 6, "backend": "in_process"}
    evaluate = {"temperatures": [0.8], "models": ["all", *rivals], "suite_seeds": "all", **suites}
    changes = {"seeds": [1, 2], "variants": variants, "sweeps": [{"of": "wrpo", "alpha": [0.1]}]}
    evaluate["moa"] = written["evaluate"]["moa"]
    path = small_recipe(tmp_path, models, **changes, evaluate=evaluate)
    recipe = narrow(read_recipe(path), None, None)

    done = {outcome.step.name for outcome in train(recipe)}

    trained = {"sft", "wrpo", "sft-cont"}
    assert {f"seed-{seed}/suites/{name}" for seed in (1, 2) for name in (*trained, "wrpo-alpha0.1")} <= done
    board = json.loads((tmp_path / "out" / "report" / "methods.json").read_text())
    _, *measures = board["measures"]
    assert [measure["name"].partition(" ")[0] for measure in measures] == ["alpaca_eval", "mt_bench"]
    for measure in measures:
        assert set(measure["scores"]) == {*trained, *rivals, "target"}  # the sweep has a table of its own
        asked = {name: score["n"] + score["unscored"] for name, score in measure["scores"].items()}
        each = 12 if measure["name"].startswith("mt_bench") else 6  # two turns
        assert asked == {**dict.fromkeys(trained, 2 * each), **dict.fromkeys([*rivals, "target"], each)}
    cards = {name: list((recipe.results / "runs").glob(f"*{name}*/**/card.json")) for name in ("seed1", "seed2")}
    assert {name: len(paths) for name, paths in cards.items()} == {"seed1": 8, "seed2": 8}
    for measure in measures:  # a mean of two seeds is that of their cards
        name = measure["name"].partition(" ")[0]
        if name == "alpaca_eval":  # six questions are too few for a length-controlled rate
            assert {score["value"] for score in measure["scores"].values()} == {None}
            continue
        assert (measure["best_source"], set(measure["to_target"])) == ("code", {*trained, *rivals})
        values = [
            card["scores"][card["headline"]]["value"]
            for card in (json.loads(path.read_text()) for paths in cards.values() for path in paths)
            if card["suite"] == name and card["model"].startswith("pocket-wrpo-seed")
        ]
        assert measure["scores"]["wrpo"]["value"] == pytest.approx(sum(values) / 2)
    (sweep,) = json.loads((tmp_path / "out" / "report" / "sweeps.json").read_text())
    assert {tuple(suite["scores"]) for suite in sweep["suites"]} == {("wrpo", "wrpo-alpha0.1")}
    page = (tmp_path / "out" / "report" / "variants.html").read_text()
    assert "wrpo: by alpha, mt_bench" in page


@pytest.mark.slow
def test_models_that_are_there_are_taken_as_they_are_and_others_refused(tmp_path: Path, models: Path) -> None:
    from harness.records.errors import ConfigError

    before = (models / TARGET / "model.safetensors").stat().st_mtime_ns

    assert teach(models, TARGET, course(TARGET, scale=SCALE)) == finished(models / TARGET, Taught)
    assert (models / TARGET / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="already contains a model of a different course"):
        teach(models, TARGET, course(TARGET, seed=1, scale=SCALE))


@pytest.mark.slow
def test_two_at_a_time_make_the_same_models_as_one_after_the_other(tmp_path: Path, models: Path) -> None:
    make_models(tmp_path, scale=SCALE)

    for name in (TARGET, *SPECIALISTS):
        assert (tmp_path / name / "model.safetensors").read_bytes() == (
            models / name / "model.safetensors"
        ).read_bytes()


@pytest.mark.slow
def test_the_same_command_after_kill_9_gives_the_same_digests(tmp_path: Path, models: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, cut = small_recipe(tmp_path / "a", models), small_recipe(tmp_path / "b", models)
    run(whole)
    seconds = random.Random().uniform(4.0, 14.0)

    started = begin(cut)
    time.sleep(seconds)
    os.killpg(started.pid, signal.SIGKILL)
    started.wait()
    run(cut)

    assert digests(tmp_path / "a" / "out") == digests(tmp_path / "b" / "out"), f"killed after {seconds:.1f} s"


def begin(recipe: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "harness.cli.main", "train", str(recipe), "--jobs", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (recipe.parent / "log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)


def run(recipe: Path) -> None:
    assert begin(recipe).wait(timeout=180) == 0, (recipe.parent / "log").read_text()[-2000:]


def digests(out: Path) -> dict[str, dict[str, str]]:
    """Step -> file -> sha256, of answers, rewards, pairs and weights."""
    found = {}
    for path in sorted(out.rglob("step.json")):
        step = json.loads(path.read_text())
        if step["stage"] != "report":
            files = {name: one["sha256"] for name, one in step["outputs"].items()}
            found[str(path.parent.relative_to(out))] = {
                name: sha for name, sha in files.items() if name.endswith((".safetensors", "pairs.jsonl"))
            }
    return found
