"""Provide what all tiny models share: a tokenizer with one token per byte, the Muon optimizer, folders written whole.

Muon is momentum with orthogonalised updates of weight matrices, here in float32 and batched by shape. Keller Jordan et
al., "Muon: an optimizer for hidden layers in neural networks" (2024). We do not use torch.optim.Muon because it
computes in bfloat16, one matrix at a time: for a tiny model on a CPU that costs more than the step itself.
"""

# ruff: noqa: N803, N806 - capital shape suffixes: B matrices of M rows and N columns

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from harness.records.errors import ConfigError

PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>")
SPECIALS = (PAD, BOS, EOS, *ROLES)
CONTEXT = 16384
"""Context length in tokens (bytes). The longest official prompt has about 9,200 bytes; the rest is for the answer."""
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, from the authors' release."""

CHAT_TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'] -}}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 6 special tokens and 256 bytes, without merges. The chat template adds BOS."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: index for index, token in enumerate([*SPECIALS, *alphabet])}
    core = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    core.add_special_tokens(list(SPECIALS))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        additional_special_tokens=list(ROLES),
        model_max_length=CONTEXT,
        padding_side="right",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


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


@contextmanager
def whole_folder(out: Path, contents: str) -> Iterator[Path]:
    """Yield a folder next to `out` to write into. Rename it to `out` if the body succeeds, and remove it if not.

    Raise ConfigError if `out` is a file or a folder that is not empty. `contents` describes what is in it.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{str(out)!r} already contains {contents}; give another folder or remove it")
    # The process id keeps two runs apart. A hidden name keeps the unfinished folder out of listings.
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
