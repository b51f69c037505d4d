"""The usual tasks by the names people use, each with the metric that stands for it. Pure.

>>> task_of("IFEval"), task_of("MMLU-Pro"), task_of("my_task")
('ifeval', 'mmlu_pro', 'my_task')
>>> preset_headline("gsm8k", ["exact_match,flexible-extract", "exact_match,strict-match"])
'exact_match,strict-match'

Each headline is the first metric and filter in the task's own configuration (lm_eval 0.4.13 tasks/**), so that results
imported from files of any version rank by the same one. All but the last three ask by chat completions; those compare
log-likelihoods and need a checkpoint. Tasks that run generated code are left out: lm-eval asks for consent to them.
"""

from __future__ import annotations

from collections.abc import Collection

HEADLINES = {
    "ifeval": "prompt_level_strict_acc,none",
    "gsm8k": "exact_match,strict-match",
    "mmlu_pro": "exact_match,custom-extract",
    "bbh_cot_fewshot": "exact_match,get-answer",
    "gpqa_diamond_cot_zeroshot": "exact_match,strict-match",
    "arc_challenge_chat": "exact_match,remove_whitespace",
    "hellaswag": "acc,none",
    "winogrande": "acc,none",
    "truthfulqa_mc2": "acc,none",
}
"""Task -> metric and filter."""
NAMES = {
    "bbh": "bbh_cot_fewshot",
    "gpqa": "gpqa_diamond_cot_zeroshot",
    "arc": "arc_challenge_chat",
    "truthfulqa": "truthfulqa_mc2",
}
"""Names of people -> task."""


def task_of(name: str) -> str:
    """Return lm-eval's task of a preset's name, in any spelling (`MMLU-Pro`); any other name is returned unchanged.

    A name in lower case is lm-eval's own, as far as it has such a task.
    """
    plain = name.lower().replace("-", "_")
    task = NAMES.get(plain, plain) if name != plain else plain
    return task if task in HEADLINES else name


def preset_headline(task: str, metrics: Collection[str]) -> str | None:
    """Return the metric of a preset; None if the task is none, or if the results lack it."""
    metric = HEADLINES.get(task)
    return metric if metric in metrics else None
