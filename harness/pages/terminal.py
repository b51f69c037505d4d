"""Tables that fit the terminal: columns leave by priority, names shorten in the middle, numbers never break.

>>> row = ("a-rather-long-name-of-a-model-v2", "7.36 [7.10, 7.61]", "160")
>>> table = FittedTable("", ("model", "score", "n"), [row], ("model",))
>>> for line in table.lines(46):
...     print(line)
model                                    score
───────────────────────────  ─────────────────
a-rather-long…of-a-model-v2  7.36 [7.10, 7.61]
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

GAP = "  "
"""Between two columns."""
SHORTEST = 14
"""Characters that a shortened name keeps at least, if the terminal has them."""
WHOLE = 40
"""Characters that a name gets before a column that is not essential may take the space."""
UNLIMITED = 100_000
"""Width of an output that is not a terminal: as wide as it needs."""


def middle_elided(text: str, width: int) -> str:
    """Return the text in at most `width` cells, with `…` for its middle: names differ at their ends.

    >>> middle_elided("FuseChat-Llama-3.1-8B-Instruct", 16)
    'FuseChat…nstruct'
    """
    if cell_len(text) <= width:
        return text
    head, tail = (width - 1) - (width - 1) // 2, (width - 1) // 2
    shown = f"{text[:head]}…{text[len(text) - tail :]}"
    while cell_len(shown) > width:  # wide characters take two cells
        head, tail = head - (head >= tail), tail - (head < tail)
        shown = f"{text[:head]}…{text[len(text) - tail :]}"
    return shown


@dataclass(frozen=True)
class FittedTable:
    """A table that decides at print time, by the width it gets, which columns to show.

    `rows` have a text per name of `head`. Columns named in `left` are texts: aligned left and shortened if they must
    be. `order`: columns, by name or position, from the most important to the one that is left out first; those it does
    not name follow in the order of `head`. The first `essential` of them always stay.
    """

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Collection[str] = ()
    order: Sequence[str | int] = ()
    essential: int = 2
    bold: Collection[int] = field(default_factory=frozenset)
    """Positions of the rows that stand out."""

    @property
    def known(self) -> set[str | int]:
        return {*self.head, *range(len(self.head))}

    def priorities(self) -> list[int]:
        """Return the columns' positions, the most important first."""
        places = [self.head.index(key) if isinstance(key, str) else key for key in self.order if key in self.known]
        named = list(dict.fromkeys(places))
        return [*named, *(position for position in range(len(self.head)) if position not in named)]

    def layout(self, width: int) -> dict[int, int]:
        """Return position -> width of the columns that fit, in the order of `head`."""
        natural = [max(map(cell_len, (name, *(row[at] for row in self.rows)))) for at, name in enumerate(self.head)]
        shown = self.priorities()[: self.essential]
        for position in self.priorities()[self.essential :]:
            least = [min(natural[at], WHOLE) if self._is_text(at) else natural[at] for at in [*shown, position]]
            if _total(least) <= width:
                shown.append(position)
        shown.sort()
        sizes = {position: natural[position] for position in shown}
        texts = [position for position in shown if self._is_text(position)]
        while texts and _total(sizes.values()) > width:
            widest = max(texts, key=lambda position: sizes[position])
            if sizes[widest] <= SHORTEST:
                break
            sizes[widest] -= 1
        return sizes

    def hidden(self, width: int) -> list[str]:
        """Return the names of the columns that do not fit, in the order of `head`."""
        shown = self.layout(width)
        return [name for position, name in enumerate(self.head) if position not in shown]

    def lines(self, width: int) -> Iterator[Text]:
        """Yield the title, the names of the columns, a rule and the rows."""
        sizes = self.layout(width)
        if self.title:
            yield Text(self.title, style="italic")
        yield self._line(self.head, sizes, "bold")
        yield Text(GAP.join("─" * size for size in sizes.values()), style="dim")
        for position, row in enumerate(self.rows):
            yield self._line(row, sizes, "bold" if position in self.bold else "")

    def _line(self, cells: Sequence[str], sizes: dict[int, int], style: str) -> Text:
        parts = []
        for position, size in sizes.items():
            text = middle_elided(cells[position], size)
            space = " " * (size - cell_len(text))
            parts.append(text + space if self._is_text(position) else space + text)
        return Text(GAP.join(parts).rstrip(), style=style, no_wrap=True, overflow="ignore")

    def _is_text(self, position: int) -> bool:
        return self.head[position] in self.left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        yield from self.lines(options.max_width)


def _total(sizes: Iterable[int]) -> int:
    widths = list(sizes)
    return sum(widths) + len(GAP) * (len(widths) - 1)


def hidden_line(tables: Iterable[FittedTable], width: int, more: str = "--wide shows all columns") -> str:
    """Return which columns do not fit, and how to see them; empty if all are shown."""
    names = dict.fromkeys(name for table in tables for name in table.hidden(width))
    return f"not shown for lack of width: {', '.join(names)}; {more}" if names else ""
