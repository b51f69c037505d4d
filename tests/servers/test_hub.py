"""Checkpoints go to a Hub over HTTP: the model and its card, nothing else, and no secret anywhere."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from harness.records.errors import ConfigError, EndpointDownError, IncompleteError
from recipes.hub import Push, check_token, files_of, push, pushes
from recipes.layout import Recipe
from tests.fakes.hub_server import FakeHub
from tests.fakes.recipe_folder import RECIPE, toy_recipe, write_checkpoint

TOKEN = "hf_secret"


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Recipe:
    recipe = toy_recipe(tmp_path, RECIPE.replace("seeds: [1, 2, 3]", "seeds: [1]"))
    for name in recipe.variants:
        folder = write_checkpoint(recipe, name, 1)
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# card\n")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # `make test` sets it
    return recipe


def to(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)  # read from the environment at import


def test_the_model_and_its_card_arrive_and_nothing_else(
    finished: Recipe, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with FakeHub().serving() as hub:
        to(hub, monkeypatch)
        for one in pushes(finished, "org"):
            push(one)

    assert sorted(hub.files) == ["org/toy-dpo", "org/toy-sft-cont", "org/toy-wrpo"]
    got = hub.files["org/toy-wrpo"]
    assert sorted(got) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
    assert got["model.safetensors"] == b"wrpo 1 model.safetensors"
    assert all(repo["visibility"] == "private" for repo in hub.repos.values())
    assert hub.tokens <= {f"Bearer {TOKEN}", ""}
    assert TOKEN not in caplog.text


def test_a_push_that_stopped_goes_on_without_sending_weights_twice(
    finished: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = pushes(Recipe(finished.spec, {"wrpo": finished.variants["wrpo"]}, (1,)), "org/mine")[0]
    with FakeHub(fails=1).serving() as hub:
        to(hub, monkeypatch)
        with pytest.raises(
            IncompleteError, match=r"the Hub rejected the upload to org/mine \(HTTP 400: try later\); the same"
        ):
            push(one)
        push(one)

    assert len(hub.uploads) == 1
    assert "model.safetensors" in hub.files["org/mine"]


def test_an_unfinished_checkpoint_is_not_pushed(finished: Recipe) -> None:
    folder = finished.variant("wrpo", 1)
    (folder / "step.json").unlink()

    with pytest.raises(ConfigError, match="is not finished; first run harness train"):
        push(Push(folder, "org/toy"))


def test_a_refused_token_is_said_without_the_token(finished: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeHub(refuse=401).serving() as hub:
        to(hub, monkeypatch)
        with pytest.raises(
            ConfigError, match=r"the Hub rejected the token in HF_TOKEN for writing to org/toy \(HTTP 401\)"
        ) as error:
            push(Push(finished.variant("wrpo", 1), "org/toy"))

    assert TOKEN not in str(error.value)


def test_no_token_and_no_hub_are_one_sentence_each(finished: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    one = Push(finished.variant("wrpo", 1), "org/toy")
    to(FakeHub(url="http://127.0.0.1:9"), monkeypatch)
    with pytest.raises(EndpointDownError, match="the Hub cannot be reached"):
        push(one)

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="the Hub is switched off by HF_HUB_OFFLINE"):
        check_token()
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ConfigError, match="needs a token with write access in the environment variable HF_TOKEN"):
        push(one)


def test_repositories_are_named_after_recipe_variant_and_seed(tmp_path: Path) -> None:
    recipe = toy_recipe(tmp_path)

    assert [one.repo for one in pushes(recipe, "org")][:2] == ["org/toy-dpo-seed1", "org/toy-wrpo-seed1"]
    with pytest.raises(ConfigError, match="is one repository for 9 checkpoints; use only ORG"):
        pushes(recipe, "org/name")
    with pytest.raises(ConfigError, match="is not a valid repository name"):
        pushes(recipe, "or g")


def test_training_states_and_records_stay_here(finished: Recipe) -> None:
    folder = finished.variant("wrpo", 1)
    for name in ("optimizer.pt", "rng_state_0.pth", "trainer_state.json", "reference.json", ".env"):
        (folder / name).write_text("x")

    assert files_of(folder) == ["README.md", "config.json", "model.safetensors", "tokenizer.json"]
