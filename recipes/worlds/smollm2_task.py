"""The world of the recipe `smollm2`: requests with verifiable constraints, and the reward for following them.

>>> rows = prompts()
>>> sorted(rows[0]), len(rows)
(['category', 'prompt', 'reference'], 6000)

Every request is a task about a topic with one or two constraints. Topics of the held-out suite are in no prompt of the
recipe, so the suite measures whether following constraints carries over, and not what is known about a topic.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import cycle
from random import Random
from typing import Any

from .constraints import Constraints, credits

ROWS = 6000
"""Number of rows that `prompts` returns; a recipe's `limit` takes fewer."""
SUITE_ROWS = 80
Drawn = tuple[dict[str, Any], list[str]]
"""Constraints, and a sentence of the request for each."""

TOPICS: tuple[tuple[str, str], ...] = (
    ("bees", "bee"),
    ("bread", "bread"),
    ("bicycles", "bicycle bike cycl"),
    ("libraries", "librar"),
    ("rain", "rain"),
    ("coffee", "coffee"),
    ("lighthouses", "lighthouse"),
    ("chess", "chess"),
    ("gardens", "garden"),
    ("trains", "train rail"),
    ("volcanoes", "volcan"),
    ("dogs", "dog"),
    ("sleep", "sleep"),
    ("mountains", "mountain"),
    ("pencils", "pencil"),
    ("bridges", "bridge"),
    ("the moon", "moon lunar"),
    ("soup", "soup"),
    ("swimming", "swim"),
    ("clocks", "clock"),
    ("forests", "forest tree"),
    ("music", "music"),
    ("penguins", "penguin"),
    ("maps", "map"),
    ("umbrellas", "umbrella"),
    ("cheese", "cheese"),
    ("letters written by hand", "letter"),
    ("kites", "kite"),
    ("deserts", "desert"),
    ("running shoes", "shoe"),
    ("tea", "tea"),
    ("owls", "owl"),
    ("snow", "snow"),
    ("recycling", "recycl"),
    ("markets", "market"),
    ("whales", "whale"),
    ("windmills", "windmill wind"),
    ("photographs", "photo"),
    ("apples", "apple"),
    ("islands", "island"),
    ("teachers", "teach"),
    ("paper", "paper"),
    ("rivers", "river"),
    ("camping", "camp"),
    ("robots", "robot"),
    ("cats", "cat"),
    ("museums", "museum"),
    ("salt", "salt"),
)
"""What the recipe's prompts are about, and beginnings of words of which an answer must have one."""
HELD_OUT_TOPICS: tuple[tuple[str, str], ...] = (
    ("elephants", "elephant"),
    ("ships", "ship"),
    ("potatoes", "potato"),
    ("the sun", "sun solar"),
    ("friendship", "friend"),
    ("glass", "glass"),
    ("football", "football"),
    ("spiders", "spider"),
    ("hospitals", "hospital"),
    ("chocolate", "chocolate"),
    ("rice", "rice"),
    ("airports", "airport"),
)
"""What the suite's prompts are about."""
TASKS = (
    "Tell me about {topic}.",
    "Write a short text about {topic}.",
    "Explain why people like {topic}.",
    "What should a child know about {topic}?",
    "Write something for a village newspaper about {topic}.",
    "Give a beginner useful facts about {topic}.",
)
COMMON = ("very", "many", "great", "important", "people", "also")
"""Words that answers often have, to be avoided."""
ASKED_FOR = ("today", "simple", "together", "morning", "money", "surprise", "careful", "old")
"""Words that an answer must include."""
KEYS = (("title", "text"), ("name", "use"), ("fact", "reason"), ("question", "answer"))
OPENINGS = ("Dear reader:", "In short:", "Good news:", "Here is what I know:")
ENDINGS = ("That is all.", "Try it yourself!", "Thank you for reading.", "And so it goes.")


def _length(rng: Random) -> Drawn:
    if rng.random() < 0.7:
        limit = rng.choice((15, 20, 30, 40, 50))
        wording = ("Use at most {} words.", "Stay within {} words.", "Do not write more than {} words.")
        return {"words_at_most": limit}, [rng.choice(wording).format(limit)]
    limit = rng.choice((60, 80))
    return {"words_at_least": limit}, [rng.choice(("Use at least {} words.", "Write {} words or more.")).format(limit)]


