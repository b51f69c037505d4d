"""Preference losses of the WRPO family and the schedule of alpha: functions of tensors and of a step, nothing else.

The weighted reward (arXiv 2412.03187): with r(y) the log-ratio of policy and reference,

    margin = alpha * r(y_ws) + (1 - alpha) * r(y_wt) - r(y_l)

y_ws is the best answer of all sources, y_wt and y_l the best and the worst of the target's own. Alpha 0 is the plain
loss on the target's pair, alpha 1 on the source's. Shapes: `_3B`, the three answers in the
order source, target, rejected, by prompts.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor
from torch.nn import functional

LossType = Literal["sigmoid", "unweighted", "lndpo", "ipo", "simpo"]
Schedule = Literal["linear", "constant"]
SOURCE, TARGET, REJECTED = 0, 1, 2
"""Rows of a (3, B) tensor."""


def alpha_at(step: int, max_steps: int, alpha: float, schedule: Schedule = "linear") -> float:
    """The weight of the source's answer at an optimiser step, in [0, alpha].

    Linear: 0 at the first step, alpha * (max_steps - 1) / max_steps at the last, as the WRPO release has it
    (scripts/wrpo_trainer.py, LinearDecayScheduler, which rises). `step` counts completed optimiser steps.
    """
    if schedule == "constant" or max_steps <= 0:
        return alpha
    return alpha * min(max(step, 0), max_steps) / max_steps


def rewards(policy_3B: Tensor, reference_3B: Tensor | None, lengths_3B: Tensor, loss_type: LossType) -> Tensor:
    """(3, B): what a loss compares, before beta: log-ratios, or log-probabilities where there is no reference.

    `policy_3B`, `reference_3B`: summed log-probabilities of the answers; `lengths_3B`: their tokens. SimPO
    (arXiv 2405.14734, eq. 4) divides log-probabilities by length; LN-DPO and IPO divide log-ratios, as TRL's
    `sigmoid_norm` and `ipo` do.
    """
    if loss_type == "simpo":
        return policy_3B / lengths_3B
    if reference_3B is None:
        raise ValueError(f"loss {loss_type!r} needs the reference's log-probabilities")
    ratios_3B = policy_3B - reference_3B
    return ratios_3B / lengths_3B if loss_type in ("lndpo", "ipo") else ratios_3B


def weighted(rewards_3B: Tensor, alpha: float) -> Tensor:
    """(B,): alpha * source + (1 - alpha) * target, the reward of what is preferred."""
    return alpha * rewards_3B[SOURCE] + (1 - alpha) * rewards_3B[TARGET]


def preference_loss(
    rewards_3B: Tensor,
    *,
    loss_type: LossType = "sigmoid",
    alpha: float,
    beta: float,
    gamma: float = 0.0,
    label_smoothing: float = 0.0,
) -> Tensor:
    """(B,), from `rewards`.

    sigmoid, lndpo: -log sigmoid(beta * margin), smoothed as in cDPO (1 - eps, eps on the mirrored margin);
    simpo: -log sigmoid(beta * margin - gamma); ipo: (margin - 1 / (2 beta))^2 (arXiv 2310.12036, eq. 17);
    unweighted: the mean of two DPO losses, source over rejected and target over rejected, which is what the WRPO
    release calls `sigmoid`; alpha plays no part in it.
    """
    if loss_type == "unweighted":
        margin_2B = rewards_3B[:REJECTED] - rewards_3B[REJECTED]
        return _smoothed(beta * margin_2B, label_smoothing).mean(0)
    margin_B = weighted(rewards_3B, alpha) - rewards_3B[REJECTED]
    if loss_type == "ipo":
        return (margin_B - 1 / (2 * beta)) ** 2
    return _smoothed(beta * margin_B - (gamma if loss_type == "simpo" else 0.0), label_smoothing)


def _smoothed(logits: Tensor, label_smoothing: float) -> Tensor:
    kept = -functional.logsigmoid(logits) * (1 - label_smoothing)
    return kept - functional.logsigmoid(-logits) * label_smoothing if label_smoothing else kept
