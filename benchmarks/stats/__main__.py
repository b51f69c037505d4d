"""`python -m benchmarks.stats`: the tables of docs/statistics.md, as Markdown.

`--only NAME` prints one section, `--sets N` simulates N data sets.
"""

from benchmarks.sections import main

from .sections import SECTIONS

if __name__ == "__main__":
    main(SECTIONS, description=__doc__, option="--sets", simulations=2000)
