"""Read a judge's reply: one pure function per verdict grammar, each failing closed.

>>> read_verdict("arena_label", "Both are fine, A is shorter. [[A>B]]", (), order="ba").value  # the candidate is A
1.0
>>> read_verdict("rating", "Clear and complete. Rating: [[8]]", (), order=None).value
8.0

A parser sees the answers in the order the judge saw them: its preference is the probability that the answer *shown
first* wins, and `read_verdict` turns that into the candidate's. Nothing here repairs a reply: anything that is not a
verdict is an error. Replies are as hostile as answers, so every pattern takes linear time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import partial

from harness.judging.injection import unmasked
from harness.records import JudgeTask, Order, Preference, Rating, TokenLogprob, Verdict
from harness.records.errors import ConfigError, VerdictParseError
from harness.suites.alpaca_eval.rows import share_of
from harness.suites.arena_hard.rows import DOUBLE, SINGLE, V01_LABELS, V2_LABELS, v01_labels, v2_label
from harness.suites.custom import definition as grammar
from harness.suites.mt_bench.rows import HIGHEST, LETTERS, LOWEST, RATING

from .completions import PREFIX, read_completion, verdict_tokens

Parser = Callable[[str, tuple[TokenLogprob, ...]], Verdict]


def read_verdict(parser: str, reply: str, logprobs: tuple[TokenLogprob, ...], order: Order | None) -> Verdict:
    """Return the verdict in a reply by the original tool's rule: the first rating, the last label of v2.0, the only
    label.

    A preference is the probability that the candidate wins. `order` says which answer was shown first: "ab" the
    baseline (so A and m are the baseline), "ba" the candidate.

    Raise VerdictParseError if there is no verdict, ConfigError if the parser is unknown or a preference has no order.
    """
    if parser.startswith(PREFIX):
        shown: Verdict = read_completion(parser, reply, logprobs)
    elif parser.startswith(grammar.PREFIXES):
        shown = grammar.read(parser, reply)
    elif parser in PARSERS:
        shown = PARSERS[parser](reply, logprobs)
    else:
        raise ConfigError(f"no verdict parser named {parser!r}; known: {', '.join(sorted(PARSERS))}")
    if isinstance(shown, Rating):
        return shown
    if order is None:
        raise ConfigError(f"parser {parser!r} gives a preference, but the task does not say which answer came first")
    return shown if order == "ba" else shown.model_copy(update={"value": 1.0 - shown.value})


def read_reply(task: JudgeTask, reply: str, logprobs: tuple[TokenLogprob, ...], *, cut: bool = False) -> Verdict:
    """Return the verdict on a task, as `read_verdict` does, but only from a mark that cannot be a quotation.

    `cut` says whether the token limit cut the reply. Raise VerdictParseError with the reason "conflict" for different
    marks in one reply, as no first-or-last rule can tell which one is the verdict, and for a mark that an answer has
    too or that only quotes the instructions' example; with "truncated" if the only mark stands in quotation marks of a
    cut reply. With `task.strict`, the original tool's rule holds.
    """
    parser = task.template.parser
    verdict = read_verdict(parser, reply, logprobs, task.order)
    marks_in = partial(grammar.marks, parser) if parser.startswith(grammar.PREFIXES) else MARKS.get(parser)
    if task.strict or marks_in is None:
        return verdict
    marks = marks_in(reply)
    if len(marks) > 1 and not (isinstance(verdict, Rating) and verdict.items):  # a rubric has one mark per item
        raise VerdictParseError(f"different marks in one reply: {_listed(marks)}", reason="conflict")
    shown = [
        text for record in (task.answer, task.baseline) if record is not None for text in record.turns[: task.turn]
    ]
    if any(marks & marks_in(unmasked(text).upper()) for text in shown):
        raise VerdictParseError(f"{_listed(marks)} is in an answer too, so it may be a quotation", reason="conflict")
    instructions = f"{task.template.system or ''}\n{task.template.user}"
    # instructions that show several marks make an echo of them a conflict already
    if len(marks_in(instructions)) == 1 and not marks_in(_without_examples(reply, instructions)):
        raise VerdictParseError(f"{_listed(marks)} only quotes the instructions", reason="conflict")
    if cut and not marks_in(QUOTED.sub(" ", reply)):
        raise VerdictParseError(f"the reply is cut, and only quotes {_listed(marks)}", reason="truncated")
    return verdict


QUOTED = re.compile(r'"[^"\n]*(?:"|$)|“[^”\n]*(?:”|$)|„[^“”\n]*(?:[“”]|$)|«[^»\n]*(?:»|$)|`[^`\n]*(?:`|$)|^>.*$', re.M)
"""Quotations of at most a line: in quotation marks or back-ticks, closed or not, and quoted lines of Markdown."""


EXAMPLE = re.compile(r".{16}\[\[[^\[\]\n]+\]\]", re.S)
"""A mark and the 16 characters before it, such as `example: "Rating: `, which no published reply has."""


def _without_examples(reply: str, instructions: str) -> str:
    """Return the reply without the marks that it quotes from the instructions."""
    for example in EXAMPLE.findall(instructions):
        reply = reply.replace(example, " ")
    return reply


def _listed(marks: set[str]) -> str:
    return ", ".join(f"[[{mark[:20]}]]" for mark in sorted(marks)[:5])


def rating(reply: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Rating:
    """Return the first `[[n]]`, 1..10. The reference's fallback `[n]` is not used, because it also matches `arr[0]`."""
    match = RATING.search(reply)
    if match is None:
        raise VerdictParseError(f"no [[rating]] in the judge's reply: {_tail(reply)}", reaskable=True)
    value = float(match[1])
    if not LOWEST <= value <= HIGHEST:
        raise VerdictParseError(f"rating {match[1][:20]} is outside {LOWEST:g}..{HIGHEST:g}")
    return Rating(value=value)


