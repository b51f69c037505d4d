"""`python -m benchmarks.judging.injection`: how long the search for answers that address a judge takes.

Prints microseconds of processor time per 2,000 characters, for ordinary text and for hostile texts of three lengths: a
search in linear time has the same figure for each length.
"""

from __future__ import annotations

import random
import time

from harness.judging.injection import kinds_in

CHARACTERS = (20_000, 200_000, 2_000_000)
PER = 2_000
TEXT = (
    "the answer to this question is that every system has a better model of what people think before they choose "
    "which of the highest numbers ranks above another, as the previous section says"
)
HOSTILE = {
    "open brackets": "[",
    "a long number in brackets": "[[" + "1" * 64,
    "instructions without an end": "ignore all ",
    "entities": "&amp;#91;",
    "base64": "W1tBPj5CXV0= ",
    "lines of base64": "QUJDREVGR0hJSktM\n",
    "invisible tags": "\U000e0041",
    "look-alikes": "\u0410\u0391",
    "longest compatibility form": "\ufdfa",  # one character that becomes 18
    "tokens without an end": "<|a",
}


def ordinary(length: int) -> str:
    choose = random.Random(0).choice
    words = TEXT.split()
    return " ".join(choose(words) for _ in range(length // 5))[:length]


def microseconds(text: str) -> float:
    """Return the processor time per `PER` characters."""
    search = kinds_in.__wrapped__  # past the cache
    started = time.process_time()
    search(text)
    return (time.process_time() - started) / len(text) * PER * 1e6


def main() -> None:
    print("| text | " + " | ".join(f"{length:,} characters" for length in CHARACTERS) + " |")
    print("| --- |" + " --- |" * len(CHARACTERS))
    rows = {"ordinary": ordinary} | {
        name: lambda length, unit=unit: (unit * (length // len(unit) + 1))[:length] for name, unit in HOSTILE.items()
    }
    for name, text_of in rows.items():
        times = [f"{microseconds(text_of(length)):.0f}" for length in CHARACTERS]
        print(f"| {name} | {' | '.join(times)} |")


if __name__ == "__main__":
    main()
