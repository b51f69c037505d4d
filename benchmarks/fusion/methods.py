"""The methods of the study: how each trains from what is prepared, and the four settings it may choose from.

Losses, schedules, reference fusion and weights are the recipes' own (`recipes.training.losses`), and so is the
divergence of distillation (TRL's, through `recipes.training.distill`). What is written here is the loop around them.
Every method takes STEPS steps of BATCH prompts, after the SFT steps that all share.
"""

# ruff: noqa: N806 - capital shape suffixes: B prompts, 3 the answers source, target, rejected

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor

from recipes.training.losses import (
    REJECTED,
    SOURCE,
    TARGET,
    LossType,
    Schedule,
    alpha_at,
    fused_reference,
    preference_loss,
    rewards,
    source_weights,
    weighted_nll,
    weighted_preference_loss,
)

from .model import TinyTransformer, answer_logits, answer_logps, batches, nll, trained
from .preparation import SFT_RATE, Prepared, Sources, letters_to_tensor, pair_logps
from .world import LENGTH

STEPS = 40
"""Steps of every method: two epochs of the preference prompts."""

Settings = dict[str, float]
Train = Callable[[Prepared, Settings], TinyTransformer]


@dataclass(frozen=True)
class Method:
    """A way to train, a sentence about it, and the settings of which validation prompts choose one."""

    name: str
    about: str
    train: Train
    settings: tuple[Settings, ...]


def grid(**values: tuple[float, ...]) -> tuple[Settings, ...]:
    """Return every combination of the values."""
    return tuple(dict(zip(values, each, strict=True)) for each in product(*values.values()))


def learn_answer(answer: int) -> Train:
    """SFT on one of the three answers of each pair."""

    def train(prepared: Prepared, settings: Settings) -> TinyTransformer:
        order = batches(len(prepared.prompts), STEPS, prepared.sources.seed)
        answers = prepared.answers[answer]
        return trained(
            prepared.sft,
            STEPS,
            settings["learning_rate"],
            lambda model, step: nll(model, prepared.prompts[order[step]], answers[order[step]]),
        )

    return train


def prefer(loss_type: LossType, alpha: float, schedule: Schedule = "constant") -> Train:
    """Preference training on the three answers of each pair with a loss of the WRPO family, or InfiFPO's."""

    def train(prepared: Prepared, settings: Settings) -> TinyTransformer:
        order = batches(len(prepared.prompts), STEPS, prepared.sources.seed)
        reference_3B = prepared.initial
        if loss_type == "infifpo":
            reference_3B = fused_reference(prepared.initial / LENGTH, prepared.by_source / LENGTH)

        # an answer of weight 0 needs no log-probability
        used = [answer for answer in (SOURCE, TARGET, REJECTED) if {SOURCE: alpha, TARGET: 1 - alpha}.get(answer, 1)]

        def losses(model: TinyTransformer, step: int) -> Tensor:
            rows = order[step]
            logps = _block_logps(model, prepared.prompts[rows], prepared.answers[used][:, rows])
            policy_3B = logps.new_zeros(3, len(rows)).index_copy(0, torch.tensor(used), logps)
            lengths_3B = torch.full_like(policy_3B, LENGTH)
            return preference_loss(
                rewards(policy_3B, reference_3B[:, rows], lengths_3B, loss_type),
                loss_type=loss_type,
                alpha=alpha_at(step, STEPS, alpha, schedule),
                beta=settings["beta"],
                gamma=settings.get("gamma", 0.0),
            ).mean()

        return trained(prepared.sft, STEPS, settings["learning_rate"], losses)

    return train


def _block_logps(model: TinyTransformer, prompts: Tensor, answers: Tensor) -> Tensor:
    # one forward pass over source, target and rejected rows
    count = len(answers)
    logps = answer_logps(model, prompts.repeat(count, 1), answers.flatten(0, 1))
    return logps.view(count, -1)


def fuserl(prepared: Prepared, settings: Settings) -> TinyTransformer:
    """FuseRL in our reading: weighted SFT on all sources from the target, then weighted pairs of all sources."""
    sources, tau = prepared.sources, settings["tau"]
    start = fuse_sft(sources, prepared.sft_steps, tau)
    prompts = torch.from_numpy(sources.preference_prompts)
    chosen, weights = best_of_each(sources, "preference", tau)
    worst = torch.stack(
        [
            letters_to_tensor([by_prompt[str(row)].worst.text for row in range(len(prompts))])
            for by_prompt in sources.preference_extremes
        ]
    )
    pairs = torch.stack([chosen, worst])  # (2, S, B, LENGTH)
    informative = torch.tensor(
        [
            [by_prompt[str(row)].best.reward > by_prompt[str(row)].worst.reward for row in range(len(prompts))]
            for by_prompt in sources.preference_extremes
        ]
    )
    count = len(sources.models)
    reference = pair_logps(start, prompts, pairs.flatten(0, 1)).view(2, count, -1)
    order = batches(len(prompts), STEPS, sources.seed)

    def losses(model: TinyTransformer, step: int) -> Tensor:
        rows = order[step]
        policy = _block_logps(model, prompts[rows], pairs[:, :, rows].flatten(0, 1)).view(2, count, -1)
        ratios = (policy - reference[:, :, rows]).flatten(1)
        each = weighted_preference_loss(ratios, weights[:, rows].flatten(), settings["beta"])
        kept = informative[:, rows].flatten()
        return each[kept].mean()

    return trained(start, STEPS, settings["learning_rate"], losses)


