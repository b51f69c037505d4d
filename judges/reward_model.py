"""Use a reward model as a judge of two answers (`--judge reward_model:PATH`), and as a reward for recipes.

It scores each answer separately. The preference is sigmoid(reward of the candidate - reward of the baseline), the
Bradley-Terry model that such rewards are trained under. A reward does not map to a scale of 1 to 10, so suites that
rate a single answer are rejected. No judge prompt is used: neither the suite's prompt nor the order matters.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jinja2 import TemplateError
from pydantic import JsonValue

from harness.records import Failure, JudgeSpec, JudgeTask, Judgment, ModelRef, Preference, Reason
from harness.records.errors import CheckpointError, ConfigError, PluginError, ServerError, one_line
from harness.records.protocols import RewardOptions
from harness.records.settings import ServeSpec, checked
from harness.store.checkpoint import Checkpoint, inspect_checkpoint, resolve
from harness.store.provenance import install_command
from harness.store.weights import LoadingReport, check_loaded

log = logging.getLogger(__name__)
Conversation = tuple[tuple[str, str], ...]
"""One (role, text) per message; the last one is the answer to score."""
RULE = "sigmoid of the difference of two rewards (Bradley-Terry)"
NOTE = f"judged by a reward model: a preference is the {RULE}; it read no judge prompt, and never says 'much better'"
TextOrMessages = str | Sequence[Mapping[str, str]]
"""A text, or messages with `role` and `content`."""
SERVE = frozenset({"chat_template", "devices", "dtype", "trust_remote_code"})
"""Options of `serve:` that a recipe's reward supports."""
BATCH_SIZE = 8
"""Answers scored at once by default; `params: {batch_size: N}` overrides it."""


class RewardModelJudge:
    """`fusion_harness.judges` entry point "reward_model".

    Raise ConfigError or CheckpointError if the folder is not a reward model.
    """

    local = True

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec = spec.model_copy(update={"note": spec.note or NOTE})
        self._model = RewardModel(spec)
        self.beside = self._model.serving.devices is not None
        self._rewards: dict[Conversation, asyncio.Future[float]] = {}
        self._waiting: list[Conversation] = []
        self._worker: asyncio.Task[None] | None = None

    def logs_to(self, folder: Path) -> None:
        """Do nothing: there is no server that writes a log."""

    def identity(self) -> dict[str, JsonValue]:
        return self._model.identity()

    def check(self, task: JudgeTask) -> None:
        if task.baseline is None:
            raise ConfigError(
                f"judge {self.spec.name!r} is a reward model, which only compares two answers; {task.template.name!r} "
                "asks for a rating from 1 to 10: choose another judge for that suite (--judge SUITE=JUDGE,…)"
            )

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._model.load)
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._worker is not None:
            self._worker.cancel()
        self._model.close()

    async def judge(self, task: JudgeTask) -> Judgment:
        """Return the preference, or the failure of an answer that has no reward, e.g. "context" for too long a one."""
        self.check(task)
        assert task.baseline is not None, "checked"
        outcome: Preference | Failure
        try:
            candidate, baseline = await asyncio.gather(
                self._reward(_conversation(task, task.answer.turns)),
                self._reward(_conversation(task, task.baseline.turns)),
            )
            outcome = Preference(value=_sigmoid(candidate - baseline))
            reply = json.dumps({"candidate": candidate, "baseline": baseline})
        except UnscorableError as error:
            outcome, reply = error.failure, None
        return Judgment.of(task, self.spec.name, outcome, reply=reply)

    async def _reward(self, conversation: Conversation) -> float:
        """Return the reward, computed once although both games about an answer need it."""
        if conversation not in self._rewards:
            self._rewards[conversation] = asyncio.get_running_loop().create_future()
            self._waiting.append(conversation)
            if self._worker is None or self._worker.done():
                self._worker = asyncio.create_task(self._work())
        return await asyncio.shield(self._rewards[conversation])

    async def _work(self) -> None:
        await asyncio.sleep(0)  # lets concurrent callers share one batch
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                rewards = await asyncio.to_thread(self._model.rewards, batch)
            except ServerError as error:
                for conversation in batch:
                    self._rewards[conversation].set_exception(error)
                return
            for conversation, reward in zip(batch, rewards, strict=True):
                future = self._rewards[conversation]
                if isinstance(reward, float):
                    future.set_result(reward)
                else:
                    future.set_exception(UnscorableError(reward.reason, reward.message))