def _shape(rng: Random) -> Drawn:
    kind = rng.choice(("bullets", "paragraphs", "heading", "json_keys"))
    if kind == "bullets":
        count = rng.choice((2, 3, 4, 5))
        return {kind: count}, [f"Answer as a list of exactly {count} lines, each of which begins with a dash (-)."]
    if kind == "paragraphs":
        count = rng.choice((2, 3))
        return {kind: count}, [f"Write exactly {count} paragraphs, with an empty line between them."]
    if kind == "heading":
        return {kind: True}, ["Begin with a heading, marked by # as in Markdown."]
    keys = rng.choice(KEYS)
    return {kind: list(keys)}, [f'Answer with a JSON object alone, whose keys are "{keys[0]}" and "{keys[1]}".']


def _words(rng: Random) -> Drawn:
    kind = rng.choice(("includes", "avoids", "no_commas"))
    if kind == "no_commas":
        return {kind: True}, [rng.choice(("Do not use any commas.", "There must be no comma in your answer."))]
    if kind == "includes":
        word = rng.choice(ASKED_FOR)
        return {kind: [word]}, [rng.choice(('Use the word "{}".', 'The word "{}" must occur.')).format(word)]
    first, second = rng.sample(COMMON, 2)
    return {kind: [first, second]}, [f'Use neither the word "{first}" nor the word "{second}".']


def _edges(rng: Random) -> Drawn:
    if rng.random() < 0.5:
        phrase = rng.choice(OPENINGS)
        return {"opens_with": phrase}, [f'Begin your answer with "{phrase}"']
    phrase = rng.choice(ENDINGS)
    return {"ends_with": phrase}, [f'The last words must be "{phrase}"']


def _case(rng: Random) -> Drawn:
    if rng.random() < 0.5:
        return {"case": "lower"}, ["Write in small letters only, without any capital letter."]
    return {"case": "upper"}, ["Write in capital letters only."]


FAMILIES = {"length": _length, "shape": _shape, "words": _words, "edges": _edges, "case": _case}
PARTNERS = {
    "length": ("shape", "words", "edges", "case"),
    "shape": ("length", "words"),
    "words": ("length", "shape", "edges"),
    "edges": ("length", "words"),
    "case": ("length",),
}
"""Family -> families that it combines with. In capitals a phrase is another one; nothing precedes a heading."""
NOT_IN_JSON = {"words_at_most", "words_at_least", "no_commas"}


def request(rng: Random, family: str, topics: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Draw one request with a constraint of this family, and in two of three cases one of another family.

    Return `prompt`, `category` (the family) and `reference` (the constraints as JSON).
    """
    topic, stems = rng.choice(topics)
    constraints, sentences = FAMILIES[family](rng)
    if rng.random() < 2 / 3:
        second, added = FAMILIES[rng.choice(PARTNERS[family])](rng)
        if not ("json_keys" in {*constraints, *second} and NOT_IN_JSON & {*constraints, *second}):
            constraints, sentences = constraints | second, sentences + added
    reference = {"about": stems.split(), **constraints}
    text = " ".join([rng.choice(TASKS).format(topic=topic), *sentences])
    return {"prompt": text, "category": family, "reference": json.dumps(reference)}


def _rows(name: str, count: int, topics: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    rng, families = Random(name), cycle(FAMILIES)
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        row = request(rng, next(families), topics)
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


def prompts() -> list[dict[str, str]]:
    """Return ROWS rows of prompt, category and reference. They are always the same, and no prompt occurs twice."""
    return _rows("smollm2 prompts", ROWS, TOPICS)


def suite_prompts() -> list[dict[str, str]]:
    """Return the prompts of the suite `constraints`, as its file has them, about the held-out topics."""
    rows = _rows("smollm2 suite", SUITE_ROWS, HELD_OUT_TOPICS)
    return [{"id": f"{row['category']}-{number:02}", **row} for number, row in enumerate(rows, start=1)]


def reward(prompts: Sequence[str], completions: Sequence[str], reference: Sequence[str]) -> list[float]:
    """Return `answer_reward` of each completion, with the signature of TRL's reward functions."""
    return [answer_reward(text, json.loads(wanted)) for text, wanted in zip(completions, reference, strict=True)]


def answer_reward(text: str, constraints: Constraints) -> float:
    """Return the mean credit of the constraints, in [0, 1]; 0 if the text is not about the topic."""
    values = credits(text, constraints).values()
    return sum(values) / len(values)
