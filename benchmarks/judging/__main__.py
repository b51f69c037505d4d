"""`python -m benchmarks.judging`: prints the tables, and with --write puts them into docs/judging_speed.md.

Peers that are installed run beside ours in the same run: alpaca_eval and the openai SDK from this environment,
inspect_ai and evalscope from the environment whose Python HARNESS_PEERS names (benchmarks/judging/peers.txt).
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

from ..official.lines import between_markers
from . import measure
from .peers import PEERS, measure_peer
from .tables import peers_table, promises_table

BEGIN = "<!-- begin: python -m benchmarks.judging -->"
PAGE = Path(__file__).parents[2] / "docs" / "judging_speed.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/judging_speed.md")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    options = parser.parse_args()
    promises = measure.promises()
    sides = [measure.side(), *([] if options.no_peers else [measure_peer(peer) for peer in PEERS])]
    if options.json:
        found = {"promises": [asdict(one) for one in promises], "sides": [asdict(one) for one in sides]}
        sys.stdout.write(json.dumps(found, indent=2) + "\n")
    else:
        text = promises_table(promises) + "\n" + peers_table(sides)
        sys.stdout.write(text)
        if options.write:
            PAGE.write_text(between_markers(PAGE.read_text("utf-8"), text, BEGIN), "utf-8")
    return 0 if all(one.holds for one in promises) else 1


if __name__ == "__main__":
    sys.exit(main())
