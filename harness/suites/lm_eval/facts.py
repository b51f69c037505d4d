"""What the product knows about lm-eval's tasks: each is a suite of its own, `lm_eval:TASK`, with its own metrics."""

from __future__ import annotations

from ...records.facts import Facts, FileFormat

LM_EVAL = Facts(
    name="lm_eval",
    title="lm-evaluation-harness",
    headline="",
    formats=(FileFormat(name="lm_eval", numbers="harness.suites.lm_eval.files:read_results"),),
    argument="TASK",
    pairing="run lm-eval with --log_samples and import its samples files with the results",
)
