"""A tiny model, rows of made-up words, and the trainers that learn them: ours, and TRL's beside it."""

import copy
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from datasets import Dataset  # noqa: E402
from transformers import LlamaConfig, LlamaForCausalLM  # noqa: E402

from recipes.training.packing import RowIds  # noqa: E402
from recipes.training.templates import Rendering, render  # noqa: E402
from recipes.training.trainer import WRPOConfig, WRPOTrainer  # noqa: E402
from recipes.worlds.tiny import build_tokenizer  # noqa: E402

TOKENIZER = build_tokenizer()
CONFIG = LlamaConfig(
    vocab_size=len(TOKENIZER),
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=256,
    pad_token_id=TOKENIZER.pad_token_id,
    bos_token_id=TOKENIZER.bos_token_id,
    eos_token_id=TOKENIZER.eos_token_id,
)
ANSWERS = ("source", "target", "rejected")


def conversations(count: int = 32) -> list[dict[str, str]]:
    rng = random.Random(0)

    def word(low: int, high: int) -> str:
        return "".join(rng.choice("abcdefghij") for _ in range(rng.randint(low, high)))

    return [{"prompt": "turn " + word(3, 9), **{answer: word(3, 12) for answer in ANSWERS}} for _ in range(count)]


def ids_of(talk: dict[str, str]) -> RowIds:
    answers = (talk["source"], talk["target"], talk["rejected"])
    row = render([{"role": "user", "content": talk["prompt"]}], answers, TOKENIZER, Rendering())
    assert row is not None
    return {
        "prompt_ids": list(row.prompt_ids),
        "source_ids": list(row.source_ids),
        "target_ids": list(row.target_ids),
        "rejected_ids": list(row.rejected_ids),
    }


TALKS = conversations()
ROWS = [ids_of(talk) for talk in TALKS]
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "num_train_epochs": 1,
    "lr_scheduler_type": "constant",
    "logging_steps": 1,
    "report_to": [],
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "seed": 1,
    "data_seed": 1,
    "bf16": False,
}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Any:
    """Tiny matrices: threads only get in each other's way."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def weights() -> dict[str, Any]:
    torch.manual_seed(0)
    return copy.deepcopy(LlamaForCausalLM(CONFIG).state_dict())


def model_of(weights: dict[str, Any]) -> Any:
    model = LlamaForCausalLM(CONFIG)
    model.load_state_dict(weights)
    return model


def trainer_of(
    weights: dict[str, Any], out: Path, *, rows: list[RowIds] = ROWS, reference: bool = True, **changed: Any
) -> WRPOTrainer:
    settings = {"beta": 0.1, "alpha": 0.3, **SETTINGS, **changed}
    return WRPOTrainer(
        model=model_of(weights),
        ref_model=model_of(weights) if reference else None,
        args=WRPOConfig(output_dir=str(out), **settings),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        eval_dataset=Dataset.from_list([dict(row) for row in rows]),
    )


def trained(weights: dict[str, Any], out: Path, **changed: Any) -> WRPOTrainer:
    trainer = trainer_of(weights, out, **changed)
    trainer.train()
    return trainer


def logged(trainer: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


Note = Callable[[str, object], None]
"""pytest's record_property: `python -m benchmarks.training.parity` makes a table of what is noted as `measured`."""


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def beside(one: Any, other: Any) -> str:
    """How far two trainings are apart, for the table."""
    return f"losses {apart(logged(one), logged(other)):.1e}, weights {distance(one, other):.1e} apart"


def distance(one: Any, other: Any) -> float:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return max(float((a - b).abs().max()) for a, b in pairs)


def trl_trained(weights: dict[str, Any], out: Path, chosen: str, **changed: Any) -> Any:
    from trl import DPOConfig, DPOTrainer

    rows = [
        {
            "prompt": [{"role": "user", "content": talk["prompt"]}],
            "chosen": [{"role": "assistant", "content": talk[chosen]}],
            "rejected": [{"role": "assistant", "content": talk["rejected"]}],
        }
        for talk in TALKS
    ]
    config = DPOConfig(
        output_dir=str(out), max_length=None, gradient_checkpointing=False, **{"beta": 0.1, **SETTINGS, **changed}
    )
    trainer = DPOTrainer(
        model=model_of(weights),
        ref_model=model_of(weights),
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=TOKENIZER,
    )
    trainer.train()
    return trainer
