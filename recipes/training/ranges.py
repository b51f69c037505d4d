"""The range of every numeric training key, and why: what lies outside would stop a training, or silently spoil it.

>>> RANGES["adam_beta1"].refusal(2.0)
'must be 0 or more and below 1: the share of the old mean that is kept'
>>> RANGES["adam_beta1"].refusal(0.9) is None
True

Bounds without a named source follow from what the key means. `None` leaves a key to its library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf, isfinite

from harness.records.errors import ConfigError


@dataclass(frozen=True)
class Range:
    """An interval of numbers, and the reason for its bounds."""

    low: float
    high: float
    why: str
    above: bool = False
    """The value must be above `low`, not equal to it."""
    below: bool = False
    """The value must be below `high`, not equal to it."""
    or_else: float | None = None
    """A value outside that has a meaning of its own."""

    def refusal(self, value: float) -> str | None:
        """Return what the value must be, and why; None if it is in the range. NaN never is."""
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        if (low and high) or value == self.or_else:
            return None
        words = f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        if self.high < inf:
            words += f" and {'below' if self.below else 'at most'} {self.high:g}"
        if self.or_else is not None:
            words += f", or {self.or_else:g}"
        return f"must be {words}: {self.why}"


def check_range(key: str, value: object, ranges: Mapping[str, Range]) -> None:
    """Raise ConfigError for a number outside its range, or one that is not finite. Other values pass."""
    if not isinstance(value, int | float):
        return
    if not isfinite(value):
        raise ConfigError(f"{key} = {value!r} must be a finite number")
    refusal = ranges[key].refusal(value) if key in ranges else None
    if refusal is not None:
        raise ConfigError(f"{key} = {value!r} {refusal}")


def at_least(low: float, why: str) -> Range:
    return Range(low, inf, why)


def above(low: float, why: str) -> Range:
    return Range(low, inf, why, above=True)


def share(why: str, *, above: bool = False, below: bool = False) -> Range:
    return Range(0, 1, why, above=above, below=below)


STEPS = "a number of steps, or below 1 a share of all"
SAMPLING = "it samples the model's own answers, for lmbda above 0"
ULD = "universal logit distillation, arXiv 2402.12030"
SERVER = "TRL's vLLM server"
RANGES = {
    # optimiser and schedule
    "learning_rate": Range(0, 1, "Adam moves each weight by about that much per step", above=True),
    "weight_decay": at_least(0, "a negative one makes weights grow"),
    "adam_beta1": share("the share of the old mean that is kept", below=True),  # torch.optim.AdamW refuses others
    "adam_beta2": share("the share of the old mean square that is kept", below=True),
    "adam_epsilon": at_least(0, "it keeps the divisor above 0"),
    "max_grad_norm": at_least(0, "the norm to clip to; 0 turns clipping off"),
    "warmup_steps": at_least(0, STEPS),
    "num_train_epochs": Range(0, 1000, "the 8B recipes train for 1 to 3", above=True),
    "max_steps": Range(1, inf, "-1 leaves it to num_train_epochs", or_else=-1),
    "gradient_accumulation_steps": at_least(1, "batches per optimiser step"),
    "neftune_noise_alpha": at_least(0, "the scale of noise, arXiv 2310.05914"),
    "label_smoothing_factor": share("the share of other tokens in the label", below=True),
    "router_aux_loss_coef": at_least(0, "a negative one would unbalance the experts"),
    # losses of the WRPO family, and of FuseRL
    "beta": above(0, "the scale of the implicit reward"),
    "alpha": share("the source's share of the preferred answer"),
    "eval_alpha": share("the source's share of the preferred answer"),
    "gamma": at_least(0, "a margin by which the preferred answer should win"),
    "gamma_beta_ratio": at_least(0, "a margin by which the preferred answer should win"),
    "label_smoothing": Range(0, 0.5, "the share of pairs in the wrong order"),
    "tau": above(0, "a temperature"),
    # batches and rows
    "per_device_train_batch_size": at_least(1, "rows per process"),
    "per_device_eval_batch_size": at_least(1, "rows per process"),
    "max_length": at_least(2, "one token of the prompt and one of the answer"),
    "pad_to_multiple_of": at_least(1, "a number of tokens"),
    "dataset_num_proc": at_least(1, "a number of processes"),
    "dataloader_num_workers": Range(0, 256, "a number of processes, each with a copy of this one"),
    "dataloader_prefetch_factor": at_least(1, "batches that a worker loads ahead"),
    # evaluation, logs and checkpoints
    "eval_steps": above(0, STEPS),
    "eval_delay": at_least(0, "epochs or steps before the first evaluation"),
    "eval_accumulation_steps": at_least(1, "a number of steps"),
    "logging_steps": above(0, STEPS),
    "save_steps": above(0, STEPS),
    "save_total_limit": at_least(1, "how many checkpoints are kept; null keeps all"),
    # processes and memory
    "ddp_timeout": at_least(1, "seconds"),
    "ddp_bucket_cap_mb": at_least(1, "megabytes"),
    "torch_empty_cache_steps": at_least(1, "a number of steps"),
    # LoRA
    "lora_r": at_least(1, "the rank of the adapter's matrices"),
    "lora_alpha": at_least(1, "the adapter's scale is lora_alpha / lora_r"),
    "lora_dropout": share("the share of inputs that are dropped", below=True),
    # distillation (TRL's GOLDConfig)
    "lmbda": share("the share of batches with the model's own answers, arXiv 2306.13649"),
    "max_completion_length": at_least(1, SAMPLING),
    "num_generations": at_least(1, SAMPLING),
    "generation_batch_size": at_least(1, SAMPLING),
    "temperature": above(0, SAMPLING),
    "top_p": share(SAMPLING, above=True),
    "top_k": at_least(0, f"{SAMPLING}; 0 is all tokens"),
    "log_completions_steps": at_least(1, "a number of steps"),
    "num_completions_to_print": at_least(1, "a number of answers"),
    "uld_crossentropy_weight": at_least(0, ULD),
    "uld_distillation_weight": at_least(0, ULD),
    "uld_hybrid_matched_weight": at_least(0, ULD),
    "uld_hybrid_unmatched_weight": at_least(0, ULD),
    "uld_student_temperature": above(0, ULD),
    "uld_teacher_temperature": above(0, ULD),
    "vllm_gpu_memory_utilization": share(f"{SERVER}: a share of the GPU's memory", above=True),
    "vllm_group_port": Range(1, 65535, f"{SERVER}: a port"),
    "vllm_server_port": Range(1, 65535, f"{SERVER}: a port"),
    "vllm_server_timeout": at_least(0, f"{SERVER}: seconds"),
    "vllm_max_model_length": at_least(1, f"{SERVER}: a number of tokens"),
    "vllm_sync_frequency": at_least(1, f"{SERVER}: a number of steps"),
    "vllm_tensor_parallel_size": at_least(1, f"{SERVER}: a number of GPUs"),
}
"""Key -> its range in every method but distill, whose `beta` is another key of that name."""
DISTILL_RANGES = RANGES | {"beta": share("0 is forward, 1 reverse KL divergence, arXiv 2306.13649")}
