"""Run lm-eval's tasks: `lm_eval:TASK`, `lm_eval:FILE.yaml`. Each task is a suite with its own card.

The installed lm-eval queries the model that we serve, and `files` reads its output, as `harness import` does.

Generation tasks use chat completions, so that the server applies the chat template. Tasks that compare log-likelihoods
need the prompt's own log-probabilities, which only text completions return. These use no chat template, as is lm-eval's
default, and the checkpoint's tokenizer; the card's protocol records which.
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

from ...records.errors import ConfigError, IncompleteError
from ...records.protocols import Numbers, OwnRun, Served, SuiteOptions
from ...records.providers import HUB, without_keys
from ...store.files import file_sha256
from ...store.provenance import install_command
from .facts import task_of
from .files import run_results

log = logging.getLogger(__name__)

CHAT, TEXT = "local-chat-completions", "local-completions"
NO_LIKELIHOODS = "not supported for chat completions"  # lm_eval models/openai_completions.py, LocalChatCompletion
OUTPUT_TYPE = re.compile(r"^output_type:\s*[\"']?(\w+)", re.MULTILINE)
TAIL = 400  # characters of lm-eval's log in an error
EVERY = 10.0
"""Seconds between two progress lines."""
REQUESTS = re.compile(r"\b(\d+/\d+) \[")
"""The count of a tqdm bar: `25%|##   | 1/4 [00:01<...`."""
TASK_NAME = re.compile(r"[\w.-]+")


class LmEval:
    """The suite (`fusion_harness.suites` entry point); ConfigError without a task, its file or the lm-eval package."""

    judged = False

    def __init__(self, options: SuiteOptions) -> None:
        self.task = task_of(options.argument)
        if not self.task:
            raise ConfigError("suite lm_eval needs a task: lm_eval:TASK, lm_eval:T1+T2 or lm_eval:FILE.yaml")
        self._file = Path(self.task) if self.task.endswith((".yaml", ".yml")) else None
        if self._file is not None and not self._file.is_file():
            raise ConfigError(f"no lm-eval task file {self.task!r}")
        if self._file is None and not TASK_NAME.fullmatch(self.task):
            raise ConfigError(f"{self.task!r} is not an lm-eval task name; `lm-eval ls tasks` lists them")
        try:
            self.version = version("lm_eval")
        except PackageNotFoundError:
            raise ConfigError(f"suite lm_eval needs the package lm-eval: {install_command('lm-eval')}") from None
        self.name = f"lm_eval:{self._file.stem if self._file is not None else self.task}"

    def protocol(self) -> dict[str, JsonValue]:
        fields: dict[str, JsonValue] = {"suite": self.name, "lm_eval": self.version}
        if self._file is not None:
            fields["task_file"] = file_sha256(self._file)
        return fields

    async def run(self, server: Served, job: OwnRun) -> Numbers:
        """Query by chat if the task allows it, and return lm-eval's results. Raise IncompleteError if it fails."""
        for model in self._ways():
            code = await self._lm_eval(model, server, job)
            if code == 0:
                return self._numbers(job.work_dir, job)
            if model == CHAT and NO_LIKELIHOODS in _log(job.work_dir):
                continue
            break
        raise IncompleteError(f"lm-eval failed on {self.task!r} (exit {code}): {_last_lines(job.work_dir)}")

    def _ways(self) -> tuple[str, ...]:
        match = OUTPUT_TYPE.search(self._file.read_text("utf-8")) if self._file is not None else None
        return (TEXT,) if match is not None and match[1] != "generate_until" else (CHAT, TEXT)

    async def _lm_eval(self, model: str, server: Served, job: OwnRun) -> int:
        """Return lm-eval's exit status. It runs under the warden, so it always ends with this process."""
        argv = [*_command(model, server, job), "--tasks", self.task]
        with (job.work_dir / "lm_eval.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "harness.backends.warden", *argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=child_environment(server),
            )
            assert process.stdin is not None
            reporting = asyncio.create_task(_report(self.name, job.work_dir))
            try:
                return await process.wait()
            finally:
                reporting.cancel()
                process.stdin.close()  # the warden stops what still runs
                await process.wait()

    def _numbers(self, folder: Path, job: OwnRun) -> Numbers:
        files = sorted(folder.rglob("results_*.json"), key=lambda file: file.stat().st_mtime)
        if not files:
            raise IncompleteError(f"lm-eval wrote no results for {self.task!r}: {_last_lines(folder)}")
        numbers = run_results(files[-1], None if self._file is not None else self.task)
        if job.sampling:
            numbers.protocol["sampling_deviation"] = dict(job.sampling)
        return numbers


async def _report(name: str, folder: Path) -> None:
    last = ""
    while True:
        await asyncio.sleep(EVERY)
        bars = REQUESTS.findall(_log(folder)[-4 * TAIL :])
        if bars and bars[-1] != last:
            last = bars[-1]
            log.info("%s: %s requests", name, last)


def _command(model: str, server: Served, job: OwnRun) -> list[str]:
    chat = model == CHAT
    model_args: dict[str, JsonValue] = {
        "model": server.name,
        "base_url": f"{server.url}/{'chat/completions' if chat else 'completions'}",
        "num_concurrent": server.concurrency,
        "tokenizer_backend": None if chat else "huggingface",
    }
    if server.max_model_len is not None:
        model_args["max_length"] = server.max_model_len
    if not chat:
        if server.tokenizer is None:
            raise ConfigError("this lm-eval task compares log-likelihoods, which requires the checkpoint's tokenizer")
        model_args["tokenizer"] = str(server.tokenizer)
    argv = [sys.executable, "-m", "lm_eval", "run", "--model", model, "--model_args", json.dumps(model_args)]
    argv += ["--apply_chat_template"] if chat else []
    argv += ["--limit", str(job.limit)] if job.limit is not None else []
    names = {"max_tokens": "max_gen_toks", "stop": "until", "draw_seed": "seed"}
    given_settings = dict(job.sampling)
    extra_body, system_prompt = given_settings.pop("extra_body", None), given_settings.pop("system_prompt", None)
    settings = {names.get(name, name): value for name, value in given_settings.items()}
    settings |= extra_body if isinstance(extra_body, dict) else {}
    argv += ["--system_instruction", str(system_prompt)] if system_prompt is not None else []
    argv += ["--gen_kwargs", json.dumps(settings)] if settings else []
    argv += ["--seed", str(job.seed)] if job.seed else []
    argv += ["--use_cache", str(job.work_dir / f"replies-{model}")]  # an interrupted run resumes from there
    return [*argv, "--output_path", str(job.work_dir / "output"), "--log_samples"]


def child_environment(server: Served) -> dict[str, str]:
    """Return our environment with only this server's key, and without a proxy for servers on this machine.

    lm-eval loads data sets from the Hub, some of which need the user's token.
    """
    local = {"NO_PROXY": f"{os.environ.get('NO_PROXY', '')},127.0.0.1,localhost".lstrip(",")}
    return {
        **without_keys(os.environ, keep=HUB),
        **local,
        "PYTHONSAFEPATH": "1",
        "OPENAI_API_KEY": server.key or "none",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _log(folder: Path) -> str:
    return (folder / "lm_eval.log").read_text("utf-8", "replace")


def _last_lines(folder: Path) -> str:
    words = " ".join(_log(folder)[-4 * TAIL :].split())
    return f"…{words[-TAIL:]} ({folder / 'lm_eval.log'})"
