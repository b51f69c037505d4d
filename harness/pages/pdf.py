"""A page of ours as PDF, printed by a Chromium that is on this machine through Playwright. Neither is a dependency."""

from __future__ import annotations

import os
import shutil
from importlib.util import find_spec
from pathlib import Path

from ..records.errors import ConfigError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
"""Commands of browsers that print; Playwright's own download comes after them."""
MARGIN = "15mm"
"""Above and below; the page has its own at the sides."""


def check_pdf() -> None:
    """Raise ConfigError if the package that drives the browser is missing, before anything is compared."""
    if find_spec("playwright") is None:
        raise ConfigError(
            "--to pdf needs Playwright and a Chromium: pip install playwright && playwright install chromium; "
            "or write --to html and print it in a browser"
        )


def pdf(html: str) -> bytes:
    """Return a page without scripts as PDF, A4, in light colours. Raise ConfigError if no browser starts."""
    check_pdf()
    from playwright.sync_api import Error, sync_playwright

    command = next(filter(None, map(shutil.which, BROWSERS)), None)
    # Chromium refuses its sandbox to root; the page is our own, and loads nothing
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    try:
        with sync_playwright() as driver:
            browser = driver.chromium.launch(executable_path=command and Path(command), args=arguments)
            page = browser.new_page(color_scheme="light", java_script_enabled=False)
            page.set_content(html)
            content: bytes = page.pdf(format="A4", print_background=True, margin={"top": MARGIN, "bottom": MARGIN})
            browser.close()
    except Error as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"--to pdf found no Chromium that starts ({reason}); playwright install chromium, "
            "or write --to html and print it in a browser"
        ) from None
    return content
