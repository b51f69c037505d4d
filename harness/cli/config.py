"""`harness config`: decide which harness.yaml may run code here and send keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from ..records.errors import printable
from ..store.trusted import NAME, RUNS_CODE, config_folder, judge_lines, trust, trusted_files, untrust, wishes
from .options import Flags, JsonFlags, command, command_group

config_app = command_group(
    "Trust a harness.yaml, or stop trusting it.\n\nA ./harness.yaml that is not trusted works, but it may not set "
    f"{', '.join(RUNS_CODE)}, name task or judge files, or send a key to a host other than the one of the key's "
    "provider. --config FILE needs no trust."
)


class ConfigFileFlags(Flags):
    file: Annotated[Path, typer.Argument(help="The configuration file.")] = Path(NAME)


@config_app.command("trust")
@command
def trust_file(flags: ConfigFileFlags) -> None:
    """Trust a configuration file as it is now: its path and its hash are remembered.

    Example: harness config trust
    """
    file = trust(flags.file)
    print(f"trusted until it changes: {flags.file.resolve()}")
    for line in judge_lines(file):
        print(line)
    for wish in wishes(file, {}):
        print(printable(f"it asks for {wish}"))


@config_app.command("untrust")
@command
def untrust_file(flags: ConfigFileFlags) -> None:
    """Stop trusting a configuration file.

    Example: harness config untrust
    """
    untrust(flags.file)
    print(f"no longer trusted: {flags.file.resolve()}")


@config_app.command("show")
@command
def show(flags: JsonFlags) -> None:
    """List the trusted files, and where the user's own judges are.

    Example: harness config show
    """
    files = trusted_files()
    folder = config_folder()
    if flags.as_json:
        print(json.dumps({"trusted": files, "folder": None if folder is None else str(folder)}, indent=2))
        return
    for path, sha256 in files.items():
        print(f"{printable(path)}  sha256 {sha256[:12]}")
    if not files:
        print("no file is trusted")
    if folder is not None:
        print(
            f"judges for every folder: {folder / NAME} ({'exists' if (folder / NAME).exists() else 'does not exist'})"
        )
