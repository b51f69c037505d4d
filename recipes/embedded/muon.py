"""The Muon optimizer: momentum with orthogonalised updates of weight matrices, in float32 and batched by shape.

Keller Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024). We do not use torch.optim.Muon
because it computes in bfloat16, one matrix at a time: for a tiny model on a CPU that costs more than the step itself.
"""

# ruff: noqa: N803, N806 - capital shape suffixes: B matrices of M rows and N columns

from __future__ import annotations

from collections.abc import Iterable

import torch

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from the authors' release."""


def orthogonal(updates_BMN: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Return each matrix with its singular values moved close to 1 (about 0.7..1.2) and its singular vectors kept."""
    a, b, c = NEWTON_SCHULZ
    tall = updates_BMN.shape[-2] > updates_BMN.shape[-1]
    x_BMN = updates_BMN.mT if tall else updates_BMN
    x_BMN = x_BMN / (x_BMN.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram_BMM = x_BMN @ x_BMN.mT
        x_BMN = a * x_BMN + (b * gram_BMM + c * gram_BMM @ gram_BMM) @ x_BMN
    return x_BMN.mT if tall else x_BMN


class Muon:
    """Optimize hidden weight matrices. Embeddings and norms need another optimizer."""

    def __init__(self, matrices: Iterable[torch.nn.Parameter], *, lr: float, momentum: float = 0.95) -> None:
        self.lr = lr
        self._momentum = momentum
        groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = {}
        for matrix in matrices:
            groups.setdefault(tuple(matrix.shape), []).append(matrix)
        self._groups = [(group, torch.zeros(len(group), *shape)) for shape, group in groups.items()]

    def step(self) -> None:
        """Update the matrices once, with Nesterov momentum.

        The learning rate is scaled by 0.2 * sqrt(larger side), so that a step is as long as AdamW's: Moonshot, "Muon is
        scalable for LLM training" (2025), equation 4.
        """
        with torch.no_grad():
            for group, buffer_BMN in self._groups:
                gradients_BMN = torch.stack([matrix.grad for matrix in group])
                buffer_BMN.lerp_(gradients_BMN, 1 - self._momentum)
                update_BMN = orthogonal(gradients_BMN.lerp(buffer_BMN, self._momentum))
                length = 0.2 * max(update_BMN.shape[-2:]) ** 0.5
                for matrix, update_MN in zip(group, update_BMN, strict=True):
                    matrix.add_(update_MN, alpha=-self.lr * length)
