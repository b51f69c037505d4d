"""Render untrusted text as harmless HTML: plain text, or Markdown without links, images and HTML."""

from __future__ import annotations

from functools import cache

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from ..report.text import visible

SHOWN = 20_000
"""Characters of one text on a page; a link leads to the complete text as plain text."""
TAGS = {
    *("p", "br", "hr", "em", "strong", "s", "code", "pre", "blockquote", "ul", "ol", "li", "div"),
    *("table", "thead", "tbody", "tr", "th", "td"),
}


def shown(text: str, *, markdown: bool) -> Markup:
    """Return the text's first characters as HTML; all else in it is literal."""
    cut = visible(text[:SHOWN])
    html = _markdown(cut) if markdown else None
    if html is None:
        return Markup('<pre class="text" dir="auto">{}</pre>').format(escape(cut))
    return Markup('<div class="text" dir="auto">{}</div>').format(Markup(html))


def is_cut(text: str) -> bool:
    return len(text) > SHOWN


def _markdown(text: str) -> str | None:
    """Return HTML; None for blocks nested deeper than the parser's limit, because it would drop their content."""
    parser = _parser()
    tokens = parser.parse(text)
    if any(token.level + (token.nesting == 1) >= parser.options["maxNesting"] for token in tokens):
        return None
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "div"  # a model's headings must not become the page's
            if token.type == "heading_open":
                token.attrSet("class", "heading")
    html = parser.renderer.render(tokens, parser.options, {})
    return nh3.clean(html, tags=TAGS, attributes={"div": {"class"}, "ol": {"start"}}, url_schemes=set())


@cache
def _parser() -> MarkdownIt:
    """Return a CommonMark parser with tables; links, images and raw HTML stay literal characters."""
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"])
    return parser.disable(["link", "image", "autolink", "html_inline", "html_block", "reference", "entity"])
