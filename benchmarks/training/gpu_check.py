"""make gpu-check: what can only be known on a GPU, in one command of at most nine minutes.

Needs torch, transformers, accelerate and peft, whose versions it prints; only the arm `TRL DPOTrainer` needs more (TRL
and datasets) and is skipped without. It reads nothing from the network. Each section runs in a process of its own,
within its share of the time, and results that it had before the end count. Writes OUT/gpu_check.json and
OUT/gpu_check.md, and exits with 1 if a section failed or measured nothing. `--size tiny` tries it on a CPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SECTIONS = {"parity": 90, "step 0.5B": 140, "step 1B": 170, "generation": 50, "armorm": 60}
"""Name -> seconds at most. Together with starting the processes, under nine minutes."""
TINY = dict.fromkeys(("parity", "step tiny", "generation", "armorm"), 200)
FIRST_LOSSES = (
    "First losses check the layouts: ours read the same stored reference, so theirs are equal; the official layout's "
    "reference is the untrained model itself, so its first loss is log 2 = 0.693."
)
Results = Iterator[dict[str, Any]]


def parity(device: str) -> Results:
    """Log-probabilities and gradients of each layout beside those of padded rows."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

    from benchmarks.training.step import SIZES
    from recipes.training.attention import FLEX
    from recipes.training.head import add_scoring
    from recipes.training.packing import batch_logps, collator_for

    shape: dict[str, Any] = {
        "vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "pad_token_id": 0,
    }  # fmt: skip
    configs = {"llama": LlamaConfig(**shape), "window of 100": MistralConfig(**shape, sliding_window=100)}
    rows = [
        {name: [token % 1000 for token in ids] for name, ids in row.items()}  # type: ignore[attr-defined]
        for row in SIZES["tiny" if device == "cpu" else "1B"].rows(4)
    ]
    weights = torch.tensor([[0.1], [0.9], [-1.0]], device=device)
    for name, config in configs.items():
        for dtype in (torch.float32, torch.bfloat16):
            known: tuple[Any, Any, Any] | None = None
            for layout, implementation in (("rows", "sdpa"), ("shared", "sdpa"), ("shared", FLEX), ("rows", FLEX)):
                label = f"{name}, {str(dtype).removeprefix('torch.')}, {layout} + {implementation}"
                if device == "cpu" and implementation == FLEX:
                    yield {"check": label, "skipped": "FlexAttention has no backward pass on CPUs"}
                    continue
                torch.manual_seed(0)
                with torch.device(device):
                    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation)
                add_scoring(model)
                batch = collator_for(model, layout)(rows)  # type: ignore[arg-type]
                with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                    sums, lengths = batch_logps(model, {key: tensor.to(device) for key, tensor in batch.items()})
                (sums * weights / lengths).sum().backward()
                gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
                if known is None:
                    known = sums.detach(), lengths, gradient
                    continue
                difference = float(((sums.detach() - known[0]).abs() / known[1]).max())
                turned = float((gradient - known[2]).norm() / known[2].norm())
                limit = 1e-4 if dtype == torch.float32 else 0.05
                passed = difference < limit and turned < (1e-3 if dtype == torch.float32 else 0.1)
                yield {"check": label, "logp_per_token": difference, "gradient": turned, "passed": passed}


def steps(name: str, device: str) -> Results:
    """Prompts per second of every arm at one size."""
    import torch

    from benchmarks.training.step import ARMS, SIZES, timed_arm, timed_trl
    from recipes.training.attention import FLEX

    counts = {"steps": 2, "warmup": 1} if device == "cpu" else {"steps": 8, "warmup": 3}
    for arm_name, arm in ARMS.items():
        if device == "cpu" and arm.implementation == FLEX:
            yield {"arm": arm_name, "skipped": "FlexAttention has no backward pass on CPUs"}
            continue
        yield {"arm": arm_name, **timed_arm(arm, SIZES[name], device=device, **counts)}
        if device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
    with tempfile.TemporaryDirectory() as folder:
        yield {"arm": "TRL DPOTrainer", **timed_trl(SIZES[name], folder, device=device, **counts)}


def generation(device: str) -> Results:
    """Tokens per second of the in-process backend's loop."""
    import torch

    from benchmarks.training.step import SIZES
    from recipes.in_process.generation import Request, generate

    name, rows, tokens = ("tiny", 4, 8) if device == "cpu" else ("0.5B", 128, 128)
    model = SIZES[name].build("sdpa", device).eval()
    if device == "cuda":
        model = model.to(torch.bfloat16)
    prompts = [tuple(row["prompt_ids"]) for row in SIZES[name].rows(rows)]
    requests = [Request(ids, tokens, key=key, temperature=0.8, top_p=0.95) for key, ids in enumerate(prompts)]
    with torch.inference_mode():
        generate(model, [Request(ids, 4) for ids in prompts], end_ids=())
        started = time.perf_counter()
        texts = generate(model, requests, end_ids=())
    seconds = time.perf_counter() - started
    yield {"model": name, "rows": rows, "tokens_per_second": sum(text.tokens for text in texts) / seconds}


