"""MkDocs hooks: pages generated from the code, and the two pages that live at the root of the repository."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT)]

import reference  # noqa: E402  (it lies beside this file)

ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}
COPIED = {".github/workflows/gate.yml": "ci/gate.yml"}
FILES_PAGE = "reference/files.md"  # made from results/README.md
"""Files of the repository that pages link to: path from the root -> place in the site."""


def on_files(files: Any, config: Any) -> Any:
    """Add the generated reference pages, and what lies outside docs/."""
    for place, text in reference.pages().items():
        files.append(File.generated(config, place, content=text))
    for source, place in (ROOT_PAGES | COPIED).items():
        files.append(File.generated(config, place, content=(ROOT / source).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Point links between docs/ and the root to where the site has these pages."""
    up = "../" * page.file.src_uri.count("/")
    for source, place in (ROOT_PAGES | COPIED | {"results/README.md": FILES_PAGE}).items():
        markdown = markdown.replace(f"](../{source})", f"]({up}{place})")
    if page.file.src_uri in ROOT_PAGES.values():
        markdown = re.sub(r"\]\(docs/([^)]+)\)", r"](\1)", markdown)
        markdown = markdown.replace("](results/README.md)", f"]({FILES_PAGE})")
    return markdown
