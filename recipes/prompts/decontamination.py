"""Find prompts that contain a benchmark's question, by 13-grams of words, or as a whole for shorter questions."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import ConfigError
from harness.plugins import load_plugin
from harness.protocols import Suite, SuiteOptions

NGRAM = 13
"""Words per n-gram. Brown et al. 2020 (GPT-3), appendix C, use at most 13, as do Llama 2 (A.6) and lm-eval."""
CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Kana and Han are written without spaces, so each character counts as a word."""
WORD = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+")


def words_of(text: str) -> tuple[str, ...]:
    """Return lower-case words without punctuation, as in GPT-3's appendix C."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


@dataclass
class Questions:
    """An index of the questions of suites."""

    _ngrams: dict[tuple[str, ...], str] = field(default_factory=dict)
    _short: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        words = words_of(text)
        for start in range(len(words) - NGRAM + 1):
            self._ngrams.setdefault(words[start : start + NGRAM], name)
        if 0 < len(words) < NGRAM:
            self._short.setdefault(words, name)

    def lookup(self, text: str) -> str | None:
        """Return the name of a question that shares an n-gram with the text or equals it, or None."""
        words = words_of(text)
        if words in self._short:
            return self._short[words]
        ngrams = (words[start : start + NGRAM] for start in range(len(words) - NGRAM + 1))
        return next((self._ngrams[ngram] for ngram in ngrams if ngram in self._ngrams), None)


def suite_questions(suites: Sequence[str], edition: str) -> tuple[Questions, dict[str, str]]:
    """Return all turns of all prompts of these suites, and the version of each suite.

    Raises ConfigError if a suite does not expose its prompts, DataError if its data are missing.
    """
    questions = Questions()
    versions: dict[str, str] = {}
    for name in suites:
        plugin = load_plugin("suites", name)
        if not getattr(plugin, "judged", True):
            raise ConfigError(f"decontaminate: suite {name!r} does not expose its questions; leave it out")
        suite = plugin(SuiteOptions(edition=edition))
        versions[name] = suite.version
        for prompt_id, turn in _turns(suite):
            questions.add(f"{name}:{prompt_id}", turn)
    return questions, versions


def _turns(suite: Suite) -> Iterable[tuple[str, str]]:
    return ((prompt.id, turn) for prompt in suite.prompts() for turn in prompt.turns)
