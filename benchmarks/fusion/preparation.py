"""Everything that happens before a method starts: models, samples, SFT and pairs of one world, seed and SFT.

`Sources` is what worlds that differ only in the SFT share. Rewards are the world's; the best and worst answers and the
pairs are chosen by the recipes' own functions (`recipes.pairs`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.records import Answer, Prompt
from recipes.layout import Chosen, PreferencePair
from recipes.pairs import Extremes, PairData, PairTally, RewardedAnswer, Tally, extremes, paired
from recipes.spec import PairsSpec

from .model import SAMPLED, TinyTransformer, answer_logps, batches, nll, sample, trained
from .world import LENGTH, SOURCES, IntArray, World, text, tokens

SFT_PROMPTS, PREFERENCE_PROMPTS = 640, 640
SAMPLES = 5
"""Answers per model and prompt, as in the WRPO release."""
TARGET_STEPS, SOURCE_STEPS, LESSON_BATCH = 160, 80, 64
TARGET_RATE, SOURCE_RATE, SFT_RATE = 2e-2, 1e-2, 3e-3
TARGET = "target"
SOURCE_NAMES = tuple(f"source-{number}" for number in range(1, 1 + SOURCES))


@dataclass(frozen=True, eq=False)
class Sources:
    """Target, sources, and the best and worst answer of each source to the prompts of both parts."""

    world: World
    seed: int
    target: TinyTransformer
    models: tuple[TinyTransformer, ...]
    sft_prompts: IntArray
    preference_prompts: IntArray
    sft_extremes: tuple[dict[str, Extremes], ...]
    preference_extremes: tuple[dict[str, Extremes], ...]
    """One dict per source, by prompt id."""
    sft_best: dict[str, Chosen]
    preference_best: dict[str, Chosen]
    """y_ws: the best answer of all sources, by prompt id."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a method starts from."""

    sources: Sources
    sft_steps: int
    sft: TinyTransformer
    """The SFT model: start and reference of every method but FuseRL's."""
    prompts: Tensor
    """Prompts with a pair, (B, PROMPT)."""
    answers: Tensor
    """y_ws, y_wt and y_l, (3, B, LENGTH)."""
    initial: Tensor
    """Their summed log-probabilities under the SFT model, (3, B)."""
    by_source: Tensor
    """The same under each source, (S, 3, B)."""
    data: PairData
    """What the pairs were made from, as a recipe's `data.json` has it."""


def prepare_sources(world: World, seed: int) -> Sources:
    """Train the target and the sources, and sample the sources."""
    rng = np.random.default_rng([seed, 1])
    torch.manual_seed(seed)
    target = _taught(TinyTransformer(), world, 0, TARGET_STEPS, TARGET_RATE, seed)
    models = tuple(_taught(target, world, number, SOURCE_STEPS, SOURCE_RATE, seed) for number in range(1, 1 + SOURCES))
    parts = world.prompts(SFT_PROMPTS, rng), world.prompts(PREFERENCE_PROMPTS, rng)
    per_part = []
    for part, prompts in enumerate(parts):
        drawn = [
            rewarded(world, model, name, prompts, seed=seed * 100 + 10 * part + number, first_index=number * SAMPLES)
            for number, (name, model) in enumerate(zip(SOURCE_NAMES, models, strict=True))
        ]
        together = [answer for answers in drawn for answer in answers]
        best = {prompt_id: each.best for prompt_id, each in extremes(together).items()}
        per_part.append((tuple(extremes(answers) for answers in drawn), best))
    (sft_extremes, sft_best), (preference_extremes, preference_best) = per_part
    return Sources(world, seed, target, models, *parts, sft_extremes, preference_extremes, sft_best, preference_best)


