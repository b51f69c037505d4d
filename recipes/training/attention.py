"""Who sees whom in packed rows, as an attention mask: dense for sdpa and eager, sparse blocks for FlexAttention.

A mask follows from three numbers per token, all (R, L): `example`, -1 at padding; `answer`, -1 in a prompt that its
answers share; and `position`. A token sees the earlier tokens of its own answer and of its own prompt, and within a
sliding window only those fewer than `window` positions before it. Padding sees only itself, so that no row of the
softmax is empty. Shapes: `_RL` rows by tokens, `_RS` by runs of tokens with equal numbers, `_RNN` blocks by blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask
from transformers import PreTrainedConfig, PreTrainedModel

BLOCK = 128
"""Tokens per side of a block: the default of FlexAttention's kernels. A row of blocks has a multiple of it."""
FULL, SLIDING = "full_attention", "sliding_attention"
FLEX = "flex_attention"
Mask: TypeAlias = Tensor | BlockMask


@dataclass(frozen=True)
class TokenNumbers:
    """The numbers that masks are made from, (R, L) each, on one device."""

    example_RL: Tensor
    answer_RL: Tensor
    position_RL: Tensor

    def dense(self, window: int | None = None) -> Tensor:
        """Return the mask as (R, 1, L, L) bool, True where the second token is seen by the first."""
        batch = torch.arange(len(self.example_RL), device=self.example_RL.device)[:, None, None]
        token = torch.arange(self.example_RL.shape[1], device=self.example_RL.device)
        return self._sees(window)(batch, batch, token[:, None], token)[:, None]

    def blocks(self, window: int | None = None) -> BlockMask:
        """Return the mask in blocks of 128 by 128 tokens: empty ones are skipped, full ones need no look at a token.

        It is made from the runs of equal numbers that each block touches, so nothing of size (L, L) is allocated.
        """
        visible_RNN, full_RNN = self._visible_blocks(window)
        partly_count, partly = _ordered(visible_RNN & ~full_RNN)
        full_count, full = _ordered(full_RNN)
        length = self.example_RL.shape[1]
        sees = self._sees(window)
        return BlockMask.from_kv_blocks(
            partly_count, partly, full_count, full, BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(length, length)
        )

    def _sees(self, window: int | None) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        example_RL, answer_RL, position_RL = self.example_RL, self.answer_RL, self.position_RL

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            same_example = (example_RL[row, query] == example_RL[row, key]) & (example_RL[row, query] >= 0)
            in_sight = (answer_RL[row, key] < 0) | (answer_RL[row, query] == answer_RL[row, key])
            visible = same_example & in_sight & (key <= query)
            if window is not None:
                visible = visible & (position_RL[row, query] - position_RL[row, key] < window)
            return visible | (query == key)

        return sees

    def _visible_blocks(self, window: int | None) -> tuple[Tensor, Tensor]:
        """Return which blocks of keys have a token, and which have only tokens, that a block of queries sees."""
        rows, length = self.example_RL.shape
        assert length % BLOCK == 0, length
        count, device = length // BLOCK, self.example_RL.device
        run_RL = _runs(self.example_RL, self.answer_RL)
        runs = int(run_RL.max()) + 1
        example_RS = self.example_RL.new_full((rows, runs), -1).scatter(1, run_RL, self.example_RL)
        answer_RS = self.answer_RL.new_full((rows, runs), -1).scatter(1, run_RL, self.answer_RL)
        sees_RSS = (
            (example_RS[:, :, None] == example_RS[:, None])
            & (example_RS >= 0)[:, :, None]
            & ((answer_RS < 0)[:, None] | (answer_RS[:, :, None] == answer_RS[:, None]))
        )
        cell_RL = torch.arange(length, device=device) // BLOCK * runs + run_RL
        touches = torch.zeros(rows, count * runs, device=device).scatter(1, cell_RL, 1.0).view(rows, count, runs)
        visible = _joined(touches, sees_RSS)
        full = ~_joined(touches, ~sees_RSS)
        earlier = torch.ones(count, count, dtype=torch.bool, device=device).tril(-1)
        itself = torch.eye(count, dtype=torch.bool, device=device)
        if window is not None:
            position = self.position_RL.view(rows, count, BLOCK)
            first, last = position.amin(2), position.amax(2)
            visible &= first[:, :, None] - last[:, None] < window
            full &= last[:, :, None] - first[:, None] < window
        return (visible & earlier) | itself, full & earlier


def _runs(example_RL: Tensor, answer_RL: Tensor) -> Tensor:
    changes = (example_RL.diff(dim=1) != 0) | (answer_RL.diff(dim=1) != 0)
    return torch.nn.functional.pad(changes.cumsum(1), (1, 0))


def _joined(touches_RNS: Tensor, relation_RSS: Tensor) -> Tensor:
    # Counts of pairs stay far below 2^24, so float32 is exact, and a matrix product of integers is slow or missing.
    return (touches_RNS @ relation_RSS.float() @ touches_RNS.transpose(1, 2)) > 0.5


def _ordered(wanted_RNN: Tensor) -> tuple[Tensor, Tensor]:
    # FlexAttention's form: the number of blocks of keys per block of queries, and their indices first.
    count = wanted_RNN.sum(2, dtype=torch.int32)
    indices = wanted_RNN.int().argsort(dim=2, descending=True, stable=True).int()
    return count[:, None].contiguous(), indices[:, None].contiguous()


def windows(config: PreTrainedConfig) -> dict[str, int | None] | None:
    """Return each kind of attention layer and its sliding window, or None if there are kinds without a mask of ours."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if not kinds:
        return {FULL if window is None else SLIDING: window}
    if kinds - {FULL, SLIDING} or (SLIDING in kinds and window is None):
        return None
    return {kind: window if kind == SLIDING else None for kind in sorted(kinds)}


def masks(numbers: TokenNumbers, model: PreTrainedModel) -> Mask | dict[str, Mask]:
    """Return the mask in the form that the model's attention takes, or one per kind of layer if it has two kinds."""
    implementation = model.config._attn_implementation
    kinds = windows(model.config) or {FULL: None}
    dtype = next(model.parameters()).dtype

    def mask(window: int | None) -> Mask:
        if implementation == FLEX:
            return numbers.blocks(window)
        dense = numbers.dense(window)
        if implementation != "eager":
            return dense
        # Eager attention adds the mask to the scores, so a boolean mask becomes 0 and the lowest number.
        added: Tensor = torch.zeros_like(dense, dtype=dtype).masked_fill(~dense, torch.finfo(dtype).min)
        return added

    of_kind = {kind: mask(window) for kind, window in kinds.items()}
    return of_kind if len(of_kind) > 1 else next(iter(of_kind.values()))


def prefer_flex(model: PreTrainedModel) -> bool:
    """Switch the model to FlexAttention if it will run on CUDA and supports it. Return whether it did."""
    usable = torch.cuda.is_available() and getattr(model, "_supports_flex_attn", False) and windows(model.config)
    if usable and model.config._attn_implementation == "sdpa":
        model.set_attn_implementation(FLEX)
        return True
    return False
