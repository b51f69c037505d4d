"""Write the model card of a checkpoint: README.md with the Hub's metadata, rewritten with every report.

It contains names, digests, settings and scores, but no local paths. `huggingface_hub` is imported only to write a card.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.scoring import is_complete

from .card_text import CardFacts, card_text, dataset_id, hub_id
from .sentences import at

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

LEVEL = 95
"""Confidence level of the intervals, in percent."""


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
        base_model_relation=None if base is None else ("adapter" if facts.adapter else "finetune"),
    )
    return f"---\n{metadata.to_yaml()}\n---\n\n{card_text(facts)}"


def _tags(facts: CardFacts) -> list[str]:
    sources = [name for source in facts.spec.sources if source.model and (name := hub_id(source.model))]
    kind = ["preference-optimization", "wrpo"] if facts.method == "preference" else ["sft"]
    return ["model-fusion", *kind, *(f"fused-from:{name}" for name in sources)]


# ----------------------------------------------------------------------------------------------------------- scores


def _results(facts: CardFacts) -> list[EvalResult] | None:
    """Return `model-index` entries for exactly this checkpoint; the metric's `args` have the interval over prompts."""
    from huggingface_hub import EvalResult

    entries: list[EvalResult] = []
    for row in facts.board.models:
        score = row.seed_scores.get(facts.seed)
        if row.model == facts.model and score is not None and score.value is not None and is_complete(score):
            entries.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Text generation",
                    dataset_type=f"{facts.spec.name}-held-out",
                    dataset_name=f"{facts.spec.name}: held-out prompts",
                    dataset_split="test",
                    dataset_config=at(row.temperature),
                    metric_type="reward",
                    metric_name=f"mean reward ({facts.spec.reward.kind})",
                    metric_value=round(score.value, 6),
                    metric_args=_interval(score.ci_low, score.ci_high, score.n),
                )
            )
    for card in facts.suites:
        score = card.scores[card.headline]
        if card.complete and score.value is not None:
            entries.append(
                EvalResult(
                    task_type="text-generation",
                    task_name="Text generation",
                    dataset_type=card.suite,
                    dataset_name=f"{card.suite} {card.suite_version}, judge {card.judge}",
                    dataset_config=card.protocol_sha,
                    metric_type=card.headline,
                    metric_value=round(score.value, 6),
                    metric_args=_interval(score.ci_low, score.ci_high, score.n),
                )
            )
    return entries or None


def _interval(low: float | None, high: float | None, n: int) -> dict[str, float | int]:
    if low is None or high is None:
        return {"n": n}
    return {"ci_low": round(low, 6), "ci_high": round(high, 6), "confidence": LEVEL, "n": n}
