"""Print a benchmark's sections, computed in parallel processes, always in the order in which they are listed.

A section is a function of the number of simulations that returns Markdown lines. It must be a module's own function, so
that another process can import it, and seed its own random numbers, so that neither order nor processes change it:

    SECTIONS = {"verdicts": Section("Verdicts on known drops", verdicts)}
    main(SECTIONS, description=__doc__, option="--trials", simulations=100)
"""

from __future__ import annotations

import argparse
import multiprocessing
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

JOBS = 2


@dataclass(frozen=True)
class Section:
    title: str
    lines: Callable[[int], Sequence[str]]


@dataclass(frozen=True)
class Timed:
    lines: Sequence[str]
    seconds: float


def main(
    sections: Mapping[str, Section],
    *,
    description: str | None,
    option: str,
    simulations: int,
    argv: list[str] | None = None,
) -> None:
    """Parse the command line and print the sections as Markdown; their times go to stderr."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        option, dest="simulations", type=int, default=simulations, help="simulations; fewer are quicker"
    )
    parser.add_argument("--only", metavar="NAME", action="append", choices=list(sections), help=", ".join(sections))
    parser.add_argument("--jobs", type=int, default=JOBS, help="processes, one section each at a time")
    flags = parser.parse_args(argv)
    chosen = {name: section for name, section in sections.items() if flags.only is None or name in flags.only}
    # a forked process could inherit a lock that a thread of a numerical library holds
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(flags.jobs, len(chosen)), mp_context=context) as pool:
        results = [(name, pool.submit(timed, section, flags.simulations)) for name, section in chosen.items()]
        for name, future in results:
            section = future.result()
            print(f"## {chosen[name].title}\n\n" + "\n".join(section.lines) + "\n", flush=True)
            print(f"{name}: {section.seconds:.0f} s", file=sys.stderr, flush=True)


def timed(section: Section, simulations: int) -> Timed:
    started = time.perf_counter()
    lines = section.lines(simulations)
    return Timed(lines, time.perf_counter() - started)


def filled(page: str, name: str, table: str, command: str) -> str:
    """Return a Markdown page with the table between its markers, which name the command that prints it.

    Raise ValueError if the page has no such markers.
    """
    begin, end = f"<!-- begin: {command}, {name} -->", f"<!-- end: {name} -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no {begin} … {end}")
    return pattern.sub(lambda _: f"{begin}\n\n{table}\n{end}", page)
