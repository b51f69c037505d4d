"""The peers: which Python runs each, and its figures beyond start-up.

Start-up is a run of a few answers; what the full run takes beyond it is the tool's own cost a call.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .processes import Server, Whole, mock_server, run
from .sides import COUNT, PLACES, Side

FEW = 8
QUIET: Mapping[str, str] = {"HF_HUB_OFFLINE": "1", "NO_COLOR": "1", "DO_NOT_TRACK": "1"}


@dataclass(frozen=True)
class Peer:
    module: str
    script: str
    calls_each: int
    """Calls an answer: 2 where the tool generates as well."""
    apart: bool = True
    """Runs in the environment that HARNESS_PEERS names."""


PEERS = (
    Peer("inspect_ai", "peer_inspect_ai.py", 2),
    Peer("evalscope", "peer_evalscope.py", 2),
    Peer("alpaca_eval", "peer_alpaca_eval.py", 1, apart=False),
)


def measure_peer(peer: Peer, count: int = COUNT, places: int = PLACES, latency: float = 0.2) -> Side:
    python = os.environ.get("HARNESS_PEERS") if peer.apart else sys.executable
    if not python:
        return Side(peer.module, missing="not run: HARNESS_PEERS names no environment")
    python = str(Path(python).absolute())
    find = [python, "-c", f"import importlib.util as u, sys; sys.exit(u.find_spec({peer.module!r}) is None)"]
    if subprocess.run(find, check=False).returncode:
        return Side(peer.module, missing="not installed")
    with mock_server(latency=latency) as server:
        start = _run(peer, python, server, FEW, places)
        if start.code:
            return Side(peer.module, missing=f"failed: {_last(start.err)}")
        server.reset()
        whole = _run(peer, python, server, count, places)
        stats = server.stats()
    if whole.code:
        return Side(peer.module, missing=f"failed: {_last(whole.err)}")
    calls = int(stats["requests"])
    return Side(
        name=peer.module if peer.calls_each == 2 else f"{peer.module} (judging alone)",
        calls=calls,
        wall=stats["last"] - stats["first"],
        cpu_per_call=1000 * (whole.cpu - start.cpu) / max(1, calls - FEW * peer.calls_each),
        memory=whole.memory,
        connections=stats["connections"],
    )


def _run(peer: Peer, python: str, server: Server, count: int, places: int) -> Whole:
    script = Path(__file__).parent / peer.script
    with tempfile.TemporaryDirectory() as folder:
        command = [python, str(script), server.url, str(count), str(places)]
        return run(command, cwd=Path(folder), env=QUIET)


def _last(text: str) -> str:
    lines = [line for line in text.strip().splitlines() if line.strip()]
    return lines[-1][:120] if lines else "no word"
