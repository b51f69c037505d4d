"""One WRPO training step in each layout, timed on random weights and lengths like UltraFeedback's.

An arm is a way to compute the same loss. Each needs only torch and transformers; `trl` also TRL and datasets.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel, Qwen2Config

from recipes.training.attention import FLEX
from recipes.training.head import add_scoring
from recipes.training.losses import preference_loss, rewards
from recipes.training.packing import Layout, PreferenceCollator, RowIds, batch_logps, collator_for

LENGTHS = {"prompt_ids": (160, 1.0), "source_ids": (420, 0.6), "target_ids": (380, 0.6), "rejected_ids": (330, 0.6)}
"""Mean tokens and sigma of the logarithm: a short prompt, three answers of a few hundred tokens."""
LONGEST = 1024
BETA, ALPHA = 0.01, 0.1
PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12}
"""Dense bfloat16 operations per second, from the vendor's data sheets (SXM)."""


@dataclass(frozen=True)
class Size:
    """A model to build from random weights, and the length of its rows relative to LENGTHS."""

    config: Any
    batch: int
    scale: float = 1.0

    def build(self, implementation: str, device: str) -> PreTrainedModel:
        """Return the model in float32, as training keeps it."""
        torch.manual_seed(0)
        with torch.device(device):
            model: PreTrainedModel = AutoModelForCausalLM.from_config(self.config, attn_implementation=implementation)
        return model.train()

    def rows(self, count: int, seed: int = 0) -> list[RowIds]:
        rng = random.Random(seed)

        def ids(mean: float, sigma: float) -> list[int]:
            length = rng.lognormvariate(math.log(mean * self.scale) - sigma**2 / 2, sigma)
            kept = max(4, min(int(length), int(LONGEST * self.scale)))
            return [rng.randrange(3, self.config.vocab_size) for _ in range(kept)]

        return [RowIds(**{name: ids(*LENGTHS[name]) for name in LENGTHS}) for _ in range(count)]  # type: ignore[typeddict-item]


