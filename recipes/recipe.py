"""Locate the files of a recipe: its specification, and the folder of every stage.

OUT/resolved.yaml                     the specification, names, sweeps and defaults written out
OUT/prompts/prompts.jsonl             PromptRow
OUT/sources/NAME/answers.jsonl        Answer, every one of a source
OUT/rewards/NAME/rewards.jsonl        RewardRow, of a source's answers
OUT/seed-N/sft/                       checkpoint
OUT/seed-N/target/answers.jsonl       Answer, of the SFT model
OUT/seed-N/target-rewards/rewards.jsonl
OUT/seed-N/pairs/[sources-K/]pairs.jsonl   PreferencePair
OUT/seed-N/align/VARIANT/             checkpoint
OUT/seed-N/held-out/MODEL/tT/         answers to held-out prompts at temperature T, and their rewards
OUT/held-out/target/tT/               the target's
OUT/seed-N/suites/MODEL/              scores on the suites
OUT/models/RECIPE-MODEL-seedN         links to the checkpoints, by their names on the suites' leaderboard
OUT/results/                          results of `harness run`
OUT/report/                           leaderboard of variants, data report, figures
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

from .spec import RecipeSpec, VariantSpec

STAGES = ("prompts", "sources", "rewards", "sft", "target", "pairs", "align", "evaluate", "report")
"""Stages in the order in which they run; --from and --until use these names."""


def check_span(first: str | None, last: str | None) -> None:
    """Raise ConfigError if --from comes after --until."""
    if first is not None and last is not None and STAGES.index(first) > STAGES.index(last):
        raise ConfigError(f"--from {first} comes after --until {last}: nothing would run; stages: {', '.join(STAGES)}")


@dataclass(frozen=True)
class Recipe:
    """A specification, and the variants and seeds that the command line selects."""

    spec: RecipeSpec
    variants: dict[str, VariantSpec]
    """The selected variants."""
    seeds: tuple[int, ...]

    @property
    def out(self) -> Path:
        return self.spec.output_dir

    @property
    def prompts(self) -> Path:
        return self.out / "prompts"

    def source(self, name: str) -> Path:
        return self.out / "sources" / name

    def source_rewards(self, name: str) -> Path:
        return self.out / "rewards" / name

    def seed(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"

    def variant(self, name: str, seed: int) -> Path:
        return self.seed(seed) / "align" / name

    def checkpoint(self, model: str, seed: int) -> Path | None:
        """Return the folder of `sft` or a variant; None for `target`, which the specification names."""
        if model == "target":
            return None
        return self.seed(seed) / "sft" if model == "sft" else self.variant(model, seed)

    def label(self, model: str, seed: int) -> str:
        """Return a checkpoint's name on the suites' leaderboard."""
        return f"{self.spec.name}-{model}-seed{seed}"

    def held_out(self, model: str, seed: int) -> Path:
        return self._measured("held-out", model, seed)

    def suites(self, model: str, seed: int) -> Path:
        return self._measured("suites", model, seed)

    def _measured(self, kind: str, model: str, seed: int) -> Path:
        """Return a model's folder; the target has one for all seeds."""
        return (self.out if model == "target" else self.seed(seed)) / kind / model

    @property
    def results(self) -> Path:
        return self.out / "results"

    @property
    def report(self) -> Path:
        return self.out / "report"
