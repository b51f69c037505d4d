"""Find the recipes and accelerate configurations that are shipped with the package, by name."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError

CONFIGS = Path(__file__).parent / "configs"


def shipped_recipes() -> dict[str, Path]:
    """Return the shipped recipes as name -> file, sorted by name."""
    return {file.stem: file for file in sorted(CONFIGS.glob("*.yaml"), key=lambda file: file.stem)}


def recipe_path(recipe: str, beside: Path = Path()) -> Path:
    """Return the file of a recipe: a path relative to `beside`, or the name of a shipped recipe.

    Raise ConfigError if it is neither.
    """
    path = beside / recipe
    if path.is_file():
        return path
    known = shipped_recipes()
    if recipe in known:
        return known[recipe]
    raise ConfigError(f"no recipe {recipe!r}: neither a file nor one of {', '.join(known)}")


def launch_path(launch: str) -> Path:
    """Return the accelerate configuration for `launch:`: a file, or the name of a shipped one (ddp, fsdp2, zero3).

    Raise ConfigError if it is neither.
    """
    path = Path(launch).expanduser()
    if path.is_file():
        return path
    known = {file.stem: file for file in sorted((CONFIGS / "accelerate").glob("*.yaml"))}
    if launch in known:
        return known[launch]
    raise ConfigError(f"launch = {launch!r} is neither a file nor one of {', '.join(known)}")


def about(path: Path) -> str:
    """Return the first sentence of a recipe file's opening comment, or "" if there is no comment."""
    lines = []
    for line in path.read_text("utf-8").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    sentence = " ".join(lines).partition(". ")[0]
    return sentence and sentence.rstrip(".") + "."
