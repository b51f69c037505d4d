"""Collate preference rows into batches, and compute a model's log-probabilities of the answers in them.

>>> row = {"prompt_ids": [1, 2], "source_ids": [3], "target_ids": [4, 5], "rejected_ids": [6]}
>>> batch = PreferenceCollator(pad_token_id=0)([row])  # the prompt's last token starts each answer
>>> batch["input_ids"].tolist(), batch["next_ids"].tolist()
([[1, 2, 2, 4, 2]], [[-100, 3, 4, 5, 6]])

There are two layouts with the same log-probabilities. `rows`, as in the WRPO release, has three right-padded rows per
prompt, so the prompt is computed three times. `shared` puts the three answers after one copy of the prompt: they do not
see each other, and positions continue from the prompt in each. Several prompts share a row if they fit. If attention
skips what is unseen (FlexAttention, flash attention), a batch of either layout is one row without padding. Logits are
computed in chunks, never all at once (`head`). Shapes: `_RL`, rows by tokens.

Not every architecture suits both layouts, and a wrong one trains silently on wrong numbers. So one row is checked
before the first step (`fitting_collator`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainerCallback

from harness.records.errors import ConfigError, one_line

from .attention import BLOCK, FLEX, TokenNumbers, masks, windows
from .head import IGNORED

log = logging.getLogger(__name__)
Layout = Literal["shared", "rows"]


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


@dataclass
class PreferenceCollator:
    """Collate examples into a batch: input_ids, position_ids, next_ids, slot and ref_logps.

    The first four are (R, L). `slot[r, t]` is answer * B + example at a scored position and -1 elsewhere, with answers
    in the order source, target, rejected. Right-padded rows have an `attention_mask` (R, L); others have `example_of`
    and `answer_of` (R, L), from which `attention` makes one. `example` (B,) must be the first entry: Trainer takes the
    batch size from the first tensor.
    """

    pad_token_id: int
    layout: Layout = "shared"
    packed: bool = False
    """Put the whole batch into one row, without padding between its parts. Needs attention that skips what is unseen:
    FlexAttention, or flash attention of variable lengths (layout `rows`)."""
    multiple: int = 1
    """Lengths of rows are padded to a multiple of this number of tokens."""

    def __call__(self, examples: Sequence[RowIds]) -> dict[str, Tensor]:
        rows = _shared(examples) if self.layout == "shared" else _alone(examples)
        if self.packed:
            rows = [[segment for row in rows for segment in row]]
        width = math.ceil(max(map(_tokens, rows)) / self.multiple) * self.multiple
        batch = {
            "example": torch.arange(len(examples)),
            "input_ids": _filled(rows, width, self.pad_token_id, lambda segment: segment.ids),
            "position_ids": _filled(rows, width, 0, lambda s: range(s.first_position, s.first_position + len(s))),
            "next_ids": _filled(rows, width, IGNORED, lambda segment: segment.labels),
            "slot": _slots(rows, width, len(examples)),
        }
        if self.packed or self.layout == "shared":
            batch |= _numbers(rows, width)
        else:
            batch["attention_mask"] = _row_mask(rows, width)
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


def _numbers(rows: list[list[Segment]], width: int) -> dict[str, Tensor]:
    return {
        "example_of": _filled(rows, width, -1, lambda segment: (segment.example,) * len(segment)),
        "answer_of": _filled(rows, width, -1, lambda s: (-1 if s.answer is None else s.answer,) * len(s)),
    }


def _row_mask(rows: list[list[Segment]], width: int) -> Tensor:
    return _filled(rows, width, 0, lambda segment: (1,) * len(segment))


def answer_logps(token_logps_RL: Tensor, slot_RL: Tensor, examples: int) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (3, B) each: source, target, rejected. Sums are in float32."""
    scored_RL = slot_RL >= 0
    slot_N = slot_RL[scored_RL]
    sums = torch.zeros(3 * examples, dtype=torch.float32, device=token_logps_RL.device)
    sums = sums.index_add(0, slot_N, token_logps_RL[scored_RL].float())
    counts = torch.bincount(slot_N, minlength=3 * examples)
    return sums.view(3, examples), counts.view(3, examples).to(sums.dtype)


