"""Rate an answer against a gold answer by fixed rules, and reply in an LLM judge's format.

>>> rate("Paris", "Paris"), rate("It is Paris.", "Paris"), rate("", "Paris")
(10.0, 7.0, 1.0)

1. Leading and trailing spaces are dropped, runs of spaces become one, and one final full stop is dropped if the gold
   answer has none. If the result equals the gold answer, letter case included, the rating is 10.
2. An empty answer gets 1.
3. An answer that contains the gold answer as a separate word, with other text around it, gets 7, minus one per 20
   characters of other text, but at least 2.
4. Any other answer gets 1 + 4 s, rounded down to a half, where s in [0, 1] is the similarity of the two texts
   (difflib's ratio: twice the matching characters divided by the characters of both). The maximum is 5.

The template's parser decides what the reply looks like, and the parser that reads an LLM judge's reply reads this one
too. rating: `[[n]]`, the rating of the judged turn. arena_label: `[[A=B]]` for equal ratings, `>` for a difference
under 4, `>>` from 4 up. letter_logprob: log-probabilities of m and M; the odds of the better answer are
exp(difference / 2). A prompt without a gold answer is not judged (docs/pocket.md).
"""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import dataclass

from harness.records import Answer, Failure, JudgeSpec, JudgeTask, Judgment, TokenLogprob
from harness.records.errors import ConfigError
from harness.records.protocols import NothingToOpen

from .parsing import read_verdict

BEST, WORST = 10.0, 1.0

MUCH_BETTER = 4.0
"""Smallest difference of ratings that counts as "significantly better"."""


def rate(answer: str, gold: str) -> float:
    """Return the rating of an answer, 1..10, by the rules above."""
    text, expected = _tidy(answer, gold), " ".join(gold.split())
    if text == expected:
        return BEST
    if not text or not expected:
        return WORST
    if re.search(rf"(?<!\w){re.escape(expected)}(?!\w)", text):
        return float(max(2, 7 - (len(text) - len(expected)) // 20))
    # autojunk would ignore frequent characters in texts of 200 characters or more
    similarity = difflib.SequenceMatcher(None, text[:2000], expected, autojunk=False).ratio()
    return 1 + math.floor(2 * 4 * similarity) / 2


def _tidy(answer: str, gold: str) -> str:
    text = " ".join(answer.split())
    return text[:-1].rstrip() if text.endswith(".") and not gold.rstrip().endswith(".") else text


@dataclass(frozen=True)
class RuleReply:
    """The judge's reply, in the format of an LLM's reply."""

    text: str
    logprobs: tuple[TokenLogprob, ...] = ()


class ReferenceJudge(NothingToOpen):
    """Rule-based judge for prompts with gold answers, with the same interface as any other judge."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec

    def check(self, task: JudgeTask) -> None:
        """Raise ConfigError if this judge has no reply for the template's parser."""
        if task.template.parser not in REPLIES:
            parsers = ", ".join(REPLIES)
            raise ConfigError(
                f"the reference judge does not support parser {task.template.parser!r}; supported: {parsers}"
            )

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the judgment of one task, with an error in it if there is nothing to compare.

        Raise ConfigError if this judge has no reply for the template's parser.
        """
        self.check(task)
        failure = _failure_of(task)
        if failure is not None:
            return Judgment.of(task, self.spec.name, failure)
        reply = REPLIES[task.template.parser](task)
        # read like an LLM judge's reply, so that a demonstration exercises the real parsers
        verdict = read_verdict(task.template.parser, reply.text, reply.logprobs, task.order)
        return Judgment.of(task, self.spec.name, verdict, reply=reply.text, logprobs=reply.logprobs)


def rating_reply(task: JudgeTask) -> RuleReply:
    """Return a reply with the rating of the candidate's judged turn."""
    return RuleReply(f"Compared with the gold answer by rule. Rating: [[{_rating(task, task.answer):g}]]")


def label_reply(task: JudgeTask) -> RuleReply:
    """Return a reply with an Arena-Hard label for the difference of the two ratings."""
    first, second = _ratings_as_shown(task)
    sign = ">>" if abs(first - second) >= MUCH_BETTER else ">" if first != second else "="
    label = f"B{sign}A" if second > first else f"A{sign}B"
    # recorded judgments contain this text, so its word for a rating stays
    return RuleReply(f"Marks by rule: A {first:g}, B {second:g}. My final verdict is: [[{label}]]")


def letter_reply(task: JudgeTask) -> RuleReply:
    """Return a reply with log-probabilities of m and M whose odds follow the difference of the two ratings."""
    first, second = _ratings_as_shown(task)
    lead = (first - second) / 2
    tops = (TokenLogprob(token="m", logprob=_log_sigmoid(lead)), TokenLogprob(token="M", logprob=_log_sigmoid(-lead)))
    likeliest_first = tops if first >= second else tops[::-1]
    return RuleReply(likeliest_first[0].token, likeliest_first)


REPLIES = {"rating": rating_reply, "arena_label": label_reply, "letter_logprob": letter_reply}
"""Maps a template's parser to a function that writes a reply for it."""


def _failure_of(task: JudgeTask) -> Failure | None:
    turn = task.turn or 1
    if len(task.prompt.reference) < turn:
        return Failure(
            reason="other",
            message=f"prompt {task.prompt.id!r} has no gold answer for turn {turn}; the reference judge needs one",
        )
    if task.answer.error is not None or len(task.answer.turns) < turn:
        return Failure(reason="answer", message=f"the answer to prompt {task.prompt.id!r} has no turn {turn}")
    if task.template.parser != "rating" and (task.baseline is None or len(task.baseline.turns) < turn):
        return Failure(reason="answer", message=f"the baseline has no answer to prompt {task.prompt.id!r}")
    return None


def _rating(task: JudgeTask, answer: Answer) -> float:
    """Return the rating of the judged turn (1-based; the first if the whole answer is judged)."""
    turn = (task.turn or 1) - 1
    return rate(answer.turns[turn], task.prompt.reference[turn])


def _ratings_as_shown(task: JudgeTask) -> tuple[float, float]:
    assert task.baseline is not None, "checked before"
    candidate, baseline = _rating(task, task.answer), _rating(task, task.baseline)
    return (candidate, baseline) if task.order == "ba" else (baseline, candidate)


def _log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))
