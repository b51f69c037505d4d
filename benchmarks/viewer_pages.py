"""`python -m benchmarks.viewer_pages`: weights and times of the viewer's pages, for 50 runs of AlpacaEval.

Runs with made-up answers of about 2,000 characters are written to a temporary folder; the 805 questions are the
official ones (`harness data pull alpaca_eval`, or HARNESS_MIRROR). "first" is the first time a page is asked for, with
whatever has to be read and cached; "again" is the median of the next five, and "cpu" the server's processor time for
each of them, which means something on a machine that others use too. With Chromium, "drawn" is the time from the
request to the load event, again the median of five.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from harness.records import Answer, Judgment, Preference, Prompt, Score, ScoreCard
from harness.records.protocols import SuiteOptions, load_plugin
from harness.store import dump_json, run_dir, write_atomic
from harness.store.files import write_lines

RUNS = 50
TIMES = 5
WORDS = (
    *("the", "a", "model", "answer", "step", "code", "value", "list", "first", "second", "table", "reason"),
    *("because", "number", "line", "test", "returns"),
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        runs = make_runs(Path(folder))
        with viewer(Path(folder)) as (site, process):
            measure(site, runs, process)
    return 0


def make_runs(results: Path) -> list[str]:
    """Write the runs' folders; return their keys in the viewer's addresses."""
    suite = load_plugin("suites", "alpaca_eval")(SuiteOptions())
    prompts: list[Prompt] = suite.prompts()
    keys = []
    for number in range(RUNS):
        rng, model = random.Random(number), f"model-{number:02d}"
        folder = run_dir(results, model=model, suite=suite.name, version=suite.version, run_id=f"{number:012x}")
        answers, judgments, wins = [], [], 0.0
        for prompt in prompts:
            text = " ".join(rng.choices(WORDS, k=360))
            answers.append(Answer(prompt_id=prompt.id, model=model, turns=(text,), finish=("stop",)))
            value = rng.random()
            wins += value
            judgments.append(
                Judgment.model_validate(
                    {"prompt_id": prompt.id, "model": model, "judge": "judge", "template_sha": "", "reply": "M"}
                    | {"order": "ab", "verdict": Preference(value=value)}
                )
            )
        write_lines(folder / "answers.jsonl", (row.model_dump_json() for row in answers))
        write_lines(folder / "judgments.jsonl", (row.model_dump_json() for row in judgments))
        rate = 100 * wins / len(prompts)
        score = Score(value=rate, ci_low=rate - 3, ci_high=rate + 3, se=1.5, n=len(prompts))
        card = ScoreCard(
            suite=suite.name,
            suite_version=suite.version,
            model=model,
            judge="judge",
            headline="lc_win_rate",
            complete=True,
            protocol={"suite": suite.name, "suite_version": suite.version},
            sampling={},
            scores={"lc_win_rate": score, "win_rate": score},
            provenance={"run_id": folder.name},
        )
        write_atomic(folder / "card.json", dump_json(card.model_dump(mode="json")))
        keys.append("/".join(folder.parts[-3:]))
    return keys


@contextmanager
def viewer(results: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run `harness view`; yield its address and its process."""
    command = [sys.executable, "-m", "harness.cli.main", "view", str(results), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[0].rstrip("/"), process
        process.send_signal(signal.SIGINT)


def measure(site: str, runs: list[str], process: subprocess.Popen[str]) -> None:
    """Print one line per page, then what the server's memory is after every run was opened."""
    two = f"a={runs[0]}&b={runs[1]}"
    question = f"id={first_id(site, runs[-1])}"
    pages = {
        "all runs": "/",
        "one run, 805 lines": f"/run/{runs[0]}",
        "the same, filtered by score": f"/run/{runs[0]}?score=0..10",
        "full-text search in it": f"/run/{runs[0]}?q=second+table+reason",
        "one question": f"/run/{runs[0]}/question?{question}",
        "two runs compared": f"/compare?{two}",
        "one question of two runs": f"/compare/question?{two}&{question}",
    }
    print(f"{'page':<30} {'kB':>7} {'first, s':>9} {'again, s':>9} {'cpu, s':>9} {'drawn, s':>9}", flush=True)
    with chromium() as drawn:
        for name, path in pages.items():
            started = time.perf_counter()
            size = len(get(site + path))
            first = time.perf_counter() - started
            used = cpu_seconds(process)
            again = statistics.median(timed(partial(get, site + path)) for _ in range(TIMES))
            used = (cpu_seconds(process) - used) / TIMES
            shown = "-" if drawn is None else f"{statistics.median(drawn(site + path) for _ in range(TIMES)):.2f}"
            print(f"{name:<30} {size / 1000:7.0f} {first:9.2f} {again:9.2f} {used:9.2f} {shown:>9}", flush=True)
    started, used = time.perf_counter(), cpu_seconds(process)
    for run in runs:
        get(f"{site}/run/{run}")
    wall, used = time.perf_counter() - started, cpu_seconds(process) - used
    peak = next(line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in line)
    print(
        f"all {len(runs)} runs opened in turn: {wall:.1f} s, {used:.1f} s of processor; "
        f"the server's peak: {peak_mb(peak):.0f} MB"
    )


def cpu_seconds(process: subprocess.Popen[str]) -> float:
    """Return the processor time of a process so far."""
    # Linux: fields 14 and 15 of stat, in clock ticks, counted after the name in brackets
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(line: str) -> float:
    return float(line.split()[1]) / 1024


def first_id(site: str, run: str) -> str:
    page = get(f"{site}/run/{run}").decode()
    return page.split("/question?id=", 1)[1].split('"', 1)[0]


def get(address: str) -> bytes:
    with urllib.request.urlopen(address, timeout=120) as reply:
        content: bytes = reply.read()
    return content


def timed(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


@contextmanager
def chromium() -> Iterator[Callable[[str], float] | None]:
    """Yield a function that opens an address and returns the seconds to its load event; None without a browser."""
    if CHROMIUM is None or find_spec("playwright") is None:
        yield None
        return
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()

        def opened(address: str) -> float:
            page.goto(address)
            return float(page.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")) / 1000

        yield opened
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
