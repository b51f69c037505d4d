"""Make the pocket edition's files: `python -m harness.suites.pocket.make`. The output is reproducible to the byte.

The rules:

- Prompts: each suite cycles through the skills (MT-Bench: those of a category, ten prompts each; Arena-Hard: two
  prompts of one skill form a cluster) and draws from a `Random` seeded by the suite's name. First questions are unique.
- Difficulty of an instruction, logit scale: the skill's own plus 0.15 for each character of the gold answer over 5.
- Baseline: a pretend model. It is right with probability 1 / (1 + exp(difficulty)), about half the time; otherwise it
  makes one of the mistakes of `mistaken`. Three answers in ten stand in a sentence, right or wrong.
- Gamed rows: the baseline's answer padded with politeness (verbose) and bare (concise), against the baseline's own.
  Length difference: characters of the baseline less those of the variant, divided by the standard deviation (n - 1)
  over the set. The contents are equal, so preference is 1 / (1 + exp(-x)) with x = tanh(length difference) + noise of
  standard deviation 0.25: a judge that likes the bare answer a little better, as the reference judge does.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from random import Random

from pydantic import JsonValue

from harness.records import Answer, Prompt, Record

from .skills import SKILLS, Skill, Task, follow_up

DATA = Path(__file__).parent / "data"
BASELINE = "pocket-baseline"
CATEGORIES = tuple(dict.fromkeys(skill.category for skill in SKILLS))
FRAMES = ("the answer is {}", "i think it is {}", "it must be {} i am sure", "{} is my answer")
PADDING = (
    "What a nice question! The answer you are looking for is {}. I hope that this helps you.",
    "Sure, I can help with that. It is {}. Is there anything else that I can do for you today?",
    "Let me think about it step by step. Having thought about it with care, I say {}.",
    "Thank you for asking. {} is what I came to. Please tell me if you want to hear more about it.",
)


class Difficulty(Record):
    """An instruction's difficulty on a logit scale (about -3..4)."""

    prompt_id: str
    difficulty: float


class GamedRow(Record):
    """One row that the length control is fitted on besides the model's own; the module's docstring states the rules."""

    prompt_id: str
    variant: str
    preference: float
    length_difference: float
    difficulty: float


def fresh(rng: Random, skill: Skill, taken: set[str]) -> Task:
    """Return a task of this skill with a new question, and add the question to `taken`."""
    task = skill.make(rng)
    while task.question in taken:
        task = skill.make(rng)
    taken.add(task.question)
    return task


def mt_bench(taken: set[str]) -> list[Prompt]:
    """Return 80 prompts of two turns, ten per category."""
    rng = Random("pocket mt_bench")
    prompts: list[Prompt] = []
    for category in CATEGORIES:
        skills = [skill for skill in SKILLS if skill.category == category]
        for index in range(10):
            first = fresh(rng, skills[index % len(skills)], taken)
            second = follow_up(rng, first.gold)
            turns, gold = (first.question, second.question), (first.gold, second.gold)
            name = f"pm-{len(prompts) + 1:03d}"
            prompts.append(Prompt(id=name, turns=turns, reference=gold, category=category))
    return prompts


def single_turn(suite: str, prefix: str, skills: list[Skill], taken: set[str]) -> list[Prompt]:
    """Return one prompt of one turn per skill, in order; neighbours of one skill form a cluster."""
    rng = Random(f"pocket {suite}")
    prompts = []
    for index, skill in enumerate(skills):
        task = fresh(rng, skill, taken)
        cluster = f"{skill.name}-{index // 2 + 1:02d}" if suite == "arena_hard" else None
        prompts.append(
            Prompt(
                id=f"{prefix}-{index + 1:03d}",
                turns=(task.question,),
                reference=(task.gold,),
                category=skill.category,
                cluster=cluster,
            )
        )
    return prompts


def difficulty(skill: Skill, gold: str) -> float:
    return round(skill.difficulty + 0.15 * (len(gold) - 5), 3)


def mistaken(rng: Random, question: str, gold: str) -> str:
    """Return a plausible wrong answer: a number slightly off, or a letter lost, doubled or moved, or another word."""
    if gold.isdigit():
        return str(int(gold) + rng.choice((1, 2, 10)))
    words = [text.strip('.,:?"') for text in question.split()]
    wrong = [gold[:-1], gold + gold[-1], gold[::-1], gold.swapcase(), rng.choice(words)]
    return rng.choice([text for text in wrong if text and text != gold])