def armorm(device: str) -> Results:
    """Conversations per second of the ArmoRM port."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    from recipes.rewards.armorm_model import GATING_TOKENS, ArmoRM, head_shapes

    small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    large = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32}
    shape = small if device == "cpu" else large  # the large one is Llama-3-8B
    config = LlamaConfig(vocab_size=128266, num_key_value_heads=4 if device == "cpu" else 8, **shape)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            body = LlamaModel(config).eval()
            head = {name: torch.randn(shape) * 0.02 for name, shape in head_shapes(config).items()}
    finally:
        torch.set_default_dtype(before)
    model = ArmoRM(body, head, temperature=10.0)
    length, batch, rounds = (40, 2, 1) if device == "cpu" else (600, 16, 6)
    ids = torch.randint(3, 1000, (batch, length), device=device)
    ids[:, 20:25] = torch.tensor(GATING_TOKENS, device=device)
    mask = torch.ones_like(ids)
    with torch.inference_mode():
        model(ids, mask).tolist()
        started = time.perf_counter()
        for _ in range(rounds):
            model(ids, mask).tolist()
    seconds = time.perf_counter() - started
    yield {"conversations": batch * rounds, "tokens_each": length, "per_second": batch * rounds / seconds}


def results_of(section: str, device: str) -> Results:
    kind, _, size = section.partition(" ")
    if kind == "step":
        return steps(size, device)
    return {"parity": parity, "generation": generation, "armorm": armorm}[kind](device)


def child(section: str, device: str) -> None:
    """Print one JSON line per result, at once, so that a section that runs out of time leaves what it has."""
    try:
        for result in results_of(section, device):
            print(json.dumps(result), flush=True)
    except ImportError as error:
        print(json.dumps({"skipped": f"{error.name or error} is not installed"}), flush=True)


def measured(section: str, device: str, seconds: float) -> list[dict[str, Any]]:
    """Run a section in a process and return its results; a failure or the end of its time is the last of them."""
    command = [sys.executable, "-m", "benchmarks.training.gpu_check", "--section", section, "--device", device]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)
        ended = ""
        try:
            printed, _ = process.communicate(timeout=seconds)
            if process.returncode:
                errors.seek(0)
                lines = errors.read().strip().splitlines() or [f"exit code {process.returncode}"]
                ended = lines[-1][:300]
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            ended = f"stopped after {seconds:.0f} s"
    results = []
    for line in printed.splitlines():
        with contextlib.suppress(ValueError):  # libraries print notices too
            results.append(json.loads(line))
    results = [result for result in results if isinstance(result, dict)]
    return results + ([{"failed": ended}] if ended else [])


def machine(device: str) -> dict[str, str]:
    import accelerate
    import torch
    import transformers

    name = torch.cuda.get_device_name() if device == "cuda" else platform.processor() or "CPU"
    libraries = {"torch": torch, "transformers": transformers, "accelerate": accelerate}
    return {"device": name, **{key: str(library.__version__) for key, library in libraries.items()}}


def markdown(report: dict[str, Any]) -> str:
    """Return one table per section, with a column for every key that a result has."""
    lines = [f"Measured on {report['machine']['device']}, " + ", ".join(
        f"{name} {version}" for name, version in report["machine"].items() if name != "device"
    ) + ".", ""]  # fmt: skip
    for section, results in report["sections"].items():
        columns = list(dict.fromkeys(key for result in results for key in result))
        lines += [f"### {section}", ""]
        lines += [FIRST_LOSSES, ""] if "first_loss" in columns else []
        lines += [f"| {' | '.join(column.replace('_', ' ') for column in columns)} |"]
        lines.append("|" + "---|" * len(columns))
        lines += [f"| {' | '.join(cell(result.get(column)) for column in columns)} |" for result in results]
        lines.append("")
    return "\n".join(lines)


def cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="gpu-check", description=__doc__)
    parser.add_argument("--size", choices=("full", "tiny"), default="full", help="tiny: on a CPU, to try the script")
    parser.add_argument("--out", type=Path, default=Path("gpu-check"))
    parser.add_argument("--only", action="append", metavar="SECTION", help=", ".join(SECTIONS))
    parser.add_argument("--section", help=argparse.SUPPRESS)
    parser.add_argument("--device", choices=("cuda", "cpu"), help=argparse.SUPPRESS)
    flags = parser.parse_args(argv)
    if flags.section:
        child(flags.section, flags.device)
        return 0
    try:
        import torch
    except ImportError:
        print("this Python has no torch; name one that has: make gpu-check PYTHON=/path/to/python", file=sys.stderr)
        return 2

    device = "cpu" if flags.size == "tiny" else "cuda"
    if device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --size tiny tries the script on the CPU", file=sys.stderr)
        return 2
    budgets = TINY if flags.size == "tiny" else SECTIONS
    report: dict[str, Any] = {"machine": machine(device), "size": flags.size, "sections": {}}
    flags.out.mkdir(parents=True, exist_ok=True)
    for section, seconds in budgets.items():
        if flags.only and section not in flags.only:
            continue
        started = time.perf_counter()
        report["sections"][section] = measured(section, device, seconds)
        (flags.out / "gpu_check.json").write_text(json.dumps(report, indent=2) + "\n")
        (flags.out / "gpu_check.md").write_text(markdown(report))
        print(f"{section}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    print(markdown(report))
    faults = [sentence for section, results in report["sections"].items() for sentence in faults_of(section, results)]
    for sentence in faults:
        print(sentence, file=sys.stderr)
    return 1 if faults else 0


def faults_of(section: str, results: list[dict[str, Any]]) -> list[str]:
    """Return what is wrong with the results of a section, one sentence each. A section without a number is a fault."""
    faults = [f"{section}: {result['failed']}" for result in results if "failed" in result]
    faults += [f"{section}: {result.get('check')} does not pass" for result in results if result.get("passed") is False]
    if all("failed" in result or "skipped" in result for result in results):
        reasons = "; ".join(str(result["skipped"]) for result in results if "skipped" in result)
        faults.append(f"{section}: nothing was measured{f' ({reasons})' if reasons else ''}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
