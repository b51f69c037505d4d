"""Write the model card of a checkpoint: README.md with the Hub's metadata, rewritten with every report.

>>> hub_id("hf:meta-llama/Meta-Llama-3-8B-Instruct@main"), hub_id("./models/target"), shown_name("./models/target")
('meta-llama/Meta-Llama-3-8B-Instruct', None, 'target')

It has names, digests, settings and scores, but never a local path. `huggingface_hub` is imported only to write a card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import JsonValue

from harness.pages.text import escape_markdown
from harness.records import ModelRef, Score, ScoreCard
from harness.suites.scoring import is_complete

from ..layout import flat
from ..spec import RecipeSpec, SourceSpec
from .tables import ModelRow, TextGrid, VariantBoard, at, difference_text, markdown_grid, p_text, score_text

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


LEVEL = 95
"""Confidence level of the intervals, in percent."""
PAPER = "https://arxiv.org/abs/2412.03187"
"""WRPO."""
SEEDS = 3
"""With fewer seeds, the card says so: our choice, the fewest from which a spread can be seen at all."""


@dataclass(frozen=True)
class CardFacts:
    """Everything a model card reports."""

    spec: RecipeSpec
    model: str
    """`sft` or the name of a variant."""
    seed: int
    method: str
    """preference, sft or merge."""
    settings: dict[str, JsonValue]
    """Training settings from the step's record."""
    digests: dict[str, str]
    """Maps each step that this checkpoint comes from to the digest of its outputs."""
    board: VariantBoard
    suites: tuple[ScoreCard, ...] = ()
    """Cards of exactly this checkpoint."""
    adapter: bool = False
    curves: bool = False
    """Whether training_curves.svg is in the same folder."""


