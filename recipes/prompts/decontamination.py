"""Which prompts hold a benchmark's question: by 13-grams of words, and whole for questions shorter than that."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from harness.errors import ConfigError
from harness.plugins import load_plugin
from harness.protocols import Suite, SuiteOptions

NGRAM = 13
"""Words; Brown et al. 2020 (GPT-3), appendix C: at most 13, and what most have used since (Llama 2, A.6; lm-eval)."""
CHARACTERS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
"""Scripts written without spaces, kana and Han: a character counts as a word."""
WORD = re.compile(rf"[{CHARACTERS}]|[^\W{CHARACTERS}]+")


def words_of(text: str) -> tuple[str, ...]:
    """Lower-case words without punctuation, as GPT-3's appendix C compares."""
    return tuple(WORD.findall(unicodedata.normalize("NFKC", text).casefold()))


@dataclass
class Questions:
    """The questions of suites, for look-up."""

    _ngrams: dict[tuple[str, ...], str] = field(default_factory=dict)
    _short: dict[tuple[str, ...], str] = field(default_factory=dict)

    def add(self, name: str, text: str) -> None:
        words = words_of(text)
        for start in range(len(words) - NGRAM + 1):
            self._ngrams.setdefault(words[start : start + NGRAM], name)
        if 0 < len(words) < NGRAM:
            self._short.setdefault(words, name)

    def found_in(self, text: str) -> str | None:
        """Name of a question that shares an n-gram with the text, or is the text; None: no one."""
        words = words_of(text)
        if words in self._short:
            return self._short[words]
        ngrams = (words[start : start + NGRAM] for start in range(len(words) - NGRAM + 1))
        return next((self._ngrams[ngram] for ngram in ngrams if ngram in self._ngrams), None)


def suite_questions(suites: Sequence[str], edition: str) -> tuple[Questions, dict[str, str]]:
    """(all turns of all prompts of these suites, suite -> version). Raises ConfigError for a suite without prompts of
    its own, DataError where its data are not there."""
    questions = Questions()
    versions: dict[str, str] = {}
    for name in suites:
        plugin = load_plugin("suites", name)
        if not getattr(plugin, "judged", True):
            raise ConfigError(f"decontaminate: suite {name!r} keeps its questions to itself; leave it out")
        suite = plugin(SuiteOptions(edition=edition))
        versions[name] = suite.version
        for prompt_id, turn in _turns(suite):
            questions.add(f"{name}:{prompt_id}", turn)
    return questions, versions


def _turns(suite: Suite) -> Iterable[tuple[str, str]]:
    return ((prompt.id, turn) for prompt in suite.prompts() for turn in prompt.turns)
