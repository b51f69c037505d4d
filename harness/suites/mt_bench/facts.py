"""State what the product knows about MT-Bench and its pairwise mode, besides asking and scoring."""

from __future__ import annotations

from ...records.facts import DefaultCheck, Facts, FileFormat, Metric, OfficialFile, QuestionRule, RecordedJudgments

FASTCHAT = "lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
FASTCHAT_PR3158 = "lm-sys/FastChat/71aa329da2b17f387929ae6f5b3a453804e885cd/fastchat/llm_judge/data"
SPACE = "huggingface.co/spaces/lmsys/mt-bench"  # FastChat download_mt_bench_pregenerated.py: no revision

OFFICIAL_JUDGES = ("gpt-4-0613", "gpt-4")
"""gpt-4-0613 made all published results (FastChat issue 2284)."""
QUESTIONS, TURNS = 80, 2
REFERENCE_SETS = ("official", "pr3158")
FILES = "harness.suites.mt_bench.files"

FILE_KEYS = "question_id, model and score (ratings), or question_id, model_1, model_2 and g1_winner (pairs)"
MT_BENCH = Facts(
    name="mt_bench",
    title="MT-Bench",
    headline="mt_bench",
    metrics=(
        Metric("mt_bench", "points", "mean rating"),
        Metric("turn_1", "points", "mean rating of first turns"),
        Metric("turn_2", "points", "mean rating of second turns"),
        Metric("legacy_mean", "points", "mean rating as the leaderboard of June 2023 has it"),
    ),
    columns=("turn_1", "turn_2"),
    rules=(QuestionRule("mt_bench", 1.0), QuestionRule("turn_1", 1.0, turn=1), QuestionRule("turn_2", 1.0, turn=2)),
    neutral=None,
    gate=(DefaultCheck(0.9),),
    order=0,
    decontaminates=True,
    questions=QUESTIONS,
    turns=TURNS,
    judge_calls=TURNS,
    judge_tokens=(154_880, 64_000),
    official_judges=OFFICIAL_JUDGES,
    references=REFERENCE_SETS,
    recorded=(
        RecordedJudgments("mt_bench", "harness.suites.mt_bench.recorded:load"),
        RecordedJudgments("own", "harness.suites.mt_bench.own_labels:load", published=False),
    ),
    formats=(
        FileFormat(
            name="fastchat",
            score="harness.suites.mt_bench.file_scores:cards",
            read=f"{FILES}:read_ratings",
            judged=f"{FILES}:rated_models",
            export=f"{FILES}:export",
            names=f"{FILES}:content_of",
            needs=FILE_KEYS,
        ),
    ),
    files=(
        OfficialFile(
            name="mt_bench/questions",
            suite="mt_bench",
            path=f"{FASTCHAT}/mt_bench/question.jsonl",
            sha256="119565adbab82227089cefdb44c8d7e2cf04dc0a0ec233634c82e7d4e2a944f7",
            size=48_929,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="mt_bench/judge_prompts",
            suite="mt_bench",
            path=f"{FASTCHAT}/judge_prompts.jsonl",
            sha256="fd283293406d024f44c174b094ef48031d0687a4682fd3a56b29b138f80281b6",
            size=10_449,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="mt_bench/references/official",
            suite="mt_bench",
            path=f"{FASTCHAT}/mt_bench/reference_answer/gpt-4.jsonl",
            sha256="f957a5bc977badb66885ec970e6cd08527845780313f0995764260e5777b9b3f",
            size=51_109,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="mt_bench/references/pr3158",
            suite="mt_bench",
            path=f"{FASTCHAT_PR3158}/mt_bench/reference_answer/gpt-4-0125-preview.jsonl",
            sha256="e484037da5cc14007dde1d821ef76046fccbd0b2f095237fad9ead2c4fc66800",
            size=95_230,
            licence="Apache-2.0",
        ),
    ),
)

PAIRS = Facts(
    name="mt_bench_pairs",
    title="MT-Bench, pairwise",
    headline="win_rate_adjusted",
    metrics=(
        Metric("win_rate_adjusted", "percent", "win rate, a tie as half a win"),
        Metric("win_rate", "percent", "win rate, a tie as no win"),
    ),
    columns=("win_rate",),
    questions=QUESTIONS,
    turns=TURNS,
    judge_calls=2 * TURNS,  # both orders
    official_judges=OFFICIAL_JUDGES,
    references=REFERENCE_SETS,
    calibrated_by="mt_bench",
    formats=(
        FileFormat(
            name="fastchat",
            score="harness.suites.mt_bench.file_scores:cards",
            read=f"{FILES}:read_pairs",
            judged=f"{FILES}:paired_models",
            export=f"{FILES}:export_pairs",
            names=f"{FILES}:content_of",
            needs=FILE_KEYS,
        ),
    ),
    files=(
        OfficialFile(
            name="mt_bench_pairs/baseline",
            suite="mt_bench_pairs",
            path=f"{SPACE}/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
            sha256=None,
            size=None,
            licence="not stated",
            source=f"https://{SPACE}/resolve/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
            optional=True,
        ),
    ),
    argument="BASELINE.jsonl",
    build_for_rows="harness.suites.mt_bench.pairs:without_baseline",
)
