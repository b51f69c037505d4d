"""Facts: one record per benchmark; no suite's name outside its folder."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields

import pytest

from harness.analysis.differences import difference_span, unpaired
from harness.records import Score, ScoreCard
from harness.records.facts import (
    DefaultCheck,
    Facts,
    FileFormat,
    Metric,
    QuestionRule,
    all_facts,
    facts_of,
    load_function,
    suites_of_all,
)
from harness.records.protocols import installed, load_plugin
from harness.suites.files import ScoreOptions
from tests import ROOT

FOLDERS = {
    "mt_bench": "mt_bench",
    "mt_bench_pairs": "mt_bench",
    "alpaca_eval": "alpaca_eval",
    "arena_hard": "arena_hard",
    "arena_hard_v2": "arena_hard",
    "lm_eval": "lm_eval",
    "custom": "custom",
    "healthbench": "healthbench",
    "healthbench_hard": "healthbench",
    "m_arena_hard": "arena_hard",
}
"""Suite -> its folder in harness/suites."""
JUDGE_KIND = {
    "harness/cli/run.py",
    "harness/records/judge_choice.py",
    "harness/judging/jury.py",
    "judges/completions.py",
    "judges/evaluators.py",
    "judges/llm.py",
    "judges/parsing.py",
}
"""Here "alpaca_eval" is the kind of judge that uses an evaluator of that package, not the suite."""
POCKET = "harness/suites/pocket/"
"""The pocket edition: the data of three suites, made together."""
NAME = re.compile(rf"(?<![\w-])({'|'.join(sorted(FOLDERS, key=len, reverse=True))})(?![\w-])")
TITLES = {
    "MT-Bench": "mt_bench",
    "FastChat": "mt_bench",
    "AlpacaEval": "alpaca_eval",
    "Arena-Hard": "arena_hard",
    "ArenaHard": "arena_hard",
    "HealthBench": "healthbench",
    "lm-eval": "lm_eval",
    "lm-evaluation-harness": "lm_eval",
}
"""The benchmarks and their original tools, as readers know them -> their folder in harness/suites."""
TITLE = re.compile("|".join(sorted(TITLES, key=len, reverse=True)))
TITLES_ALLOWED = {
    ("judges/completions.py", "AlpacaEval"),  # the error about a judge of the kind `alpaca_eval:NAME`
}
"""(file, title): where a text has to name a benchmark outside its folder."""


def is_command(node: ast.AST) -> bool:
    """Whether a function's docstring is the help text of a command."""
    if not isinstance(node, ast.FunctionDef):
        return False
    return any("command" in ast.unparse(decorator) for decorator in node.decorator_list)


def strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every string constant, and every command's help text, except examples of commands and other docstrings."""
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and is_command(node):
            yield node.lineno, re.split(r"\bExamples?:", ast.get_docstring(node) or "")[0]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or id(node) in documentation:
            continue
        if isinstance(node.value, str) and not node.value.startswith("Example"):
            yield node.lineno, node.value


