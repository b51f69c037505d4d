"""What the product knows about HealthBench and its hard subset."""

from __future__ import annotations

from ...records.facts import Facts, Metric, OfficialFile, QuestionRule

REPOSITORY = "huggingface.co/datasets/openai/healthbench/resolve/40ee1968852fc57f625934251ac22be47077a8fb"
METRICS = (
    Metric("rubric", "percent", "share of the rubric's points"),
    Metric("avg_length", "characters", "mean length of an answer", higher_is_better=None),
)
RULES = (QuestionRule("rubric", 1.0),)


def _file(suite: str, name: str, sha256: str) -> OfficialFile:
    path = f"{REPOSITORY}/{name}"
    return OfficialFile(
        name=f"{suite}/conversations",
        suite=suite,
        path=path,
        sha256=sha256,
        size=None,
        licence="MIT",
        source=f"https://{path}",
        optional=True,
    )


HEALTHBENCH = Facts(
    name="healthbench",
    title="HealthBench",
    headline="rubric",
    metrics=METRICS,
    columns=("avg_length",),
    rules=RULES,
    neutral=None,
    questions=5000,
    official_judges=("gpt-4.1-2025-04-14", "gpt-4.1"),
    files=(
        _file(
            "healthbench",
            "2025-05-07-06-14-12_oss_eval.jsonl",
            "e99dd3c6372c10d6fcc5e385c5fae69d0dd40392dae56836ef9493ae324ecd2f",
        ),
    ),
)
HARD = Facts(
    name="healthbench_hard",
    title="HealthBench Hard",
    headline="rubric",
    metrics=METRICS,
    columns=("avg_length",),
    rules=RULES,
    neutral=None,
    questions=1000,
    official_judges=("gpt-4.1-2025-04-14", "gpt-4.1"),
    files=(
        _file(
            "healthbench_hard",
            "hard_2025-05-08-21-00-10.jsonl",
            "b0320430e5cd974e746585594c1dd10b5a3fc2aff9c72b26106c2c4a069d74e9",
        ),
    ),
)
