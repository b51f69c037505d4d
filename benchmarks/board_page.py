"""`python -m benchmarks.board_page RESULTS`: weight of the leaderboard page of a results folder, and how long it takes.

68 published models of three benchmarks, with HARNESS_MIRROR set and PUBLISHED the folder of published judgments
(official_scores.jsonl.xz unpacked, as FastChat's files are found by their ending):

    harness import gpt-4_single.jsonl --format fastchat --results board
    harness import $PUBLISHED/alpaca_eval/annotations --format alpaca_eval --results board
    harness import $PUBLISHED/arena_hard/raw_judgments/image_arena_gpt4o.tar.xz --format arena_hard --results board
    python -m benchmarks.board_page board
"""

from __future__ import annotations

import gzip
import shutil
import sys
import tempfile
import time
from pathlib import Path

from harness.analysis.read_board import BoardOptions, read_board
from harness.pages.board import PageFacts, page

SIZES = ((390, 844), (1024, 800), (1440, 900))
"""Phone, tablet, desk: CSS pixels."""
LOADS = 5
"""Loads per size, of which the median is printed."""


def main(results: Path) -> None:
    started, cpu = time.perf_counter(), time.process_time()
    board = read_board(results, BoardOptions(pairs=True))
    text = page(list(board.tables), board.reported, PageFacts(pairs=board.pairs, folders=board.folders))
    wall, cpu = time.perf_counter() - started, time.process_time() - cpu
    models = len({card.model for card in board.cards})
    pairs = sum(len(of_table) for of_table in board.pairs.values())
    content = text.encode()
    print(f"{models} models, {pairs} pairs: {wall:.1f} s to make, {cpu:.1f} s of the processor")
    print(f"weight: {len(content) / 1000:.0f} kB, {len(gzip.compress(content)) / 1000:.0f} kB with gzip")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "board.html"
        file.write_bytes(content)
        loads(file.as_uri(), [table.anchor for table in board.tables])


def loads(address: str, anchors: list[str]) -> None:
    """Print how long Chromium takes until the page is drawn, and how high it is, per size and tab."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for width, height in SIZES:
            for anchor in anchors:
                times = []
                for _ in range(LOADS):
                    tab = browser.new_page(viewport={"width": width, "height": height})
                    tab.goto(f"{address}#tab={anchor}")
                    times.append(tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd"))
                    high = tab.evaluate("document.documentElement.scrollHeight")
                    tab.close()
                print(f"{width} px, {anchor}: {sorted(times)[LOADS // 2]:.0f} ms until loaded, {high} px high")
        browser.close()


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name a results folder: python -m benchmarks.board_page RESULTS")
    main(Path(sys.argv[1]))
