"""Untrusted text made harmless, scores as text, and tables of both for a terminal and for Markdown. Pure.

>>> visible("red\\x1b[31m")
'red␛[31m'
>>> escape_markdown("a|b\\n<i>")
'a\\\\|b &lt;i>'
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from markupsafe import Markup, escape

from ..records import Score
from .terminal import FittedTable

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
