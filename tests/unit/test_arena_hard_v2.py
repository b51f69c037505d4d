"""Arena-Hard v2.0: own prompts, parser and scorer; upstream's words stood in for by a file of the same form."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from harness.records import Answer, Failure, Judgment, Preference, Verdict
from harness.records.errors import ConfigError, DataError, VerdictParseError
from harness.records.facts import OfficialFile
from harness.records.protocols import SuiteOptions
from harness.store import official
from harness.store.official import pinned_files
from harness.suites.arena_hard.suite import ArenaHard, build_v2, read_judge_settings, read_v2_answer, read_v2_templates
from harness.suites.files import read_json_lines
from judges.llm import render
from judges.parsing import read_verdict

MIRROR = os.environ.get("HARNESS_MIRROR")
JUDGE_UTILS = """
import os

HARD = "Judge hard,\\nwith your own answer."
OTHER = os.getcwd()

JUDGE_SETTINGS = {
    "hard_prompt": {"baseline": "o3-mini-2025-01-31", "system_prompt": HARD},
    "creative_writing": {
        "baseline": "gemini-2.0-flash-001",
        "system_prompt": "Judge the "
        "writing.",
    },
}
"""
CONFIG = """
judge_model: gpt-4.1
temperature: 0.0
max_tokens: 16000
bench_name: arena-hard-v2.0
prompt_template: "Q {QUESTION} A {ANSWER_A} B {ANSWER_B}"
"""


def answers(model: str, *ids: str) -> str:
    rows = [{"uid": one, "model": model, "messages": [{"content": {"answer": f"{model} {one}"}}]} for one in ids]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ArenaHard:
    """The suite over stand-ins: two hard prompts, one of creative writing."""
    questions = [("h1", "hard_prompt"), ("h2", "hard_prompt"), ("c1", "creative_writing")]
    contents = {
        "questions": "".join(
            json.dumps({"uid": one, "category": category, "prompt": f"ask {one} {{}}"}) + "\n"
            for one, category in questions
        ),
        "judge_config": CONFIG,
        "judge_prompts": JUDGE_UTILS,
        "baseline/hard_prompt": answers("o3-mini", "h1", "h2", "c1"),
        "baseline/creative_writing": answers("gemini", "c1"),
    }
    files = dict(pinned_files())
    for name, text in contents.items():
        pinned = pinned_files()[f"arena_hard_v2/{name}"]
        files[pinned.name] = replace(pinned, sha256=None, size=None, source="http://127.0.0.1:9/none")
        place = tmp_path / "mirror" / pinned.path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    monkeypatch.setattr(official, "pinned_files", lambda: files)
    monkeypatch.delenv("HARNESS_MIRROR", raising=False)
    return build_v2(SuiteOptions(mirror=str(tmp_path / "mirror"), cache_dir=tmp_path / "cache"))


def said(prompt_id: str) -> Answer:
    return Answer(prompt_id=prompt_id, model="m", turns=(f"mine {prompt_id}",), finish=("stop",))


def judged(suite: ArenaHard, verdicts: dict[str, tuple[Verdict | None, Verdict | None]]) -> list[Judgment]:
    prompts = {prompt.id: prompt for prompt in suite.prompts()}
    return [
        Judgment(
            prompt_id=name,
            model="m",
            judge="j",
            template_sha="",
            order=task.order,
            verdict=verdict,
            error=None if verdict else Failure(reason="parse", message="none"),
        )
        for name, pair in verdicts.items()
        for task, verdict in zip(suite.tasks(prompts[name], said(name)), pair, strict=True)
    ]


def test_each_category_has_its_own_baseline_and_judges_words(suite: ArenaHard) -> None:
    hard, _, creative = suite.prompts()

    first, second = [render(task) for task in suite.tasks(hard, said("h1"))]
    [writing, _] = suite.tasks(creative, said("c1"))

    assert first[0] == {"role": "system", "content": "Judge hard,\nwith your own answer."}
    assert first[1]["content"] == "Q ask h1 {} A o3-mini h1 B mine h1"
    assert second[1]["content"] == "Q ask h1 {} A mine h1 B o3-mini h1"
    assert render(writing)[0]["content"] == "Judge the writing."
    assert writing.baseline is not None
    assert writing.baseline.model == "gemini"
    assert (writing.template.max_tokens, writing.template.temperature, writing.template.reask) == (16000, 0.0, None)
    assert suite.protocol()["baseline"] == {"creative_writing": "gemini", "hard_prompt": "o3-mini"}


def test_files_without_a_pinned_hash_are_held_to_their_first_download(suite: ArenaHard, tmp_path: Path) -> None:
    name = "arena_hard_v2/judge_prompts"
    file: OfficialFile = official.pinned_files()[name]
    recorded = official.expected_sha256(file, tmp_path / "cache")

    assert recorded == official.sha256_of(official.cached_path(file, tmp_path / "cache"))
    assert suite.protocol()["data"][name] == recorded  # type: ignore[index, call-overload]  # a JSON object
    (tmp_path / "mirror" / file.path).write_text("X = 1\n")
    official.cached_path(file, tmp_path / "cache").unlink()
    with pytest.raises(DataError, match="is not the pinned arena_hard_v2/judge_prompts"):
        official.ensure([name], str(tmp_path / "mirror"), cache_dir=tmp_path / "cache")


def test_a_question_with_either_game_broken_is_dropped_whole(suite: ArenaHard) -> None:
    win, loss = Preference(value=1, strength=2), Preference(value=0)
    rows = judged(suite, {"h1": (win, loss), "h2": (None, win), "c1": (loss, Preference(value=0.5))})

    found = suite.score(suite.prompts(), [], rows)

    score = found.scores["arena_hard"]
    assert (score.value, score.n, score.unscored) == (75.0, 2, 2)  # 3 of 4 battles
    assert found.scores["creative_writing"].value == 25.0
    assert found.by_category["hard_prompt"]["arena_hard"].value == 75.0
    reference = found.scores["arena_hard_reference"]
    assert reference.value == pytest.approx(75.0, abs=6)  # the mean of 100 resamples of 4 rows
    assert "2 of 4 games of hard prompts are unscored" in found.notes


def test_a_failed_answer_is_not_judged(suite: ArenaHard) -> None:
    failed = Answer(prompt_id="h1", model="m", error=Failure(reason="timeout", message="no answer"))

    assert list(suite.tasks(suite.prompts()[0], failed)) == []


def test_only_the_official_edition_exists() -> None:
    with pytest.raises(ConfigError, match="no edition 'pocket'"):
        build_v2(SuiteOptions(edition="pocket"))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("X = 1\n", "has no JUDGE_SETTINGS"),
        ("def (", "is not Python"),
        ('JUDGE_SETTINGS = {"hard_prompt": {"system_prompt": open("x").read()}}', "neither a text nor the name of one"),
        ('JUDGE_SETTINGS = {"hard_prompt": 3}', "something other than texts"),
    ],
)
def test_judge_utils_is_read_and_never_run(source: str, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        read_judge_settings(source)


@pytest.mark.parametrize(
    ("reply", "value", "strength"),
    [
        ("[[A>B]] no: [[b>>a]]", 0.0, 2),  # the last counts, in any case
        ("at last [A=B]", 0.5, 1),
        ("[[A>B]] and then [B>A]", 1.0, 1),  # double brackets come first
        ("[[B<A]]", 1.0, 1),
        ("[[A<<B]]", 0.0, 2),
        ("[[B=A]]", 0.5, 1),
    ],
)
def test_the_last_label_counts_in_v2(reply: str, value: float, strength: int) -> None:
    assert read_verdict("arena_label_v2", reply, (), "ba") == Preference(value=value, strength=strength)


@pytest.mark.parametrize("reply", ["", "no label", "[[A>>A]]", "[[C>A]]"])
def test_what_is_no_v2_label_is_no_verdict(reply: str) -> None:
    with pytest.raises(VerdictParseError):
        read_verdict("arena_label_v2", reply, (), "ba")


@pytest.mark.skipif(not MIRROR, reason="HARNESS_MIRROR names the folder of pinned upstream files")
def test_the_pinned_questions_and_hard_baseline_have_the_form_the_suite_reads(tmp_path: Path) -> None:
    hard_baseline = "arena_hard_v2/baseline/hard_prompt"
    names = ["arena_hard_v2/questions", "arena_hard_v2/judge_config", hard_baseline]

    paths = official.ensure(names, MIRROR, cache_dir=tmp_path)

    rows = read_json_lines(paths["arena_hard_v2/questions"])
    categories = [row["category"] for row in rows]
    assert (categories.count("hard_prompt"), categories.count("creative_writing")) == (500, 250)
    hard = {row["uid"] for row in rows if row["category"] == "hard_prompt"}
    baseline = [read_v2_answer(row) for row in read_json_lines(paths[hard_baseline])]
    assert hard <= {one.prompt_id for one in baseline}
    settings = read_judge_settings(JUDGE_UTILS)
    templates = read_v2_templates(paths["arena_hard_v2/judge_config"], settings)
    assert templates["hard_prompt"].user.startswith("<|User Prompt|>\n{QUESTION}\n\n")
    assert templates["hard_prompt"].max_tokens == 16000
