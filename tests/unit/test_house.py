"""The house rules of CONTRIBUTING: no import cycle, few rooms, unique class names, names that say what they hold."""

from __future__ import annotations

import ast
import functools
import graphlib
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("harness", "judges", "recipes")
VAGUE = frozenset(
    word
    for line in (
        "found one ones made said told asked given its some own other others place places thing things theirs mine",
        "this that these those what which there here it something whatever",
    )
    for word in line.split()
)
# Words of no dialect but this project's old one; each with what to write instead.
BANNED = {
    r"\bgo(es)? on\b": "resume, continue",
    r"\bbegins? anew\b": "start over",
    r"\bmend(s|ed|ing)?\b": "fix",
    r"\bput(s|ting)? up with\b": "tolerate",
    r"\breckon(s|ed|ing)?\b": "count, estimate",
    r"\bat hand\b": "available, in the cache",
    r"\bset(s|ting)? aside\b": "archive, keep out",
    r"\bwhose day has come\b": "shut down",
    r"(?<!there )\bis no (calibration|harness|yaml|card|run|checkpoint|recipe|policy|suite|judge|number)\b": "is not a",
    r"\bone (table|file|row|card|line|judge|figure|module|folder|entry) an? \w": "one ... per ...",
}


@functools.cache
def sources() -> list[tuple[Path, ast.Module]]:
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text("utf-8")))
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
    ]


def test_no_module_imports_itself_through_others() -> None:
    """Deferred imports count; a package's __init__ is a module of its own."""
    graph = grimp.build_graph(*PACKAGES, include_external_packages=False)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names a cycle


def test_harness_has_at_most_twelve_rooms_and_no_loose_module() -> None:
    rooms = [path.name for path in (ROOT / "harness").iterdir() if (path / "__init__.py").exists()]
    loose = [path.name for path in (ROOT / "harness").glob("*.py") if path.name not in ("__init__.py", "__main__.py")]
    assert len(rooms) <= 12
    assert loose == []


def test_harness_has_at_most_eight_import_layers() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["importlinter"]["contracts"]
    (layers,) = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    assert len(layers) <= 8


def test_files_are_chapters_and_functions_fit_on_a_screen() -> None:
    faults = []
    for path, tree in sources():
        lines = max((node.end_lineno or 0 for node in tree.body), default=0)
        faults += [f"{path}: {lines} lines"] if lines > 700 else []
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or 0) - node.lineno + 1
                names = [arg.arg for arg in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                count = len([name for name in names if name not in ("self", "cls")])
                faults += [f"{path}:{node.lineno}: {node.name} has {lines} lines"] if lines > 60 else []
                faults += [f"{path}:{node.lineno}: {node.name} has {count} parameters"] if count > 6 else []
    assert faults == []


def test_class_names_are_unique() -> None:
    names = Counter(node.name for _, tree in sources() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    assert [name for name, times in names.items() if times > 1] == []


def bound_names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that is assigned, looped over, a function's, a parameter or an exception's, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr.lstrip("_"), node.lineno
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name.lstrip("_"), node.lineno
        elif isinstance(node, ast.ExceptHandler | ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno


def test_local_names_say_what_they_hold() -> None:
    names = [(path, name, line) for path, tree in sources() for name, line in bound_names(tree)]
    vague = [f"{path}:{line}: {name}" for path, name, line in names if name in VAGUE]
    assert len(vague) <= 0.006 * len(names), "\n".join(vague)


@functools.cache
def prose() -> list[tuple[str, str]]:
    return list(sentences())


def sentences() -> Iterator[tuple[str, str]]:
    """What users read: the pages of docs, README, and every string of the product (docstrings, help, errors)."""
    for path in [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "CHANGELOG.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]:
        yield str(path.relative_to(ROOT)), path.read_text("utf-8")
    for path, tree in sources():
        if path.name == "edition.py":  # its prompts for judges are part of the protocol
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
                yield f"{path}:{node.lineno}", node.value


@pytest.mark.parametrize("pattern", BANNED)
def test_plain_words(pattern: str) -> None:
    hits = [
        f"{where}: ...{match[0]}..." for where, text in prose() for match in re.finditer(pattern, text, re.IGNORECASE)
    ]
    assert hits == [], f"write instead: {BANNED[pattern]}\n" + "\n".join(hits)
