"""Reference pages written from the code: commands, harness.yaml, recipes, environment variables, files, Python names.

pages()["reference/cli.md"]
"""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "HARNESS_CACHE": "Folder of downloaded benchmark files and of the caches below; default `~/.cache/fusion-harness`.",
    "HARNESS_ENDPOINT_KEY": "Key sent to the server of `--model endpoint:NAME@URL`.",
    "HARNESS_JUDGE": "The judge, as `--judge`, if neither a flag nor harness.yaml names one.",
    "HARNESS_JUDGE_KEY": "Key sent to the server of `--judge endpoint:NAME@URL`.",
    "HARNESS_MACHINES": "How the first of several machines finds the others of a training; set by the command itself.",
    "HARNESS_MIRROR": "Folder or URL with the benchmark files, laid out as `owner/repo/commit/path`.",
    "HARNESS_PUBLISHED": "Folder of recorded judgments, as `--data` of `harness judge calibrate`.",
    "HARNESS_REPLY_CACHE": "File of the judges' cached replies.",
    "HARNESS_REWARD_CACHE": "File of the cached rewards.",
    "HARNESS_RESULTS": "The results folder, as `--results`.",
    "HARNESS_VIEW_TOKEN": "The token with which a shared `harness view` is opened.",
    "GITHUB_STEP_SUMMARY": "File to which `harness gate` appends its verdict; GitHub sets it.",
    "HF_ENDPOINT": "Another Hub than `https://huggingface.co`.",
    "HF_HUB_OFFLINE": "`1`: nothing is fetched from the Hub.",
    "HF_TOKEN": "Token for the Hub, for models that need one and for `--push-to-hub`.",
    "NO_COLOR": "Set: no colours in the terminal.",
    "RAY_ADDRESS": "The Ray cluster to use; without it Ray is started for the run.",
    "RAY_TMPDIR": "Where a Ray that is started for the run keeps its files; choose a short path.",
    "SSL_CERT_FILE": "Certificates of hosts that your own authority signed.",
    "TMPDIR": "Where temporary files and the logs of crashes are written.",
    "VLLM_CPU_KVCACHE_SPACE": "GiB of key-value cache of vLLM's CPU build.",
    "XDG_CACHE_HOME": "Where `fusion-harness`, the folder of caches, lies; default `~/.cache`.",
    "XDG_CONFIG_HOME": "Where `fusion-harness/harness.yaml` and the trusted files lie; default `~/.config`.",
}


def pages() -> dict[str, str]:
    """Return page -> Markdown of every generated page."""
    return {
        "reference/cli.md": _cli(),
        "reference/config.md": _config(),
        "reference/environment.md": _environment(),
        "reference/files.md": _files(),
        "reference/python.md": _python(),
    }


