"""One process of a distributed training: `torchrun tests/fakes/distributed_worker.py OUT PER_DEVICE [resume | bf16]`.

accelerate shards on accelerators only; FSDP_ON_CPU makes it take this machine's processors for some, with gloo.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from datasets import Dataset
from transformers import LlamaForCausalLM

from recipes.training.checkpoint import SavedAs, write_weights
from recipes.training.trainer import placed, with_reference
from tests.fakes.tiny_trainer import CONFIG, ROWS, TOKENIZER, logged, model_of, trainer_of


def shard_on_processors() -> None:
    plain = PartialState.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **kwargs)
        if self._shared_state.get("distributed_type") == DistributedType.MULTI_CPU:
            self._shared_state["distributed_type"] = DistributedType.MULTI_XPU

    PartialState.__init__ = init


def sharded(model: Any) -> bool:
    return type(next(model.parameters())).__name__ == "DTensor"


def precision(model: Any) -> str:
    ids = torch.tensor([ROWS[0]["prompt_ids"]])
    with torch.no_grad():
        return str(model(input_ids=ids, next_ids=ids.roll(-1, 1)).logps.dtype)


def write_precisions(out: Path, per_device: int) -> None:
    """Train in bfloat16, and write the precision of the policy's and of the reference's log-probabilities."""
    torch.manual_seed(0)
    weights = LlamaForCausalLM(CONFIG).state_dict()
    trainer = trainer_of(
        weights, out, per_device_train_batch_size=per_device, ddp_backend="gloo", bf16=True, max_steps=1
    )
    reference = placed(model_of(weights), PartialState())
    trainer.train()
    facts = {"policy": precision(trainer.model_wrapped), "reference": precision(reference)}
    facts["live_reference"] = precision(trainer.ref_model)
    if trainer.is_world_process_zero():
        (out / "log.json").write_text(json.dumps({**facts, "sharded": sharded(reference)}))


def main(out: Path, per_device: int, resume: bool) -> None:
    torch.manual_seed(0)
    weights = LlamaForCausalLM(CONFIG).state_dict()
    trainer = trainer_of(
        weights,
        out,
        reference=True,
        per_device_train_batch_size=per_device,
        ddp_backend="gloo",
        save_strategy="steps",
        save_steps=2,
    )
    reference = model_of(weights)
    stored = with_reference(Dataset.from_list([dict(row) for row in ROWS]), reference, layout="shared")
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-2") if resume else None)
    model_of(weights).save_pretrained(out / f"parent-{trainer.args.process_index}")  # for its dtype
    write_weights(trainer, out / "final", SavedAs(out / f"parent-{trainer.args.process_index}", TOKENIZER))
    if trainer.is_world_process_zero():
        facts = {"loss": logged(trainer), "sharded": sharded(trainer.model), "reference_sharded": sharded(reference)}
        (out / "log.json").write_text(json.dumps({**facts, "reference": list(stored["ref_logps"])}))


if __name__ == "__main__":
    if os.environ.get("FSDP_ON_CPU"):
        shard_on_processors()
    torch.set_num_threads(1)
    if "bf16" in sys.argv[3:]:
        write_precisions(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main(Path(sys.argv[1]), int(sys.argv[2]), "resume" in sys.argv[3:])
