"""The commands that messages and docs give for installing this package work where they are read."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness import __version__
from harness.store.provenance import DISTRIBUTION, install_command, is_checkout

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def test_a_checkout_is_installed_from_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("view", "plots") == "pip install -e '.[view,plots]'"
    assert install_command() == "pip install -e ."

    monkeypatch.chdir(tmp_path)
    assert install_command("view", root=ROOT) == f"pip install -e '{ROOT}[view]'"


def test_an_installed_wheel_is_named_by_its_distribution(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('name = "someone-elses"')  # left in site-packages by another package

    assert not is_checkout(tmp_path)
    assert install_command("view", root=tmp_path) == "pip install 'llm-fusion-harness[view]'"
    assert install_command(reinstall=True, root=tmp_path) == (
        "pip install --force-reinstall --no-deps llm-fusion-harness"
    )


def test_the_name_and_the_version_are_those_of_the_project() -> None:
    assert (PROJECT["name"], PROJECT["version"]) == (DISTRIBUTION, __version__)


def test_make_setup_removes_the_distribution_of_the_old_name_before_it_installs_this_one() -> None:
    command = ["make", "--dry-run", "--always-make", "setup"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    uninstall, install = (
        next(number for number, line in enumerate(lines) if line.startswith(".venv/bin/pip") and line.endswith(end))
        for end in ("-y fusion-harness", "-e .")
    )

    assert uninstall < install


def test_every_extra_that_a_message_or_page_names_exists() -> None:
    listed = ["git", "ls-files", "--", "harness", "judges", "recipes", "docs", "*.md"]
    names = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    text = "\n".join((ROOT / name).read_text("utf-8") for name in names if name.endswith((".py", ".md")))
    calls = re.findall(r"install_command\([\"'](.*?)[\"']\)", text)
    pages = re.findall(r"pip install -e '\.\[(.*?)\]'", text)

    assert calls
    assert pages
    assert {extra for group in (*calls, *pages) for extra in group.split(",")} <= set(PROJECT["optional-dependencies"])
    assert "install 'fusion-harness" not in text
