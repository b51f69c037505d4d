"""Write the pocket edition's judge prompts: names, slots and parsers as official, with text of our own.

The reference judge uses the parser only; an LLM judge reads the whole prompt.
"""

from __future__ import annotations

from harness.records import JudgeTemplate

RATE = (
    "You check the work of a very small model. Its task has exactly one right answer. Give 10 only if the answer is "
    "exactly right, letter case and punctuation included; less for text around the right answer; much less for a wrong "
    "answer, the less the further it is from the right one. Explain yourself in one or two sentences. Then end with "
    "your mark from 1 to 10 between double square brackets, for example: Mark: [[4]]"
)
RATE_SECOND = RATE + "\n\nYou are shown a talk of two turns. Mark the answer to the second question only."

SINGLE = "[Task]\n{question}\n\n[Answer of the model]\n{answer}\n[End of the answer]"
SINGLE_GOLD = (
    "[Task]\n{question}\n\n[Right answer]\n{ref_answer_1}\n\n[Answer of the model]\n{answer}\n[End of the answer]"
)
TALK = (
    "[First question]\n{question_1}\n\n[First answer of the model]\n{answer_1}\n\n"
    "[Second question]\n{question_2}\n\n[Second answer of the model]\n{answer_2}\n[End of the talk]"
)
TALK_GOLD = (
    "[Right answers]\nfirst: {ref_answer_1}\nsecond: {ref_answer_2}\n\n" + TALK  # the right answers before the model's
)

CHOOSE = (
    "Two models did the same task. Say which did it better: the right answer and nothing else is best, the right "
    "answer with other text next, a wrong answer worse.\n\n"
    "Task:\n{instruction}\n\nAnswer m:\n{output_1}\n\nAnswer M:\n{output_2}\n\n"
    "Reply with one letter, m or M, and nothing else. Which answer is better?"
)

COMPARE = (
    "You compare two assistants on one small task with exactly one right answer. First do the task yourself. Then "
    "compare both answers with yours: the right answer alone is best, with other text around it less good, a wrong one "
    "worse. End with exactly one of these labels:\n"
    "[[A>>B]] A is much better\n[[A>B]] A is a little better\n[[A=B]] they are equally good\n"
    "[[B>A]] B is a little better\n[[B>>A]] B is much better\n"
    "Write for example: My final verdict is: [[A=B]]"
)
COMPARED = (
    "<|Task|>\n{question_1}\n\n<|Answer of assistant A|>\n{answer_1}\n<|End of A|>\n\n"
    "<|Answer of assistant B|>\n{answer_2}\n<|End of B|>"
)


def mt_bench_templates() -> tuple[JudgeTemplate, ...]:
    """Return the four single-answer templates; those with -math- contain gold answers (math, reasoning, coding)."""
    return (
        _rating("single-v1", RATE, SINGLE),
        _rating("single-math-v1", RATE, SINGLE_GOLD),
        _rating("single-v1-multi-turn", RATE_SECOND, TALK),
        _rating("single-math-v1-multi-turn", RATE_SECOND, TALK_GOLD),
    )


def alpaca_eval_templates() -> tuple[JudgeTemplate, ...]:
    return (
        JudgeTemplate(
            name="alpaca_eval_clf",
            user=CHOOSE,
            filling="replace",
            parser="letter_logprob",
            temperature=1.0,
            max_tokens=1,
            top_logprobs=5,
            identical_is_draw=True,
        ),
    )


def arena_hard_templates() -> tuple[JudgeTemplate, ...]:
    return (
        JudgeTemplate(
            name="arena-hard-v0.1",
            system=COMPARE,
            user=COMPARED,
            parser="arena_label",
            reask="please go on, and end with one of the five labels",
            temperature=0.0,
            max_tokens=4096,
        ),
    )


def _rating(name: str, system: str, user: str) -> JudgeTemplate:
    return JudgeTemplate(name=name, system=system, user=user, parser="rating", temperature=0.0, max_tokens=2048)
