"""MT-Bench's official data: questions, reference answers and judge prompts of the pinned files.

Source: FastChat llm_judge at the pinned revision (common.py, gen_judgment.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError, DataError
from ..official import FILES, sha256_of
from ..protocols import SuiteData, SuiteOptions
from ..records import JudgeTemplate, Prompt
from .editions import official_files, pinned, read_json_lines

REFERENCED = frozenset({"math", "reasoning", "coding"})  # common.py NEED_REF_CATS; the judge sees a reference answer
JUDGE_MAX_TOKENS = 2048  # common.py run_judge_single
TEMPLATES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
REFERENCE_SETS = ("official", "pr3158")


def load_official(options: SuiteOptions) -> SuiteData:
    """Load the pinned questions and judge prompts, and the requested reference answers."""
    names = ["mt_bench/questions", "mt_bench/judge_prompts"]
    paths = official_files(options, names)
    files = pinned(names)
    reference_file = _reference_file(options)
    if options.references in REFERENCE_SETS:
        files |= pinned([f"mt_bench/references/{options.references}"])
    else:
        files["mt_bench/references/file"] = sha256_of(reference_file)
    references = _read_references(reference_file)
    prompts = tuple(
        Prompt(
            id=str(row["question_id"]),
            turns=tuple(row["turns"]),
            category=row["category"],
            # The file's own `reference` field is never shown to the judge (spec 1.1).
            reference=_reference_of(row["question_id"], row["category"], references, reference_file),
        )
        for row in read_json_lines(paths["mt_bench/questions"])
    )
    templates = read_templates(paths["mt_bench/judge_prompts"], TEMPLATES, "rating")
    return SuiteData(version="official-1", prompts=prompts, templates=templates, files=files)


def _reference_file(options: SuiteOptions) -> Path:
    name = f"mt_bench/references/{options.references}"
    if name in FILES:
        return official_files(options, [name])[name]
    path = Path(options.references)
    if path.is_file():
        return path
    raise ConfigError(
        f"no reference set or file named {options.references!r}; reference sets: {', '.join(REFERENCE_SETS)}"
    )


def _read_references(path: Path) -> dict[int, tuple[str, ...]]:
    """Return question id -> reference answers, one per turn, from a file in FastChat's answer format."""
    try:
        return {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in read_json_lines(path)}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is not in FastChat's answer format: {error!r}") from None


def _reference_of(question: int, category: str, references: dict[int, tuple[str, ...]], path: Path) -> tuple[str, ...]:
    if category not in REFERENCED:
        return ()
    if len(references.get(question, ())) < 2:
        raise DataError(f"{path} has no reference answer of two turns for question {question} ({category})")
    return references[question]


def read_templates(path: Path, names: Sequence[str], parser: str) -> dict[str, JudgeTemplate]:
    """Return the named judge prompts of the pinned file, with the reference's request parameters."""
    rows = {row["name"]: row for row in read_json_lines(path)}
    return {
        name: JudgeTemplate(
            name=name,
            system=rows[name]["system_prompt"],
            user=rows[name]["prompt_template"],
            parser=parser,
            temperature=0.0,
            max_tokens=JUDGE_MAX_TOKENS,
            extra={"n": 1},  # common.py chat_completion_openai
        )
        for name in names
    }
