"""Name the files of a recipe, and define the records that its stages exchange through them.

>>> chosen = Chosen(text="4.", model="qwen", index=0, reward=0.2, reasoning="2 + 2")
>>> chosen.trained(keep_reasoning=False), chosen.trained(keep_reasoning=True)
('4.', '<think>\\n2 + 2\\n</think>\\n\\n4.')

OUT/resolved.yaml                     the specification, names, sweeps and defaults written out
OUT/prompts/prompts.jsonl             PromptRow
OUT/sources/NAME/answers.jsonl        Answer, every one of a source
OUT/rewards/NAME/rewards.jsonl        RewardRow, of a source's answers
OUT/seed-N/sft/                       checkpoint
OUT/seed-N/target/answers.jsonl       Answer, of the SFT model
OUT/seed-N/target-rewards/rewards.jsonl
OUT/seed-N/pairs/[sources-K/]pairs.jsonl   PreferencePair
OUT/seed-N/logps/[sources-K/]SOURCE/logps.jsonl   PairLogps, of a source (method infifpo)
OUT/seed-N/align/VARIANT/             checkpoint
OUT/seed-N/rounds/VARIANT/            target/, target-rewards/ and pairs/ of the variants that continue from VARIANT
OUT/seed-N/held-out/MODEL/tT/         answers to held-out prompts at temperature T, and their rewards
OUT/held-out/target/tT/               the target's
OUT/seed-N/suites/MODEL/              scores on the suites
OUT/teams/NAME.yaml                   the members of moa, best_source and route
OUT/models/RECIPE-MODEL-seedN         links to the checkpoints, by their names on the suites' leaderboard
OUT/results/                          results of `harness run`
OUT/report/                           leaderboard of variants, data report, figures
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeVar, get_args

from pydantic import Field, JsonValue, model_validator

from harness.records import Failure, Prompt, Record, digest
from harness.records.asking import is_empty
from harness.records.errors import ConfigError, one_line

from .spec import RIVALS, MergeSpec, RecipeSpec, VariantSpec

# -------------------------------------------------------------------------------------------------------------- records


AnyRecord = TypeVar("AnyRecord", bound=Record)

Part = Literal["sft", "preference", "validation", "test"]
"""Use of a prompt. sft: learn the best source answer; preference: form pairs; validation and test: held out."""
PARTS: tuple[Part, ...] = get_args(Part)


class PromptRow(Record):
    """One line of `prompts.jsonl`. The last turn of the prompt is to be answered; earlier ones have answers."""

    prompt: Prompt
    part: Part
    columns: dict[str, str] = {}
    """Additional fields of the data set's row, for reward functions that use them."""


class Dropped(Record):
    """One line of `dropped.jsonl`: a prompt that a stage dropped, and why."""

    id: str
    reason: str
    detail: str = ""


class RewardRow(Record):
    """One line of `rewards.jsonl`: the reward of one answer, or why there is none."""

    prompt_id: str
    model: str
    """Who answered, e.g. the name of a source."""
    index: int = 0
    """`Answer.index`."""
    answer_sha: str
    """`Answer.sha`, so that a draw with a new text does not reuse the old reward."""
    value: float | None = Field(default=None, allow_inf_nan=False)
    error: Failure | None = None

    @model_validator(mode="after")
    def _value_or_error(self) -> Self:
        if (self.value is None) == (self.error is None):
            raise ValueError("a reward has a value or an error, never both, never neither")
        return self

    @property
    def key(self) -> str:
        return f"{self.prompt_id}#{self.index}|{self.answer_sha}"


class Chosen(Record):
    """An answer chosen for training, and who gave it."""

    text: str
    model: str
    index: int
    reward: float
    reasoning: str = Field(default="", exclude_if=is_empty)
    """The model's reasoning before the text; not rewarded."""

    def trained(self, *, keep_reasoning: bool) -> str:
        """Return the text to train on, after its reasoning in `<think>` marks if that is kept and there is any."""
        return f"<think>\n{self.reasoning}\n</think>\n\n{self.text}" if keep_reasoning and self.reasoning else self.text


