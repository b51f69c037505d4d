"""python -m benchmarks.training: prompts a second and memory of one WRPO step, ours beside the official layout.

The official layout, as the WRPO release trains: three right-padded rows a prompt, whole logits and their log-softmax in
float32, a live reference. Ours: one copy of the prompt, a fused head, the reference stored with the rows. Same model,
same rows, same batches, each arm in a process of its own, arms in turn. Lengths are drawn like UltraFeedback's:
log-normal, means as in LENGTHS, times --scale.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from recipes.training.head import add_scoring
from recipes.training.losses import preference_loss, rewards
from recipes.training.packing import PreferenceCollator, RowIds, batch_logps

LENGTHS = {"prompt_ids": (160, 1.0), "source_ids": (420, 0.6), "target_ids": (380, 0.6), "rejected_ids": (330, 0.6)}
"""Mean tokens and sigma of the logarithm: a short prompt, three answers of a few hundred tokens."""
BETA, ALPHA = 0.01, 0.1
ARMS = ("official", "ours")


def rows_of(options: argparse.Namespace) -> list[RowIds]:
    rng = random.Random(options.seed)

    def ids(mean: float, sigma: float) -> list[int]:
        length = rng.lognormvariate(math.log(mean * options.scale) - sigma**2 / 2, sigma)
        return [rng.randrange(3, options.vocab) for _ in range(max(4, min(int(length), int(1024 * options.scale))))]

    return [RowIds(**{name: ids(*LENGTHS[name]) for name in LENGTHS}) for _ in range(options.batch * options.steps)]  # type: ignore[typeddict-item]


def model_of(options: argparse.Namespace) -> LlamaForCausalLM:
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=options.vocab,
        hidden_size=options.width,
        intermediate_size=options.width * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=max(1, options.width // 64),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).to(options.device, dtype=getattr(torch, options.dtype))
    if options.checkpointing:
        model.gradient_checkpointing_enable()
    return model


def official_logps(model: nn.Module, batch: dict[str, Tensor], examples: int) -> tuple[Tensor, Tensor]:
    """(3, B) sums and lengths from whole logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    scored = batch["slot"] >= 0
    labels = batch["next_ids"].clamp(min=0)
    tokens = logits.float().log_softmax(-1).gather(2, labels[:, :, None]).squeeze(2)
    return (tokens * scored).sum(1).view(3, examples), scored.sum(1).view(3, examples).float()


def stored_reference(model: LlamaForCausalLM, batches: list[dict[str, Tensor]]) -> list[Tensor]:
    with torch.no_grad():
        return [batch_logps(model, batch)[0] for batch in batches]


def step_of(
    arm: str, model: LlamaForCausalLM, options: argparse.Namespace
) -> Callable[[dict[str, Tensor], int], Tensor]:
    if arm == "ours":
        add_scoring(model)
        reference = stored_reference(model, batches_of(arm, options))

        def ours(batch: dict[str, Tensor], index: int) -> Tensor:
            policy, lengths = batch_logps(model, batch)
            return preference_loss(rewards(policy, reference[index], lengths, "sigmoid"), alpha=ALPHA, beta=BETA).mean()

        return ours
    live = model_of(options).eval().requires_grad_(False)

    def official(batch: dict[str, Tensor], index: int) -> Tensor:
        policy, lengths = official_logps(model, batch, options.batch)
        with torch.no_grad():
            reference, _ = official_logps(live, batch, options.batch)
        return preference_loss(rewards(policy, reference, lengths, "sigmoid"), alpha=ALPHA, beta=BETA).mean()

    return official


def batches_of(arm: str, options: argparse.Namespace) -> list[dict[str, Tensor]]:
    collate = PreferenceCollator(0, "shared" if arm == "ours" else "rows")
    rows = rows_of(options)
    starts = range(0, len(rows), options.batch)
    return [{k: v.to(options.device) for k, v in collate(rows[i : i + options.batch]).items()} for i in starts]


def held(device: str) -> float:
    """Bytes: the most that was ever held."""
    if device == "cuda":
        return float(torch.cuda.max_memory_allocated())
    status = Path("/proc/self/status").read_text()  # not ru_maxrss: that begins with the parent's
    return float(status.partition("VmHWM:")[2].split()[0]) * 1024


def work(arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """One arm: losses, seconds, and memory above what stood when the model (and a live reference) was loaded."""
    torch.set_num_threads(options.threads)
    model = model_of(options)
    weights = held(options.device)
    batches = batches_of(arm, options)
    started = time.perf_counter()
    step = step_of(arm, model, options)
    prepared = time.perf_counter() - started
    optimiser = torch.optim.SGD(model.parameters(), lr=options.lr)
    losses, seconds = [], []
    for index, batch in enumerate(batches):
        began = time.perf_counter()
        loss = step(batch, index)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss.detach()))  # waits for the device
        seconds.append(time.perf_counter() - began)
    spent = sum(seconds[1:])  # the first step warms up
    return {
        "losses": losses,
        "prompts_per_second": options.batch * (len(seconds) - 1) / spent,
        "with_reference": options.batch * (len(seconds) - 1) / (spent + (prepared if arm == "ours" else 0.0)),
        "memory": held(options.device) - weights,
    }


def main() -> None:
    options = parsed()
    if options.arm:
        print(json.dumps(work(options.arm, options)))
        return
    found: dict[str, list[dict[str, Any]]] = {arm: [] for arm in ARMS}
    for _ in range(options.rounds):
        for arm in ARMS:
            found[arm].append(in_process(arm))
    difference = max(
        abs(a - b) for a, b in zip(found["ours"][0]["losses"], found["official"][0]["losses"], strict=True)
    )
    print(f"{options.layers} layers of {options.width}, vocabulary {options.vocab}, {options.dtype}")
    print(f"{options.batch} prompts a batch, {options.device}")
    print("| | official layout | ours | ratio |\n|---|---|---|---|")
    for name, title, unit in (
        ("prompts_per_second", "prompts per second, reference stored beforehand", 1.0),
        ("with_reference", "the same, computing the stored reference included", 1.0),
        ("memory", "peak memory above the weights, MB", 1e6),
    ):
        theirs, ours = (statistics.median(one[name] for one in found[arm]) / unit for arm in ARMS)
        print(f"| {title} | {theirs:.1f} | {ours:.1f} | {ours / theirs:.2f} |")
    print(f"largest difference of losses over {options.steps} steps: {difference:.1e}")


def in_process(arm: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.training", *sys.argv[1:], "--arm", arm]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env={**os.environ, "MALLOC_ARENA_MAX": "1"}
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scale", type=float, default=0.3, help="of the lengths")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations in the backward pass")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