@lru_cache(maxsize=4)
def fuse_sft(sources: Sources, steps: int, tau: float) -> TinyTransformer:
    """FuseRL's SFT, as long as the SFT of the other methods."""
    prompts = torch.from_numpy(sources.sft_prompts)
    answers, weights = best_of_each(sources, "sft", tau)
    order = batches(len(prompts), steps, sources.seed)

    def losses(model: TinyTransformer, step: int) -> Tensor:
        rows = order[step]
        logps = _block_logps(model, prompts[rows], answers[:, rows]).flatten()
        return weighted_nll(logps, torch.full_like(logps, LENGTH), weights[:, rows].flatten()).mean()

    return trained(sources.target, steps, SFT_RATE, losses)


def best_of_each(sources: Sources, part: str, tau: float) -> tuple[Tensor, Tensor]:
    """Return each source's best answer to each prompt, (S, B, LENGTH), and FuseRL's weights times S, (S, B)."""
    every = sources.sft_extremes if part == "sft" else sources.preference_extremes
    count = len(every[0])
    answers = torch.stack(
        [letters_to_tensor([by_prompt[str(row)].best.text for row in range(count)]) for by_prompt in every]
    )
    best_SB = torch.tensor([[by_prompt[str(row)].best.reward for row in range(count)] for by_prompt in every])
    weights = torch.stack([source_weights(rewards_S, tau) for rewards_S in best_SB.T], dim=1) * len(every)
    return answers, weights


def distill(prepared: Prepared, settings: Settings) -> TinyTransformer:
    """Learn the best source's next-token distributions on y_ws (own = 0) or on the target's best samples (own = 1)."""
    divergence = _divergence()
    sources = prepared.sources
    teacher = sources.models[best_source(sources)]
    answers = prepared.answers[TARGET if settings["own"] else SOURCE]
    with torch.no_grad():
        taught = answer_logits(teacher, prepared.prompts, answers)
    order = batches(len(prepared.prompts), STEPS, sources.seed)

    def losses(model: TinyTransformer, step: int) -> Tensor:
        rows = order[step]
        logits = answer_logits(model, prepared.prompts[rows], answers[rows])
        return divergence(logits, taught[rows], labels=answers[rows], beta=0.5)

    return trained(prepared.sft, STEPS, settings["learning_rate"], losses)


def _divergence() -> Callable[..., Tensor]:
    with warnings.catch_warnings(action="ignore"):  # trl's, about vLLM, which is not used here
        from recipes.training.distill import DistillTrainer  # trl takes seconds, which only distillation needs

    divergence: Callable[..., Tensor] = DistillTrainer.generalized_jsd_loss
    return divergence


def best_source(sources: Sources) -> int:
    """Return the index of the source with the highest mean reward of its best answers to the preference prompts."""
    means = [sum(extreme.best.reward for extreme in each.values()) for each in sources.preference_extremes]
    return means.index(max(means))


RATES = (3e-3, 1e-2)
SFT_RATES = (1e-3, 3e-3, 1e-2, 3e-2)
DPO_LIKE = grid(learning_rate=RATES, beta=(0.3, 1.0))
PER_TOKEN = grid(learning_rate=RATES, beta=(3.0, 10.0))
"""Betas of losses on log-probabilities per token: answers have 8, so 3 there is about 0.3 elsewhere."""
IPO = grid(learning_rate=RATES, beta=(0.3, 1.0))
SIMPO = tuple({**setting, "gamma": 0.5} for setting in PER_TOKEN)
METHODS = {
    method.name: method
    for method in (
        Method("sft-cont", "SFT continued on y_ws", learn_answer(SOURCE), grid(learning_rate=SFT_RATES)),
        Method("rft", "SFT on y_wt", learn_answer(TARGET), grid(learning_rate=SFT_RATES)),
        Method("dpo", "DPO on the target's own pair: alpha 0", prefer("sigmoid", 0.0), DPO_LIKE),
        Method("wrpo-0.1", "WRPO, alpha rising to 0.1, as released", prefer("sigmoid", 0.1, "linear"), DPO_LIKE),
        Method("wrpo-0.5", "WRPO, alpha rising to 0.5", prefer("sigmoid", 0.5, "linear"), DPO_LIKE),
        Method("wrpo-0.9", "WRPO, alpha rising to 0.9", prefer("sigmoid", 0.9, "linear"), DPO_LIKE),
        Method("wrpo-0.5-constant", "WRPO, alpha 0.5 throughout", prefer("sigmoid", 0.5), DPO_LIKE),
        Method("hybrid-dpo", "DPO of y_ws over y_l: alpha 1", prefer("sigmoid", 1.0), DPO_LIKE),
        Method("simpo", "SimPO on the target's own pair", prefer("simpo", 0.0), SIMPO),
        Method("wrpo-simpo", "SimPO with alpha 0.5", prefer("simpo", 0.5), SIMPO),
        Method("ipo", "IPO on the target's own pair", prefer("ipo", 0.0), IPO),
        Method("wrpo-ipo", "IPO with alpha 0.5", prefer("ipo", 0.5), IPO),
        Method("infifpo", "InfiFPO, y_ws over y_l", prefer("infifpo", 1.0), PER_TOKEN),
        Method("fuserl", "FuseRL, in our reading", fuserl, grid(learning_rate=RATES, tau=(0.05, 0.5), beta=(0.3,))),
        Method("distill", "GKD from the best source", distill, grid(learning_rate=RATES, own=(0.0, 1.0))),
    )
}