@pytest.mark.slow
def test_no_suites_name_appears_outside_its_folder() -> None:
    offences = []
    for path in sorted(file for room in ("harness", "judges", "recipes") for file in (ROOT / room).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for line, text in strings(ast.parse(path.read_text("utf-8"))):
            for name in NAME.findall(text):
                at_home = place.startswith((f"harness/suites/{FOLDERS[name]}/", POCKET))
                if not at_home and not (name == "alpaca_eval" and place in JUDGE_KIND):
                    offences.append(f"{place}:{line} {text[:60]!r}")

    assert offences == []


@pytest.mark.slow
def test_no_text_names_a_benchmark_outside_its_folder() -> None:
    """A plug-in's suite is read, scored and exported too, so that a text with three titles would be wrong."""
    offences = []
    for path in sorted(file for room in ("harness", "judges", "recipes") for file in (ROOT / room).rglob("*.py")):
        place = path.relative_to(ROOT).as_posix()
        for line, text in strings(ast.parse(path.read_text("utf-8"))):
            for title in TITLE.findall(text):
                at_home = place.startswith((f"harness/suites/{TITLES[title]}/", POCKET))
                if not at_home and (place, title) not in TITLES_ALLOWED:
                    offences.append(f"{place}:{line} {text[:60]!r}")

    assert offences == []


def test_every_suite_of_ours_has_facts_in_its_folder() -> None:
    assert set(FOLDERS) == set(installed("facts")) == set(installed("suites"))
    for name, point in installed("facts").items():
        assert point.module == f"harness.suites.{FOLDERS[name]}.facts"
    assert suites_of_all() == ("mt_bench", "alpaca_eval", "arena_hard")


@pytest.mark.parametrize("facts", all_facts(), ids=lambda facts: facts.name)
def test_every_function_that_facts_name_exists(facts: Facts) -> None:
    paths = [recorded.load for recorded in facts.recorded] + [facts.build_for_rows]
    for file_format in facts.formats:
        paths += [
            file_format.score,
            file_format.read,
            file_format.judged,
            file_format.numbers,
            file_format.export,
        ]

    assert all(callable(load_function(path)) for path in paths if path)


@pytest.mark.parametrize("suite", ["mt_bench", "alpaca_eval", "arena_hard"])
def test_facts_state_what_the_suite_itself_says(suite: str) -> None:
    from harness.records.protocols import SuiteOptions

    built, facts = load_plugin("suites", suite)(SuiteOptions(edition="pocket")), facts_of(suite)
    prompt = built.prompts()[0]

    assert (built.name, built.headline) == (facts.name, facts.headline)
    assert built.official_judges == facts.official_judges
    assert len(prompt.turns) == facts.turns


def test_a_suite_without_facts_gets_defaults() -> None:
    facts = facts_of("unknown:argument")

    assert (facts.name, facts.rules, facts.columns, facts.gate, facts.neutral) == ("unknown", (), (), (), 50.0)
    assert [facts.metric(name).decimals for name in ("mean", "n_won", "avg_length")] == [2, 0, 0]
    assert facts.format("fastchat") is None


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"columns": ("loud",)}, r"name metrics that are not in `metrics`: \['loud'\]"),
        ({"rules": (QuestionRule("other", 1.0),)}, "other"),
        ({"gate": (DefaultCheck(1.0, metric="third"),)}, "third"),
        ({"metrics": (Metric("mean", higher_is_better=False),)}, "more must be better"),
    ],
)
def test_facts_that_contradict_themselves_are_rejected(part: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Facts("shout", headline="mean", **part)  # type: ignore[arg-type]  # one wrong field at a time


def test_flags_of_a_format_are_options_of_harness_score() -> None:
    stated = {flag for facts in all_facts() for file_format in facts.formats for flag in file_format.score_flags}

    assert stated <= {option.name for option in fields(ScoreOptions)}


def test_a_format_is_found_by_name() -> None:
    files = FileFormat("shouts", export="shout.files:export")

    assert Facts("shout", headline="mean", formats=(files,)).format("shouts") is files


def test_shares_of_one_have_four_decimals_in_tables_and_differences() -> None:
    def card(value: float) -> ScoreCard:
        return ScoreCard.model_construct(scores={"acc": Score(value=value, se=0.01, n=50, unscored=0)})

    row, of_percent = unpaired(card(0.61), card(0.64), "acc"), unpaired(card(61.0), card(64.0), "acc")
    assert row is not None
    assert of_percent is not None
    assert difference_span(row) == "+0.0300 [+0.0023, +0.0577]"  # 1.96 * sqrt(2) * 0.01
    assert difference_span(of_percent).startswith("+3.00 [")
    assert facts_of("lm_eval:gsm8k").metric("exact_match,none").decimals == 4