class UnscorableError(Exception):
    """Internal: a conversation has no reward, for example because it is longer than the model's context."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.failure = Failure(reason=reason, message=message)


class RewardModel:
    """The model itself, which is also a reward for recipes. It is loaded on entry or at first use.

    Raise ConfigError or CheckpointError on construction if the folder is not a reward model.
    """

    conversational = True
    cacheable = True

    def __init__(self, spec: JudgeSpec) -> None:
        if not spec.model:
            raise ConfigError(
                f"judge {spec.name!r} needs `model`: the folder of a reward model, or hf:ORG/NAME@REVISION"
            )
        self.serving = checked(ServeSpec, spec.serve, f"judge {spec.name!r}: serve")
        self._ref = ModelRef.parse(spec.model)
        unknown = sorted(set(spec.params) - {"batch_size"})
        size = spec.params.get("batch_size", BATCH_SIZE)
        if unknown or not isinstance(size, int) or size < 1:
            raise ConfigError(
                f"judge {spec.name!r}: the only param is batch_size, a number of at least 1; not {spec.params}"
            )
        self._batch_size = size
        folder = resolve(self._ref)
        self._checkpoint: Checkpoint = inspect_checkpoint(folder, chat_template=self.serving.chat_template)
        _check_head(self._checkpoint)
        self._network: RewardNetwork | None = None

    def identity(self) -> dict[str, JsonValue]:
        checkpoint = self._checkpoint
        return {
            "model": self._ref.short,
            "architecture": checkpoint.architecture,
            "weights": checkpoint.weights_digest,
            "chat_template": checkpoint.template_digest,
            "dtype": self.serving.dtype,
            "rule": RULE,
        }

    def load(self) -> RewardNetwork:
        """Load the model once. Raise PluginError without transformers, CheckpointError if loading fails."""
        if self._network is None:
            try:
                import torch  # noqa: F401
                import transformers  # noqa: F401
            except ImportError as error:
                raise PluginError(f"a reward model needs {error.name}: {install_command('train')}") from None
            devices = self.serving.devices
            loading = Loading(
                folder=self._checkpoint.path,
                chat_template=self._checkpoint.template,
                device=None if devices is None else int(devices.split(",")[0]),
                dtype=self.serving.dtype,
                batch_size=self._batch_size,
                trust_remote_code=self.serving.trust_remote_code,
            )
            try:
                self._network = RewardNetwork(loading)
            except (ValueError, OSError, RuntimeError) as error:
                raise CheckpointError(f"reward model {self._ref.label!r} cannot be loaded: {one_line(error)}") from None
        return self._network

    def close(self) -> None:
        if self._network is not None:
            self._network.close()
            self._network = None

    def rewards(self, conversations: Sequence[Conversation]) -> list[float | Failure]:
        """Return one reward per conversation, or why there is none. Raise ServerError if the model fails."""
        network, rows = self.load(), []
        outcomes: list[float | Failure] = [0.0] * len(conversations)
        for position, conversation in enumerate(conversations):
            try:
                rows.append((position, network.tokens(conversation)))
            except UnscorableError as error:
                outcomes[position] = error.failure
        try:
            scores = network.scores([row for _, row in rows])
        except RuntimeError as error:  # torch's, e.g. out of memory
            raise ServerError(f"reward model {self._ref.label!r} failed: {one_line(error)}") from None
        for (position, _), score in zip(rows, scores, strict=True):
            outcomes[position] = score
        return outcomes

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def __call__(
        self, prompts: Sequence[TextOrMessages], completions: Sequence[TextOrMessages], **columns: Sequence[str]
    ) -> list[float | Failure]:
        """Return rewards on the model's own scale, with a Failure for each text that is too long or cannot be rendered.

        Prompts and completions are strings or messages.
        """
        pairs = zip(prompts, completions, strict=True)
        return self.rewards(
            [(*_messages("user", prompt), *_messages("assistant", completion)) for prompt, completion in pairs]
        )


def _messages(role: str, text: TextOrMessages) -> Conversation:
    if isinstance(text, str):
        return ((role, text),)
    return tuple((message["role"], message["content"]) for message in text)


def build_reward(options: RewardOptions) -> RewardModel:
    """`fusion_harness.rewards` entry point "reward_model". Raise ConfigError if an option is not supported."""
    foreign = sorted(set(options.serve) - SERVE) + (["url"] if options.url else [])
    if foreign:
        keys = ", ".join(sorted(SERVE))
        raise ConfigError(f"reward kind {options.kind} does not support {foreign[0]!r}; `serve` supports: {keys}")
    params = {"batch_size": options.batch_size, **options.params}
    model, serve = options.model, dict(options.serve)
    return RewardModel(JudgeSpec(name=options.kind, kind=options.kind, model=model, serve=serve, params=params))


def _check_head(checkpoint: Checkpoint) -> None:
    if checkpoint.is_adapter:
        raise CheckpointError(f"{str(checkpoint.path)!r} is a PEFT adapter; merge it into its base model first")
    if not checkpoint.architecture.endswith("ForSequenceClassification"):
        raise CheckpointError(
            f"{str(checkpoint.path)!r} is a {checkpoint.architecture}; a reward model is a …ForSequenceClassification "
            "with one label"
        )
    config = json.loads((checkpoint.path / "config.json").read_text("utf-8"))
    labels = len(config.get("id2label") or range(config.get("num_labels", 2)))  # 2: transformers' default
    if labels != 1:
        raise CheckpointError(f"{str(checkpoint.path)!r} gives {labels} scores per answer; a reward model gives one")


def _conversation(task: JudgeTask, turns: Sequence[str]) -> Conversation:
    system = [] if task.prompt.system is None else [("system", task.prompt.system)]
    last = task.turn or len(task.prompt.turns)
    for question, answer in zip(task.prompt.turns[:last], turns[:last], strict=True):
        system += [("user", question), ("assistant", answer)]
    return tuple(system)


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


@dataclass(frozen=True)
class Loading:
    """How to load the model."""

    folder: Path
    chat_template: str | None
    device: int | None = None
    """Index of the GPU; None means the first one, or the CPU if there is none."""
    dtype: str | None = None
    """None means float32 on a CPU and the checkpoint's dtype on a GPU."""
    batch_size: int = 8
    trust_remote_code: bool = False


