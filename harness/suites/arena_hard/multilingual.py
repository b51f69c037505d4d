"""m-ArenaHard: Arena-Hard v0.1's 500 prompts translated into 22 languages, and English; against a baseline of yours.

>>> languages_of("de"), len(languages_of(""))
(('de',), 23)

`m_arena_hard:LANG` is one language, `m_arena_hard` all of them, with the translations of one prompt as a cluster. The
data set has neither baseline answers nor a judge's prompt: `--baseline` names the first, and the second is v0.1's.
Source: CohereLabs/m-ArenaHard at the pinned revision (Dang et al. 2024, arXiv 2412.04261).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pydantic import JsonValue

from ...records import Prompt
from ...records.errors import ConfigError, DataError
from ...records.protocols import SuiteData, SuiteOptions
from ...store.provenance import install_command
from ..editions import official_files, pinned
from .facts import LANGUAGES, MULTILINGUAL
from .suite import VERSION_01, ArenaHard, ArenaVersion, read_v01_template

RULES = ArenaVersion(facts=MULTILINGUAL, fields=VERSION_01.fields, interval=VERSION_01.interval)
COLUMNS = ("question_id", "cluster", "category", "prompt")


def languages_of(argument: str) -> tuple[str, ...]:
    """Return the languages of a suite's argument; raise ConfigError for one that the data set lacks."""
    if not argument:
        return LANGUAGES
    if argument not in LANGUAGES:
        raise ConfigError(f"m_arena_hard has no language {argument!r}; languages: {', '.join(LANGUAGES)}")
    return (argument,)


def build(options: SuiteOptions) -> MultilingualArenaHard:
    """Build the suite (`fusion_harness.suites` entry point).

    Raise DataError without data, ConfigError for an unknown language or edition.
    """
    if options.edition != "official":
        raise ConfigError(f"{MULTILINGUAL.name} has no edition {options.edition!r}; editions: official")
    languages = languages_of(options.argument)
    names = [f"{MULTILINGUAL.name}/{language}" for language in languages]
    paths = official_files(options, [*names, "arena_hard/judge_config"])
    template = read_v01_template(paths["arena_hard/judge_config"])
    prompts = tuple(
        prompt
        for language, name in zip(languages, names, strict=True)
        for prompt in read_language(paths[name], language, is_alone=len(languages) == 1)
    )
    files = pinned([*names, "arena_hard/judge_config"], options.cache_dir)
    data = SuiteData(version="official-1", prompts=prompts, templates={template.name: template}, files=files)
    return MultilingualArenaHard(data, options.argument)


class MultilingualArenaHard(ArenaHard):
    """The suite. Categories are languages, or of a single one the data set's own."""

    takes_baseline = True

    def __init__(self, data: SuiteData, argument: str = "") -> None:
        super().__init__(data, RULES)
        self.name = f"{MULTILINGUAL.name}:{argument}" if argument else MULTILINGUAL.name

    @property
    def needs_baseline(self) -> bool:
        return not self._data.baseline

    @property
    def clusters(self) -> dict[str, str]:
        """Return prompt id -> its question, which it shares with its translations."""
        return {prompt.id: prompt.cluster for prompt in self.prompts() if prompt.cluster is not None}

    def protocol(self) -> dict[str, JsonValue]:
        return {**super().protocol(), "judge_prompt": "Arena-Hard v0.1's, in English"}


def read_language(path: Path, language: str, *, is_alone: bool) -> Iterator[Prompt]:
    """Yield the prompts of one language; of several, ids begin with the language.

    Raise DataError for another file, or without pyarrow.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import read_table
    except ImportError:
        raise DataError(f"m-ArenaHard's files are Parquet, which needs pyarrow: {install_command('parquet')}") from None
    try:
        rows = read_table(path, columns=list(COLUMNS)).to_pylist()
    except (ArrowException, OSError, KeyError) as error:
        raise DataError(f"{path} is not a file of m-ArenaHard: {error}") from None
    for row in rows:
        question = str(row["question_id"])
        yield Prompt(
            id=question if is_alone else f"{language}/{question}",
            turns=(str(row["prompt"]),),
            category=str(row["category"]) if is_alone else language,
            cluster=str(row["cluster"]) if is_alone else question,
        )
