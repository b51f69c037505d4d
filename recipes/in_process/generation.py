"""Generate texts with a loaded model: one loop with a KV cache and left padding. Needs only torch and transformers.

Every request draws from its own random stream. Its text therefore depends neither on the other requests of the batch
nor on their order, apart from float rounding. Shapes: `_R` rows, `_V` vocabulary, `_T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

if TYPE_CHECKING:
    from harness.records import Finish

GAMMA, MIX1, MIX2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Constants of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014, figure 17)."""
ATTEMPT = 1 << 32
"""Distance in a row's stream between two attempts at one token. It exceeds the tokens of any answer."""
COMPACT = 0.75
"""Finished rows are removed from the batch once no more than this share of it is unfinished."""
StopCheck = Callable[[Sequence[int]], bool]
"""A function that returns whether these generated ids contain a stop string of the request."""


@dataclass(frozen=True)
class Request:
    """One text to generate."""

    ids: tuple[int, ...]
    """Token ids of the prompt, at least one."""
    max_tokens: int
    key: int = 0
    """64-bit key of its random stream."""
    temperature: float = 1.0
    """0: always the likeliest token."""
    top_p: float = 1.0
    top_k: int = 0
    """0: all tokens."""
    stopped_by: StopCheck | None = None
    """Called after each token. None: only end tokens stop generation."""


@dataclass(frozen=True)
class Generated:
    """The text generated for one request."""

    ids: tuple[int, ...]
    """Token ids without the end token."""
    finish: Finish
    tokens: int
    """Number of tokens including the end token, as servers count."""


class StoppedError(Exception):
    """Internal: the caller stopped generation."""