class RewardNetwork:
    """The loaded model.

    Raise ValueError on construction if it does not give exactly one score, CheckpointError if weights are missing.
    """

    def __init__(self, loading: Loading) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        cuda = torch.cuda.is_available()
        self._device = torch.device(f"cuda:{loading.device or 0}" if cuda else "cpu")
        dtype = loading.dtype or ("auto" if cuda else "float32")
        options = {"local_files_only": True, "trust_remote_code": loading.trust_remote_code}
        self._tokenizer: Any = AutoTokenizer.from_pretrained(loading.folder, **options)
        model: Any
        model, info = AutoModelForSequenceClassification.from_pretrained(
            loading.folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are reported below
            **options,
        )
        report = LoadingReport.of(info, model.config.to_dict())
        for sentence in check_loaded(loading.folder, type(model).__name__, report):
            log.warning("%s", sentence)
        if model.config.num_labels != 1:
            raise ValueError(f"{model.config.num_labels} scores per answer; a reward model gives one")
        self._model: Any = model.to(self._device).eval()
        self._template = loading.chat_template
        self._batch_size = loading.batch_size
        self._limit = getattr(model.config, "max_position_embeddings", None)

    def tokens(self, conversation: Conversation) -> list[int]:
        """Return the token ids of the conversation in the chat template.

        Raise UnscorableError if the template rejects it, and instead of truncating.
        """
        messages = [{"role": role, "content": text} for role, text in conversation]
        try:
            text = self._tokenizer.apply_chat_template(messages, chat_template=self._template, tokenize=False)
        except TemplateError as error:
            raise UnscorableError("other", f"the chat template rejects the conversation: {one_line(error)}") from None
        ids = list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        if self._limit is not None and len(ids) > self._limit:
            message = f"the conversation has {len(ids)} tokens, but the model's limit is {self._limit}"
            raise UnscorableError("context", message)
        return ids

    def scores(self, rows: Sequence[list[int]]) -> list[float]:
        """Return one reward per row of token ids, on the model's own scale, in the rows' order.

        The other rows of a batch change a reward only by rounding.
        """
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        rewards = [0.0] * len(rows)
        for start in range(0, len(order), self._batch_size):
            batch = order[start : start + self._batch_size]
            for index, score in zip(batch, self._batch([rows[index] for index in batch]), strict=True):
                rewards[index] = score
        return rewards

    def _batch(self, rows: Sequence[list[int]]) -> list[float]:
        import torch

        longest = max(map(len, rows))
        # The model scores the last token that is not padding, and recognizes padding by its id. If the tokenizer pads
        # with its end-of-text token, it would score the wrong token, so pad with an id that no row contains.
        used = {token for row in rows for token in row}
        padding = next(token for token in range(len(used) + 1) if token not in used)
        self._model.config.pad_token_id = padding
        ids = torch.tensor([row + [padding] * (longest - len(row)) for row in rows], device=self._device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self._device)
        with torch.inference_mode():
            logits = self._model(input_ids=ids, attention_mask=mask).logits  # (batch, 1)
        return [float(score) for score in logits[:, 0].float().cpu()]

    def close(self) -> None:
        """Free the memory."""
        import torch

        self._model = None
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
