"""The wheel holds our three packages with their data, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile

import pytest

from tests import ROOT


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("wheel")
    options = ("-q", "--no-deps", "--no-build-isolation", "-w", str(out))
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", *options, str(ROOT)], check=True, capture_output=True, timeout=300
    )
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


@pytest.mark.slow
def test_the_wheel_ships_exactly_our_packages(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"harness", "judges", "recipes"}


def test_the_wheel_carries_the_pocket_data_and_the_judges(names: list[str]) -> None:
    for wanted in ("harness/suites/pocket/data/mt_bench.prompts.jsonl", "judges/configs/reference.yaml"):
        assert wanted in names


def test_the_wheel_carries_the_pages_templates(names: list[str]) -> None:
    files = {path.name for path in (ROOT / "harness" / "pages" / "templates").iterdir()}

    assert {"leaderboard.html", "view.js", "style.css"} <= files
    assert {f"harness/pages/templates/{file}" for file in files} <= set(names)


def test_the_wheel_carries_every_reported_figure(names: list[str]) -> None:
    files = {path.name for path in (ROOT / "results" / "reported").glob("*.yaml")}

    assert files
    assert {f"harness/reported_data/{file}" for file in files} <= set(names)


def test_the_wheel_carries_the_recipes(names: list[str]) -> None:
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "recipes" / "configs").rglob("*.yaml")}

    assert "recipes/configs/accelerate/zero3.yaml" in files
    assert files <= set(names)
