"""Batches of preference rows as tensors: which token sees which, and which log-probability belongs to which answer.

Two layouts with the same log-probabilities. `rows`, the official one: three right-padded rows a prompt, the prompt
computed three times. `shared`: the three answers behind one copy of the prompt, blind to each other, positions going
on from the prompt in each; several prompts side by side in one row where they fit. Shapes: `_RL`, rows by tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

Layout = Literal["shared", "rows"]
IGNORED = -100
"""The label of a position that is not scored (torch's cross-entropy convention)."""


class RowIds(TypedDict, total=False):
    """A row of the training data set: token ids, and the reference's three log-probabilities where they are known."""

    prompt_ids: list[int]
    source_ids: list[int]
    target_ids: list[int]
    rejected_ids: list[int]
    ref_logps: list[float]


@dataclass(frozen=True)
class Segment:
    """A run of tokens in a row: a prompt (answer None) or one answer of it."""

    ids: tuple[int, ...]
    labels: tuple[int, ...]
    """The next token where it is scored, else IGNORED."""
    first_position: int
    example: int
    answer: int | None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True)
class PreferenceCollator:
    """Examples -> one batch: input_ids, position_ids, attention_mask, next_ids, slot (all rows by tokens), ref_logps.

    `slot[r, t]` is answer * B + example for a scored position, -1 elsewhere: answers in the order source, target,
    rejected. `attention_mask` is (R, 1, L, L), True where a token is seen, in the shared layout, else (R, L).
    `example` (B,) comes first: Trainer takes the batch size from the first tensor.
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
    """First-fit decreasing into rows as long as the longest prompt with its three answers."""
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
    """The prompt without its last token, then each answer behind a copy of that token, which predicts its first."""
    prompt = tuple(example["prompt_ids"])
    stem = Segment(prompt[:-1], (IGNORED,) * (len(prompt) - 1), 0, index, None)
    leaves = [
        Segment((prompt[-1], *ids[:-1]), tuple(ids), len(prompt) - 1, index, answer)
        for answer, ids in enumerate(_answers(example))
    ]
    return [stem, *leaves]


def _alone(examples: Sequence[RowIds]) -> list[list[Segment]]:
    """All source rows, then all target rows, then all rejected rows, as the release concatenates them."""
    rows = []
    for answer in range(3):
        for index, example in enumerate(examples):
            prompt, ids = tuple(example["prompt_ids"]), tuple(_answers(example)[answer])
            labels = ((IGNORED,) * (len(prompt) - 1)) + ids + (IGNORED,)
            rows.append([Segment(prompt + ids, labels, 0, index, answer)])
    return rows


def _filled(rows: list[list[Segment]], width: int, empty: int, values: Callable[[Segment], Iterable[int]]) -> Tensor:
    flat: list[int] = []  # one list, one tensor: a tensor a segment takes a tenth of a small model's step
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
    """(R, 1, L, L) bool. A token sees what comes before it in its own answer and in its own prompt; padding sees
    itself alone, so that no row of the softmax is empty."""
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
    """Summed log-probabilities and token counts, each (3, B): source, target, rejected. Summed in float32."""
    scored = slot_RL >= 0
    slots = slot_RL[scored]
    sums = torch.zeros(3 * examples, dtype=torch.float32, device=token_logps_RL.device)
    sums = sums.index_add(0, slots, token_logps_RL[scored].float())
    counts = torch.bincount(slots, minlength=3 * examples)
    return sums.view(3, examples), counts.view(3, examples).to(sums.dtype)