def _cell(text: object) -> str:
    return " ".join(str(text).replace("|", "\\|").replace("<", "&lt;").split())


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "| " + " | ".join("---" for _ in head) + " |"]
    return "\n".join(lines + ["| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows]) + "\n"


# ------------------------------------------------------------------------------------------------------------- commands


def _cli() -> str:
    from harness.cli.main import COMMANDS, load_command
    from harness.records.protocols import installed

    parts = ["# Commands\n\nEvery command ends with 0 when done, 2 for bad input, 4 when incomplete.\n"]
    for name in dict.fromkeys([*COMMANDS, *sorted(installed("commands"))]):
        parts += _command(f"harness {name}", load_command(name), 2)
    return "\n".join(parts)


def _command(name: str, command: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}\n"
    if command.help:
        yield _help(inspect.cleandoc(command.help))
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or parameter.name == "help":
            continue
        names = ", ".join(f"`{flag}`" for flag in [*parameter.opts, *parameter.secondary_opts])
        if parameter.param_type_name == "argument":
            names = f"`{parameter.name.upper()}`"
        default = parameter.default
        shown = (
            "" if default in (None, False, ()) or callable(default) or "Sentinel" in repr(default) else f"`{default}`"
        )
        rows.append((names, getattr(parameter, "help", None) or "", shown))
    if rows:
        yield _table(("flag", "what it does", "default"), rows)
    for child_name in getattr(command, "commands", {}):
        yield from _command(f"{name} {child_name}", command.commands[child_name], level + 1)


def _help(text: str) -> str:
    """Return a command's help with its examples, which it separates by semicolons, as one block of commands.

    >>> print(_help("Rank cards.\\n\\nExamples: harness a --b 'x; y';\\nharness c"), end="")
    Rank cards.
    <BLANKLINE>
    ```sh
    harness a --b 'x; y'
    harness c
    ```
    """
    parts = []
    for paragraph in text.split("\n\n"):
        line = " ".join(paragraph.split())
        if examples := re.fullmatch(r"Examples?: (harness .*)", line):
            commands = re.split(r"; (?=harness )", examples[1])
            parts.append("\n".join(["```sh", *commands, "```"]))
        else:
            parts.append(paragraph.replace("<", "&lt;"))
    return "\n\n".join(parts) + "\n"


# ------------------------------------------------------------------------------------------------------------- records


def field_notes(record: type) -> dict[str, str]:
    """Return field -> the docstring below it, as written in the source."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(record)))
    body, notes = tree.body[0].body, {}  # type: ignore[attr-defined]
    for field, after in itertools.pairwise(body):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and is_text:
            notes[field.target.id] = str(after.value.value)
    return notes


def _type(annotation: object) -> str:
    text = annotation.__name__ if isinstance(annotation, type) and not get_args(annotation) else str(annotation)
    text = re.sub(r"\b(?:typing|collections\.abc|pathlib|pydantic\.types|[a-z_]+(?:\.[a-z_]+)+)\.", "", text)
    return text.replace("NoneType", "None").replace(" | ", " or ")  # a pipe would end the table's cell


def _record(record: type[BaseModel], title: str, level: int = 2, notes: dict[str, str] | None = None) -> str:
    """Return a table of the record's fields; `notes` are used for fields that the source does not describe."""
    notes = dict(notes or {})
    for base in reversed(record.__mro__):
        if issubclass(base, BaseModel) and base.__module__.split(".")[0] in ("harness", "recipes", "judges"):
            notes |= field_notes(base)
    rows = [
        (f"`{name}`", f"`{_type(field.annotation)}`", _default(field), notes.get(name, field.description or ""))
        for name, field in record.model_fields.items()
    ]
    text = inspect.cleandoc(record.__doc__ or "").replace("<", "&lt;")
    return f"{'#' * level} {title}\n\n{text}\n\n{_table(('key', 'type', 'default', 'meaning'), rows)}"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    shown = f"`{field.default!r}`"
    return "" if field.default in (None, PydanticUndefined) or len(shown) > 60 else shown


def _config() -> str:
    from harness.cli.main import load_command
    from harness.records.settings import FileSpec, JudgeSpec, SamplingOverride, ServeSpec

    head = "# harness.yaml\n\nMost keys are also a flag of `harness run`. An unknown key is refused.\n"
    flags = {flag.name: flag.help or "" for flag in load_command("run").params if getattr(flag, "help", None)}
    parts = [head, _record(FileSpec, "Keys", notes=flags), _record(ServeSpec, "`serve:`", notes=flags)]
    parts.append(_record(SamplingOverride, "`sampling:`", notes=flags))
    parts.append(_record(JudgeSpec, "`judges: NAME:`"))
    recipe = import_module("recipes.spec")
    parts.append("## Recipes\n\nThe keys of a recipe's YAML, section by section.\n")
    records = [
        value
        for value in vars(recipe).values()
        if isinstance(value, type) and issubclass(value, BaseModel) and value.__module__ == recipe.__name__
    ]
    parts += [_record(record, f"`{record.__name__}`", 3) for record in records]
    return "\n".join(parts)


def _environment() -> str:
    from harness.records.providers import __name__ as keys_module

    rows = [(f"`{name}`", meaning) for name, meaning in ENVIRONMENT.items()]
    text = (
        "# Environment variables\n\nKeys of judges are read from the variable that a judge's `key_env` names, "
        f"`OPENAI_API_KEY` for OpenAI's (`{keys_module}`). A key is never read from a file.\n\n"
    )
    return text + _table(("variable", "meaning"), rows)


def _files() -> str:
    from harness.records import Answer, Judgment, Score, ScoreCard

    layout = (ROOT / "results/README.md").read_text("utf-8").split("\n", 1)[1]
    parts = ["# Files of a run\n", layout.replace("](../docs/", "](../"), "\n"]
    named = ((ScoreCard, "card.json"), (Score, "a score of a card"), (Answer, "a line of answers.jsonl"))
    parts += [_record(record, title) for record, title in (*named, (Judgment, "a line of judgments.jsonl"))]
    return "\n".join(parts)


def _python() -> str:
    import harness

    parts = [
        "# Python\n\n```python\nimport harness\n```\n",
        inspect.cleandoc(harness.__doc__ or "").split("\n\n")[0],
        "\n",
    ]
    for name in harness.__all__:
        value = getattr(harness, name)
        if isinstance(value, type | types.FunctionType):
            parts.append(_name(name, value))
    return "\n".join(parts)


def _name(name: str, value: Any) -> str:
    if isinstance(value, type) and issubclass(value, BaseModel):
        return _record(value, f"`harness.{name}`")
    try:
        signature = str(inspect.signature(value)) if isinstance(value, types.FunctionType) else ""
    except (TypeError, ValueError):
        signature = ""
    text = inspect.cleandoc(value.__doc__ or "").replace("<", "&lt;")
    code = f"```python\n{name}{signature}\n```\n\n" if signature else ""
    return f"## `harness.{name}`\n\n{code}{text}\n"
