"""Answers, judgments and results made elsewhere become runs of our own, honest about what nobody knows of them."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.commands import Done, run_command
from tests.fakes.made_runs import pocket
from tests.fakes.openai_server import FakeOpenAI, judge_reply, serving

PUBLISHED = os.environ.get("HARNESS_PUBLISHED", "")
needs_published = pytest.mark.skipif(
    not (PUBLISHED and os.environ.get("HARNESS_MIRROR")), reason="HARNESS_PUBLISHED or HARNESS_MIRROR is not set"
)


def call(folder: Path, *words: str, **environment: str) -> Done:
    return run_command(*words, cwd=folder, **environment)


def cards(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    return {card["suite"]: card for card in json.loads(done.out)["cards"]}


POCKET = ("--edition", "pocket")
TEXT = pocket("alpaca_eval").prompts()[0].turns[0]


class Elsewhere:
    """A pocket run and its exports: what another machine's tools would hand over."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with serving(FakeOpenAI(model="m")) as model, serving(FakeOpenAI(reply=judge_reply)) as judge:
            words = ("--model", f"endpoint:m@{model.url}", "--judge", f"endpoint:gpt-x@{judge.url}")
            self.cards = cards(call(folder, "run", *words, "--suite", "all", *POCKET, "--json"))
        for name in ("fastchat", "alpaca_eval", "arena_hard"):
            assert call(folder, "export", "m", "--format", name, "--out", name).code == 0


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Elsewhere:
    return Elsewhere(tmp_path_factory.mktemp("elsewhere"))