def _taught(
    start: TinyTransformer, world: World, model: int, steps: int, learning_rate: float, seed: int
) -> TinyTransformer:
    """Return the model after lessons in which it answers as `World.lessons` says it believes."""
    rng = np.random.default_rng([seed, 2, model])

    def losses(student: TinyTransformer, _: int) -> Tensor:
        prompts = world.prompts(LESSON_BATCH, rng)
        answers = world.lessons(model, prompts, rng)
        return nll(student, torch.from_numpy(prompts), torch.from_numpy(answers))

    return trained(start, steps, learning_rate, losses)


def rewarded(
    world: World, model: TinyTransformer, name: str, prompts: IntArray, *, seed: int, first_index: int = 0
) -> list[RewardedAnswer]:
    """Return SAMPLES answers per prompt with their rewards; prompts are numbered by their row.

    With indexes of their own per source, ties go to the earlier source and then to the lower index, as in a recipe.
    """
    repeated = np.repeat(prompts, SAMPLES, axis=0)
    answers = sample([model], repeated, temperature=SAMPLED, seed=seed)
    rewards = world.rewards(repeated, answers)
    return [
        RewardedAnswer(
            Answer(prompt_id=str(row // SAMPLES), model=name, index=first_index + row % SAMPLES, turns=(text(answer),)),
            float(reward),
            name,
        )
        for row, (answer, reward) in enumerate(zip(answers, rewards, strict=True))
    ]


def prepare(sources: Sources, sft_steps: int) -> Prepared:
    """Run SFT on the best source answers, sample the SFT model, and form the pairs."""
    world, seed = sources.world, sources.seed
    prompts = torch.from_numpy(sources.sft_prompts)
    learned = letters_to_tensor([sources.sft_best[str(row)].text for row in range(len(prompts))])
    order = batches(len(prompts), sft_steps, seed)
    sft = trained(
        sources.target,
        sft_steps,
        SFT_RATE,
        lambda model, step: nll(model, prompts[order[step]], learned[order[step]]),
    )
    drawn = rewarded(world, sft, TARGET, sources.preference_prompts, seed=seed * 100 + 99)
    pairs, data = _pairs(sources, drawn)
    kept = torch.tensor([int(pair.prompt.id) for pair in pairs])
    question = torch.from_numpy(sources.preference_prompts)[kept]
    answers = torch.stack(
        [
            letters_to_tensor([pair.source.text for pair in pairs]),
            letters_to_tensor([pair.target.text for pair in pairs]),
            letters_to_tensor([pair.rejected.text for pair in pairs]),
        ]
    )
    initial = pair_logps(sft, question, answers)
    by_source = torch.stack([pair_logps(model, question, answers) for model in sources.models])
    return Prepared(sources, sft_steps, sft, question, answers, initial, by_source, data)


def _pairs(sources: Sources, drawn: Sequence[RewardedAnswer]) -> tuple[list[PreferencePair], PairData]:
    of_target, tally, spec = extremes(drawn), PairTally(), PairsSpec()
    pairs = []
    for row, prompt in enumerate(sources.preference_prompts):
        prompt_id = str(row)
        question = Prompt(id=prompt_id, turns=(text(prompt),), category="translate")
        outcome = paired(question, sources.preference_best[prompt_id], of_target[prompt_id], spec)
        tally.add(outcome)
        if isinstance(outcome, PreferencePair):
            pairs.append(outcome)
    names = [Tally(name, frozenset()) for name in (*SOURCE_NAMES, TARGET)]
    return pairs, tally.data(names[:-1], names[-1])


def letters_to_tensor(texts: Sequence[str]) -> Tensor:
    """Return texts as tokens, (texts, LENGTH)."""
    return torch.tensor([tokens(letters) for letters in texts]).view(-1, LENGTH)


@torch.no_grad()
def pair_logps(model: TinyTransformer, prompts: Tensor, answers: Tensor) -> Tensor:
    """Return the summed log-probabilities of each prompt's answers, in the shape (answers, B)."""
    return torch.stack([answer_logps(model, prompts, each) for each in answers])
