"""Train by FuseRL (arXiv 2504.06562): on the answers of all sources, weighted by their rewards, SFT or preferences.

This is our reading of the paper's abstract; its text and code were not available. FuseSFT learns every source's best
answer to a prompt, FusePO prefers every source's best answer to its own worst one, and a row's weight is the softmax of
the sources' best rewards (`losses.source_weights`) times their number. Rows without `rejected_ids` are FuseSFT's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict

import torch
from accelerate import PartialState
from datasets import Dataset
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainingArguments

from harness.records import Prompt

from ..layout import messages
from ..pairs import Extremes
from .head import IGNORED, add_scoring
from .losses import source_weights, weighted_nll, weighted_preference_loss
from .packing import base_model
from .ranges import RANGES, check_range
from .rows import Rows, write_rows
from .templates import Attempts, Rendering, render_answers
from .trainer import UncastTrainer, in_shares, placed, without_dropout

COLUMNS = ["prompt_ids", "chosen_ids", "rejected_ids", "weight", "ref_logps"]


@dataclass
class FuseRLConfig(TrainingArguments):
    """TrainingArguments and the keys of FuseRL, whose own values were not available (see above)."""

    learning_rate: float = field(default=3e-7)
    """That of FusePO: WRPO release, llama-3-8b-instruct-sft-wrpo.yaml. Method fusesft gets the one of `sft`."""
    beta: float = 0.01
    """Scale of FusePO's implicit reward: WRPO release, as above. It suits answers of about 500 tokens."""
    tau: float = 1.0
    """Temperature of the sources' weights, in units of the reward: our choice. A large one gives all sources equal
    weights, a small one all weight to the best."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("beta", "tau"):
            check_range(name, getattr(self, name), RANGES)


@dataclass(frozen=True)
class RowContent:
    """What a row of FuseRL learns from a source's answers to a prompt."""

    tau: float
    """Temperature of the sources' weights (`FuseRLConfig.tau`)."""
    with_rejected: bool
    """Whether the worst answer is rejected (FusePO). Sources whose answers have equal rewards are then left out."""
    keep_reasoning: bool
    """Whether an answer is learned with the reasoning before it."""


def weighted_rows(
    folder: Path,
    answered: Iterable[tuple[Prompt, Sequence[Extremes]]],
    tokenizer: PreTrainedTokenizerBase,
    how: Rendering,
    content: RowContent,
) -> Rows:
    """Render one row per prompt and source, with its weight, or return existing rows.

    Raise IncompleteError if no row is left, or ConfigError if that is because the tokenizer cannot render rows.
    """
    if (existing := Rows.existing(folder)) is not None:
        return existing
    rows: list[dict[str, Any]] = []
    attempts = Attempts()
    index = truncated = 0
    for prompt, sources in answered:
        of_prompt: list[tuple[float, dict[str, Any]]] = []
        for source in sources:
            if content.with_rejected and source.best.reward == source.worst.reward:
                continue  # equal rewards prefer neither answer
            learned = (source.best, source.worst) if content.with_rejected else (source.best,)
            texts = [answer.trained(keep_reasoning=content.keep_reasoning) for answer in learned]
            row = attempts.row(index, partial(render_answers, messages(prompt), texts, tokenizer, how))
            if row is not None:
                truncated += row.truncated
                names = ("chosen_ids", "rejected_ids")
                ids = {"prompt_ids": row.prompt_ids, **dict(zip(names, row.answers, strict=False))}
                of_prompt.append((source.best.reward, ids))
            index += 1
        if of_prompt:
            # in float64, so that softmax sums to 1 for rewards of any size
            shares = source_weights(torch.tensor([reward for reward, _ in of_prompt], dtype=torch.float64), content.tau)
            # their mean is 1, so that a prompt counts as often as it has sources, and equal weights change nothing
            weights = (shares * len(of_prompt)).tolist()
            rows += [ids | {"weight": weight} for weight, (_, ids) in zip(weights, of_prompt, strict=True)]
    attempts.check(rows)
    return write_rows(folder, rows, attempts.dropped, truncated)