class PreferencePair(Record):
    """One line of `pairs.jsonl`: y_ws, y_wt and y_l of one prompt."""

    prompt: Prompt
    source: Chosen
    """y_ws: the best answer of all sources."""
    target: Chosen
    """y_wt: the best of the target's own samples."""
    rejected: Chosen
    """y_l: the worst of the target's own samples."""
    history: tuple[dict[str, str], ...] = Field(default=(), exclude_if=is_empty)
    """Messages between the system message and the prompt, if the pair is not ours: earlier turns and their answers."""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The conversation to answer."""
        talk = messages(self.prompt)
        start = 0 if self.prompt.system is None else 1
        return [*talk[:start], *self.history, *talk[start:]]


def rows_in(path: Path, kind: type[AnyRecord]) -> Iterator[AnyRecord]:
    """Yield the records in a JSONL file that a finished step wrote."""
    with path.open("rb") as file:
        for line in file:
            yield kind.model_validate_json(line)


Messages = list[dict[str, str]]


def messages(prompt: Prompt) -> Messages:
    """Return the conversation to answer, which ends with the user's last turn."""
    talk = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    for turn, answer in zip(prompt.turns, prompt.answered, strict=False):
        talk += [{"role": "user", "content": turn}, {"role": "assistant", "content": answer}]
    return [*talk, {"role": "user", "content": prompt.turns[-1]}]


def prompt_text(prompt: Prompt) -> str:
    """Return the conversation as one text, without its system message: a single turn as it is.

    >>> prompt_text(Prompt(id="p", category="all", turns=("Hi", "And now?"), answered=("Hello.",)))
    'User: Hi\\n\\nAssistant: Hello.\\n\\nUser: And now?'
    """
    if not prompt.answered:
        return prompt.turns[-1]
    names = {"user": "User", "assistant": "Assistant"}
    talk = [message for message in messages(prompt) if message["role"] in names]
    return "\n\n".join(f"{names[message['role']]}: {message['content']}" for message in talk)


# ---------------------------------------------------------------------------------------------------------------- files


STAGES = ("prompts", "sources", "rewards", "sft", "target", "pairs", "logps", "align", "evaluate", "report")
"""Stages in the order in which they run; --from and --until use these names."""


