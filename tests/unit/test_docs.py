"""The reference pages of the documentation say what the code has."""

from __future__ import annotations

import ast
import importlib.util
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/site/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_variable_that_the_code_reads_is_explained(reference: ModuleType) -> None:
    read: set[str] = set()
    for package in ("harness", "judges", "recipes"):
        for file in (ROOT / package).rglob("*.py"):
            read |= set(re.findall(r"\bHARNESS_[A-Z_]+\b", file.read_text("utf-8")))

    assert read <= set(reference.ENVIRONMENT)


def test_every_command_flag_and_key_is_on_its_page(reference: ModuleType) -> None:
    pages = reference.pages()

    for flag in ("--model", "--suite", "--judge", "--max-cost", "--candidates"):
        assert f"`{flag}`" in pages["reference/cli.md"]
    for key in ("`concurrency`", "`judge`", "`temperature`", "`key_env`"):
        assert key in pages["reference/config.md"]
    assert "## `harness.Prompt`" in pages["reference/python.md"]
    assert "| `headline` |" in pages["reference/files.md"]


def test_every_page_is_in_the_navigation() -> None:
    def places(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        return [place for value in values for place in places(value)]  # type: ignore[attr-defined]

    listed = set(places(yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]))

    assert {file.name for file in (ROOT / "docs").glob("*.md")} <= listed


def test_every_link_to_a_file_resolves() -> None:
    broken = []
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")):
        text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            is_elsewhere = "://" in link or link.startswith(("#", "reference/"))  # generated: make docs checks those
            if not is_elsewhere and not (page.parent / link.partition("#")[0]).exists():
                broken.append(f"{page.name}: {link}")

    assert broken == []


def test_no_message_points_to_a_page_that_only_a_checkout_has() -> None:
    pages = []
    for package in ("harness", "judges", "recipes"):
        for file in (ROOT / package).rglob("*.py"):
            tree = ast.parse(file.read_text("utf-8"))
            notes = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            texts = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in notes]
            pages += [f"{file.name}: {node.value!r}" for node in texts]

    assert [page for page in pages if re.search(r"(?<![/.])docs/\w+\.md", page)] == []


def test_files_that_the_makefile_and_the_image_name_exist() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    core = re.search(r"^CORE := (.*?[^\\])\n", makefile, re.DOTALL | re.MULTILINE)
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = re.findall(r"^COPY (\S+) ", (ROOT / "docs/ci/Dockerfile").read_text("utf-8"), re.MULTILINE)

    assert core is not None
    names = core[1].replace("\\", " ").split()
    assert [name for name in names if not (ROOT / f"tests/unit/test_{name}.py").is_file()] == []
    assert set(wheel["only-include"]) <= set(copied)


def test_the_readme_is_one_screen_with_two_commands() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    commands = re.search(r"## Two commands\n\n```sh\n(.*?)```", text, re.DOTALL)

    assert len(text.splitlines()) <= 80
    assert commands is not None
    assert [line.split("  ")[0] for line in commands[1].splitlines()] == ["make demo", "make test"]
    assert "make test" in (ROOT / ".ci/run").read_text("utf-8")
