"""State what the product knows about Arena-Hard v0.1 and v2.0, besides asking and scoring."""

from __future__ import annotations

from dataclasses import replace

from ...records.facts import DefaultCheck, Facts, FileFormat, Metric, OfficialFile, QuestionRule, RecordedJudgments

V01_REPOSITORY = "lmarena/arena-hard-auto/efc012e192b88024a5203f5a28ec8fc0342946df"
V2_REPOSITORY = "lmarena/arena-hard-auto/196f6b826783b3da7310e361a805fa36f0be83f3"
FILES = "harness.suites.arena_hard.files"
FORMAT = FileFormat(
    "arena_hard",
    score=f"{FILES}:cards",
    score_flags={
        "baseline": "the baseline's name, if not the official",
        "style_control": "v0.1, v2, length or markdown",
        "pool": "also fit all models and baselines jointly",
        "unanchored": "the reference's interval as with a baseline of your own (v0.1)",
    },
    read=f"{FILES}:read_rows",
    names=f"{FILES}:content_of",
    needs="question_id or uid, model, judge and games",
    first_draw_only=True,
)
GATE = (DefaultCheck(8.0),)
# Points per LC point: the ratio of the standard deviations over the models on both official boards (AlpacaEval's of
# 2024 and arena_hard_leaderboard_20240731.csv, v0.1). 31 models that both boards name alike give 1.79, logit r = 0.98;
# `python -m benchmarks.gate` prints it again.
SLOPE = 1.79
METRICS = (
    Metric("arena_hard", "percent", "win rate against the baseline", slope=SLOPE),
    Metric("win_rate", "percent", "win rate without threefold weights", slope=1.52),  # spread 0.85 times as widely
    Metric("arena_hard_reference", "percent", "the same with the reference's interval"),
    Metric("arena_hard_style", "percent", "win rate under style control"),
    Metric("arena_hard_style_reference", "percent", "the same with the reference's interval"),
    Metric("arena_hard_pool", "percent", "win rate of a fit over all models of the files"),
    Metric("avg_tokens", "tokens", "mean length of an answer", higher_is_better=None),
)

V01 = Facts(
    name="arena_hard",
    title="Arena-Hard v0.1",
    headline="arena_hard",
    metrics=METRICS,
    columns=("avg_tokens",),
    rules=(QuestionRule("arena_hard", 100.0), QuestionRule("win_rate", 100.0, weighted=False)),
    gate=GATE,
    order=2,
    decontaminates=True,
    questions=500,
    judge_calls=2,
    judge_tokens=(1_512_756, 400_000),
    official_judges=("gpt-4-1106-preview",),
    recorded=(RecordedJudgments("arena_hard", "harness.suites.arena_hard.recorded:load"),),
    formats=(replace(FORMAT, judged=f"{FILES}:v01_models", export=f"{FILES}:export"),),
    files=(
        OfficialFile(
            name="arena_hard/questions",
            suite="arena_hard",
            path=f"{V01_REPOSITORY}/data/arena-hard-v0.1/question.jsonl",
            sha256="4daad38811161c3ba5c248f26b90c3cef89634f4c772002ed9138c1e13f63e9f",
            size=283_598,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="arena_hard/baseline",
            suite="arena_hard",
            path=f"{V01_REPOSITORY}/data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
            sha256="245109b8fe7c3bef0304f1c559d29da377f97f61535ad1170b46a61a08eb9ac7",
            size=1_058_775,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="arena_hard/judge_config",
            suite="arena_hard",
            path=f"{V01_REPOSITORY}/config/judge_config.yaml",
            sha256="6e001736bacacdb1591ffca7eec953a7089f8f5604872d1ca4f9a6f9de1ee451",
            size=2_400,
            licence="Apache-2.0",
        ),
    ),
)

