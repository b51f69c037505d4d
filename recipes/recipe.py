"""One recipe on disk: its specification and where every stage's files lie.

OUT/resolved.yaml                     the specification, names, sweeps and defaults written out
OUT/prompts/prompts.jsonl             PromptRow
OUT/sources/NAME/answers.jsonl        harness Answer; every one is kept
OUT/rewards/NAME/rewards.jsonl        Reward, of a source's answers
OUT/seed-N/sft/                       checkpoint
OUT/seed-N/target/answers.jsonl       Answer, of the SFT model
OUT/seed-N/target-rewards/rewards.jsonl
OUT/seed-N/pairs/[sources-K/]pairs.jsonl   Pair
OUT/seed-N/align/VARIANT/             checkpoint
OUT/seed-N/held-out/MODEL/tT/         answers to held-out prompts at temperature T, and their rewards
OUT/held-out/target/tT/               the target's
OUT/seed-N/suites/MODEL/              its scores on the suites
OUT/models/RECIPE-MODEL-seedN         links to the checkpoints: the names they have on the suites' leaderboard
OUT/results/                          as `harness run` leaves it
OUT/report/                           leaderboard of variants, data report, figures
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from harness.errors import ConfigError

from .spec import RecipeSpec, VariantSpec

STAGES = ("prompts", "sources", "rewards", "sft", "target", "pairs", "align", "evaluate", "report")
"""In the order they run; the names of --from and --until."""


def check_span(first: str | None, last: str | None) -> None:
    """Raises ConfigError for --from after --until."""
    if first is not None and last is not None and STAGES.index(first) > STAGES.index(last):
        raise ConfigError(f"--from {first} comes after --until {last}: nothing would run; stages: {', '.join(STAGES)}")


@dataclass(frozen=True)
class Recipe:
    """What is run: the specification, and what the command line narrows it to."""

    spec: RecipeSpec
    variants: dict[str, VariantSpec]
    """Of the specification's, those asked for."""
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
        """Folder of `sft` or a variant; None for `target`, which is the specification's."""
        if model == "target":
            return None
        return self.seed(seed) / "sft" if model == "sft" else self.variant(model, seed)

    def label(self, model: str, seed: int) -> str:
        """What a checkpoint is called on the suites' leaderboard."""
        return f"{self.spec.name}-{model}-seed{seed}"

    def held_out(self, model: str, seed: int) -> Path:
        return self._measured("held-out", model, seed)

    def suites(self, model: str, seed: int) -> Path:
        return self._measured("suites", model, seed)

    def _measured(self, kind: str, model: str, seed: int) -> Path:
        """The target is the same for every seed."""
        return (self.out if model == "target" else self.seed(seed)) / kind / model

    @property
    def results(self) -> Path:
        return self.out / "results"

    @property
    def report(self) -> Path:
        return self.out / "report"