def baseline_answer(rng: Random, prompt: Prompt, hard: float) -> str:
    """Return the pretend model's answer, bare or in a sentence."""
    gold = prompt.reference[0]
    right = rng.random() < 1 / (1 + math.exp(hard))
    reply = gold if right else mistaken(rng, prompt.turns[0], gold)
    return rng.choice(FRAMES).format(reply) if rng.random() < 0.3 else reply


def baseline(suite: str, prompts: list[Prompt], hard: list[float]) -> list[Answer]:
    rng = Random(f"pocket {suite} baseline")
    answers = []
    for prompt, value in zip(prompts, hard, strict=True):
        text = baseline_answer(rng, prompt, value)
        answers.append(
            Answer(
                prompt_id=prompt.id,
                model=BASELINE,
                turns=(text,),
                finish=("stop",),
                prompt_tokens=(len(prompt.turns[0]),),  # characters: a pretend model has no tokenizer
                completion_tokens=(len(text),),
            )
        )
    return answers


def bare(text: str) -> str:
    """Return the answer without its sentence."""
    for frame in FRAMES:
        before, after = frame.split("{}")
        if text.startswith(before) and text.endswith(after):
            text = text[len(before) : len(text) - len(after)]
    return text


def gamed(answers: list[Answer], hard: list[float]) -> list[GamedRow]:
    """Return 240 rows: all verbose ones, then all concise ones."""
    rng = Random("pocket alpaca_eval gamed")
    rows = []
    for variant in ("verbose", "concise"):
        originals = [answer.turns[0] for answer in answers]
        texts = [rng.choice(PADDING).format(bare(text)) if variant == "verbose" else bare(text) for text in originals]
        lengths = [len(text) - len(changed) for text, changed in zip(originals, texts, strict=True)]
        spread = statistics.stdev(lengths)
        for answer, length, value in zip(answers, lengths, hard, strict=True):
            lead = math.tanh(length / spread) + rng.gauss(0, 0.25)
            rows.append(
                GamedRow(
                    prompt_id=answer.prompt_id,
                    variant=variant,
                    preference=round(1 / (1 + math.exp(-lead)), 6),
                    length_difference=round(length / spread, 6),
                    difficulty=value,
                )
            )
    return rows


def files() -> dict[str, str]:
    """Return file name -> text, of every file of the edition."""
    taken: set[str] = set()
    rounds = [SKILLS[index % len(SKILLS)] for index in range(120)]
    pairs = [SKILLS[index // 2 % len(SKILLS)] for index in range(60)]
    alpaca = single_turn("alpaca_eval", "pa", rounds, taken)
    arena = single_turn("arena_hard", "ph", pairs, taken)
    alpaca_hard = [difficulty(skill, prompt.reference[0]) for skill, prompt in zip(rounds, alpaca, strict=True)]
    arena_hard = [difficulty(skill, prompt.reference[0]) for skill, prompt in zip(pairs, arena, strict=True)]
    answers = baseline("alpaca_eval", alpaca, alpaca_hard)
    table = [Difficulty(prompt_id=prompt.id, difficulty=hard) for prompt, hard in zip(alpaca, alpaca_hard, strict=True)]
    return {
        "mt_bench.prompts.jsonl": _lines(mt_bench(taken)),
        "alpaca_eval.prompts.jsonl": _lines(alpaca),
        "alpaca_eval.baseline.jsonl": _lines(answers),
        "alpaca_eval.difficulty.jsonl": _lines(table),
        "alpaca_eval.gamed.jsonl": _lines(gamed(answers, alpaca_hard)),
        "arena_hard.prompts.jsonl": _lines(arena),
        "arena_hard.baseline.jsonl": _lines(baseline("arena_hard", arena, arena_hard)),
    }


def _lines(records: Sequence[Record]) -> str:
    rows: list[dict[str, JsonValue]] = [record.model_dump(mode="json", exclude_defaults=True) for record in records]
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(folder: Path = DATA) -> None:
    folder.mkdir(exist_ok=True)
    for name, text in files().items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")


if __name__ == "__main__":
    write()