def model_card(facts: CardFacts) -> str:
    """Return the text of README.md: YAML metadata, then Markdown."""
    from huggingface_hub import ModelCardData

    spec = facts.spec
    base = hub_id(spec.target)
    metadata = ModelCardData(
        model_name=f"{spec.name}-{facts.model}",
        base_model=base,
        license=spec.target_license,
        datasets=[dataset] if (dataset := dataset_id(spec)) else None,
        library_name="peft" if facts.adapter else "transformers",
        pipeline_tag="text-generation",
        tags=_tags(facts),
        eval_results=_results(facts),
        base_model_relation=None if base is None else _relation(facts),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{card_text(facts)}"


TAGS = {
    "preference": ["preference-optimization", "wrpo"],
    "infifpo": ["preference-optimization", "infifpo"],
    "merge": ["merge", "mergekit"],
}
"""Method -> tags; other methods are their own tag."""
ON_SFT = "fine-tuned on the best answers of several source models, then"
TRAINED = {
    "infifpo": f"{ON_SFT} trained on preferences against a fusion of the sources ([InfiFPO](https://arxiv.org/abs/2505.13878))",
    "fusesft": "fine-tuned on the answers of several source models, weighted by reward (our reading of "
    "[FuseRL](https://arxiv.org/abs/2504.06562)'s first phase)",
    "fusepo": "fine-tuned and then trained on preferences among the answers of several source models, weighted by "
    "reward (our reading of [FuseRL](https://arxiv.org/abs/2504.06562))",
    "distill": f"{ON_SFT} distilled from one of them",
}
"""Method -> what was done to the target."""


def _relation(facts: CardFacts) -> str:
    if facts.method == "merge":
        return "merge"
    return "adapter" if facts.adapter else "finetune"


def _tags(facts: CardFacts) -> list[str]:
    # sources are tags: the Hub's `base_model` would say that their weights are in this model
    sources = [name for source in facts.spec.sources if source.model and (name := hub_id(source.model))]
    kind = TAGS.get(facts.method, [facts.method])
    return ["model-fusion", *kind, *(f"fused-from:{name}" for name in sources)]


def _results(facts: CardFacts) -> list[EvalResult] | None:
    """Return `model-index` entries for exactly this checkpoint; the metric's `args` have the interval over prompts."""
    from huggingface_hub import EvalResult

    entries: list[EvalResult] = []

    def add(score: Score, **fields: Any) -> None:
        if score.value is not None:
            # the Hub has no field for an interval, but keeps what a metric's `args` have
            value, interval = round(score.value, 6), _interval(score.ci_low, score.ci_high, score.n)
            fields |= {"task_type": "text-generation", "task_name": "Text generation"}
            entries.append(EvalResult(metric_value=value, metric_args=interval, **fields))

    for row in facts.board.models:
        score = row.seed_scores.get(facts.seed)  # the mean over seeds is a result of other weights too
        if row.model == facts.model and score is not None and is_complete(score):
            add(
                score,
                dataset_type=f"{facts.spec.name}-held-out",
                dataset_name=f"{facts.spec.name}: held-out prompts",
                dataset_split="test",
                dataset_config=at(row.temperature),
                metric_type="reward",
                metric_name=f"mean reward ({facts.spec.reward.kind})",
            )
    for card in facts.suites:
        if card.complete:
            add(
                card.scores[card.headline],
                dataset_type=card.suite,
                dataset_name=f"{card.suite} {card.suite_version}, judge {card.judge}",
                dataset_config=card.protocol_sha,
                metric_type=card.headline,
            )
    return entries or None


def _interval(low: float | None, high: float | None, n: int) -> dict[str, float | int]:
    if low is None or high is None:
        return {"n": n}
    return {"ci_low": round(low, 6), "ci_high": round(high, 6), "confidence": LEVEL, "n": n}


def hub_id(text: str) -> str | None:
    """Return `ORG/NAME` of `hf:ORG/NAME[@REVISION]`, or None for a folder or an endpoint."""
    ref = ModelRef.parse(text)
    return ref.name if ref.scheme == "hf" else None


def shown_name(text: str) -> str:
    """Return a model's name for the card, without local paths."""
    ref = ModelRef.parse(text)
    revision = f" at {ref.revision}" if ref.revision else ""
    return ref.short + revision


def dataset_id(spec: RecipeSpec) -> str | None:
    """Return `ORG/NAME` of the recipe's data set on the Hub, or None for a file or a function."""
    text = spec.prompts.dataset
    return text[3:].partition("@")[0] if text.startswith("hf:") else None


def card_text(facts: CardFacts) -> str:
    """Return the Markdown of the card below its metadata."""
    spec = facts.spec
    parts = [
        f"# {escape_markdown(spec.name)}-{escape_markdown(facts.model)}",
        "",
        _introduction(facts),
        "",
        "## Sources",
        "",
        markdown_grid(_sources(spec.sources)),
        "This model was trained on answers of these models and contains none of their weights. Their licences may "
        "restrict models trained on their answers.",
        "",
        "## Scores",
        "",
        *_scores(facts),
        "## Training",
        "",
        markdown_grid(_settings_grid(facts.settings)),
        "![training curves](training_curves.svg)" if facts.curves else "",
        "",
        "## Data",
        "",
        *_data(spec),
        markdown_grid(TextGrid("", ("step", "digest"), tuple(facts.digests.items()), numbers=False)),
        "## Limits",
        "",
        *(f"- {line}" for line in _limits(facts)),
    ]
    return "\n".join(parts).rstrip() + "\n"


def _introduction(facts: CardFacts) -> str:
    target = escape_markdown(shown_name(facts.spec.target))
    recipe = f"the recipe `{facts.spec.name}` of fusion-harness"
    if facts.model == "sft":
        return f"{target}, fine-tuned on the best answers of several source models (seed {facts.seed}), by {recipe}."
    if facts.spec.starts_at_target:
        data = "existing pairs" if facts.spec.has_own_pairs else "preferences"
        how = "fine-tuned on answers of" if facts.method == "sft" else "trained on"
        return f"{target}, {how} {data} (seed {facts.seed}), by {recipe}."
    if facts.method == "merge":
        merge = facts.spec.merges[facts.model]
        names = ", ".join(f"`{name}`" for name in merge.models)
        seeds = "all seeds" if merge.seeds == "all" else f"seed {facts.seed}"
        return f"A merge of {names} ({seeds}) by mergekit's method `{merge.merge}`, made by {recipe} from {target}."
    if facts.method == "sft":
        return f"{target}, fine-tuned twice on answers chosen by a reward model (seed {facts.seed}), by {recipe}."
    if facts.method in TRAINED:
        return f"{target}, {TRAINED[facts.method]} (seed {facts.seed}), by {recipe}."
    return (
        f"{target}, fine-tuned on the best answers of several source models, then trained on preferences in the family "
        f"of [WRPO]({PAPER}) (seed {facts.seed}), by {recipe}."
    )


def _sources(sources: Sequence[SourceSpec]) -> TextGrid:
    rows = tuple((source.name, _origin(source), source.license or "not stated") for source in sources)
    return TextGrid("", ("source", "from", "licence"), rows, numbers=False)


def _origin(source: SourceSpec) -> str:
    if source.model is not None:
        return shown_name(source.model)
    text = source.answers or ""
    return f"answers of {text[3:]}" if text.startswith("hf:") else f"answers in {text.rsplit('/', 1)[-1]}"


def _scores(facts: CardFacts) -> list[str]:
    rows = [row for row in facts.board.models if row.model == facts.model]
    parts = []
    if rows:
        columns = ("temperature", "this checkpoint [95 % over prompts]", "all seeds [95 % over prompts and seeds]")
        seeds = ", ".join(map(str, facts.board.seeds))
        rewards = tuple(
            (at(row.temperature), _seed_score_text(row, facts.seed), score_text(row.reward)) for row in rows
        )
        parts = [
            f"Mean reward ({escape_markdown(facts.spec.reward.kind)}) on {facts.board.prompts} held-out test prompts; "
            f"seeds of the recipe: {seeds}.",
            "",
            markdown_grid(TextGrid("", columns, rewards)),
        ]
    compared = [difference for difference in facts.board.differences if difference.model == facts.model]
    if compared:
        head = ("against", "temperature", "difference [95 %]", "p (Holm)", "verdict")
        cells = tuple(
            (
                difference.baseline,
                at(difference.temperature),
                difference_text(difference),
                p_text(difference.p_adjusted),
                difference.verdict,
            )
            for difference in compared
        )
        parts += [
            "Differences over all seeds, paired by prompt and seed:",
            "",
            markdown_grid(TextGrid("", head, cells)),
        ]
    if facts.suites:
        suites = tuple(
            (f"{card.suite} {card.suite_version}", card.judge, card.headline, _headline(card)) for card in facts.suites
        )
        parts += [
            "Scores on the suites:",
            "",
            markdown_grid(TextGrid("", ("suite", "judge", "metric", "score [95 %]"), suites)),
        ]
    return parts or ["Not measured.", ""]


def _seed_score_text(row: ModelRow, seed: int) -> str:
    return score_text(row.seed_scores[seed]) if seed in row.seed_scores else "-"


def _headline(card: ScoreCard) -> str:
    return score_text(card.scores[card.headline]) + ("" if card.complete else " (incomplete)")


def _settings_grid(settings: Mapping[str, JsonValue]) -> TextGrid:
    rows = tuple((name, _without_folders(value)) for name, value in flat(dict(settings)).items() if value != {})
    return TextGrid("", ("setting", "value"), rows, numbers=False)


def _without_folders(value: JsonValue) -> str:
    """Return the value as text, with paths cut to their last part: a card is published, and paths may name people."""
    if isinstance(value, str) and value.startswith(("/", "~", "./", "../")):
        return value.rstrip("/").rsplit("/", 1)[-1]
    return str(value)


def _data(spec: RecipeSpec) -> list[str]:
    prompts, sampling = spec.prompts, spec.sampling
    share = f"{100 * prompts.sft_share:.0f} %"
    name = dataset_id(spec) or prompts.dataset.rsplit("/", 1)[-1]
    suites = ", ".join(prompts.decontaminate)
    if spec.pairs.dataset is not None:
        pairs = escape_markdown(spec.pairs.dataset.removeprefix("hf:").rsplit("/", 1)[-1])
        return [
            f"Preference pairs from {pairs}"
            + (f"; those that contain questions of {suites} were removed." if suites else "."),
            "",
        ]
    return [
        f"Prompts from {escape_markdown(name)}, {share} of them for SFT, the rest for preferences"
        + (f"; prompts that contain questions of {suites} were removed." if suites else "."),
        f"{sampling.n} answers per prompt from every source and from the SFT model (temperature "
        f"{sampling.temperature:g}, top-p {sampling.top_p:g}), scored by `{spec.reward.kind}`"
        + (f" ({escape_markdown(shown_reward(spec))})." if spec.reward.model else "."),
        "",
    ]


def shown_reward(spec: RecipeSpec) -> str:
    """Return the name of the reward model, without local paths."""
    return (spec.reward.model or "").removeprefix("hf:").rsplit("/", 1)[-1]


def _limits(facts: CardFacts) -> list[str]:
    lines = [
        "Training optimized the reward measured on held-out prompts, so a higher reward does not prove better answers.",
        "Flaws that the sources share and that the reward does not detect are learned too.",
    ]
    verdicts = {difference.verdict for difference in facts.board.differences if difference.model == facts.model}
    if facts.method != "sft" and facts.model != "sft" and "better" not in verdicts:
        # said on the card itself, because whoever downloads the weights does not see the report
        lines.append("It was not shown to be better than any baseline that it was compared with.")
    if len(facts.board.seeds) < SEEDS:
        lines.append(f"Only {len(facts.board.seeds)} seed(s) were trained; another seed may give a different result.")
    lines += [escape_markdown(note) for note in facts.board.notes]
    return lines