class WeightedIds(TypedDict, total=False):
    """A row of the training data set."""

    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    weight: float
    ref_logps: list[float]


@dataclass(frozen=True)
class WeightedCollator:
    """Collate rows into a batch: all prompts with their chosen answers, then all with their rejected ones.

    `next_ids` is the next token at scored positions and IGNORED elsewhere. `weight` (B,) must come first: Trainer takes
    the batch size from the first tensor.
    """

    pad_token_id: int

    def __call__(self, rows: Sequence[WeightedIds]) -> dict[str, Tensor]:
        pairs = [(row["prompt_ids"], row["chosen_ids"]) for row in rows]
        if "rejected_ids" in rows[0]:
            pairs += [(row["prompt_ids"], row["rejected_ids"]) for row in rows]
        ids = [torch.tensor([*prompt, *answer]) for prompt, answer in pairs]
        labels = [torch.tensor([IGNORED] * (len(prompt) - 1) + list(answer) + [IGNORED]) for prompt, answer in pairs]
        batch = {
            "weight": torch.tensor([row["weight"] for row in rows], dtype=torch.float32),
            "input_ids": pad_sequence(ids, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
            "next_ids": pad_sequence(labels, batch_first=True, padding_value=IGNORED),
        }
        if "ref_logps" in rows[0]:
            batch["ref_logps"] = torch.tensor([row["ref_logps"] for row in rows])
        return batch


def row_logps(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return summed log-probabilities and token counts, (A, B) each: chosen, and rejected if the rows have it."""
    logps_RL = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        next_ids=batch["next_ids"],
    ).logps
    scored_RL = batch["next_ids"] != IGNORED
    sums_R = torch.where(scored_RL, logps_RL.float(), 0.0).sum(1)
    size = len(batch["weight"])
    return sums_R.view(-1, size), scored_RL.sum(1).view(-1, size)


@torch.no_grad()
def weighted_reference(
    rows: Dataset, model: PreTrainedModel, batch_size: int, state: PartialState, autocast: torch.dtype | None
) -> list[list[float]]:
    """Return the reference's summed log-probabilities of each row, chosen and rejected, in the rows' order.

    All processes take part, as in `trainer.with_reference`.
    """
    collate = WeightedCollator(model.config.get_text_config().pad_token_id or 0)
    scoring = placed(model, state)

    def score(chosen: Sequence[WeightedIds]) -> list[list[float]]:
        batch = {name: tensor.to(state.device) for name, tensor in collate(chosen).items()}
        with torch.autocast(state.device.type, dtype=autocast, enabled=autocast is not None):
            logps: list[list[float]] = row_logps(scoring, batch)[0].T.tolist()
        return logps

    sizes = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
    return in_shares(rows, score, sizes, batch_size, state)


class WeightedTrainer(UncastTrainer):
    """Train on rows of `WeightedIds`. Rows with `rejected_ids` need `ref_logps` (`weighted_reference`)."""

    loss_is_scaled_for_ga = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        model = kwargs["model"]
        base = base_model(model)
        kwargs.setdefault("data_collator", WeightedCollator(base.config.get_text_config().pad_token_id or 0))
        without_dropout(model)
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False
        add_scoring(base)

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns = COLUMNS

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Return the loss averaged over the batch's rows, a scalar tensor."""
        config: FuseRLConfig = self.args
        logps_AB, lengths_AB = row_logps(model, inputs)
        if len(logps_AB) == 1:
            loss = weighted_nll(logps_AB[0], lengths_AB[0], inputs["weight"]).mean()
        else:
            loss = weighted_preference_loss(logps_AB - inputs["ref_logps"].T, inputs["weight"], config.beta).mean()
        return (loss, {}) if return_outputs else loss
