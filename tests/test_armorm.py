"""ArmoRM's head against its formula, written out for one conversation at a time, on random weights."""

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaModel

from harness.errors import ConfigError
from recipes.armorm import GATING_TOKENS, ArmoRM, prompt_end

CONFIG = LlamaConfig(
    vocab_size=128_256,
    hidden_size=16,
    intermediate_size=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_objectives=5,
    gating_temperature=10,
    gating_hidden_dim=8,
    gating_n_hidden=2,
)
TALKS = [
    [128_000, 7, 8, 9, *GATING_TOKENS, 11, 12, 128_009],
    [128_000, 7, *GATING_TOKENS, 20, 128_009, 5, *GATING_TOKENS, 21, 22, 23, 24, 128_009],
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("armorm")
    CONFIG.save_pretrained(folder)
    weights = {f"model.{name}": tensor for name, tensor in LlamaModel(CONFIG).state_dict().items()}
    sizes = {"gating.layers.0": (8, 16), "gating.layers.1": (8, 8), "gating.layers.2": (5, 8)}
    weights |= {f"{name}.weight": torch.randn(size) for name, size in sizes.items()}
    weights |= {f"{name}.bias": torch.randn(size[0]) for name, size in sizes.items()}
    weights |= {
        "regression_layer.weight": torch.randn(5, 16),
        "reward_transform_matrix": torch.randn(5, 5),
        "gating.logit_scale": torch.tensor([1.3]),
    }
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")
    return folder


def by_hand(weights: dict[str, torch.Tensor], ids: list[int]) -> float:
    """sum_k gate_k * (rewards @ M)_k, gate = scale * softmax(mlp(h at the prompt's end) / 10)."""
    body = LlamaModel(CONFIG).eval()
    body.load_state_dict({name[6:]: value for name, value in weights.items() if name.startswith("model.")})
    with torch.no_grad():
        hidden = body(torch.tensor([ids])).last_hidden_state[0].double()
    end = max(i for i in range(len(ids)) if tuple(ids[i : i + 5]) == GATING_TOKENS)
    x = hidden[end]
    for layer in (0, 1, 2):
        x = weights[f"gating.layers.{layer}.weight"].double() @ x + weights[f"gating.layers.{layer}.bias"].double()
        x = x.clamp(min=0) if layer < 2 else x
    gate = 1.3 * (x / 10).exp() / (x / 10).exp().sum()
    rewards = weights["regression_layer.weight"].double() @ hidden[-1]
    return float((gate * (rewards @ weights["reward_transform_matrix"].double())).sum())


def test_rewards_are_the_formulas_whatever_the_batch(checkpoint: Path) -> None:
    from safetensors.torch import load_file

    weights = load_file(checkpoint / "model.safetensors")
    model = ArmoRM.from_folder(checkpoint, dtype=torch.float32)
    width = max(map(len, TALKS))
    ids = torch.tensor([talk + [0] * (width - len(talk)) for talk in TALKS])
    mask = torch.tensor([[1] * len(talk) + [0] * (width - len(talk)) for talk in TALKS])

    together = model(ids, mask).tolist()
    alone = [float(model(torch.tensor([talk]), torch.ones(1, len(talk), dtype=torch.long))) for talk in TALKS]

    assert together == pytest.approx([by_hand(weights, talk) for talk in TALKS], rel=1e-4)
    assert together == pytest.approx(alone, rel=1e-4)


def test_the_gate_reads_the_last_assistant_header() -> None:
    assert prompt_end(TALKS[1]) == 10


def test_a_conversation_without_assistant_turn_is_refused() -> None:
    with pytest.raises(ValueError, match="no assistant turn"):
        prompt_end([128_000, 7, 8])


def test_another_checkpoint_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    CONFIG.save_pretrained(tmp_path)
    save_file({"lm_head.weight": torch.zeros(2, 2)}, tmp_path / "model.safetensors")

    with pytest.raises(ConfigError, match="lacks the weights gating"):
        ArmoRM.from_folder(tmp_path)
