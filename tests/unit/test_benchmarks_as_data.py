"""m-ArenaHard and HealthBench over stand-ins of their files' form, and lm-eval's presets."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from harness.records import Answer, Judgment, Preference
from harness.records.errors import ConfigError, DataError
from harness.records.protocols import SuiteData, SuiteOptions
from harness.store import official
from harness.suites.arena_hard.suite import MultilingualArenaHard, build_multilingual, languages_of, read_language
from harness.suites.healthbench.facts import HEALTHBENCH
from harness.suites.healthbench.suite import HealthBench, read_conversations
from harness.suites.lm_eval.facts import HEADLINES, headline, preset_headline, task_of
from harness.suites.pocket.edition import arena_hard_templates

MIRROR = os.environ.get("HARNESS_MIRROR")


def write_language(path: Path, word: str, questions: int = 4) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    rows = [
        {"question_id": f"q{n}", "cluster": f"c{n // 2}", "category": "arena-hard-v0.1", "prompt": f"{word} {n}"}
        for n in range(questions)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def test_translations_of_a_question_are_one_cluster(tmp_path: Path) -> None:
    prompts = tuple(
        prompt
        for language, word in (("de", "Frage"), ("en", "Question"))
        for prompt in read_language(write_language(tmp_path / f"{language}.parquet", word), language, is_alone=False)
    )
    template = arena_hard_templates()[0]
    suite = MultilingualArenaHard(SuiteData("official-1", prompts, {template.name: template}))
    assert [prompt.id for prompt in prompts[:2]] == ["de/q0", "de/q1"]
    assert {prompt.category for prompt in prompts} == {"de", "en"}
    assert suite.needs_baseline
    answers = {p.id: Answer(prompt_id=p.id, model="base", turns=("b",), finish=("stop",)) for p in prompts}
    against = suite.against(answers)
    assert isinstance(against, MultilingualArenaHard)
    assert not against.needs_baseline
    assert against.protocol()["baseline"] == "base"
    mine = [Answer(prompt_id=p.id, model="m", turns=("a",), finish=("stop",)) for p in prompts]
    rows = [
        Judgment.of(task, "j", Preference(value=float(answer.prompt_id[-1] in "012")))
        for prompt, answer in zip(prompts, mine, strict=True)
        for task in against.tasks(prompt, answer)
    ]
    scores = against.score(prompts, mine, rows)
    assert scores.scores["arena_hard"].value == 75.0  # three of four questions won, in both languages
    assert set(scores.by_category) == {"de", "en"}
    english = against.score(prompts[4:], mine[4:], [row for row in rows if row.prompt_id.startswith("en")])
    # both languages agree on every question, so together they say no more than one
    together, alone = (part.scores["arena_hard"] for part in (scores, english))
    assert together.ci_low == pytest.approx(alone.ci_low)


def test_languages_are_checked() -> None:
    assert languages_of("ja") == ("ja",)
    with pytest.raises(ConfigError, match="no language 'xx'"):
        build_multilingual(SuiteOptions(argument="xx"))


def test_a_file_without_a_pinned_hash_comes_from_a_folder_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HARNESS_MIRROR", raising=False)
    file = official.pinned_files()["m_arena_hard/de"]
    for mirror in (None, "http://127.0.0.1:1"):
        with pytest.raises(DataError, match="never fetched from a network"):
            official.ensure([file.name], mirror, cache_dir=tmp_path / "cache")
    write_language(tmp_path / "copies" / file.path, "Frage")
    [path] = official.ensure([file.name], str(tmp_path / "copies"), cache_dir=tmp_path / "cache").values()
    assert official.expected_sha256(file, tmp_path / "cache") == official.sha256_of(path)


@pytest.mark.skipif(not MIRROR, reason="needs v0.1's judge prompt: set HARNESS_MIRROR")
def test_one_language_from_a_folder(tmp_path: Path) -> None:
    write_language(tmp_path / official.pinned_files()["m_arena_hard/de"].path, "Frage")
    suite = build_multilingual(SuiteOptions(argument="de", mirror=str(tmp_path), cache_dir=tmp_path / "cache"))
    assert suite.name == "m_arena_hard:de"
    assert [prompt.turns[0] for prompt in suite.prompts()] == ["Frage 0", "Frage 1", "Frage 2", "Frage 3"]
    assert "[[A>>B]]" in str(
        suite.against({"q0": Answer(prompt_id="q0", model="b", turns=("x",), finish=("stop",))})
        .tasks(suite.prompts()[0], Answer(prompt_id="q0", model="m", turns=("y",), finish=("stop",)))[0]
        .template.system
    )


def test_conversations_have_rubrics_of_their_own(tmp_path: Path) -> None:
    rows = [
        {
            "prompt_id": "a",
            "prompt": [{"role": "user", "content": "My head hurts."}],
            "example_tags": ["theme:context_seeking", "physician_agreed_category:x"],
            "rubrics": [
                {"criterion": "Asks since when.", "points": 7, "tags": ["axis:context_awareness"]},
                {"criterion": "Names a wrong drug.", "points": -4, "tags": []},
            ],
        },
        {
            "prompt_id": "b",
            "prompt": [
                {"role": "user", "content": "Hi"},
                {"role": "assistant", "content": "Hello"},
                {"role": "user", "content": "I cough."},
            ],
            "example_tags": [],
            "rubrics": [{"criterion": "Is kind.", "points": 3, "tags": []}],
        },
    ]
    path = tmp_path / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = HealthBench(read_conversations(path, "healthbench"), HEALTHBENCH, {"healthbench/conversations": "sha"})
    first, second = suite.prompts()
    assert (first.turns, first.category) == (("My head hurts.",), "context_seeking")
    assert second.turns[0].endswith("user: Hi\n\nassistant: Hello\n\nuser: I cough.")
    [task] = suite.tasks(first, Answer(prompt_id="a", model="m", turns=("Since when?",)))
    shown = task.template.user.format(**task.fields)
    assert "1. Asks since when. (yes or no)\n2. Names a wrong drug. (yes or no)" in shown
    assert suite.protocol()["deviations"] == ["all criteria in one request", "earlier turns shown in one message"]
    path.write_text('{"prompt_id": "a"}\n')
    with pytest.raises(DataError, match="line 1 is not a conversation"):
        read_conversations(path, "healthbench")


def test_presets_agree_with_lm_evals_own_order() -> None:
    assert task_of("GSM8K") == "gsm8k"
    assert task_of("GPQA") == "gpqa_diamond_cot_zeroshot"
    assert task_of("mmlu_pro_math") == "mmlu_pro_math"
    assert preset_headline("gsm8k", ["acc,none"]) is None
    for metric in HEADLINES.values():  # as chosen before there were presets
        filters = (metric.partition(",")[2],)
        listed = (metric.partition(",")[0],)
        assert headline([metric, "zzz,none"], {metric: True, "zzz,none": True}, listed, filters) == metric
