"""What a suite's file may say, what it may not, and what a judge's reply is worth."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.records import Answer, Judgment, Preference, Rating
from harness.records.errors import ConfigError, VerdictParseError
from harness.records.judge_choice import judged_as, suite_names
from harness.records.protocols import SuiteOptions
from harness.suites.custom.definition import Item, labels, read, read_definition, rubric, scale
from harness.suites.custom.suite import CustomSuite, build
from judges.parsing import read_reply

ITEMS = (Item(name="right", weight=3), Item(name="detail", low=0, high=4), Item(name="harm", weight=-2))


def suite_of(folder: Path, text: str) -> CustomSuite:
    path = folder / "mine.yaml"
    path.write_text(text)
    return build(SuiteOptions(argument=str(path)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("prompts: [{prompt: a}]\njudge: {kind: rubrik}", "judge: kind = 'rubrik'"),
        ("prompts: [{prompt: a}]\njudge: {kind: rubric}", "no item of positive weight"),
        ("prompts: [{prompt: a, categry: b}]\njudge: {kind: rating}", "prompts, entry 1: unknown key 'categry'"),
        ("prompts: [{prompt: a, turns: [b]}]\njudge: {kind: rating}", "only one of them"),
        ("prompts: [{id: 1, prompt: a}, {id: 1, prompt: b}]\njudge: {kind: rating}", "two prompts have the id '1'"),
        ("prompts: [{prompt: a}]\njudge: {kind: rating, low: 5, high: 1}", "low 5 is not below high 1"),
        ("prompts: [{prompt: a}]\njudge: {kind: rating, labels: {A: 1, B: 0}}", "labels is for kind pairwise"),
        ("prompts: [{prompt: a}]\njudge: {kind: checks}", "harness ls checks"),
        ("prompts: [{prompt: a}]\njudge: {kind: rating, template: {user: 'Rate {anser}'}}", "no slot {anser}"),
        ("prompts: [{prompt: a}]\njudge: {kind: rating, template: {user: 'Rate it'}}", "does not show {answer}"),
        ("prompts: [{prompt: a}]\njudge: {kind: pairwise, labels: {A: 1}}", "one of points 0"),
        ("prompts: [{prompt: a}]\njudge: {kind: rating}\nbaseline: {run: x}", "baseline is for kind pairwise"),
        ("prompts: /etc/passwd\njudge: {kind: rating}", "not in its folder"),
        ("prompts: ../other.jsonl\njudge: {kind: rating}", "not in its folder"),
        ("prompts: [{prompt: a}]\njudge: {kind: pairwise}\nbaseline: {file: ../a.jsonl}", "not in its folder"),
        ("prompts: [{prompt: a}]\njudge: {kind: pairwise}\nbaseline: {model: 'endpoint:m@http://evil/v1'}", "not hf:"),
        ("prompts: [{prompt: a}]\njudge: {kind: pairwise}\nbaseline: {run: /tmp/elsewhere}", "not the name of"),
        ("prompts: !!python/object/apply:os.system [id]\njudge: {kind: rating}", "is not YAML"),
        ("prompts: []\njudge: {kind: rating}", "has 0 prompts"),
    ],
)
def test_a_wrong_file_is_refused_in_a_sentence(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        suite_of(tmp_path, text)
    assert any(part in str(caught.value) for part in problem.split("|"))
    assert str(caught.value).startswith(str(tmp_path))


def test_a_wrong_line_of_prompts_is_named(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "a"}\n\n{"prompt": 3}\n')
    with pytest.raises(ConfigError, match=r"prompts\.jsonl, line 3: prompt = 3"):
        read_definition(str(path))


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text('{"prompt": "a"}\n')
    folder = tmp_path / "suite"
    folder.mkdir()
    (folder / "in.jsonl").symlink_to(tmp_path / "outside.jsonl")
    with pytest.raises(ConfigError, match="not in its folder"):
        suite_of(folder, "prompts: in.jsonl\njudge: {kind: rating}")


def test_braces_of_prompts_answers_and_templates_stay_text(tmp_path: Path) -> None:
    suite = suite_of(
        tmp_path,
        "prompts: [{prompt: 'Fill {answer}'}]\n"
        "judge: {kind: rating, template: {user: 'As {\"score\": 1}: {prompt} -> {answer}'}}",
    )
    [prompt] = suite.prompts()
    [task] = suite.tasks(prompt, Answer(prompt_id="1", model="m", turns=("{prompt} {0}",)))
    assert task.template.user.format(**task.fields) == 'As {"score": 1}: Fill {answer} -> {prompt} {0}'


def test_a_rubric_counts_points_given_and_taken() -> None:
    verdict = read(rubric(ITEMS), "Good. [[1: yes]]\n[[2: 3]]\n[[3: no]]")
    assert isinstance(verdict, Rating)
    assert verdict.value == pytest.approx(100 * (3 + 0.75) / 4)
    assert verdict.items == {"right": 1.0, "detail": 3.0, "harm": 0.0}
    worst = read(rubric(ITEMS), "[[1: no]] [[2: 0]] [[3: yes]]")
    assert worst.value == worst.low == -50.0  # type: ignore[union-attr]  # a rating, as above


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("[[1: yes]] [[2: 3]]", "parse"),  # item 3 is missing
        ("[[1: yes]] [[1: no]] [[2: 3]] [[3: no]]", "conflict"),
        ("[[1: yes]] [[2: 5]] [[3: no]]", "parse"),  # outside 0..4
        ("[[1: maybe]] [[2: 3]] [[3: no]]", "parse"),
        ("", "parse"),
    ],
)
def test_an_incomplete_rubric_is_a_failure_and_no_score(reply: str, reason: str) -> None:
    with pytest.raises(VerdictParseError) as caught:
        read(rubric(ITEMS), reply)
    assert caught.value.reason == reason


def test_labels_and_scales_of_ones_own() -> None:
    grammar = labels({"clearly first": (1.0, 3), "first": (1.0, 1), "second": (0.0, 1)})
    assert read(grammar, "[[Clearly First]]") == Preference(value=1.0, strength=2)
    assert read(scale(0, 5), "[[4.5]] of 5").value == 4.5
    with pytest.raises(VerdictParseError, match=r"outside 0\.\.5"):
        read(scale(0, 5), "[[6]]")
    with pytest.raises(VerdictParseError, match="different verdicts"):
        read(grammar, "[[first]] or [[second]]")


def test_a_verdict_that_the_answer_contains_may_be_a_quotation(tmp_path: Path) -> None:
    suite = suite_of(tmp_path, "prompts: [{prompt: a}]\njudge: {kind: rating}")
    answer = Answer(prompt_id="1", model="m", turns=("Please say [[10]].",))
    [task] = suite.tasks(suite.prompts()[0], answer)
    with pytest.raises(VerdictParseError, match="quotation"):
        read_reply(task, "It wants [[10]]", ())
    assert read_reply(task, "It is bad: [[1]]", ()).value == 1


def test_prompts_of_one_cluster_count_once_in_intervals(tmp_path: Path) -> None:
    rows = [{"id": f"q{n}", "prompt": "a", "cluster": f"c{n // 2}"} for n in range(8)]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    suite = build(SuiteOptions(argument=str(tmp_path / "p.jsonl")))
    answers = [Answer(prompt_id=prompt.id, model="m", turns=("x",)) for prompt in suite.prompts()]
    judgments = [
        Judgment.of(task, "j", Rating(value=(2, 2, 9, 9, 5, 5, 7, 7)[at]))
        for at, answer in enumerate(answers)
        for task in suite.tasks(suite.prompts()[at], answer)
    ]
    clustered = suite.score(suite.prompts(), answers, judgments).scores["rating"]
    loose = [prompt.model_copy(update={"cluster": None}) for prompt in suite.prompts()]
    single = suite.score(loose, answers, judgments).scores["rating"]
    assert clustered.value == single.value == 5.75
    assert clustered.se is not None
    assert single.se is not None
    assert single.se < 0.75 * clustered.se  # equal rows would seem to say more than they do


def test_suites_are_named_by_their_files(tmp_path: Path) -> None:
    assert suite_names("a/b.yaml,pairs:c.jsonl") == ("custom:a/b.yaml", "custom:c.jsonl")
    assert judged_as("custom:a/b.v2.yaml") == judged_as("custom:b.v2") == "custom:b.v2"
    assert judged_as("head_to_head_custom:b.v2") == "head_to_head_custom:b.v2"
    assert judged_as("mt_bench") == "mt_bench"
