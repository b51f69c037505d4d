"""The models of the study: a transformer of one layer, its log-probabilities, samples and plain training.

All answers have LENGTH tokens, so nothing is padded. Shapes: `_R`, rows; `_L`, positions; `_V`, vocabulary.
"""

# ruff: noqa: N803, N806 - capital shape suffixes

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .world import LENGTH, PROMPT, TRANSLATIONS, VOCABULARY, IntArray

WIDTH, HEADS, HIDDEN = 32, 2, 32
PLACES = torch.tensor([*range(LENGTH), *range(LENGTH)])
"""The position of each token: one that predicts a word's translation has the word's, so that models learn to find it in
a hundred steps."""
BATCH = 32
SAMPLED = 0.8
"""Temperature of samples; the WRPO release samples at it."""


class TinyTransformer(nn.Module):
    """A decoder of one layer, which is enough to look a word up."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(VOCABULARY, WIDTH)
        self.position = nn.Embedding(LENGTH, WIDTH)
        self.attention_norm, self.mlp_norm, self.last_norm = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, HIDDEN), nn.Linear(HIDDEN, WIDTH)
        self.head = nn.Linear(WIDTH, TRANSLATIONS)

    def forward(self, ids_RL: Tensor) -> Tensor:
        """Return the logits of the next token after the prompt and each later token, (R, L', TRANSLATIONS)."""
        return self.extend(ids_RL, None)[0]

    def extend(self, ids_RL: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the logits and the keys and values of all tokens so far, of which `past` has the earlier ones.

        The first call has the whole prompt; its logits start with those after the prompt's last token.
        """
        rows, length = ids_RL.shape
        before = 0 if past is None else past.shape[3]
        first = PROMPT - 1 if past is None else 0  # earlier positions predict nothing
        x = self.token(ids_RL) + self.position.weight[PLACES[before : before + length]]
        qkv = self.qkv(self.attention_norm(x)).view(rows, length, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        seen_kv = qkv[1:] if past is None else torch.cat([past, qkv[1:]], dim=3)
        mask = torch.ones(length - first, before + length, dtype=torch.bool).tril(before + first)
        mixed = functional.scaled_dot_product_attention(qkv[0][:, :, first:], seen_kv[0], seen_kv[1], attn_mask=mask)
        x = x[:, first:] + self.out(mixed.transpose(1, 2).flatten(2))
        x = x + self.down(functional.gelu(self.up(self.mlp_norm(x))))
        return self.head(self.last_norm(x)), seen_kv


def answer_logits(model: TinyTransformer, prompts_RL: Tensor, answers_RL: Tensor) -> Tensor:
    """Return the logits of each token of the answers, (R, LENGTH, TRANSLATIONS)."""
    logits: Tensor = model(torch.cat([prompts_RL, answers_RL[:, :-1]], dim=1))
    return logits


def answer_logps(model: TinyTransformer, prompts_RL: Tensor, answers_RL: Tensor) -> Tensor:
    """Return the summed log-probability of each answer, (R,)."""
    logps_RLV = answer_logits(model, prompts_RL, answers_RL).log_softmax(-1)
    return logps_RLV.gather(2, answers_RL[:, :, None]).sum((1, 2))


@torch.no_grad()
def sample(models: Sequence[TinyTransformer], prompts: IntArray, *, temperature: float, seed: int) -> IntArray:
    """Return one answer per prompt, (prompts, LENGTH); greedy at temperature 0.

    Of several models the next token's probabilities are averaged.
    """
    generator = torch.Generator().manual_seed(seed)
    following, pasts, drawn = torch.from_numpy(prompts), [None] * len(models), []
    for _ in range(LENGTH):
        extended = [model.extend(following, past) for model, past in zip(models, pasts, strict=True)]
        pasts = [past for _, past in extended]
        probabilities = torch.stack([logits[:, -1].softmax(-1) for logits, _ in extended]).mean(0)
        if temperature == 0:
            following = probabilities.argmax(-1, keepdim=True)
        else:
            following = torch.multinomial(probabilities ** (1 / temperature), 1, generator=generator)
        drawn.append(following)
    answers: IntArray = torch.cat(drawn, dim=1).numpy()
    return answers


def trained(
    start: TinyTransformer, steps: int, learning_rate: float, losses: Callable[[TinyTransformer, int], Tensor]
) -> TinyTransformer:
    """Return a copy of a model after some steps of Adam; `losses` returns the scalar loss of a step.

    The learning rate falls linearly to 0.
    """
    model = copy.deepcopy(start)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimizer.zero_grad()
        losses(model, step).backward()
        optimizer.step()
    return model


def nll(model: TinyTransformer, prompts_RL: Tensor, answers_RL: Tensor) -> Tensor:
    """Return the mean negative log-probability per token, a scalar."""
    return -answer_logps(model, prompts_RL, answers_RL).mean() / LENGTH


def batches(rows: int, steps: int, seed: int) -> list[Tensor]:
    """Return the rows of each step: epoch after epoch, each in a new order."""
    order = np.random.default_rng(seed)
    return list(_batches(rows, steps, order))


def _batches(rows: int, steps: int, rng: np.random.Generator) -> Iterator[Tensor]:
    queue = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(queue) < BATCH:
            queue = np.concatenate([queue, rng.permutation(rows)])
        yield torch.from_numpy(queue[:BATCH])
        queue = queue[BATCH:]
