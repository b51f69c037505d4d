"""Checkpoints of random weights, small enough to be made in a test; torch is imported by who makes one."""

from __future__ import annotations

import random
from pathlib import Path

from harness.records import Prompt


def make_checkpoint(folder: Path, *, seed: int = 0, scale: float = 4.0, template: bool = True) -> Path:
    """A Llama of two layers with the byte tokenizer. `scale` of its weights: at 4 its next tokens differ in
    likelihood as a trained model's do; at torch's own they are all alike."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.utils.logging import disable_progress_bar

    from recipes.worlds.tiny import build_tokenizer

    disable_progress_bar()
    tokenizer = build_tokenizer()
    if not template:
        tokenizer.chat_template = None
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=512,
                tie_word_embeddings=True,
                initializer_range=0.02 * scale,
                bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
                pad_token_id=tokenizer.pad_token_id,
            )
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def random_prompts(count: int, *, seed: int = 0) -> list[Prompt]:
    """Ids p0, p1, …; 1 to 20 letters each."""
    rng = random.Random(seed)
    texts = ("".join(rng.choice("abcdefgh ") for _ in range(rng.randint(1, 20))) + "." for _ in range(count))
    return [Prompt(id=f"p{number}", turns=(text,), category="all") for number, text in enumerate(texts)]
