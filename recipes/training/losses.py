"""Compute the preference losses of the WRPO family and the schedule of alpha: functions of tensors and of the step.

>>> [alpha_at(step, max_steps=4, alpha=0.1) for step in range(4)]
[0.0, 0.025, 0.05, 0.07500000000000001]

>>> rewards_3B = torch.tensor([[300.0], [200.0], [100.0]])  # of one prompt: source, target, rejected
>>> weighted(rewards_3B, alpha=0.1), preference_loss(rewards_3B, alpha=0.1, beta=0.01)
(tensor([210.]), tensor([0.2873]))

The weighted reward (arXiv 2412.03187): with r(y) the log-ratio of policy and reference,

    margin = alpha * r(y_ws) + (1 - alpha) * r(y_wt) - r(y_l)

y_ws is the best answer of all sources; y_wt and y_l are the best and the worst of the target's answers. Alpha 0 gives
the plain loss on the target's pair, alpha 1 the plain loss with the source's answer preferred. Shapes: `_3B`, the three
answers in the order source, target, rejected, by prompts; `_S3B`, the same for each of S source models.

InfiFPO (arXiv 2505.13878, eq. 13) compares the policy with a fusion of the sources instead of with its own start
(`fused_reference`). FuseRL (arXiv 2504.06562) weights the sources of a prompt by their rewards (`source_weights`).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

LossType = Literal["sigmoid", "unweighted", "lndpo", "ipo", "simpo", "infifpo"]
Schedule = Literal["linear", "constant"]
SourceFusion = Literal["max_margin", "mean"]
SOURCE, TARGET, REJECTED = 0, 1, 2
"""Row indices of a (3, B) tensor."""


def alpha_at(step: int, max_steps: int, alpha: float, schedule: Schedule = "linear") -> float:
    """Return the weight of the source's answer at an optimiser step, in [0, alpha].

    The linear schedule rises from 0 at the first step to alpha * (max_steps - 1) / max_steps at the last, as in the
    WRPO release (scripts/wrpo_trainer.py, LinearDecayScheduler, which rises). `step` counts completed optimiser steps.
    """
    if schedule == "constant" or max_steps <= 0:
        return alpha
    return alpha * min(max(step, 0), max_steps) / max_steps


def rewards(policy_3B: Tensor, reference_3B: Tensor | None, lengths_3B: Tensor, loss_type: LossType) -> Tensor:
    """Return the implicit rewards that a loss compares, (3, B), before they are multiplied by beta.

    `policy_3B` and `reference_3B` are summed log-probabilities of the answers, `lengths_3B` their tokens. Rewards are
    log-ratios; LN-DPO and IPO divide them by length, as TRL's `sigmoid_norm` and `ipo` do. SimPO (arXiv 2405.14734,
    eq. 4) has no reference and divides log-probabilities by length. InfiFPO's reference is `fused_reference`, which is
    per token already. Raise ValueError if a reference is missing.
    """
    if loss_type == "simpo":
        return policy_3B / lengths_3B
    if reference_3B is None:
        raise ValueError(f"loss {loss_type!r} needs the reference's log-probabilities")
    if loss_type == "infifpo":
        return policy_3B / lengths_3B - reference_3B
    ratios_3B = policy_3B - reference_3B
    return ratios_3B / lengths_3B if loss_type in ("lndpo", "ipo") else ratios_3B


def weighted(rewards_3B: Tensor, alpha: float) -> Tensor:
    """Return the reward of the preferred side, (B,): alpha * source + (1 - alpha) * target."""
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
    """Return the loss of each prompt, (B,), from the rewards of its three answers (`rewards`).

    - sigmoid, lndpo, infifpo: -log sigmoid(beta * margin), smoothed as in cDPO (1 - eps, eps on the mirrored margin).
    - simpo: -log sigmoid(beta * margin - gamma).
    - ipo: (margin - 1 / (2 beta))^2 (arXiv 2310.12036, eq. 17).
    - unweighted: the mean of two DPO losses, source over rejected and target over rejected. The WRPO release calls it
      `sigmoid`; alpha has no effect on it.
    """
    if loss_type == "unweighted":
        margin_2B = rewards_3B[:REJECTED] - rewards_3B[REJECTED]
        return _smoothed(beta * margin_2B, label_smoothing).mean(0)
    margin_B = weighted(rewards_3B, alpha) - rewards_3B[REJECTED]
    if loss_type == "ipo":
        return (margin_B - 1 / (2 * beta)) ** 2
    return _smoothed(beta * margin_B - (gamma if loss_type == "simpo" else 0.0), label_smoothing)


def _smoothed(logits_B: Tensor, label_smoothing: float) -> Tensor:
    """Return cDPO's loss of each logit, (B,) or (2, B) as given: the labels are wrong with this probability."""
    loss_B = -functional.logsigmoid(logits_B) * (1 - label_smoothing)
    return loss_B - functional.logsigmoid(-logits_B) * label_smoothing if label_smoothing else loss_B


def fused_reference(
    initial_3B: Tensor, sources_S3B: Tensor, *, fusion: SourceFusion = "max_margin", clip: bool = True
) -> Tensor:
    """Return InfiFPO's reference, (3, B): one log-probability per token of each answer, fused from the sources.

    `initial_3B` are log-probabilities per token of the model that training starts from, `sources_S3B` those of the
    sources, each divided by the model's own number of tokens; NaN if a source has none for an answer. With `clip`, a
    source is raised to at least the initial model on the preferred answers and lowered to at most it on the rejected
    one. `max_margin` takes the source that then differs most from the initial model, for each answer separately; the
    earlier source wins a tie. `mean` takes the mean over the sources. An answer that no source has scored gets NaN.

    The release passes a constant `ref_offset` to a trainer that was not published; it is left out here.
    """
    clipped_S3B = sources_S3B
    if clip:
        clipped_S3B = torch.maximum(sources_S3B, initial_3B)  # NaN stays NaN
        clipped_S3B[:, REJECTED] = torch.minimum(sources_S3B[:, REJECTED], initial_3B[REJECTED])
    if fusion == "mean":
        return clipped_S3B.nanmean(0)
    distance_S3B = (clipped_S3B - initial_3B).abs().nan_to_num(nan=-1.0)
    return clipped_S3B.gather(0, distance_S3B.argmax(0, keepdim=True)).squeeze(0)


def source_weights(rewards_S: Tensor, tau: float) -> Tensor:
    """Return FuseRL's weights of the sources of one prompt, (S,), which sum to 1: softmax of reward / tau.

    The softmax is our reading of "reward-weighted": the paper's text was not available. A large `tau` weights all
    sources alike, a small one only the best.
    """
    return torch.softmax(rewards_S / tau, dim=0)


def weighted_nll(logps_B: Tensor, lengths_B: Tensor, weights_B: Tensor) -> Tensor:
    """Return FuseSFT's loss of each answer, (B,): weight times the negative log-probability per token.

    `weights_B` are `source_weights` times the number of the prompt's sources, so equal weights are 1.
    """
    return -weights_B * logps_B / lengths_B


def weighted_preference_loss(ratios_2B: Tensor, weights_B: Tensor, beta: float) -> Tensor:
    """Return FusePO's loss of each pair, (B,): weight times DPO's loss. Weights are those of `weighted_nll`.

    `ratios_2B` are the log-ratios of policy and reference for the chosen and the rejected answer of one source.
    """
    return -weights_B * functional.logsigmoid(beta * (ratios_2B[0] - ratios_2B[1]))
