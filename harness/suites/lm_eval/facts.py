"""State what the product knows about lm-eval's tasks: each is a suite, `lm_eval:TASK`, with its own metrics.

>>> task_of("IFEval"), task_of("MMLU-Pro"), task_of("my_task")
('ifeval', 'mmlu_pro', 'my_task')
>>> preset_headline("gsm8k", ["exact_match,flexible-extract", "exact_match,strict-match"])
'exact_match,strict-match'

>>> direction("word_perplexity", None), direction("acc", None), direction("my_metric", None)
(False, True, None)
>>> headline(["exact_match,none", "acc,none"], {"exact_match,none": True, "acc,none": True})
'acc,none'
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from ...records.facts import Facts, FileFormat

LM_EVAL = Facts(
    name="lm_eval",
    title="lm-evaluation-harness",
    headline="",
    unit="share",
    formats=(FileFormat(name="lm_eval", numbers="harness.suites.lm_eval.files:read_results"),),
    argument="TASK",
    pairing="run lm-eval with --log_samples and import its samples files with the results",
)


# ------------------------------------------------------------------------------------------------------ the usual tasks
# People know tasks by other names than lm-eval's, and expect one number of each. Each headline is the first metric and
# filter in the task's own configuration (lm_eval 0.4.13 tasks/**), so that results imported from files of any version
# rank by the same one. All but the last three ask by chat completions; those compare log-likelihoods and need a
# checkpoint. Tasks that run generated code are left out: lm-eval asks for consent to them.


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
    """Return the metric of a preset, or None if the task is none, or if the results lack it."""
    metric = HEADLINES.get(task)
    return metric if metric in metrics else None


# -------------------------------------------------------------------------------------------------------------- metrics

NOT_SCORES = frozenset({"alias", "name", "sample_len", "sample_count", "bypass"})
"""Keys beside a task's metrics. `bypass` marks answers that were never scored (--predict_only), and reads 999."""

# fmt: off
LESS_IS_BETTER = frozenset({
    # lm_eval 0.4.13 api/metrics.py, register_metric
    "perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte", "brier_score", "ter",
    # higher_is_better: false in lm_eval 0.4.13 tasks/**/*.yaml; `score` is left out, as it differs between tasks
    "wer", "likelihood_diff", "pct_stereotype", "pct_male_preferred", "pct_female_preferred", "pct_invalid",
    "difference_male_female", "perspective_api_toxicity_score", "amb_bias_score", "disamb_bias_score",
    "bias_score_ambig", "bias_score_disambig",
    # lm_eval 0.3.0 tasks/*.py, and metrics of the same kind
    "ppl", "word_ppl", "byte_ppl", "edit_distance", "levenshtein", "loss", "nll",
})
MORE_IS_BETTER = frozenset({
    # lm_eval 0.4.13 api/metrics.py, register_metric
    "acc", "acc_norm", "acc_mutual_info", "acc_bytes", "acc_all", "exact_match", "likelihood", "mcc", "f1",
    "bleu", "chrf", "chrf++",
    # higher_is_better: true in lm_eval 0.4.13 tasks/**
    "accuracy", "acc_ambig", "acc_disambig", "accuracy_amb", "accuracy_disamb", "em", "contains", "precision",
    "recall", "bert_score", "bleurt", "bleurt_max", "rouge1", "rouge2", "rougeL", "pass@1", "pass_at_1",
    "bleu_max", "bleu_acc", "bleu_diff", "rouge1_max", "rouge1_acc", "rouge1_diff", "rouge2_max", "rouge2_acc",
    "rouge2_diff", "rougeL_max", "rougeL_acc", "rougeL_diff", "math_verify", "extraction_rate",
    "partial_accuracy", "prompt_level_strict_acc", "inst_level_strict_acc", "prompt_level_loose_acc",
    "inst_level_loose_acc",
    # lm_eval 0.3.0 tasks/*.py
    "mc1", "mc2", "exact", "HasAns_exact", "HasAns_f1", "NoAns_exact", "NoAns_f1", "best_exact", "best_f1",
})
# fmt: on
PREFERRED = ("acc", "exact_match", "prompt_level_strict_acc", "acc_norm", "em", "f1", "mc2", "pass@1", "bleu")
"""Metrics that may stand for a task, if its configuration lists none: the first of these that it has."""
FILTERS = ("none", "", "strict-match", "flexible-extract")
"""Filters in the order of lm-eval's own configurations: the strict one first."""


def direction(metric: str, stated: object) -> bool | None:
    """Return whether more is better: as the results file states, else by lm-eval's own metrics, or None if unknown.

    `metric` is the name without a filter. `stated` is what the file has under `higher_is_better`.
    """
    if isinstance(stated, bool):
        return stated
    if metric in LESS_IS_BETTER:
        return False
    return True if metric in MORE_IS_BETTER else None


def headline(
    metrics: Collection[str],
    directions: Mapping[str, bool | None],
    listed: Sequence[str] = (),
    filters: Sequence[str] = (),
) -> str:
    """Return the metric that ranks a task: the same one for every file, whatever the order of its metrics.

    `metrics` are names with filters, at least one. `listed` and `filters` are the names in the task's configuration,
    in its order. A metric of which more is better comes before others, one of unknown direction last.
    """

    def rank(name: str) -> tuple[int, int, int, str]:
        metric, _, filter_name = name.partition(",")
        way = (True, False, None).index(directions[name])
        return way, _position(metric, listed or PREFERRED), _position(filter_name, filters or FILTERS), name

    return min(metrics, key=rank)


def _position(name: str, order: Sequence[str]) -> int:
    return order.index(name) if name in order else len(order)
