"""Our promises about speed, each measured against the mock server."""

from __future__ import annotations

import math
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from .processes import last_json, mock_server, run
from .sides import COUNT, PLACES, Side

LATENCY = 0.2
RATE = 60.0
MANY = 20_000
WIDE, WIDE_COUNT = 1000, 8050
"""Calls in flight, and calls: ten AlpacaEval runs."""


@dataclass(frozen=True)
class Promise:
    """One line of the table: what was measured, and what it may be at most or at least."""

    name: str
    value: float
    unit: str
    limit: float
    at_most: bool = True
    ideal: str = ""

    @property
    def holds(self) -> bool:
        return self.value <= self.limit if self.at_most else self.value >= self.limit


def ideal(count: int, latency: float, places: int) -> float:
    """Seconds: judge calls x latency / places, and one latency for the answer that the first judgment needs."""
    return count * latency / places + latency


def ours(url: str, count: int, places: int, *options: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        done = run([sys.executable, "-m", "benchmarks.judging.ours", url, folder, str(count), str(places), *options])
    if done.code:
        raise RuntimeError(f"our own side failed: {done.err}")
    return last_json(done.out) | {"whole_wall": done.wall, "whole_cpu": done.cpu, "whole_memory": done.memory}


def promises() -> list[Promise]:
    return [*pipeline(COUNT), *wide(WIDE_COUNT), *token_bucket(COUNT), *client_alone(6000, 1500), *flat(MANY)]


def pipeline(count: int, times: int = 3) -> list[Promise]:
    """`count` answers generated and judged at 200 ms, 64 in flight: the quickest of some runs, as others use the
    machine too."""
    with mock_server(latency=LATENCY) as server:
        tries = []
        for _ in range(times):
            server.reset()
            tries.append((ours(server.url, count, PLACES), server.stats()))
    found, stats = min(tries, key=lambda one: one[0]["wall"])
    if found["rows"] != count or stats["requests"] != 2 * count:
        raise RuntimeError(f"{found['rows']} of {count} judged with {stats['requests']:.0f} requests")
    best = ideal(count, LATENCY, PLACES)
    calls = f"{count} answers judged, {2 * count:,} calls, 200 ms, {PLACES} in flight"
    return [
        Promise(f"{calls}: wall", found["wall"] / best, f"x ideal ({best:.1f} s)", 1.6),
        Promise("processor time", 1000 * found["cpu"] / (2 * count), "ms per call", 1.5),
        Promise("peak memory", found["memory"], "MB", 150),
        Promise("connections opened", stats["connections"], f"({PLACES} + {PLACES})", 2 * PLACES),
    ]


def wide(count: int, places: int = WIDE, latency: float = 1.0, times: int = 2) -> list[Promise]:
    """`count` answers that exist already, judged with `places` calls in flight."""
    with mock_server(latency=latency) as server:
        tries = []
        for _ in range(times):
            server.reset()
            tries.append((ours(server.url, count, places, "answered"), server.stats()))
    found, stats = min(tries, key=lambda one: one[0]["wall"])
    if found["rows"] != count or stats["requests"] != count:
        raise RuntimeError(f"{found['rows']} of {count} judged with {stats['requests']:.0f} requests")
    best = math.ceil(count / places) * latency
    calls = f"{count:,} judge calls, {latency:g} s, {places:,} in flight"
    return [
        Promise(f"{calls}: wall", found["wall"] / best, f"x ideal ({best:.1f} s)", 1.15),
        Promise("most in flight there", stats["peak_in_flight"], "calls", places, at_most=False),
        Promise("processor time with as many in flight", 1000 * found["cpu"] / count, "per call", 1.0),
    ]


def token_bucket(count: int, rate: float = RATE) -> list[Promise]:
    """The same under a token bucket whose burst is a second's worth."""
    with mock_server(latency=LATENCY, rate=rate, burst=rate) as server:
        found = ours(server.url, count, PLACES)
        stats = server.stats()
    if found["rows"] != count:
        raise RuntimeError(f"{found['rows']} of {count} judged")
    # the burst at the start is a present: it does not count towards the rate
    reached = (stats["requests"] - rate) / (stats["last"] - stats["first"] - LATENCY)
    share = 100 * stats["rejected"] / (stats["requests"] + stats["rejected"])
    return [
        Promise(f"token bucket of {rate:.0f} requests/s: rate", 100 * reached / rate, "% of it", 95, at_most=False),
        Promise("requests rejected there", share, "%", 2),
    ]


def client_alone(count: int, count_sdk: int, places: int = 256, latency: float = 0.05) -> list[Promise]:
    """Calls a second of the client, beside the openai SDK's on the same server."""
    with mock_server(latency=latency) as server:
        figures = {}
        for name, calls in (("openai", count_sdk), ("ours", count)):
            done = run([sys.executable, "-m", "benchmarks.judging.clients", name, server.url, str(calls), str(places)])
            if done.code:
                raise RuntimeError(f"{name} failed: {done.err}")
            figures[name] = last_json(done.out)
    speed = {name: found["calls"] / found["wall"] for name, found in figures.items()}
    cpu = {name: 1000 * found["cpu"] / found["calls"] for name, found in figures.items()}
    said = f"{places} in flight at {1000 * latency:.0f} ms: client, {speed['ours']:.0f} calls/s"
    return [
        Promise(said, speed["ours"] / speed["openai"], f"x the openai SDK's {speed['openai']:.0f}", 5, at_most=False),
        Promise(
            "processor time of the client alone", cpu["ours"], f"ms per call (SDK {cpu['openai']:.2f})", cpu["openai"]
        ),
    ]


def flat(count: int) -> list[Promise]:
    """Memory between a tenth and all of many judgments."""
    with mock_server(latency=0.01) as server:
        found = ours(server.url, count, PLACES)
    if found["rows"] != count:
        raise RuntimeError(f"{found['rows']} of {count} judged")
    grown = found["memory_last"] - found["memory_first"]
    return [Promise(f"{count:,} judgments: growth after the first tenth", grown, "MB", 15)]


def side(count: int = COUNT) -> Side:
    """Our line in the table of peers: the whole process, and what start-up leaves out."""
    with mock_server(latency=LATENCY) as server:
        found = ours(server.url, count, PLACES)
        stats = server.stats()
    return Side(
        name="fusion-harness",
        calls=2 * count,
        wall=stats["last"] - stats["first"],
        cpu_per_call=1000 * found["cpu"] / (2 * count),
        memory=found["memory"],
        connections=stats["connections"],
    )
