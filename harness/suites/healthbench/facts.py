"""State what the product knows about HealthBench and its hard subset."""

from __future__ import annotations

from ...records.facts import Facts, Metric, OfficialFile, QuestionRule

REPOSITORY = "huggingface.co/datasets/openai/healthbench/resolve/40ee1968852fc57f625934251ac22be47077a8fb"
METRICS = (
    Metric("rubric", "percent", "share of the rubric's points"),
    Metric("avg_length", "characters", "mean length of an answer", higher_is_better=None),
)


def _facts(name: str, title: str, questions: int, file: tuple[str, str]) -> Facts:
    """Return the facts of one set of questions. `file`: its name and sha256."""
    path = f"{REPOSITORY}/{file[0]}"
    conversations = OfficialFile(
        name=f"{name}/conversations",
        suite=name,
        path=path,
        sha256=file[1],
        size=None,
        licence="MIT",
        source=f"https://{path}",
        optional=True,
    )
    return Facts(
        name=name,
        title=title,
        headline="rubric",
        metrics=METRICS,
        columns=("avg_length",),
        rules=(QuestionRule("rubric", 1.0),),
        neutral=None,
        questions=questions,
        official_judges=("gpt-4.1-2025-04-14", "gpt-4.1"),
        files=(conversations,),
    )


HEALTHBENCH = _facts(
    "healthbench",
    "HealthBench",
    5000,
    ("2025-05-07-06-14-12_oss_eval.jsonl", "e99dd3c6372c10d6fcc5e385c5fae69d0dd40392dae56836ef9493ae324ecd2f"),
)
HARD = _facts(
    "healthbench_hard",
    "HealthBench Hard",
    1000,
    ("hard_2025-05-08-21-00-10.jsonl", "b0320430e5cd974e746585594c1dd10b5a3fc2aff9c72b26106c2c4a069d74e9"),
)
