"""lm-eval's tasks (`lm_eval:TASK`, `lm_eval:FILE.yaml`): the installed lm-eval asks the model that we serve.

Tasks that generate are asked by chat completions, so that the server applies the chat template. Tasks that compare
log-likelihoods need the prompt's own log-probabilities, which only text completions give: those are asked without a
chat template, as lm-eval does by default, with the checkpoint's tokenizer; the card's protocol says which.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from ..digests import file_sha256
from ..errors import ConfigError, IncompleteError
from ..install import install_command
from ..protocols import Numbers, OwnRun, Served, SuiteOptions
from .lm_eval_results import load_results, task_results

log = logging.getLogger(__name__)

CHAT, TEXT = "local-chat-completions", "local-completions"
NO_LIKELIHOODS = "not supported for chat completions"  # lm_eval models/openai_completions.py, LocalChatCompletion
OUTPUT_TYPE = re.compile(r"^output_type:\s*[\"']?(\w+)", re.MULTILINE)
TAIL = 400  # characters of lm-eval's log that an error shows
EVERY = 10.0
"""Seconds between two lines of progress."""
REQUESTS = re.compile(r"\b(\d+/\d+) \[")
"""The count of a tqdm bar: `25%|##   | 1/4 [00:01<...`."""
TASK_NAME = re.compile(r"[\w.-]+")


class LmEval:
    """`fusion_harness.suites` entry point. Raises ConfigError without a task, its file or the lm-eval package."""

    judged = False

    def __init__(self, options: SuiteOptions) -> None:
        self.task = options.argument
        if not self.task:
            raise ConfigError("suite lm_eval needs a task: lm_eval:TASK, lm_eval:T1+T2 or lm_eval:FILE.yaml")
        self._file = Path(self.task) if self.task.endswith((".yaml", ".yml")) else None
        if self._file is not None and not self._file.is_file():
            raise ConfigError(f"no lm-eval task file {self.task!r}")
        if self._file is None and not TASK_NAME.fullmatch(self.task):
            raise ConfigError(f"{self.task!r} is no lm-eval task name; `lm-eval ls tasks` lists them")
        try:
            self.version = version("lm_eval")
        except PackageNotFoundError:
            raise ConfigError(f"suite lm_eval needs the package lm-eval: {install_command('lm-eval')}") from None
        self.name = f"lm_eval:{self._file.stem if self._file is not None else self.task}"

    def protocol(self) -> dict[str, JsonValue]:
        found: dict[str, JsonValue] = {"suite": self.name, "lm_eval": self.version}
        if self._file is not None:
            found["task_file"] = file_sha256(self._file)
        return found

    async def run(self, server: Served, own: OwnRun) -> Numbers:
        """Asks by chat where the task allows it, and reads lm-eval's results. Raises IncompleteError where it fails."""
        for model in self._ways():
            code = await self._lm_eval(model, server, own)
            if code == 0:
                return self._numbers(own.work_dir, own)
            if model == CHAT and NO_LIKELIHOODS in _log(own.work_dir):
                continue
            break
        raise IncompleteError(f"lm-eval failed on {self.task!r} (exit {code}): {_last_lines(own.work_dir)}")

    def _ways(self) -> tuple[str, ...]:
        found = OUTPUT_TYPE.search(self._file.read_text("utf-8")) if self._file is not None else None
        return (TEXT,) if found is not None and found[1] != "generate_until" else (CHAT, TEXT)

    async def _lm_eval(self, model: str, server: Served, own: OwnRun) -> int:
        """lm-eval's exit status. It runs under the warden, so it ends when we do, however we end."""
        argv = [*_command(model, server, own), "--tasks", self.task]
        with (own.work_dir / "lm_eval.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "harness.backends.warden", *argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=_environment(server),
            )
            assert process.stdin is not None
            reporting = asyncio.create_task(_report(self.name, own.work_dir))
            try:
                return await process.wait()
            finally:
                reporting.cancel()
                process.stdin.close()  # the warden stops what still runs
                await process.wait()

    def _numbers(self, folder: Path, own: OwnRun) -> Numbers:
        files = sorted(folder.rglob("results_*.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise IncompleteError(f"lm-eval wrote no results for {self.task!r}: {_last_lines(folder)}")
        wanted = None if self._file is not None else [self.task]
        (numbers, *_) = task_results(load_results(files[-1]), str(files[-1]), wanted)
        if own.sampling:
            numbers.protocol["sampling_deviation"] = dict(own.sampling)
        return numbers


async def _report(name: str, folder: Path) -> None:
    """Logs how far lm-eval's own progress bar is, now and then."""
    last = ""
    while True:
        await asyncio.sleep(EVERY)
        bars = REQUESTS.findall(_log(folder)[-4 * TAIL :])
        if bars and bars[-1] != last:
            last = bars[-1]
            log.info("%s: %s requests", name, last)


def _command(model: str, server: Served, own: OwnRun) -> list[str]:
    chat = model == CHAT
    asked: dict[str, JsonValue] = {
        "model": server.name,
        "base_url": f"{server.url}/{'chat/completions' if chat else 'completions'}",
        "num_concurrent": server.concurrency,
        "tokenizer_backend": None if chat else "huggingface",
    }
    if server.max_model_len is not None:
        asked["max_length"] = server.max_model_len
    if not chat:
        if server.tokenizer is None:
            raise ConfigError(
                "this lm-eval task compares log-likelihoods, for which the checkpoint's tokenizer is needed"
            )
        asked["tokenizer"] = str(server.tokenizer)
    argv = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", json.dumps(asked)]
    argv += ["--apply_chat_template"] if chat else []
    argv += ["--limit", str(own.limit)] if own.limit is not None else []
    names = {"max_tokens": "max_gen_toks"}
    settings = {names.get(name, name): value for name, value in own.sampling.items()}
    argv += ["--gen_kwargs", json.dumps(settings)] if settings else []
    argv += ["--seed", str(own.seed)] if own.seed else []
    argv += ["--use_cache", str(own.work_dir / f"replies-{model}")]  # a run that was stopped goes on from there
    return [*argv, "--output_path", str(own.work_dir / "output"), "--log_samples"]


def _environment(server: Served) -> dict[str, str]:
    """Ours, with the key for this server and no other, and no proxy before a server on this machine."""
    local = {"NO_PROXY": f"{os.environ.get('NO_PROXY', '')},127.0.0.1,localhost".lstrip(",")}
    return {**os.environ, **local, "OPENAI_API_KEY": server.key or "none", "TOKENIZERS_PARALLELISM": "false"}


def _log(folder: Path) -> str:
    return (folder / "lm_eval.log").read_text("utf-8", "replace")


def _last_lines(folder: Path) -> str:
    """The end of lm-eval's log on one line."""
    words = " ".join(_log(folder)[-4 * TAIL :].split())
    return f"…{words[-TAIL:]} ({folder / 'lm_eval.log'})"