def batch_logps(model: nn.Module, inputs: MutableMapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (3, B) each: source, target, rejected.

    The model must have `head.add_scoring`. The attention mask is made on the batch's device and kept in `inputs` for
    the next model that reads the same batch.
    """
    out = model(input_ids=inputs["input_ids"], next_ids=inputs["next_ids"], **_attention(base_model(model), inputs))
    return answer_logps(out.logps, inputs["slot"], len(inputs["example"]))


def _attention(model: PreTrainedModel, inputs: MutableMapping[str, Any]) -> dict[str, Any]:
    if "attention_mask" in inputs:  # right-padded rows: positions count from 0, as every model assumes
        return {"attention_mask": inputs["attention_mask"]}
    implementation = model.config._attn_implementation
    if "flash" in implementation:  # its kernels take the lengths of packed rows from the positions
        return {"attention_mask": None, "position_ids": inputs["position_ids"]}
    key = f"mask/{implementation}"
    if key not in inputs:
        numbers = TokenNumbers(inputs["example_of"], inputs["answer_of"], inputs["position_ids"])
        inputs[key] = masks(numbers, model)
    return {"attention_mask": inputs[key], "position_ids": inputs["position_ids"]}


def collator_for(model: PreTrainedModel, layout: Layout | None = None) -> PreferenceCollator:
    """Return the collator that suits the model's attention, by default in the layout of `default_layout`."""
    implementation = model.config._attn_implementation
    pad = model.config.get_text_config().pad_token_id or 0
    packed = implementation == FLEX or "flash" in implementation
    multiple = BLOCK if implementation == FLEX else 1
    return PreferenceCollator(pad, layout or default_layout(model), packed=packed, multiple=multiple)


def default_layout(model: PreTrainedModel) -> Layout:
    """Return `shared`, or `rows` if attention cannot use our mask: flash attention, or other kinds of layers."""
    masked = model.config._attn_implementation in ("sdpa", "eager", FLEX)
    return "shared" if masked and windows(model.config) is not None else "rows"


def base_model(model: Any) -> PreTrainedModel:
    """Return the causal model, without the wrappers of DDP, DeepSpeed's engine, torch.compile and PEFT.

    DDP and DeepSpeed's engine have a `config` of their own, which is not the model's.
    """
    while hasattr(model, "module") or hasattr(model, "_orig_mod"):
        model = model.module if hasattr(model, "module") else model._orig_mod
    base: PreTrainedModel = model.get_base_model() if hasattr(model, "get_base_model") else model
    return base


# ---------------------------------------------------------------------------------------------------- check of a layout


ROWS = 16
"""The row of median length among this many is checked: long enough to leave a sliding window, and no outlier."""
TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest difference of an answer's mean log-probability per token between two ways to compute it. In bfloat16 a logit
of 20 is rounded by up to 0.06, and the mean over tokens by less."""


@torch.no_grad()
def fitting_collator(
    model: nn.Module, collate: PreferenceCollator, row: RowIds, device: torch.device, limit: float
) -> PreferenceCollator:
    """Return the collator if the model computes the right log-probabilities from it, or else one of padded rows.

    They are compared with those of single sequences, from the model's own logits, on one row of the data. Some models
    take no positions, or make their attention from the padding alone (alibi): these need `rows`. Raise ConfigError if
    that is wrong too. Every process must call it with the same row, because sharded models compute together.
    """
    expected_3 = _of_single_sequences(model, row, device)
    causes: list[str] = []
    for attempt in (collate, PreferenceCollator(collate.pad_token_id, "rows")):
        cause = _difference(model, attempt, row, expected_3, device)
        if isinstance(cause, float) and cause <= limit:
            if causes:
                log.warning(
                    "layout %r does not fit this model (%s), so it trains with 'rows'", collate.layout, causes[0]
                )
            return attempt
        causes.append(f"they differ by {cause:.2g} per token" if isinstance(cause, float) else cause)
    raise ConfigError(
        f"this model's log-probabilities in a batch are not those of single sequences ({causes[-1]}); its architecture "
        "cannot be trained here"
    )


def _difference(
    model: nn.Module, collate: PreferenceCollator, row: RowIds, expected_3: Tensor, device: torch.device
) -> float | str:
    try:
        batch = {name: tensor.to(device) for name, tensor in collate([row]).items()}
        logps_31, lengths_31 = batch_logps(model, batch)
    except torch.OutOfMemoryError:
        raise
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
        return one_line(error)
    return float(((logps_31[:, 0] - expected_3).abs() / lengths_31[:, 0]).max())


def _of_single_sequences(model: nn.Module, row: RowIds, device: torch.device) -> Tensor:
    logps = []
    for answer in _answers(row):
        ids_1L = torch.tensor([row["prompt_ids"] + answer], device=device)
        logits_LV = model(input_ids=ids_1L, use_cache=False).logits[0, -len(answer) - 1 : -1]
        logps.append(logits_LV.float().log_softmax(-1).gather(1, ids_1L[0, -len(answer) :, None]).sum())
    return torch.stack(logps)


def tolerance(model: nn.Module, mixed_precision: str) -> float:
    """Return the entry of TOLERANCE for accelerate's `mixed_precision`: no, bf16 or fp16."""
    mixed = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(mixed_precision)
    return TOLERANCE.get(mixed or next(model.parameters()).dtype, TOLERANCE[torch.bfloat16])


class FittingCollator(TrainerCallback):
    """Check the trainer's collator when training begins, and change its layout if another one fits."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        trainer = self._trainer
        collate = trainer.data_collator
        if not isinstance(collate, PreferenceCollator):
            return
        row = typical(trainer.train_dataset)
        limit = tolerance(trainer.model, trainer.accelerator.mixed_precision)
        with trainer.compute_loss_context_manager():
            fitting = fitting_collator(trainer.model_wrapped, collate, row, trainer.args.device, limit)
        # the data loader has this object, so its fields are changed
        collate.layout, collate.packed, collate.multiple = fitting.layout, fitting.packed, fitting.multiple


def typical(rows: Sequence[RowIds]) -> RowIds:
    """Return the row of median length among the first ones."""
    first = [rows[index] for index in range(min(ROWS, len(rows)))]
    return sorted(first, key=lambda row: sum(len(ids) for name, ids in row.items() if name.endswith("_ids")))[  # type: ignore[arg-type, misc]
        len(first) // 2
    ]