SIZES = {
    "tiny": Size(
        LlamaConfig(
            vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, pad_token_id=0,
        ),
        batch=2,
        scale=0.05,
    ),
    # the shape of Qwen2.5-0.5B
    "0.5B": Size(
        Qwen2Config(
            vocab_size=151936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24, num_attention_heads=14,
            num_key_value_heads=2, max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0,
        ),
        batch=8,
    ),
    # the shape of Llama-3.2-1B
    "1B": Size(
        LlamaConfig(
            vocab_size=128256, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
            num_key_value_heads=8, head_dim=64, max_position_embeddings=4096, tie_word_embeddings=True, pad_token_id=0,
        ),
        batch=8,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Arm:
    """A way to compute the loss. `official` is the release's: whole logits in float32 and a live reference."""

    layout: Layout
    implementation: str
    official: bool = False


ARMS = {
    "shared + flex": Arm("shared", FLEX),
    "shared + sdpa": Arm("shared", "sdpa"),
    "rows + flex": Arm("rows", FLEX),
    "rows": Arm("rows", "sdpa"),
    "official layout": Arm("rows", "sdpa", official=True),
}


def official_logps(model: nn.Module, batch: dict[str, Any], examples: int) -> tuple[Tensor, Tensor]:
    """Return sums and lengths, (3, B) each, from whole logits of padded rows."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    scored = batch["slot"] >= 0
    labels = batch["next_ids"].clamp(min=0)
    tokens = logits.float().log_softmax(-1).gather(2, labels[:, :, None]).squeeze(2)
    return (tokens * scored).sum(1).view(3, examples), scored.sum(1).view(3, examples).float()


def loss_of(arm: Arm, model: PreTrainedModel, size: Size, device: str) -> Callable[[dict[str, Any]], Tensor]:
    """Return a function of a batch. Ours reads the reference from the batch; the official one has a second model."""
    if arm.official:
        live = size.build(arm.implementation, device).eval().requires_grad_(False)

        def official(batch: dict[str, Any]) -> Tensor:
            examples = len(batch["example"])
            policy, lengths = official_logps(model, batch, examples)
            with torch.no_grad():
                reference, _ = official_logps(live, batch, examples)
            return _loss(policy, reference, lengths)

        return official
    add_scoring(model)

    def ours(batch: dict[str, Any]) -> Tensor:
        policy, lengths = batch_logps(model, batch)
        return _loss(policy, batch["ref_logps"].T, lengths)

    return ours


def _loss(policy: Tensor, reference: Tensor, lengths: Tensor) -> Tensor:
    return preference_loss(rewards(policy, reference, lengths, "sigmoid"), alpha=ALPHA, beta=BETA).mean()


def timed_arm(arm: Arm, size: Size, *, device: str, steps: int, warmup: int) -> dict[str, Any]:
    """Return prompts per second and the rest of the table's columns. Batches are halved until they fit the memory."""
    batch = size.batch
    while True:
        try:
            return _timed(arm, size, batch, device=device, steps=steps, warmup=warmup)
        except torch.OutOfMemoryError:
            if batch == 1:
                return {"skipped": "out of memory with one prompt per batch"}
            batch //= 2
        torch.cuda.empty_cache()


def _timed(arm: Arm, size: Size, batch: int, *, device: str, steps: int, warmup: int) -> dict[str, Any]:
    model = size.build(arm.implementation, device)
    step_loss = loss_of(arm, model, size, device)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6, fused=device == "cuda")
    rows = size.rows(batch * (warmup + steps))
    collate = PreferenceCollator(0, "rows") if arm.official else collator_for(model, arm.layout)
    # stored beforehand, so its values do not matter for the time
    batches = [
        collate([RowIds(**row, ref_logps=[-500.0, -400.0, -300.0]) for row in rows[start : start + batch]])
        for start in range(0, len(rows), batch)
    ]
    losses, started = [], 0.0
    for number, tensors in enumerate(batches):
        if number == warmup:
            _wait(device)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
        moved = {name: tensor.to(device) for name, tensor in tensors.items()}
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = step_loss(moved)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.detach())
    _wait(device)
    seconds = time.perf_counter() - started
    timed = rows[batch * warmup :]
    peak = next(
        (rate for name, rate in PEAK.items() if device == "cuda" and name in torch.cuda.get_device_name()), None
    )
    result = {
        "batch": batch,
        "prompts_per_second": len(timed) / seconds,
        "tokens_per_second": sum(_tokens(row) for row in timed) / seconds,
        "first_loss": float(losses[0]),
    }
    if device == "cuda":
        result["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    if peak:
        result["mfu"] = operations(size.config, timed, arm.layout) / seconds / peak
    return result


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _tokens(row: RowIds) -> int:
    return len(row["prompt_ids"]) + len(row["source_ids"]) + len(row["target_ids"]) + len(row["rejected_ids"])


def operations(config: Any, rows: Sequence[RowIds], layout: Layout) -> float:
    """Return the operations that training on the rows needs in a layout, forward and backward, padding left out.

    Six per weight and token, for the head only at scored tokens; twelve per query dimension and visible pair of tokens.
    What a live reference or a second pass over the head costs is not counted: it is not the model's own work.
    """
    hidden, layers = config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    queries, keys = config.num_attention_heads * head_dim, config.num_key_value_heads * head_dim
    weights = layers * (2 * hidden * queries + 2 * hidden * keys + 3 * hidden * config.intermediate_size)
    total = 0.0
    for row in rows:
        prompt = len(row["prompt_ids"])
        answers = [len(row["source_ids"]), len(row["target_ids"]), len(row["rejected_ids"])]
        copies = 1 if layout == "shared" else 3
        tokens = copies * prompt + sum(answers)
        pairs = copies * prompt**2 / 2 + sum(answer * prompt + answer**2 / 2 for answer in answers)
        total += 6 * weights * tokens + 6 * hidden * config.vocab_size * sum(answers) + 12 * layers * queries * pairs
    return total


def timed_trl(size: Size, folder: str, *, device: str, steps: int, warmup: int) -> dict[str, Any]:
    """Time TRL's DPOTrainer on pairs (target, rejected), with a live reference, as its users run it."""
    from datasets import Dataset
    from transformers import PreTrainedTokenizerFast, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    class Prepared(DPOTrainer):  # type: ignore[misc]
        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

    times: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            _wait(device)
            times.append(time.perf_counter())

    rows = size.rows(size.batch * (warmup + steps))
    names = {"prompt_ids": "prompt_ids", "target_ids": "chosen_ids", "rejected_ids": "rejected_ids"}
    pairs = Dataset.from_list([{new: row[old] for old, new in names.items()} for row in rows])  # type: ignore[literal-required]
    settings = DPOConfig(
        output_dir=folder, max_steps=warmup + steps, per_device_train_batch_size=size.batch, report_to=[],
        save_strategy="no", disable_tqdm=True, bf16=device == "cuda", use_cpu=device == "cpu",
        gradient_checkpointing=False, max_length=None, logging_strategy="no",
    )  # fmt: skip
    trainer = Prepared(
        model=size.build("sdpa", device), ref_model=size.build("sdpa", device), args=settings, train_dataset=pairs,
        processing_class=_tokenizer(PreTrainedTokenizerFast), callbacks=[Clock()],
    )  # fmt: skip
    trainer.train()
    result = {"batch": size.batch, "pairs_per_second": size.batch * steps / (times[-1] - times[warmup - 1])}
    if device == "cuda":
        result["peak_memory_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def _tokenizer(kind: Any) -> Any:
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = Tokenizer(WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
    return kind(tokenizer_object=words, pad_token="<pad>", eos_token="</s>")
