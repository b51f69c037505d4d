"""One line of the table: what was compared with the reference, by how much it differs, and both times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter
from typing import Generic, TypeVar

T = TypeVar("T")

BEGIN, END = "<!-- begin: python -m benchmarks.official -->", "<!-- end -->"


@dataclass(frozen=True)
class Line:
    """Seconds are wall time in this process, both sides in one run, imports left out."""

    benchmark: str
    models: int
    difference: str
    """The largest, with its unit and what it is a difference to."""
    ours: float
    theirs: float | None = None
    """None: the reference has no such step, or a limit stands in its place."""
    reference: str = "-"

    @property
    def ratio(self) -> str:
        """How many times faster ours is."""
        if self.theirs is None:
            return "-"
        return (
            f"{self.theirs / self.ours:.1f} x" if self.theirs < 100 * self.ours else f"{self.theirs / self.ours:.0f} x"
        )


def markdown(lines: Iterable[Line]) -> str:
    head = ("what", "models", "largest difference", "ours", "reference", "faster", "the reference")
    rows = [
        (
            *(line.benchmark, str(line.models), line.difference, seconds(line.ours)),
            *("-" if line.theirs is None else seconds(line.theirs), line.ratio, line.reference),
        )
        for line in lines
    ]
    rule = ("---", "---:", "---", "---:", "---:", "---:", "---")
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.2f} s"


def between_markers(page: str, table: str, begin: str = BEGIN) -> str:
    """The page with the table in place of what stood between its two markers; raises ValueError without them."""
    before, found, rest = page.partition(begin)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page has no {begin} … {END}")
    return f"{before}{begin}\n\n{table}\n{END}{after}"


@dataclass(frozen=True)
class Timed(Generic[T]):
    value: T
    seconds: float


def timed(call: Callable[[], T], *, repeats: int = 3) -> Timed[T]:
    """The value and the shortest of some calls: on a shared machine the others only add what is not ours."""
    found: Timed[T] | None = None
    for _ in range(repeats):
        started = perf_counter()
        value = call()
        spent = perf_counter() - started
        if found is None or spent < found.seconds:
            found = Timed(value, spent)
    assert found is not None
    return found
