r"""Make untrusted text harmless, and lay out scores and tables for a terminal and for Markdown.

>>> visible("red\x1b[31m")
'red␛[31m'
>>> escape_markdown("a|b\n<i>")
'a\\|b &lt;i>'

>>> row = ("a-rather-long-name-of-a-model-v2", "7.36 [7.10, 7.61]", "160")
>>> table = FittedTable("", ("model", "score", "n"), [row], ("model",))
>>> for line in table.lines(46):
...     print(line)
model                                    score
───────────────────────────  ─────────────────
a-rather-long…of-a-model-v2  7.36 [7.10, 7.61]
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions
from rich.text import Text

from ..records import Score

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""ANSI and other control characters, zero-width and direction marks, tags, lone surrogates, invalid XML."""
SPACES = re.compile(f"(?:{INVISIBLE.pattern}|[\t\n])+")


def visible(text: str) -> str:
    """Return the text with invisible characters as `␛` or `⟨U+202E⟩`; newlines and tabs stay."""
    return INVISIBLE.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def plain(text: str) -> str:
    """Return the text on one line, without the characters that `visible` shows as signs, such as ANSI codes."""
    return SPACES.sub(" ", text)


def escape_markdown(text: str) -> str:
    """Return the text literally for a Markdown table: no HTML, emphasis or cell breaks, and only bare links."""
    # a bare address still becomes a link on GitHub, which is harmless: its text is its target
    return re.sub(r"([\\`*_\[\]|#~])", r"\\\1", plain(text)).replace("&", "&amp;").replace("<", "&lt;")


def shortened(text: str, length: int) -> str:
    """Return at most `length` characters of the text, with dots at the end if it was longer."""
    return text if len(text) <= length else text[: length - 3] + "..."


def number(score: Score | None, decimals: int = 2) -> str:
    """Return `7.36`, or a dash if there is no value."""
    return "-" if score is None or score.value is None else f"{score.value:.{decimals}f}"


def interval(score: Score, decimals: int = 2) -> str:
    """Return `7.36 [7.10, 7.61]`, or only the value without an interval."""
    if score.value is None or score.ci_low is None or score.ci_high is None:
        return number(score, decimals)
    return f"{number(score, decimals)} [{score.ci_low:.{decimals}f}, {score.ci_high:.{decimals}f}]"


def p_text(p: float) -> str:
    """Return `p 0.190` or `p < 0.001`."""
    return "p < 0.001" if p < 0.001 else f"p {p:.3f}"


def rich_table(
    title: str,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    left: Collection[str],
    order: Sequence[str | int] = (),
    essential: int = 2,
) -> FittedTable:
    """Return a table for a terminal; the columns named in `left` are aligned left, all others right.

    `order` and `essential` as in `FittedTable`: which columns stay if the terminal is narrow.
    """
    names = [plain(column) for column in head]
    cells = [[plain(cell) for cell in row] for row in rows]
    return FittedTable(plain(title), names, cells, [plain(name) for name in left], order, essential)


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: Collection[str]) -> list[str]:
    """Return the lines of a table in GitHub's Markdown; `left` as in `rich_table`."""
    aligned = ["---" if column in left else "---:" for column in head]
    cells = [[escape_markdown(cell) for cell in row] for row in (head, *rows)]
    return ["| " + " | ".join(row) + " |" for row in (cells[0], aligned, *cells[1:])]


def markdown_list(texts: Sequence[str]) -> list[str]:
    return [f"- {escape_markdown(text)}" for text in texts]


def notebook_html(markdown: str) -> str:
    """Return HTML for a notebook's cell; HTML inside the Markdown stays text."""
    from markdown_it import MarkdownIt

    return str(MarkdownIt("js-default", {"html": False, "linkify": False}).render(markdown))


def marked(text: str | Markup, words: str) -> Markup:
    """Return text, or safe HTML, as HTML with every place of the words marked, ignoring case.

    >>> marked("a & b, A & B", "a &")
    Markup('<mark>a &amp;</mark> b, <mark>A &amp;</mark> B')
    """
    html = escape(text)
    if not words.strip():
        return html
    # tags and entities are stepped over, so that no mark can open inside one
    pattern = re.compile(f"(?P<words>{re.escape(str(escape(visible(words))))})|<[^>]*>|&[a-z0-9#]+;", re.IGNORECASE)
    return Markup(pattern.sub(lambda match: f"<mark>{match[0]}</mark>" if match["words"] else match[0], str(html)))


def listed(names: Sequence[str]) -> str:
    """Return names as a sentence has them.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


# ------------------------------------------------------------------------------------------------ tables for a terminal
# A table that is too wide loses columns by priority. Then names shorten in the middle, where variants of one model
# differ least; numbers never break.


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
    def available(self) -> set[str | int]:
        return {*self.head, *range(len(self.head))}

    def priorities(self) -> list[int]:
        """Return the columns' positions, the most important first."""
        columns = [self.head.index(key) if isinstance(key, str) else key for key in self.order if key in self.available]
        named = list(dict.fromkeys(columns))
        return [*named, *(position for position in range(len(self.head)) if position not in named)]

    def layout(self, width: int) -> dict[int, int]:
        """Return position -> width of the columns that fit, in the order of `head`."""
        natural = [
            max(map(cell_len, (name, *(row[column] for row in self.rows)))) for column, name in enumerate(self.head)
        ]
        shown = self.priorities()[: self.essential]
        for position in self.priorities()[self.essential :]:
            least = [
                min(natural[column], WHOLE) if self._is_text(column) else natural[column]
                for column in [*shown, position]
            ]
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
    """Return which columns do not fit, and how to see them, or nothing if all are shown."""
    names = dict.fromkeys(name for table in tables for name in table.hidden(width))
    return f"not shown for lack of width: {', '.join(names)}; {more}" if names else ""
