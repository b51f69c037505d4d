"""Generate the pocket edition's questions, each with exactly one right answer. Every skill is a small function.

Each skill turns a `random.Random` into a `Task`; the words in it are made up, so nothing can be known by heart, only
done. Questions are at most 64 characters, answers 1 to 12. The pocket files and the embedded checkpoint's training
data come from here; the checkpoint never trains on a question of the files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

VOWELS = "aeiou"
CONSONANTS = "bdfgklmnprst"
BASES = {"a": "t", "t": "a", "c": "g", "g": "c"}


@dataclass(frozen=True)
class Task:
    """A question and its gold answer."""

    question: str
    gold: str


@dataclass(frozen=True)
class Skill:
    """A kind of task, the MT-Bench category it is filed under, and how hard it is meant to be (-2 easy .. 2 hard)."""

    category: str
    make: Callable[[Random], Task]
    difficulty: float

    @property
    def name(self) -> str:
        return self.make.__name__


def word(rng: Random, low: int = 3, high: int = 6) -> str:
    """Return a made-up word of `low` to `high` letters, alternating consonants and vowels."""
    start = 0 if rng.random() < 0.75 else 1
    length = rng.randint(low, high)
    return "".join(rng.choice(VOWELS if index % 2 else CONSONANTS) for index in range(start, start + length))


def two_words(rng: Random) -> tuple[str, str]:
    """Return two made-up words with different first letters."""
    first, second = word(rng), word(rng)
    while second[0] == first[0]:
        second = word(rng)
    return first, second


# -------------------------------------------------------------------------------------------------------------- writing


def casing(rng: Random) -> Task:
    w = word(rng)
    kind = rng.choice(("upper", "lower", "title"))
    if kind == "upper":
        return Task(f"{w} in upper case", w.upper())
    if kind == "lower":
        return Task(f"{w.upper()} in lower case", w)
    return Task(f"{w} with a capital", w.title())


def wrapping(rng: Random) -> Task:
    w = word(rng)
    kind, left, right = rng.choice((("brackets", "[", "]"), ("quotes", '"', '"'), ("stars", "*", "*")))
    return Task(f"{w} in {kind}", left + w + right)


def joining(rng: Random) -> Task:
    words = [word(rng, 2, 3) for _ in range(rng.choice((2, 3)))]
    kind, mark = rng.choice((("commas", ","), ("dashes", "-"), ("pluses", "+")))
    return Task(f"join by {kind}: {' '.join(words)}", mark.join(words))


# ------------------------------------------------------------------------------------------------------------- roleplay


def echoing(rng: Random) -> Task:
    w = word(rng, 3, 5)
    return Task(f"be an echo. i call {w}", f"{w} {w}")


def robot(rng: Random) -> Task:
    w = word(rng)
    role, noise = rng.choice((("a robot", "beep"), ("an owl", "hoo"), ("a pirate", "arr")))
    return Task(f"be {role}. say {w}", f"{noise} {w}")


# ------------------------------------------------------------------------------------------------------------ reasoning


def pattern(rng: Random) -> Task:
    cycle = rng.sample("abcdefghijklmnopqrstuvwxyz", 3)
    line = [cycle[index % 3] for index in range(rng.randint(5, 7) + 1)]
    return Task(f"what is next: {' '.join(line[:-1])}", line[-1])


def longer(rng: Random) -> Task:
    short, long = word(rng, 3, 4), word(rng, 6, 8)
    shown = [short, long]
    rng.shuffle(shown)
    return Task(f"longer: {shown[0]} or {shown[1]}?", long)


def sorting(rng: Random) -> Task:
    w = word(rng, 3, 4)
    return Task(f"sort letters: {w}", "".join(sorted(w)))


# ----------------------------------------------------------------------------------------------------------------- math


def adding(rng: Random) -> Task:
    """Return a sum of two digits and one, without a carry."""
    tens, units_digit = rng.randint(1, 9), rng.randint(0, 8)
    more = rng.randint(1, 9 - units_digit)
    return Task(f"{tens}{units_digit} + {more} = ?", f"{tens}{units_digit + more}")


def counting(rng: Random) -> Task:
    shown = "".join(rng.choice(("a", "a", *"bdt")) for _ in range(rng.randint(3, 6)))
    return Task(f"how many a in {shown}?", str(shown.count("a")))


def bigger(rng: Random) -> Task:
    a, b = rng.sample(range(10, 100), 2)
    return Task(f"bigger: {a} or {b}?", str(max(a, b)))


# --------------------------------------------------------------------------------------------------------------- coding


def print_upper(rng: Random) -> Task:
    w = word(rng)
    return Task(f'print("{w}".upper())', w.upper())


def print_reversed(rng: Random) -> Task:
    w = word(rng, 3, 5)
    return Task(f'print("{w}"[::-1])', w[::-1])


def print_letter(rng: Random) -> Task:
    w = word(rng)
    index = rng.choice((0, 1, -1))
    return Task(f'print("{w}"[{index}])', w[index])


def print_length(rng: Random) -> Task:
    w = word(rng, 2, 7)
    return Task(f'print(len("{w}"))', str(len(w)))


# ----------------------------------------------------------------------------------------------------------- extraction


def lookup(rng: Random) -> Task:
    keys = rng.sample("ab", 2)
    values = [word(rng, 3, 4) for _ in keys]
    key_index = rng.randrange(2)
    pairs = " ".join(f"{key}={value}" for key, value in zip(keys, values, strict=True))
    return Task(f"{pairs}. {keys[key_index]}=?", values[key_index])


def number(rng: Random) -> Task:
    shown = [word(rng, 3, 5), word(rng, 3, 5), str(rng.randint(10, 999))]
    gold = shown[2]
    rng.shuffle(shown)
    return Task(f"the number in: {' '.join(shown)}", gold)


def which_word(rng: Random) -> Task:
    words = [word(rng, 3, 5) for _ in range(3)]
    kind, index = rng.choice((("first", 0), ("last", 2)))
    return Task(f"{kind} word of: {' '.join(words)}", words[index])


# ----------------------------------------------------------------------------------------------------------------- stem


def parity(rng: Random) -> Task:
    n = rng.randint(10, 999)
    return Task(f"is {n} even or odd?", "odd" if n % 2 else "even")


def units(rng: Random) -> Task:
    n = rng.randint(2, 99)
    big, small, zeros = rng.choice((("cm", "mm", "0"), ("m", "cm", "00"), ("km", "m", "000")))
    return Task(f"how many {small} are {n} {big}?", f"{n}{zeros}")


def base_pairs(rng: Random) -> Task:
    strand = "".join(rng.choice("acgt") for _ in range(rng.randint(3, 6)))
    return Task(f"dna pairs of {strand}", "".join(BASES[base] for base in strand))


# ----------------------------------------------------------------------------------------------------------- humanities


def who(rng: Random) -> Task:
    first, second = two_words(rng)
    question, gold = rng.choice((("who paid?", first), ("who was paid?", second)))
    return Task(f"{first.title()} paid {second.title()}. {question}", gold.title())


def word_form(rng: Random) -> Task:
    w = word(rng)
    kind, ending = rng.choice((("plural", "s"), ("past", "ed"), ("opposite", "")))
    return Task(f"{kind} of {w}", w + ending if ending else "un" + w)


SKILLS = (
    Skill("writing", casing, -1.0),
    Skill("writing", wrapping, -1.5),
    Skill("writing", joining, 0.5),
    Skill("roleplay", echoing, -1.0),
    Skill("roleplay", robot, -1.5),
    Skill("reasoning", pattern, 0.5),
    Skill("reasoning", longer, 0.5),
    Skill("reasoning", sorting, 2.0),
    Skill("math", adding, 2.0),
    Skill("math", counting, 2.0),
    Skill("math", bigger, 1.0),
    Skill("coding", print_upper, 0.0),
    Skill("coding", print_reversed, 2.0),
    Skill("coding", print_letter, 0.5),
    Skill("coding", print_length, 1.0),
    Skill("extraction", lookup, 1.5),
    Skill("extraction", number, -0.5),
    Skill("extraction", which_word, 0.5),
    Skill("stem", parity, 0.0),
    Skill("stem", units, 0.0),
    Skill("stem", base_pairs, 1.0),
    Skill("humanities", who, 0.5),
    Skill("humanities", word_form, -0.5),
)
"""All skills, in the order of MT-Bench's categories."""


# ---------------------------------------------------------------------------------------------------------- second turn


def follow_up(rng: Random, first: str) -> Task:
    """Return a second question that refers to the first answer, with its gold answer (at most 12 characters)."""
    fits = [
        Task("now in brackets", f"[{first}]"),
        Task("now with a !", f"{first}!"),
        Task("say it again", first),
        Task("now the first sign", first[0]),
        Task("now the last sign", first[-1]),
    ]
    if first.isalpha():
        if not first.isupper():
            fits.append(Task("now in upper case", first.upper()))
        if 2 <= len(first) <= 4:
            fits += [Task("now reversed", first[::-1])] * 3  # the hardest one, so drawn more often
    if len(first) <= 5:
        fits.append(Task("now twice", f"{first} {first}"))
    return rng.choice([task for task in fits if len(task.gold) <= 12])