@dataclass(frozen=True)
class Recipe:
    """A specification, and the variants and seeds that the command line selects."""

    spec: RecipeSpec
    variants: dict[str, VariantSpec]
    seeds: tuple[int, ...]
    named: tuple[str, ...] | None = None
    """Variants and merges that the command line names; `variants` has those that they are made from too. None: all."""

    @property
    def out(self) -> Path:
        return self.spec.output_dir

    @property
    def merges(self) -> dict[str, MergeSpec]:
        """Return the selected merges; without a selection, those whose variants are all there."""
        left_out = set(self.spec.variants) - set(self.variants)
        return {
            name: merge
            for name, merge in self.spec.merges.items()
            if (self.named is None or name in self.named) and not {*merge.models, merge.base} & left_out
        }

    @property
    def rivals(self) -> tuple[str, ...]:
        """Return the sources and ensembles that `evaluate.models` names; `best_source` needs every source's answers."""
        named = self.spec.evaluate.models
        sources = [source.name for source in self.spec.sources if source.model is not None]
        trained = {*self.spec.variants, *self.spec.merges}
        chosen = [name for name in sources if name not in trained and (name in named or "best_source" in named)]
        return (*chosen, *(name for name in RIVALS if name in named))

    @property
    def fixed(self) -> tuple[str, ...]:
        """Return the models that are the same for all seeds."""
        return ("target", *self.rivals)

    def merge_seeds(self, name: str) -> tuple[int, ...]:
        """Return the seeds that have a merge of this name: all, or only the first for one of all seeds."""
        return self.seeds if self.spec.merges[name].seeds == "each" else self.spec.seeds[:1]

    @property
    def prompts(self) -> Path:
        return self.out / "prompts"

    def source(self, name: str) -> Path:
        return self.out / "sources" / name

    def source_rewards(self, name: str) -> Path:
        return self.out / "rewards" / name

    def seed(self, seed: int) -> Path:
        return self.out / f"seed-{seed}"

    def sft(self, seed: int) -> Path:
        return self.seed(seed) / "sft"

    def target(self, seed: int, after: str | None = None) -> Path:
        return self.sampled(after, seed) / "target"

    def variant(self, name: str, seed: int) -> Path:
        return self.seed(seed) / "align" / name

    def sampled(self, after: str | None, seed: int) -> Path:
        """Return the folder of a model's samples, their rewards and pairs: of the SFT model (None) or a variant."""
        return self.seed(seed) if after is None else self.seed(seed) / "rounds" / after

    def checkpoint(self, model: str, seed: int) -> Path | None:
        """Return the folder of `sft` or a variant, or None for `target`, which the specification names."""
        if model in self.fixed:
            return None
        return self.sft(seed) if model == "sft" else self.variant(model, seed)

    def label(self, model: str, seed: int) -> str:
        """Return a checkpoint's name on the suites' leaderboard."""
        return f"{self.spec.name}-{model}" + ("" if model in self.rivals else f"-seed{seed}")

    def held_out(self, model: str, seed: int) -> Path:
        return self._of_model(model, seed) / "held-out" / model

    def suites(self, model: str, seed: int) -> Path:
        return self._of_model(model, seed) / "suites" / model

    def _of_model(self, model: str, seed: int) -> Path:
        return self.out if model in self.fixed else self.seed(seed)  # the target is the same for all seeds

    def team(self, name: str) -> Path:
        """Return the file of an ensemble of the recipe's sources."""
        return self.out / "teams" / f"{name}.yaml"

    @property
    def results(self) -> Path:
        return self.out / "results"

    @property
    def report(self) -> Path:
        return self.out / "report"


ANSWERS, PROMPTS, REWARDS = "answers.jsonl", "prompts.jsonl", "rewards.jsonl"
PAIRS, DROPPED, DATA = "pairs.jsonl", "dropped.jsonl", "data.json"
DONE = "step.json"
"""The record of a step, written last, so that a folder without it is unfinished."""
Counts = dict[str, JsonValue]
"""Figures that a step reports: prompts kept and dropped, answers, seconds of training."""


# ------------------------------------------------------------------------------------------------- the record of a step


class Output(Record):
    """One file that a step wrote."""

    size: int
    """In bytes."""
    sha256: str


class StepRecord(Record):
    """`step.json`: what a finished step was made from, and what it wrote."""

    stage: str
    settings: dict[str, JsonValue]
    inputs: dict[str, str]
    """Digests of earlier steps by name."""
    outputs: dict[str, Output]
    """Output files by their path relative to the folder."""
    counts: Counts = {}
    seconds: float
    """Wall time of the session that finished the step."""
    packages: dict[str, JsonValue] = {}

    @property
    def digest(self) -> str:
        """16 hex characters over stage, settings, inputs and outputs, without time, versions and counts."""
        facts = self.model_dump(mode="json", include={"stage", "settings", "inputs", "outputs"})
        return digest(facts)[:16]


def record_in(folder: Path) -> StepRecord | None:
    """Return the record in a step's folder, or None if the step is unfinished. Raise ConfigError if it is broken."""
    path = folder / DONE
    try:
        return StepRecord.model_validate_json(path.read_text("utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}; move {folder} away") from None


def flat(settings: JsonValue, prefix: str = "") -> dict[str, JsonValue]:
    """Return nested settings as one level, with keys joined by dots.

    >>> flat({"training": {"alpha": 0.1}, "seed": 1})
    {'training.alpha': 0.1, 'seed': 1}
    """
    if not isinstance(settings, dict) or not settings:
        return {prefix: settings}
    leaves: dict[str, JsonValue] = {}
    for name, nested in settings.items():
        leaves |= flat(nested, f"{prefix}.{name}".strip("."))
    return leaves
