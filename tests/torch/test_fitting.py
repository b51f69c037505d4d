"""One row is checked before training: a model whose attention takes no mask of ours trains on padded rows."""

import logging
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from harness.records.errors import ConfigError  # noqa: E402
from recipes.training.head import add_scoring  # noqa: E402
from recipes.training.packing import PreferenceCollator, RowIds, fitting_collator  # noqa: E402
from recipes.training.trainer import WRPOConfig, WRPOTrainer  # noqa: E402

ROW: RowIds = {
    "prompt_ids": [5, 9, 12, 33, 8, 41],
    "source_ids": [7, 19, 30, 2, 14],
    "target_ids": [50, 3, 22],
    "rejected_ids": [11, 10, 44, 45, 9, 1],
}
MODELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 2, "intermediate_size": 48}, "shared"),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, "shared"),
    "gptneox": ("GPTNeoXConfig", {"intermediate_size": 48}, "shared"),
    "falcon": ("FalconConfig", {"alibi": False}, "shared"),
    "falcon with alibi": ("FalconConfig", {"alibi": True}, "rows"),
    "bloom": ("BloomConfig", {"n_layer": 2, "n_head": 4}, "rows"),
    "mpt": ("MptConfig", {"d_model": 32, "n_heads": 4, "n_layers": 2}, "rows"),
    "rwkv": ("RwkvConfig", {"attention_hidden_size": 32}, "rows"),
}


def model_of(kind: str) -> Any:
    name, keys, _ = MODELS[kind]
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = getattr(transformers, name)(vocab_size=64, pad_token_id=0, **{**shape, **keys})
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        parameter.data.mul_(4 if parameter.ndim > 1 else 1)
    return model


@pytest.mark.parametrize("kind", MODELS)
def test_each_architecture_gets_a_layout_in_which_it_is_right(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    model = model_of(kind)
    add_scoring(model)
    with caplog.at_level(logging.WARNING):
        fitting = fitting_collator(model, PreferenceCollator(0, "shared"), ROW, torch.device("cpu"), 1e-3)
    assert fitting.layout == MODELS[kind][2]
    assert ("trains with 'rows'" in caplog.text) is (fitting.layout == "rows")


def test_a_model_that_is_wrong_in_both_layouts_is_refused() -> None:
    class Rescaled(torch.nn.Module):  # type: ignore[misc, name-defined]
        """Its own logits are not those of its head, as with a scale that we do not know."""

        def __init__(self) -> None:
            super().__init__()
            self.module = model_of("llama")
            add_scoring(self.module)

        def forward(self, **inputs: Any) -> Any:
            out = self.module(**inputs)
            if "next_ids" not in inputs:
                out.logits = out.logits * 2
            return out

    with pytest.raises(ConfigError, match="its architecture cannot be trained here"):
        fitting_collator(Rescaled(), PreferenceCollator(0, "shared"), ROW, torch.device("cpu"), 1e-3)


def test_training_changes_to_rows_by_itself(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_list([{**ROW, "ref_logps": [-20.0, -12.0, -25.0]}] * 4)
    config = WRPOConfig(
        output_dir=str(tmp_path), use_cpu=True, bf16=False, max_steps=1, report_to=[], save_strategy="no", beta=0.1
    )
    trainer = WRPOTrainer(model=model_of("bloom"), args=config, train_dataset=rows)
    assert trainer.data_collator.layout == "shared"
    trainer.train()
    assert trainer.data_collator.layout == "rows"
