"""The worlds of the study: what is asked, what is right, and what the target and its sources believe.

A prompt is LENGTH words; its answer translates each of them. A model *knows* some of the words; where it does not, it
mostly gives the word's misconception, which is the same for everyone. So sources that know more than the target can
teach it, words that nobody knows are a flaw that all share, and the reward of an answer, the share of right
translations, is exact.

>>> world = World.drawn(known_by_sources=0.6, seed=1)
>>> prompts = world.prompts(2, np.random.default_rng(0))
>>> [float(reward) for reward in world.rewards(prompts, world.right_answers(prompts))]
[1.0, 1.0]
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

WORDS, TRANSLATIONS, LENGTH = 64, 10, 8
"""Words of prompts, tokens of answers, and the length of both."""
FIRST_WORD = TRANSLATIONS
START = TRANSLATIONS + WORDS
"""The token after which the answer starts."""
VOCABULARY = START + 1
PROMPT = LENGTH + 1
"""Tokens of a prompt: the words and START."""
SOURCES = 3
KNOWN_BY_TARGET = 0.4
UNKNOWN_TO_ALL = 0.15
"""Share of the words that neither the target nor a source knows."""
KNOWN_RIGHT, KNOWN_WRONG = 0.85, 0.10
"""How often a model translates a word that it knows rightly, and with the misconception; else with any token."""
UNKNOWN_RIGHT, UNKNOWN_WRONG = 0.15, 0.80
"""The same for a word that it does not know. It is right often enough for samples to differ in reward."""
LETTERS = "".join(chr(ord("0") + token) for token in range(VOCABULARY))


@dataclass(frozen=True)
class World:
    """The translations of a world, and which words each model knows: target first, then the sources."""

    right: IntArray
    """(WORDS,): the right translation."""
    misconception: IntArray
    """Like `right`, and different from it for every word."""
    known: BoolArray
    """(1 + SOURCES, WORDS)."""

    @classmethod
    def drawn(cls, *, known_by_sources: float, seed: int) -> World:
        """Draw a world. With one seed, all worlds have the same translations, target and flaw.

        `known_by_sources` is the share of words, in [0, 1], that each source knows, of those that anybody knows. Each
        model knows as many words as its share says, so that worlds differ in which words these are only.
        """
        rng = np.random.default_rng([seed, 0])
        right = rng.integers(0, TRANSLATIONS, WORDS)
        misconception = (right + rng.integers(1, TRANSLATIONS, WORDS)) % TRANSLATIONS
        learnable = rng.permutation(WORDS)[round(UNKNOWN_TO_ALL * WORDS) :]
        known = np.zeros((1 + SOURCES, WORDS), dtype=bool)
        for model, share in enumerate([KNOWN_BY_TARGET, *[known_by_sources] * SOURCES]):
            known[model, rng.permutation(learnable)[: round(share * len(learnable))]] = True
        return cls(right, misconception, known)

    def prompts(self, count: int, rng: np.random.Generator) -> IntArray:
        """Return random prompts, (count, PROMPT)."""
        words = FIRST_WORD + rng.integers(0, WORDS, (count, LENGTH))
        return np.concatenate([words, np.full((count, 1), START)], axis=1)

    def right_answers(self, prompts: IntArray) -> IntArray:
        """Return the answers with reward 1, (prompts, LENGTH)."""
        return self.right[_words(prompts)]

    def rewards(self, prompts: IntArray, answers: IntArray) -> NDArray[np.float64]:
        """Return the share of right translations in each answer, in [0, 1]."""
        shares: NDArray[np.float64] = (answers == self.right_answers(prompts)).mean(axis=1)
        return shares

    def lessons(self, model: int, prompts: IntArray, rng: np.random.Generator) -> IntArray:
        """Return answers as a model (0: target, 1..: sources) believes them, (prompts, LENGTH)."""
        words = _words(prompts)
        known = self.known[model][words]
        luck = rng.random(known.shape)
        by_right = np.where(known, KNOWN_RIGHT, UNKNOWN_RIGHT)
        by_wrong = by_right + np.where(known, KNOWN_WRONG, UNKNOWN_WRONG)
        guesses = rng.integers(0, TRANSLATIONS, known.shape)
        misled = np.where(luck < by_wrong, self.misconception[words], guesses)
        return np.where(luck < by_right, self.right[words], misled)

    def expected_reward(self, model: int) -> float:
        """Return the mean reward of a model that answers exactly as it believes."""
        known = float(self.known[model].mean())
        when_known = KNOWN_RIGHT + (1 - KNOWN_RIGHT - KNOWN_WRONG) / TRANSLATIONS
        when_not = UNKNOWN_RIGHT + (1 - UNKNOWN_RIGHT - UNKNOWN_WRONG) / TRANSLATIONS
        return known * when_known + (1 - known) * when_not


def _words(prompts: IntArray) -> IntArray:
    return prompts[:, :LENGTH] - FIRST_WORD


def text(tokens: IntArray) -> str:
    """Return tokens as a text of one letter per token, as the records of the recipes need it."""
    return "".join(LETTERS[token] for token in tokens)


def tokens(letters: str) -> list[int]:
    """Return the tokens of a `text`."""
    return [LETTERS.index(letter) for letter in letters]
