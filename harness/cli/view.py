"""`harness view`: serve the pages of a results folder until stopped, or write them to files."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from ..records.errors import ConfigError, printable
from ..store.provenance import install_command
from .options import RESULTS_HELP, Flags, command, configured_results

TOKEN = "HARNESS_VIEW_TOKEN"
MIN_TOKEN = 16


class ViewFlags(Flags):
    results: Annotated[
        Path,
        typer.Argument(
            help=RESULTS_HELP, envvar="HARNESS_RESULTS", default_factory=configured_results, show_default=False
        ),
    ] = Field(default_factory=configured_results)
    export: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write the pages to a new or empty folder, for a web server or disk, and end."
        ),
    ] = None
    port: Annotated[int, typer.Option(help="0: any free port.", min=0, max=65535)] = 8642
    host: Annotated[str, typer.Option(help=f"Other than loopback, {TOKEN} must be in the environment.")] = "127.0.0.1"


@command
def view(flags: ViewFlags) -> None:
    """Read runs in the browser: cards, every question with its answers, replies and verdicts, and two runs compared.

    Read-only. Example: harness view results --port 8642; as files: --export site
    """
    try:
        import uvicorn

        from ..pages.viewer.app import build_app, is_loopback
    except ImportError as error:
        raise ConfigError(f"harness view needs {error.name}: {install_command('view')}") from None
    if not flags.results.is_dir():
        raise ConfigError(f"no results folder {str(flags.results)!r}; `harness run` makes one")
    if flags.export is not None:
        from ..pages.viewer.export import export

        pages = export(flags.results, flags.export, _say_how_far)
        for sentence in pages.failed:
            print(f"harness: {printable(sentence)}", file=sys.stderr)
        print(f"{pages.written} files; open {flags.export / 'index.html'}")
        return
    token = os.environ.get(TOKEN) or None
    if not is_loopback(flags.host) and (token is None or len(token) < MIN_TOKEN):
        raise ConfigError(
            f"--host {flags.host!r} can be reached by others: set {TOKEN} to a secret of at least {MIN_TOKEN} "
            "characters"
        )
    listener = bound(flags.host, flags.port)
    hostname = f"[{flags.host}]" if ":" in flags.host else flags.host
    address = f"http://{hostname}:{listener.getsockname()[1]}/"
    print(f"{address}{f'?token=(the value of {TOKEN})' if token else ''}  stop with Ctrl-C", flush=True)
    # no access log: an address can contain the token
    config = uvicorn.Config(build_app(flags.results, token), log_level="warning", access_log=False, server_header=False)
    uvicorn.Server(config).run(sockets=[listener])


def _say_how_far(written: int, known: int) -> None:
    if written % 500 == 0 and written < known:
        print(f"{written} of {known} files", file=sys.stderr)


def bound(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raise ConfigError if the address is taken or not one of this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()  # whoever reads the address may open it at once
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror or error}; choose another --port") from None
    return listener
