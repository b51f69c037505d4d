"""Run lm-eval's tasks (`lm_eval:TASK`, `lm_eval:FILE.yaml`) and read its `results_*.json` as our numbers.

The installed lm-eval queries the model that we serve. Each task is a suite with its own card.

Metrics keep lm-eval's names ("exact_match,strict-match"), units and standard errors; intervals are 1.96 errors wide on
each side. The suite's version is the task's own, by which lm-eval marks comparable numbers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import JsonValue

from ...records import Score, SuiteScores, digest
from ...records.errors import ConfigError, IncompleteError
from ...records.keys import HUB, without_keys
from ...records.protocols import Numbers, OwnRun, Served, SuiteOptions
from ...store.files import file_sha256
from ...store.provenance import install_command

NORMAL_95 = 1.959963984540054
SUITE = "lm_eval"
CONFIG_KEYS = ("dataset_path", "dataset_name", "doc_to_text", "doc_to_target", "num_fewshot", "generation_kwargs")
"""Keys of a task's configuration that, besides its version, decide whether two numbers are comparable."""
Row = Mapping[str, JsonValue]


def load_results(path: Path) -> Row:
    try:
        document = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    if not isinstance(document, dict) or not isinstance(document.get("results"), dict):
        raise ConfigError(f"{path} is not an lm-eval results file: it has no `results`")
    return document


def _part(document: Row, *keys: str) -> JsonValue:
    value: JsonValue = dict(document)
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def task_results(document: Row, where: str, tasks: Sequence[str] | None = None) -> list[Numbers]:
    """Return the tasks of one results file; `tasks` None: all except members of a group.

    Raise ConfigError for a task without a number.
    """
    results = document["results"]
    assert isinstance(results, dict)
    subtasks = _part(document, "group_subtasks")
    inner = (
        {name for names in subtasks.values() if isinstance(names, list) for name in names}
        if isinstance(subtasks, dict)
        else set()
    )
    names = tasks if tasks is not None else [name for name in results if name not in inner]
    return [_task(document, name, where) for name in names]


def _task(document: Row, name: str, where: str) -> Numbers:
    n, unscored = _samples(document, name)
    scores = _scores(_part(document, "results", name), n, unscored)
    if not scores:
        raise ConfigError(f"{where}: no metric for task {name!r}")
    children = _part(document, "group_subtasks", name)
    by_category = {
        str(child): _scores(_part(document, "results", str(child)), *_samples(document, str(child)))
        for child in (children if isinstance(children, list) else [])
    }
    headline = next((metric for metric in scores if _rising(document, name, metric)), None)
    notes = ["metrics are in lm-eval's own units"]
    if headline is None:
        headline = next(iter(scores))
        notes.append(f"of {headline} less is better, and tables show the highest first")
    version = _part(document, "versions", name)
    return Numbers(
        suite=f"{SUITE}:{name}",
        suite_version="unknown" if version is None else str(version),
        judge="none",
        headline=headline,
        scores=SuiteScores(scores=scores, by_category=by_category, notes=tuple(notes)),
        protocol=_protocol(document, name),
        counts={"answers": n, "prompts": n + unscored},
    )


def _scores(row: JsonValue, n: int, unscored: int) -> dict[str, Score]:
    """Return metric -> score in file order; `METRIC_stderr,FILTER` is the error of `METRIC,FILTER`."""
    scores = {}
    for key, value in row.items() if isinstance(row, dict) else ():
        metric, _, name = key.partition(",")
        number = number_of(value)
        if metric.endswith("_stderr") or metric in ("alias", "sample_len", "sample_count", "name") or number is None:
            continue
        error = number_of(row.get(f"{metric}_stderr,{name}")) if isinstance(row, dict) else None
        half = None if error is None else NORMAL_95 * error
        scores[key] = Score(
            value=number,
            ci_low=None if half is None else number - half,
            ci_high=None if half is None else number + half,
            se=error,
            n=n,
            unscored=unscored,
        )
    return scores


def number_of(value: JsonValue) -> float | None:
    sound = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if sound and isinstance(value, int | float) else None


def _samples(document: Row, name: str) -> tuple[int, int]:
    """Return (scored, left out by a limit); for a group the sums over its tasks."""
    children = _part(document, "group_subtasks", name)
    parts = [str(child) for child in children] if isinstance(children, list) and children else [name]
    n = left = 0
    for part in parts:
        effective, original = (number_of(_part(document, "n-samples", part, key)) for key in ("effective", "original"))
        n += int(effective or 0)
        left += int((original or 0) - (effective or 0)) if _limit(document) is None else 0
    return n, max(0, left)


def _limit(document: Row) -> JsonValue:
    return _part(document, "config", "limit")


def _rising(document: Row, task: str, metric: str) -> bool:
    """Return whether higher is better; the default if the file does not state it."""
    return _part(document, "higher_is_better", task, metric.partition(",")[0]) is not False


def _protocol(document: Row, name: str) -> dict[str, JsonValue]:
    """Return what makes two results of a task comparable, as far as the file states it."""
    config = _part(document, "configs", name)
    kept = {key: value for key, value in config.items() if key in CONFIG_KEYS} if isinstance(config, dict) else None
    shots = _part(document, "n-shot", name)
    model = str(_part(document, "config", "model") or "unknown")
    return {
        "suite": f"{SUITE}:{name}",
        "suite_version": str(_part(document, "versions", name) or "unknown"),
        "task_config": "unknown" if kept is None else digest(kept)[:12],
        "n_shot": "unknown" if shots is None else shots,
        "model_type": model,
        "chat_template": _chat_template(document, model),
        "fewshot_as_multiturn": document.get("fewshot_as_multiturn", "unknown"),
        "limit": _limit(document),
    }


def _chat_template(document: Row, model: str) -> str:
    """Return who applied a chat template, as far as the file states it."""
    if model.endswith("chat-completions"):
        return "server"
    if "chat_template" not in document:
        return "unknown"
    return "lm_eval" if document["chat_template"] else "none"


# -------------------------------------------------------------------------------------------------------- running tasks
# Generation tasks use chat completions, so that the server applies the chat template. Tasks that compare
# log-likelihoods need the prompt's own log-probabilities, which only text completions return. These use no chat
# template, as is lm-eval's default, and the checkpoint's tokenizer; the card's protocol records which.


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
        self.task = options.argument
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
        """Query by chat if the task allows it, and return lm-eval's results; raise IncompleteError if it fails."""
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
        wanted = None if self._file is not None else [self.task]
        (numbers, *_) = task_results(load_results(files[-1]), str(files[-1]), wanted)
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
    names = {"max_tokens": "max_gen_toks"}
    settings = {names.get(name, name): value for name, value in job.sampling.items()}
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