def arena_label(reply: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Preference:
    """Return the only label in a reply (Arena-Hard v0.1). Repeats are fine, but two different labels are a conflict."""
    labels = v01_labels(reply)
    if not labels:
        raise VerdictParseError(f"no verdict label in the judge's reply: {_tail(reply)}", reaskable=True)
    if len(labels) > 1:
        raise VerdictParseError(f"different verdict labels in one reply: {_listed(set(labels))}", reason="conflict")
    return _labelled(labels[0], V01_LABELS)


def arena_label_v2(reply: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Preference:
    """Return the last label in a reply (Arena-Hard v2.0), in any letter case, in double or else single brackets."""
    label = v2_label(reply)
    if label is None:
        raise VerdictParseError(f"no verdict label in the judge's reply: {_tail(reply)}", reaskable=True)
    return _labelled(label, V2_LABELS)


def _labelled(label: str, labels: Mapping[str, tuple[float, int]]) -> Preference:
    if label not in labels:
        raise VerdictParseError(f"label {_listed({label})} is not one of {', '.join(labels)}")
    points, strength = labels[label]
    return Preference(value=points, strength=strength)


def pair_letter(reply: str, logprobs: tuple[TokenLogprob, ...] = ()) -> Preference:
    """Return which of [[A]], [[B]] and [[C]] (a tie) a reply contains, MT-Bench's pairwise form.

    FastChat common.py run_judge_pair takes the first of the three, in this order, that appears anywhere; here two of
    them are a conflict.
    """
    letters = [letter for letter in LETTERS if f"[[{letter}]]" in reply]
    if not letters:
        raise VerdictParseError(f"no [[A]], [[B]] or [[C]] in the judge's reply: {_tail(reply)}", reaskable=True)
    if len(letters) > 1:
        raise VerdictParseError(f"different verdicts in one reply: {_listed(set(letters))}", reason="conflict")
    return Preference(value=LETTERS[letters[0]])


def letter_logprob(reply: str, logprobs: tuple[TokenLogprob, ...]) -> Preference:
    """Return p(m) / (p(m) + p(M)) from the first token's top log-probabilities; a missing token counts as 0.

    Same as alpaca_eval completion_parsers.logprob_parser with numerator "m" and denominators "m" and "M", where the
    judge answers with one of them; `verdict_tokens` says what counts as them.
    """
    value = share_of("m", verdict_tokens(logprobs, ("m", "M")), ("m", "M"))
    assert value is not None, "verdict_tokens returns likely tokens only"
    return Preference(value=value)


def _tail(reply: str) -> str:
    return repr(reply[-80:]) if reply.strip() else "it is empty"


MARKS: dict[str, Callable[[str], set[str]]] = {
    "rating": lambda text: {f"{float(mark):g}" for mark in RATING.findall(text)},
    "arena_label": lambda text: set(DOUBLE.findall(text)),
    "arena_label_v2": lambda text: set(DOUBLE.findall(text.upper())) or set(SINGLE.findall(text.upper())),
    "pair_letter": lambda text: {letter for letter in LETTERS if f"[[{letter}]]" in text},
}
"""Maps each parser of marks to a function that returns the different ones in a text."""

PARSERS: dict[str, Parser] = {
    "rating": rating,
    "arena_label": arena_label,
    "arena_label_v2": arena_label_v2,
    "letter_logprob": letter_logprob,
    "pair_letter": pair_letter,
}
