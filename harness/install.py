"""How to install this package and its extras, as commands that work where it runs.

>>> install_command("view").endswith("[view]'")
True
"""

from __future__ import annotations

import shlex
from pathlib import Path

DISTRIBUTION = "llm-fusion-harness"
"""On PyPI `fusion-harness` is another project's package."""
ROOT = Path(__file__).parent.parent


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
