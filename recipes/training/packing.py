"""Batches of preference rows as tensors, and a model's log-probabilities of the answers in them.

There are two layouts with the same log-probabilities. `rows`, as in the WRPO release, has three right-padded rows per
prompt, so the prompt is computed three times. `shared` puts the three answers after one copy of the prompt: they do not
see each other, and positions continue from the prompt in each. Several prompts share a row if they fit. Logits are
computed in chunks, never all at once. Shapes: `_RL`, rows by tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Layout = Literal["shared", "rows"]
IGNORED = -100
"""The label of a position that is not scored (torch's cross-entropy convention)."""


class RowIds(TypedDict, total=False):
    """A row of the training data set: token ids, and the reference's three log-probabilities if they are known."""

    prompt_ids: list[int]
    source_ids: list[int]
    target_ids: list[int]
    rejected_ids: list[int]
    ref_logps: list[float]


@dataclass(frozen=True)
class Segment:
    """Consecutive tokens in a row: a prompt (`answer` is None) or one of its answers."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The next token if it is scored, else IGNORED."""
    first_position: int
    example: int
    answer: int | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PreferenceCollator:
    """Collate examples into a batch: input_ids, position_ids, next_ids, slot, attention_mask and ref_logps.

    The first four are (R, L). `slot[r, t]` is answer * B + example at a scored position and -1 elsewhere, with answers
    in the order source, target, rejected. `attention_mask` is (R, 1, L, L) in the shared layout, True where a token is
    seen, else (R, L). `example` (B,) must be the first entry: Trainer takes the batch size from the first tensor.
    """

    pad_token_id: int
    layout: Layout = "shared"

    def __call__(self, examples: Sequence[RowIds]) -> dict[str, Tensor]:
        pack = _shared if self.layout == "shared" else _alone
        rows = pack(examples)
        width = max(sum(map(len, row)) for row in rows)
        batch = {
            "example": torch.arange(len(examples)),
            "input_ids": _filled(rows, width, self.pad_token_id, lambda segment: segment.ids),
            "position_ids": _filled(rows, width, 0, lambda s: range(s.first_position, s.first_position + len(s))),
            "next_ids": _filled(rows, width, IGNORED, lambda segment: segment.labels),
            "slot": _slots(rows, width, len(examples)),
        }
        batch["attention_mask"] = _tree_mask(rows, width) if self.layout == "shared" else _row_mask(rows, width)
        if "ref_logps" in examples[0]:
            batch["ref_logps"] = torch.tensor([example["ref_logps"] for example in examples])
        return batch


def _answers(example: RowIds) -> tuple[list[int], ...]:
    return example["source_ids"], example["target_ids"], example["rejected_ids"]


def _shared(examples: Sequence[RowIds]) -> list[list[Segment]]:
    # First-fit decreasing bin packing; a row is as long as the longest prompt with its three answers.
    trees = sorted((_tree(index, example) for index, example in enumerate(examples)), key=_tokens, reverse=True)
    room = _tokens(trees[0])
    rows: list[list[Segment]] = []
    for tree in trees:
        row = next((row for row in rows if _tokens(row) + _tokens(tree) <= room), None)
        if row is None:
            rows.append(row := [])
        row.extend(tree)
    return rows


def _tokens(segments: Iterable[Segment]) -> int:
    return sum(map(len, segments))


def _tree(index: int, example: RowIds) -> list[Segment]:
    # The prompt's last token predicts an answer's first token, so each answer gets its own copy of it.
    prompt = tuple(example["prompt_ids"])
    stem = Segment(prompt[:-1], (IGNORED,) * (len(prompt) - 1), 0, index, None)
    leaves = [
        Segment((prompt[-1], *ids[:-1]), tuple(ids), len(prompt) - 1, index, answer)
        for answer, ids in enumerate(_answers(example))
    ]
    return [stem, *leaves]


def _alone(examples: Sequence[RowIds]) -> list[list[Segment]]:
    # All source rows, then all target rows, then all rejected rows: the order in the WRPO release.
    rows = []
    for answer in range(3):
        for index, example in enumerate(examples):
            prompt, ids = tuple(example["prompt_ids"]), tuple(_answers(example)[answer])
            labels = ((IGNORED,) * (len(prompt) - 1)) + ids + (IGNORED,)
            rows.append([Segment(prompt + ids, labels, 0, index, answer)])
    return rows


def _filled(rows: list[list[Segment]], width: int, empty: int, values: Callable[[Segment], Iterable[int]]) -> Tensor:
    flat: list[int] = []  # one tensor per segment would cost a tenth of a small model's training step
    for number, segments in enumerate(rows, start=1):
        for segment in segments:
            flat.extend(values(segment))
        flat.extend([empty] * (number * width - len(flat)))
    return torch.from_numpy(np.array(flat, dtype=np.int64).reshape(len(rows), width))


def _slots(rows: list[list[Segment]], width: int, examples: int) -> Tensor:
    def slots(segment: Segment) -> list[int]:
        slot = -1 if segment.answer is None else segment.answer * examples + segment.example
        return [slot if label != IGNORED else -1 for label in segment.labels]

    return _filled(rows, width, -1, slots)


def _row_mask(rows: list[list[Segment]], width: int) -> Tensor:
    return _filled(rows, width, 0, lambda segment: (1,) * len(segment))


def _tree_mask(rows: list[list[Segment]], width: int) -> Tensor:
    """Return the attention mask of the shared layout, (R, 1, L, L) bool.

    A token sees the earlier tokens of its own answer and of its own prompt. Padding sees only itself, so that no row of
    the softmax is empty.
    """
    tree_RL = _filled(rows, width, -1, lambda segment: (segment.example,) * len(segment))
    answer_RL = _filled(
        rows, width, -1, lambda segment: (-1 if segment.answer is None else segment.answer,) * len(segment)
    )
    same_tree = tree_RL[:, :, None] == tree_RL[:, None, :]
    in_sight = (answer_RL[:, None, :] == -1) | (answer_RL[:, :, None] == answer_RL[:, None, :])
    causal = torch.ones(width, width, dtype=torch.bool).tril()
    padding = (tree_RL == -1)[:, :, None]
    itself = torch.eye(width, dtype=torch.bool)
    seen = torch.where(padding, itself, same_tree & in_sight & causal)
    return seen[:, None]


def answer_logps(token_logps_RL: Tensor, slot_RL: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (3, B) each: source, target, rejected. Sums are in float32."""
    scored = slot_RL >= 0
    slots = slot_RL[scored]
    sums = torch.zeros(3 * examples, dtype=torch.float32, device=token_logps_RL.device)
    sums = sums.index_add(0, slots, token_logps_RL[scored].float())
    counts = torch.bincount(slots, minlength=3 * examples)
    return sums.view(3, examples), counts.view(3, examples).to(sums.dtype)


def batch_logps(model: nn.Module, inputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (3, B) each: source, target, rejected.

    The model must have TRL's fused head (`trl.trainer.utils.add_fused_lm_head`), which computes logits in chunks.
    """
    out = model(
        input_ids=inputs["input_ids"],
        attention_mask=_mask_for(model, inputs["attention_mask"]),
        position_ids=inputs["position_ids"],
        shift_labels=inputs["next_ids"],
        fused_lm_head=True,
    )
    return answer_logps(out.log_probs, inputs["slot"], len(inputs["example"]))


def default_layout(model: PreTrainedModel) -> Layout:
    """Return `shared`, or `rows` if attention cannot use our mask: flash attention or a sliding window."""
    config = model.config.get_text_config()
    windowed = any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ())
    masked = model.config._attn_implementation in ("sdpa", "eager")
    return "shared" if masked and not windowed and not getattr(config, "sliding_window", None) else "rows"


def base_model(model: nn.Module) -> PreTrainedModel:
    """Return the causal model, without a PEFT wrapper."""
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


def _mask_for(model: nn.Module, mask: Tensor) -> Tensor:
    # Eager attention adds the mask to the scores, so a boolean mask must become 0 and the lowest number.
    if mask.dtype != torch.bool or _implementation(model) != "eager":
        return mask
    dtype = next(model.parameters()).dtype
    return torch.zeros_like(mask, dtype=dtype).masked_fill(~mask, torch.finfo(dtype).min)


def _implementation(model: nn.Module) -> str:
    while hasattr(model, "module"):  # unwrap DistributedDataParallel and DeepSpeed's engine, whose `config` differs
        model = model.module
    return str(model.config._attn_implementation)