V2 = Facts(
    name="arena_hard_v2",
    title="Arena-Hard v2.0",
    headline="arena_hard",
    metrics=(*METRICS, Metric("creative_writing", "percent", "win rate in creative writing, against its own baseline")),
    rules=(
        QuestionRule("arena_hard", 100.0, whole_pairs=True, category="hard_prompt"),
        QuestionRule("win_rate", 100.0, whole_pairs=True, category="hard_prompt", weighted=False),
        QuestionRule("creative_writing", 100.0, whole_pairs=True, category="creative_writing"),
    ),
    gate=GATE,
    questions=750,
    judge_calls=2,
    official_judges=("gpt-4.1-2025-04-14", "gpt-4.1", "gemini-2.5-pro-preview-03-25", "gemini-2.5-pro"),
    formats=(replace(FORMAT, judged=f"{FILES}:v2_models", export=f"{FILES}:export_v2"),),
    files=(
        OfficialFile(
            name="arena_hard_v2/questions",
            suite="arena_hard_v2",
            path=f"{V2_REPOSITORY}/data/arena-hard-v2.0/question.jsonl",
            sha256="a75cef6623db6b27aec810497b059f0659705d7ff48dcbccc5bd5b130728ac73",
            size=947_596,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="arena_hard_v2/baseline/hard_prompt",
            suite="arena_hard_v2",
            path=f"{V2_REPOSITORY}/data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl",
            sha256="c23a7c255eead99f7f86ad48aa1d8ccdb5b3334f2097e0e1e09184df87265e03",
            size=4_184_593,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="arena_hard_v2/judge_config",
            suite="arena_hard_v2",
            path=f"{V2_REPOSITORY}/config/arena-hard-v2.0.yaml",
            sha256="ee68e5c6ac98a79720bf11014fc3f7fc3c3e5899153b3b08efe3db0e174215a0",
            size=543,
            licence="Apache-2.0",
        ),
        OfficialFile(
            name="arena_hard_v2/baseline/creative_writing",
            suite="arena_hard_v2",
            path=f"{V2_REPOSITORY}/data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl",
            sha256="70f614e1345f787a1da98c239d27f6df3c1d26b411cf894949f934a3039d6f0b",
            size=5_717_133,
            licence="Apache-2.0",
            optional=True,
        ),
        OfficialFile(
            name="arena_hard_v2/judge_prompts",
            suite="arena_hard_v2",
            path=f"{V2_REPOSITORY}/utils/judge_utils.py",
            sha256="cbb093f4fc27408d8447e946392f26f98538b1e3950f574aca91a0f7595167b4",
            size=3_957,
            licence="Apache-2.0",
            optional=True,
        ),
    ),
)

LANGUAGES = (
    *("ar", "cs", "de", "el", "en", "es", "fa", "fr", "he", "hi", "id", "it"),
    *("ja", "ko", "nl", "pl", "pt", "ro", "ru", "tr", "uk", "vi", "zh"),
)
M_REPOSITORY = "huggingface.co/datasets/CohereLabs/m-ArenaHard/resolve/55f725345aed71ea54dee08e4429f99c6d72e8f2"


def _language(language: str) -> OfficialFile:
    path = f"{M_REPOSITORY}/{language}/test-00000-of-00001.parquet"
    return OfficialFile(
        name=f"m_arena_hard/{language}",
        suite="m_arena_hard",
        path=path,
        sha256=None,
        size=None,
        licence="Apache-2.0",
        source=f"https://{path}",
        optional=True,
    )


MULTILINGUAL = Facts(
    name="m_arena_hard",
    title="m-ArenaHard",
    headline="arena_hard",
    metrics=METRICS,
    columns=("avg_tokens",),
    rules=(QuestionRule("arena_hard", 100.0), QuestionRule("win_rate", 100.0, weighted=False)),
    gate=GATE,
    questions=500 * len(LANGUAGES),
    judge_calls=2,
    argument="LANGUAGE",
    by_argument=True,
    files=tuple(map(_language, LANGUAGES)),
)