FILES = {
    "mt_bench": ("fastchat", ("fastchat",)),
    "alpaca_eval": ("alpaca_eval", ("alpaca_eval/annotations.json", "alpaca_eval/model_outputs.json")),
    "arena_hard": ("arena_hard", ("arena_hard",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("suite", FILES)
def test_imported_judgments_score_as_the_run_they_came_from(elsewhere: Elsewhere, suite: str, tmp_path: Path) -> None:
    file_format, names = FILES[suite]
    files = [str(elsewhere.folder / name) for name in names]

    done = call(tmp_path, "import", *files, "--format", file_format, "--model", "theirs", *POCKET, "--json")

    card, original = cards(done)[suite], elsewhere.cards[suite]
    for metric, score in original["scores"].items():
        if metric != "avg_tokens":  # a file's counts are by a tokenizer it does not name
            known = {name: value for name, value in score.items() if value is not None}
            assert {name: card["scores"][metric][name] for name in known} == pytest.approx(known, rel=1e-9), metric
    assert (card["model"], card["judge"], card["complete"]) == ("theirs", "gpt-x", True)
    assert card["protocol"]["imported"] == file_format
    assert card["protocol"]["templates"] == card["protocol"]["answer_settings"] == "unknown"
    assert all(len(file["sha256"]) == 64 and "/" not in file["name"] for file in card["provenance"]["model"]["files"])
    assert str(elsewhere.folder) not in json.dumps(card)


@pytest.mark.slow
def test_an_imported_run_stands_on_the_leaderboard_in_a_table_of_its_own(elsewhere: Elsewhere) -> None:
    folder = elsewhere.folder
    words = ("--format", "fastchat", *POCKET)
    for name in ("one", "two"):
        assert call(folder, "import", "fastchat", "--model", name, *words).code == 0

    shown = call(folder, "leaderboard", "--json")

    tables = [table for table in json.loads(shown.out)["tables"] if table["suite"] == "mt_bench"]
    models = sorted([row["model"] for row in table["rows"]] for table in tables)
    assert models == [["m"], ["one", "two"]]


@pytest.mark.slow
def test_importing_the_same_files_again_changes_nothing(elsewhere: Elsewhere, tmp_path: Path) -> None:
    words = ("import", str(elsewhere.folder / "arena_hard"), "--format", "arena_hard", "--model", "m", *POCKET)
    assert call(tmp_path, *words).code == 0
    before = {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.jsonl")}

    assert call(tmp_path, *words).code == 0

    assert {path: path.read_bytes() for path in (tmp_path / "results").rglob("*.jsonl")} == before


@pytest.mark.slow
def test_imported_answers_are_judged_without_generation(elsewhere: Elsewhere, tmp_path: Path) -> None:
    answers = str(next((elsewhere.folder / "fastchat/model_answer").iterdir()))

    done = call(tmp_path, "import", answers, "--format", "fastchat", "--model", "theirs", *POCKET)

    assert done.code == 0, done.err
    assert "harness run --backend scripted --model results/imported/mt_bench/theirs" in done.out
    assert not (tmp_path / "results/runs").exists()
    with serving(FakeOpenAI(reply=judge_reply)) as judge:
        words = ("--backend", "scripted", "--model", "results/imported/mt_bench/theirs", "--suite", "mt_bench")
        run = call(tmp_path, "run", *words, *POCKET, "--judge", f"endpoint:gpt-x@{judge.url}", "--json")
    card, original = cards(run)["mt_bench"], elsewhere.cards["mt_bench"]
    assert card["scores"] == original["scores"]
    assert card["model"] == "theirs"
    assert card["protocol"]["answer_settings"] == "unknown" != original["protocol"]["answer_settings"]


@pytest.mark.slow
def test_reasoning_in_imported_answers_is_noted_if_it_was_judged_and_split_off_before_it_is(tmp_path: Path) -> None:
    thoughts = "<think>a or b?</think>"
    answer = {"question_id": "pm-001", "model_id": "m", "choices": [{"index": 0, "turns": [f"{thoughts}a", "b"]}]}
    judge = ["gpt-4", "single-v1"]
    rated = {"question_id": "pm-001", "model": "m", "judge": judge, "turn": 1, "score": 7, "judgment": "[[7]]"}
    for name, line in (("answers.jsonl", answer), ("ratings.jsonl", rated)):
        (tmp_path / name).write_text(json.dumps(line) + "\n")
    words = ("--format", "fastchat", "--model", "m", *POCKET)

    card = cards(call(tmp_path, "import", "answers.jsonl", "ratings.jsonl", *words, "--json"))["mt_bench"]
    assert "1 of 2 answers contain reasoning, which their judge saw and which counts as their length" in card["notes"]
    (stored,) = (tmp_path / "results/runs").rglob("answers.jsonl")
    assert thoughts in stored.read_text("utf-8")

    call(tmp_path, "import", "answers.jsonl", *words)
    with serving(FakeOpenAI(reply=judge_reply)) as fake:
        model = ("--backend", "scripted", "--model", "results/imported/mt_bench/m", "--suite", "mt_bench")
        run = call(tmp_path, "run", *model, *POCKET, "--judge", f"endpoint:gpt-x@{fake.url}", "--json")
    assert run.code == 4  # one of 80 questions has an answer
    assert "1 of 1 answers had reasoning in their text" in str(json.loads(run.out)["cards"][0]["notes"])
    assert not [request for request in fake.requests if "a or b?" in json.dumps(request.messages)]


def test_a_failure_in_a_file_stays_a_failure(tmp_path: Path) -> None:
    answers = [
        {"question_id": "pm-001", "model_id": "m", "choices": [{"index": 0, "turns": ["$ERROR$", "$ERROR$"]}]},
        {"question_id": "pm-002", "model_id": "m", "choices": [{"index": 0, "turns": ["a", "b"]}]},
    ]
    judge = ["gpt-4", "single-v1"]
    rated = [("pm-002", 1, 7, "Rating: [[7]]"), ("pm-002", 2, -1, "$ERROR$"), ("pm-003", 1, 3, "arr[3]")]
    rows = [
        {"question_id": name, "model": "m", "judge": judge, "turn": turn, "score": score, "judgment": words}
        for name, turn, score, words in rated
    ]
    for name, lines in (("answers.jsonl", answers), ("ratings.jsonl", rows)):
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    words = ("import", "answers.jsonl", "ratings.jsonl", "--format", "fastchat", "--model", "m", *POCKET, "--json")
    card = cards(call(tmp_path, *words))["mt_bench"]

    assert (card["scores"]["mt_bench"]["value"], card["scores"]["mt_bench"]["n"]) == (7.0, 1)
    assert card["scores"]["mt_bench"]["unscored"] == 159
    assert card["counts"]["unanswered"] == {"other": 1}
    assert card["counts"]["unjudged"] == {"http": 1, "parse": 1}
    assert not card["complete"]


@pytest.mark.slow
def test_answers_that_differ_are_counted_and_the_last_is_taken(tmp_path: Path) -> None:
    texts = [("pm-001", "a"), ("pm-001", "changed"), ("pm-002", "same"), ("pm-002", "same")]
    answers = [{"question_id": name, "model_id": "m", "choices": [{"turns": [text, "b"]}]} for name, text in texts]
    (tmp_path / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in answers))
    (tmp_path / "ratings.jsonl").write_text(rows("m"))
    words = ("import", "answers.jsonl", "ratings.jsonl", "--format", "fastchat", "--model", "m", *POCKET, "--json")

    done = call(tmp_path, *words)

    sentence = "1 question has several answers that differ: the last one counts"
    assert sentence in cards(done)["mt_bench"]["notes"]
    assert f"mt_bench: {sentence}" in done.err
    (stored,) = (tmp_path / "results/runs").rglob("answers.jsonl")
    assert json.loads(stored.read_text("utf-8").splitlines()[0])["turns"][0] == "changed"
    outputs = [{"instruction": TEXT, "output": text, "generator": "m"} for text in ("a", "b")]
    (tmp_path / "model_outputs.json").write_text(json.dumps(outputs))
    done = call(tmp_path, "import", "model_outputs.json", "--format", "alpaca_eval", "--model", "m", *POCKET)
    assert f"alpaca_eval: {sentence}" in done.err


def rows(*models: str, question: str = "pm-001") -> str:
    return "".join(
        json.dumps({"question_id": question, "model": name, "judge": ["j", "p"], "turn": 1, "score": 5}) + "\n"
        for name in models
    )


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        (rows("a", "b"), ("--format", "fastchat"), "the files contain 2 models, none named 'm': a, b"),
        (rows("m"), ("--format", "fastchat", "--model", ""), "--model '' is not a name: 1 to 100 printable"),
        (rows("m"), ("--format", "fastchat", "--judge", "k"), "the files contain 1 judge, none named 'k': j"),
        (rows("m", question="81"), ("--format", "fastchat"), "1 questions of the files are not the suite's, e.g. '81'"),
        (rows("m"), ("--format", "arena_hard"), "--format fastchat reads"),
        (rows("m"), ("--format", "mt"), "no format 'mt'; known: fastchat"),
        ("{}\n", ("--format", "lm_eval"), "no row has `metrics`"),
    ],
)
def test_files_that_do_not_fit_are_one_sentence(
    tmp_path: Path, text: str, words: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "file.jsonl").write_text(text)

    done = call(tmp_path, "import", "file.jsonl", "--model", "m", *POCKET, *words)

    assert (done.code, len(done.err.strip().splitlines())) == (2, 1), done.err
    assert sentence in done.err
    assert not (tmp_path / "results").exists()


GAMES = [{"score": label, "judgment": "", "user_prompt": ""} for label in ("A>B", "B>>A")]


@pytest.mark.parametrize(
    ("file_format", "row"),
    [
        ("fastchat", json.loads(rows("m"))),
        ("arena_hard", {"question_id": "ph-001", "model": "m", "judge": "j", "games": GAMES}),
    ],
)
def test_verdicts_that_came_without_answers_and_replies_go_out_again(
    tmp_path: Path, file_format: str, row: dict[str, Any]
) -> None:
    (tmp_path / "in.jsonl").write_text(json.dumps(row) + "\n")
    words = ("--format", file_format)

    call(tmp_path, "import", "in.jsonl", *words, *POCKET)
    exported = call(tmp_path, "export", "m", *words, "--out", "out")

    assert exported.code == 0, exported.err
    before, after = (
        next(iter(cards(call(tmp_path, "score", file, *words, "--json")).values()))["scores"]
        for file in ("in.jsonl", "out/model_judgment")
    )
    assert before == after


@pytest.mark.parametrize(
    ("text", "words", "sentence"),
    [
        ('{"a": 1}\n', (), "file.jsonl: the first row has the keys a, which no format of judgments has (fastchat: "),
        ('{"a": 1}\n', ("--format", "fastchat"), "a fastchat judgment has question_id, model and score"),
        (rows("m"), ("--format", "fastcha"), "no format 'fastcha' (did you mean 'fastchat'?)"),
        ("", (), "file.jsonl is empty"),
    ],
)
def test_a_file_of_no_known_format_says_what_its_rows_lack(
    tmp_path: Path, text: str, words: tuple[str, ...], sentence: str
) -> None:
    (tmp_path / "file.jsonl").write_text(text)

    done = call(tmp_path, "import", "file.jsonl", *POCKET, *words)

    assert (done.code, sentence in done.err) == (2, True), done.err


def test_the_format_of_judgments_is_known_by_their_rows(tmp_path: Path) -> None:
    (tmp_path / "file.jsonl").write_text(rows("m"))

    detected = cards(call(tmp_path, "import", "file.jsonl", *POCKET, "--json"))
    stated = cards(call(tmp_path, "import", "file.jsonl", *POCKET, "--json", "--format", "fastchat"))

    assert detected == stated


def test_results_without_rows_are_known_by_their_reader(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text(json.dumps(RESULTS))

    done = call(tmp_path, "import", "results.json", "--model", "m", "--json")

    assert cards(done)


# ------------------------------------------------------------------------------------------------------------ lm-eval


RESULTS: dict[str, Any] = {
    "results": {
        "gsm8k": {
            "alias": "gsm8k",
            "exact_match,strict-match": 0.5,
            "exact_match_stderr,strict-match": 0.1,
            "exact_match,flexible-extract": 0.75,
            "exact_match_stderr,flexible-extract": "N/A",
        },
        "mmlu": {"acc,none": 0.4, "acc_stderr,none": 0.01, "alias": "mmlu"},
        "mmlu_law": {"acc,none": 0.3, "acc_stderr,none": 0.02, "alias": " - law"},
        "mmlu_art": {"acc,none": 0.5, "acc_stderr,none": 0.02, "alias": " - art"},
    },
    "group_subtasks": {"mmlu": ["mmlu_law", "mmlu_art"], "gsm8k": []},
    "versions": {"gsm8k": 3.0, "mmlu": 2},
    "n-shot": {"gsm8k": 5},
    "n-samples": {
        "gsm8k": {"original": 1319, "effective": 26},
        "mmlu_law": {"original": 100, "effective": 100},
        "mmlu_art": {"original": 50, "effective": 50},
    },
    "higher_is_better": {"gsm8k": {"exact_match": True}},
    "configs": {"gsm8k": {"dataset_path": "gsm8k", "num_fewshot": 5}},
    "config": {"model": "local-chat-completions", "limit": 26.0},
}


@pytest.mark.slow
def test_lm_eval_results_become_a_card_a_task_with_lm_evals_errors(tmp_path: Path) -> None:
    (tmp_path / "results_2026-01-31T00-00-00.json").write_text(json.dumps(RESULTS))

    done = call(tmp_path, "import", str(tmp_path), "--format", "lm_eval", "--model", "org/m", "--json")

    found = cards(done)
    assert set(found) == {"lm_eval:gsm8k", "lm_eval:mmlu"}
    card = found["lm_eval:gsm8k"]
    strict = card["scores"]["exact_match,strict-match"]
    assert (strict["value"], strict["se"], strict["n"]) == (0.5, 0.1, 26)
    assert strict["ci_low"] == pytest.approx(0.5 - 1.959963984540054 * 0.1)
    assert card["scores"]["exact_match,flexible-extract"]["se"] is None
    assert (card["suite_version"], card["headline"], card["complete"]) == ("3.0", "exact_match,strict-match", True)
    assert (card["protocol"]["n_shot"], card["protocol"]["limit"]) == (5, 26.0)
    assert found["lm_eval:mmlu"]["by_category"]["mmlu_art"]["acc,none"]["value"] == 0.5
    assert found["lm_eval:mmlu"]["scores"]["acc,none"]["n"] == 150
    shown = call(tmp_path, "leaderboard", "--format", "md")
    assert "| 1 (1-1) | org/m | 0.50" in shown.out
    assert (tmp_path / "results/runs/org_m/lm_eval_gsm8k@3.0").is_dir()


@pytest.mark.slow
def test_lm_eval_samples_alone_give_means_and_standard_errors(tmp_path: Path) -> None:
    lines = [
        {"doc_id": place, "filter": "none", "metrics": ["acc"], "acc": value}
        for place, value in enumerate([1.0, 1.0, 0.0, 0.0])
    ]
    name = "samples_my_task_2026-01-31T00-00-00.5.jsonl"
    (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    card = cards(call(tmp_path, "import", name, "--format", "lm_eval", "--model", "m", "--json"))["lm_eval:my_task"]

    score = card["scores"]["acc,none"]
    assert (score["value"], score["n"]) == (0.5, 4)
    assert score["se"] == pytest.approx((1 / 3 / 4) ** 0.5)  # variance 1/3 over four rows


# ---------------------------------------------------------------------------------------------- published judgments


@pytest.mark.slow
@needs_published
def test_published_files_import_with_the_published_scores(harness: Callable[..., Done]) -> None:
    root = Path(PUBLISHED)
    alpaca = str(root / "alpaca_eval/annotations/claude-2.1.json.xz")
    ratings = str(root / "mt_bench/judgments/alvarobartt.gpt-4_single.jsonl.xz")
    answers = str(root / "mt_bench/model_answer/alvarobartt.mistral-orpo-mix.jsonl.xz")

    words = ("--format", "alpaca_eval", "--model", "claude-2.1", "--json")
    claude = cards(harness("import", alpaca, *words))["alpaca_eval"]["scores"]
    words = ("--format", "fastchat", "--model", "mistral-orpo-mix", "--json")
    mix = cards(harness("import", ratings, answers, *words))["mt_bench"]

    # the board's row; what show_result prints of this model
    assert claude["lc_win_rate"]["value"] == pytest.approx(25.251943886133027, abs=1e-6)
    assert claude["win_rate"]["value"] == pytest.approx(15.733506736409938, abs=1e-9)
    assert mix["scores"]["mt_bench"]["value"] == pytest.approx(6.003125, abs=5e-7)
    assert mix["counts"]["answers"] == 80
