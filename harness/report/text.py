"""Make untrusted text visible: control characters and direction marks become visible signs."""

from __future__ import annotations

import re

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Control characters (ANSI codes begin with one), zero-width and direction marks, tags, lone surrogates, and
characters that XML forbids."""


def visible(text: str) -> str:
    """Return the text with invisible characters as `␛` or `⟨U+202E⟩`; newlines and tabs stay."""
    return INVISIBLE.sub(_sign, text.replace("\r\n", "\n"))


def _sign(match: re.Match[str]) -> str:
    code = ord(match[0])
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"