@dataclass(frozen=True)
class _Rows:
    """The requests still in the batch. Each field has one entry per row, (R,)."""

    numbers: Tensor
    """Index of each row's request."""
    keys: np.ndarray
    temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    length: Tensor
    """Tokens of each row's prompt."""

    def kept(self, index: Tensor) -> _Rows:
        return _Rows(
            self.numbers[index],
            self.keys[index.cpu().numpy()],
            self.temperature[index],
            self.top_p[index],
            self.top_k[index],
            self.length[index],
        )


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    requests: Sequence[Request],
    *,
    end_ids: Sequence[int],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Generated]:
    """Return one Generated per request, in the same order. A prompt that several requests share is computed once.

    Raise StoppedError if `stopped()`, which is called before each token, returns True.
    """
    rows = _rows(requests, model.device)
    width, room = max(len(request.ids) for request in requests), max(request.max_tokens for request in requests)
    logits_RV, cache, mask_RT = _prefill(model, requests, width, room)
    ends = torch.tensor(list(end_ids), device=model.device)
    generated: list[list[int]] = [[] for _ in requests]
    finish: list[Finish] = ["length"] * len(requests)
    padded = not bool(mask_RT[:, :width].all())
    step = 0
    while True:
        if stopped():
            raise StoppedError
        next_R = choose(logits_RV, rows.keys, step, rows.temperature, rows.top_p, rows.top_k)
        going = _append_tokens(next_R, rows, torch.isin(next_R, ends), requests, generated, finish)
        left = going.nonzero().squeeze(1)
        if not len(left):
            break
        if len(left) <= COMPACT * len(next_R):
            rows, next_R, mask_RT = rows.kept(left), next_R[left], mask_RT[left]
            cache.batch_select_indices(left)
        step += 1
        logits_RV = model(
            input_ids=next_R[:, None],
            attention_mask=mask_RT[:, : width + step] if padded else None,
            position_ids=(rows.length + step - 1)[:, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
    return [_generated(ids, reason, frozenset(end_ids)) for ids, reason in zip(generated, finish, strict=True)]


def choose(
    logits_RV: Tensor, keys_R: np.ndarray, step: int, temperature_R: Tensor, top_p_R: Tensor, top_k_R: Tensor
) -> Tensor:
    """Return the next token of each row, (R,): the likeliest at temperature 0, else one drawn from the nucleus.

    A token is drawn from the whole distribution by inverse CDF, and drawn again while it is outside the nucleus, that
    is, while the tokens likelier than it have a share of `top_p` or more (Holtzman et al. 2020, arXiv 1904.09751). The
    result has the same distribution as after sorting and truncating, in a twentieth of a sort's time on a CPU. Tokens
    as likely as the least likely one in the nucleus also belong to it.
    """
    best_R = logits_RV.argmax(-1)
    open_R = (temperature_R > 0).nonzero().squeeze(1)
    attempt = 0
    while len(open_R):
        if attempt == 0:
            probs_RV = (logits_RV[open_R].float() / temperature_R[open_R, None]).softmax(-1)
            probs_RV = _only_top_k(probs_RV, top_k_R[open_R])
            cdf_RV = probs_RV.cumsum(-1)
        uniform_R = torch.from_numpy(uniforms(keys_R[open_R.cpu().numpy()], step + attempt * ATTEMPT)).to(probs_RV)
        token_R = torch.searchsorted(cdf_RV, uniform_R[:, None] * cdf_RV[:, -1:], right=True)
        token_R = token_R.clamp(max=probs_RV.shape[1] - 1)  # float32 rounding may give the index after the last token
        prob_R1 = probs_RV.gather(1, token_R)
        inside = ((probs_RV * (probs_RV > prob_R1)).sum(-1) < top_p_R[open_R]) & (prob_R1.squeeze(1) > 0)
        best_R[open_R[inside]] = token_R[inside].squeeze(1)
        again = ~inside
        open_R, probs_RV, cdf_RV = open_R[again], probs_RV[again], cdf_RV[again]
        attempt += 1
    return best_R


def uniforms(keys: np.ndarray, number: int) -> np.ndarray:
    """Return the `number`-th value of each key's stream: float64 in [0, 1), the upper 53 bits of SplitMix64."""
    with np.errstate(over="ignore"):
        z = keys + np.uint64((number + 1) * GAMMA % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX1)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX2)
        z ^= z >> np.uint64(31)
    values: np.ndarray = (z >> np.uint64(11)) * 2.0**-53
    return values


def _only_top_k(probs_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """Keep the probabilities of the `top_k` likeliest tokens, renormalised to sum to 1, and set the rest to 0."""
    most = int(top_k_R.max())
    if most == 0:
        return probs_RV
    top_RK = probs_RV.topk(min(most, probs_RV.shape[1]), dim=-1).values
    last_R = top_RK.gather(1, (top_k_R[:, None] - 1).clamp(min=0, max=top_RK.shape[1] - 1))
    last_R = torch.where(top_k_R[:, None] > 0, last_R, torch.zeros_like(last_R))
    kept_RV = probs_RV * (probs_RV >= last_R)
    return kept_RV / kept_RV.sum(-1, keepdim=True)


def _rows(requests: Sequence[Request], device: torch.device) -> _Rows:
    return _Rows(
        torch.arange(len(requests), device=device),
        np.array([request.key for request in requests], dtype=np.uint64),
        torch.tensor([request.temperature for request in requests], device=device),
        torch.tensor([request.top_p for request in requests], device=device),
        torch.tensor([request.top_k for request in requests], device=device),
        torch.tensor([len(request.ids) for request in requests], device=device),
    )


def _prefill(
    model: PreTrainedModel, requests: Sequence[Request], width: int, room: int
) -> tuple[Tensor, DynamicCache, Tensor]:
    """Return the logits of the first generated token (R, V), the cache, and the attention mask (R, width + room)."""
    prompts = list(dict.fromkeys(request.ids for request in requests))
    ids = torch.zeros((len(prompts), width), dtype=torch.long)  # padding is never attended to, so any id will do
    mask = torch.zeros((len(prompts), width + room), dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    ids, mask = ids.to(model.device), mask.to(model.device)
    padded = not bool(mask[:, :width].all())
    cache = DynamicCache(config=model.config)
    logits = model(
        input_ids=ids,
        attention_mask=mask[:, :width] if padded else None,
        position_ids=(mask[:, :width].cumsum(-1) - 1).clamp(min=0),
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    ).logits[:, -1]
    if len(prompts) == len(requests):
        return logits, cache, mask
    row_of = {prompt: row for row, prompt in enumerate(prompts)}
    index = torch.tensor([row_of[request.ids] for request in requests], device=model.device)
    cache.batch_select_indices(index)
    return logits[index], cache, mask[index]


def _append_tokens(
    next_R: Tensor,
    rows: _Rows,
    end_R: Tensor,
    requests: Sequence[Request],
    generated: list[list[int]],
    finish: list[Finish],
) -> Tensor:
    """Append each unfinished row's token to its text, and return which rows are still unfinished, (R,)."""
    going = []
    for number, token, end in zip(rows.numbers.tolist(), next_R.tolist(), end_R.tolist(), strict=True):
        ids, request = generated[number], requests[number]
        if finish[number] == "stop" or len(ids) >= request.max_tokens:
            going.append(False)
            continue
        ids.append(token)
        if end or (request.stopped_by is not None and request.stopped_by(ids)):
            finish[number] = "stop"
        going.append(finish[number] == "length" and len(ids) < request.max_tokens)
    return torch.tensor(going, device=next_R.device)


def _generated(ids: list[int], finish: Finish, end_ids: frozenset[int]) -> Generated:
    visible = ids[:-1] if ids and ids[-1] in end_ids else ids
    return Generated(tuple(visible), finish, len(ids))
