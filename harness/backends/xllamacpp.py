"""Serve a GGUF file by xllamacpp, in a process of its own, with the arguments of `llama-server` that the backend uses.

    python -m harness.backends.xllamacpp --model=FILE.gguf --alias=NAME --host=127.0.0.1 --port=8080

xllamacpp contains llama.cpp's HTTP server, which runs in threads while its `Server` object lives.
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; its names are those of `llama-server`."""
    words = argparse.ArgumentParser(allow_abbrev=False)
    for name in ("--model", "--alias", "--host"):
        words.add_argument(name, required=True)
    words.add_argument("--port", type=int, required=True)
    for name, default in (("--parallel", 1), ("--ctx-size", 0), ("--seed", 0), ("--top-k", 0)):
        words.add_argument(name, type=int, default=default)
    words.add_argument("--top-p", type=float, default=1.0)
    words.add_argument("--min-p", type=float, default=0.0)
    words.add_argument("--jinja", action="store_true")
    words.add_argument("--chat-template-file", type=Path)
    return words


def serve(words: argparse.Namespace) -> Any:
    """Start the server and return it once the model is loaded; it stops when the object is dropped."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = words.model
    params.model_alias = {words.alias}
    params.hostnames, params.port = [words.host], words.port
    params.n_parallel, params.n_ctx = words.parallel, words.ctx_size
    params.use_jinja = words.jinja
    sampling = params.sampling
    sampling.seed, sampling.top_k, sampling.top_p, sampling.min_p = words.seed, words.top_k, words.top_p, words.min_p
    if words.chat_template_file is not None:
        params.chat_template = words.chat_template_file.read_text("utf-8")
    return xllamacpp.Server(params)


def main() -> None:
    """Serve until the process is ended."""
    _server = serve(parser().parse_args())  # bound to a name, because it stops when it is dropped
    threading.Event().wait()


if __name__ == "__main__":
    main()
