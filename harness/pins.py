"""The registry of pinned upstream files: address, revision, sha256, size, licence. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import quote

FASTCHAT = "lm-sys/FastChat/0e6d3e4beaab66f4d3f93db72541a4abab8af28d/fastchat/llm_judge/data"
FASTCHAT_PR3158 = "lm-sys/FastChat/71aa329da2b17f387929ae6f5b3a453804e885cd/fastchat/llm_judge/data"
MT_BENCH_SPACE = "huggingface.co/spaces/lmsys/mt-bench"  # FastChat download_mt_bench_pregenerated.py: no revision
ALPACA = "tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20"
ALPACA_HUB = "huggingface.co/datasets/tatsu-lab/alpaca_eval"
ALPACA_HUB_REVISION = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
ARENA_V2 = "lmarena/arena-hard-auto/196f6b826783b3da7310e361a805fa36f0be83f3"
ARENA = "lmarena/arena-hard-auto/efc012e192b88024a5203f5a28ec8fc0342946df"


@dataclass(frozen=True)
class OfficialFile:
    """One upstream file at one revision."""

    name: str
    """`SUITE/FILE`, the name for `ensure`."""
    suite: str
    path: str
    """Path under the cache's `data` folder and under a mirror: owner/repository/revision/path."""
    sha256: str | None
    """None: not known in advance. The sha256 of the first download is then recorded beside the file and required
    later."""
    size: int | None
    """Bytes; None if sha256 is None, or if only the hash is known."""
    licence: str
    source: str | None = None
    """Upstream address, if it is not `path` on raw.githubusercontent.com."""
    optional: bool = False
    """Whether only features that need this file by name fail without it."""

    @property
    def url(self) -> str:
        return self.source or f"https://raw.githubusercontent.com/{quote(self.path)}"


_PINNED = (
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
    OfficialFile(
        name="mt_bench_pairs/baseline",
        suite="mt_bench_pairs",
        path=f"{MT_BENCH_SPACE}/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
        sha256=None,
        size=None,
        licence="not stated",
        source=f"https://{MT_BENCH_SPACE}/resolve/main/data/mt_bench/model_answer/gpt-3.5-turbo.jsonl",
        optional=True,
    ),
    OfficialFile(
        name="alpaca_eval/baseline",
        suite="alpaca_eval",
        path=f"{ALPACA}/results/gpt4_1106_preview/model_outputs.json",
        sha256="83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
        size=1_899_765,
        licence="CC-BY-NC-4.0",
    ),
    OfficialFile(
        name="alpaca_eval/gamed",
        suite="alpaca_eval",
        path=f"{ALPACA_HUB}/main/df_gamed.csv",
        sha256="97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
        size=148_956,
        licence="CC-BY-NC-4.0",
        source=f"https://{ALPACA_HUB}/resolve/{ALPACA_HUB_REVISION}/df_gamed.csv",
    ),
    OfficialFile(
        name="arena_hard/questions",
        suite="arena_hard",
        path=f"{ARENA}/data/arena-hard-v0.1/question.jsonl",
        sha256="4daad38811161c3ba5c248f26b90c3cef89634f4c772002ed9138c1e13f63e9f",
        size=283_598,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard/baseline",
        suite="arena_hard",
        path=f"{ARENA}/data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl",
        sha256="245109b8fe7c3bef0304f1c559d29da377f97f61535ad1170b46a61a08eb9ac7",
        size=1_058_775,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard/judge_config",
        suite="arena_hard",
        path=f"{ARENA}/config/judge_config.yaml",
        sha256="6e001736bacacdb1591ffca7eec953a7089f8f5604872d1ca4f9a6f9de1ee451",
        size=2_400,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/questions",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/question.jsonl",
        sha256="a75cef6623db6b27aec810497b059f0659705d7ff48dcbccc5bd5b130728ac73",
        size=947_596,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/baseline/hard_prompt",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/model_answer/o3-mini-2025-01-31.jsonl",
        sha256="c23a7c255eead99f7f86ad48aa1d8ccdb5b3334f2097e0e1e09184df87265e03",
        size=4_184_593,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/judge_config",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/config/arena-hard-v2.0.yaml",
        sha256="ee68e5c6ac98a79720bf11014fc3f7fc3c3e5899153b3b08efe3db0e174215a0",
        size=543,
        licence="Apache-2.0",
    ),
    OfficialFile(
        name="arena_hard_v2/baseline/creative_writing",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/data/arena-hard-v2.0/model_answer/gemini-2.0-flash-001.jsonl",
        sha256=None,
        size=None,
        licence="Apache-2.0",
        optional=True,
    ),
    OfficialFile(
        name="arena_hard_v2/judge_prompts",
        suite="arena_hard_v2",
        path=f"{ARENA_V2}/utils/judge_utils.py",
        sha256=None,
        size=None,
        licence="Apache-2.0",
        optional=True,
    ),
    OfficialFile(
        name="tokenizer/cl100k_base",
        suite="tokenizer",
        path="openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        sha256="223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",  # tiktoken_ext/openai_public.py
        size=1_681_126,
        licence="MIT",
        source="https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
        optional=True,
    ),
    OfficialFile(
        name="tokenizer/o200k_base",
        suite="tokenizer",
        path="openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        sha256="446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",  # tiktoken_ext/openai_public.py
        size=3_613_922,
        licence="MIT",
        source="https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
        optional=True,
    ),
)
FILES: dict[str, OfficialFile] = {file.name: file for file in _PINNED}
