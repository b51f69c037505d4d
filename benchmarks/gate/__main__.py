"""`python -m benchmarks.gate`: the tables of docs/gate.md, from the published judgments in HARNESS_PUBLISHED.

`--only NAME` prints one section, `--trials N` simulates N gates per pair and drop (a fifth of refits).
"""

from benchmarks.sections import main

from .published import published_root
from .sections import SECTIONS

if __name__ == "__main__":
    published_root()
    main(SECTIONS, description=__doc__, option="--trials", simulations=100)
