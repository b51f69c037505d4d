"""Files as people really have them: stale copies, other spellings, other baselines, huge rows, torn ends."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.records import Answer, Preference, Score, ScoreCard
from harness.records.errors import ConfigError
from harness.store.files import visible_files
from harness.suites import pocket
from harness.suites.alpaca_eval.files import cards as alpaca_cards
from harness.suites.alpaca_eval.files import export, read_rows
from harness.suites.alpaca_eval.suite import AlpacaEval
from harness.suites.arena_hard.files import cards as arena_cards
from harness.suites.exchange import FinishedRun, Imported, ImportRequest, TextIndex
from harness.suites.files import ScoreOptions, SourceFile, read_files, stream_files
from harness.suites.mt_bench.file_scores import cards as fastchat_cards
from harness.suites.scoring import is_complete_card

POCKET = pocket.load("alpaca_eval")
OPTIONS = ScoreOptions(intervals=False)


@pytest.fixture(autouse=True)
def _nothing_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HARNESS_MIRROR", str(tmp_path / "no mirror"))


def write(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rating(score: int, question: int = 81, **more: Any) -> dict[str, Any]:
    return {"question_id": question, "model": "x", "judge": ["j", "single-v1"], "score": score, "turn": 1} | more


def annotation(instruction: str, preference: float, **more: Any) -> dict[str, Any]:
    row = {"instruction": instruction, "output_1": "b" * 10, "generator_1": "old", "output_2": "c" * 20}
    return row | {"generator_2": "new", "annotator": "j", "preference": preference} | more


def exported(imported: Imported, suite: AlpacaEval) -> list[dict[str, Any]]:
    card = ScoreCard(
        suite="alpaca_eval",
        suite_version=suite.version,
        model="new",
        judge="j",
        headline="lc_win_rate",
        complete=True,
        protocol={},
        sampling={},
        scores={name: Score(value=None, n=0) for name in ("lc_win_rate", "win_rate")},
        provenance={},
    )
    run = FinishedRun(card, suite, tuple(imported.answers.values()), imported.judgments)
    rows: list[dict[str, Any]] = json.loads(export(run)["annotations.json"])
    return rows


def completion(probability_of_first: float) -> dict[str, Any]:
    """As OpenAI returns it; natural logarithms of 0.9 and 0.1 are -0.105 and -2.303."""
    tops = [{"token": "m", "logprob": -0.10536051565}, {"token": "M", "logprob": -2.30258509299}]
    if probability_of_first != 0.9:
        tops = [{"token": "m", "logprob": tops[1]["logprob"]}, {"token": "M", "logprob": tops[0]["logprob"]}]
    return {"message": {"content": "m"}, "logprobs": {"content": [{"top_logprobs": tops}]}}


# -------------------------------------------------------------------------------------------------------------- folders


def test_what_nobody_means_is_skipped_in_a_folder(tmp_path: Path) -> None:
    hidden = ("._a.jsonl", ".ipynb_checkpoints/a.jsonl", "b.jsonl~")
    for name in ("a.jsonl", "a (1).jsonl", "Copy of a.jsonl", *hidden):
        write(tmp_path / name, [rating(8)])
    write(tmp_path / "a copy.jsonl", [rating(3)])  # not what a.jsonl contains, so not a copy of it

    assert [path.name for path in visible_files(tmp_path)] == ["a copy.jsonl", "a.jsonl"]


def test_a_stale_checkpoint_of_a_notebook_is_not_scored(tmp_path: Path) -> None:
    write(tmp_path / "j_single.jsonl", [rating(8)])
    write(tmp_path / ".ipynb_checkpoints/j_single-checkpoint.jsonl", [rating(1), rating(1, 82)])

    [card] = fastchat_cards(stream_files([tmp_path]), OPTIONS)

    assert (card.scores["mt_bench"].value, card.scores["mt_bench"].n, card.complete) == (8.0, 1, False)


def test_two_files_that_agree_count_once_and_two_that_differ_are_refused(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", [rating(8), rating(6, 82)])
    second = write(tmp_path / "b.jsonl", [rating(8)])

    [card] = fastchat_cards(stream_files([first, second]), OPTIONS)
    assert (card.scores["mt_bench"].value, card.scores["mt_bench"].n) == (7.0, 2)
    assert any("1 duplicated rows" in note for note in card.notes)

    write(second, [rating(3)])
    with pytest.raises(ConfigError, match=r"a\.jsonl and .*b\.jsonl disagree on '81, 1' \(8\.0 and 3\.0\)"):
        fastchat_cards(stream_files([first, second]), OPTIONS)


def test_a_failed_row_of_another_file_replaces_no_verdict(tmp_path: Path) -> None:
    files = [write(tmp_path / "a.jsonl", [rating(8)]), write(tmp_path / "b.jsonl", [rating(-1)])]

    [card] = fastchat_cards(stream_files(files), OPTIONS)

    assert card.scores["mt_bench"].value == 8.0


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("x.jsonl", b'{"a": 1}\n{"a": 2', r"x\.jsonl, line 2: not JSON.*cut off"),
        ("x.json", b'[{"a": 1}, {"a": ', r"x\.json, row 2: not JSON"),
        ("x.json", b'[{"a": 1}', r"x\.json, after row 1: not JSON: the file is cut off"),
        ("x.json", b'[{"a": 1} {"a": 2}]', r"x\.json, after row 1: not JSON: expected a comma"),
        ("x.json", b"", r"x\.json is empty"),
        ("x.jsonl", b"", r"x\.jsonl is empty"),
        ("x.csv", b"a,b\n", r"x\.csv: expected .* A table of results has no judgments"),
        ("x.jsonl.zst", b"", r"\.zst files cannot be read; unpack it first"),
        ("x.jsonl.gz", gzip.compress(b"0" * (20 << 20), mtime=0), r"row 1: longer than 16 million characters"),
    ],
)
def test_a_broken_file_is_one_sentence_with_its_line(tmp_path: Path, name: str, content: bytes, sentence: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=sentence):
        list(read_files([tmp_path / name]))


def test_an_array_longer_than_one_part_has_all_rows(tmp_path: Path) -> None:
    rows = [{"text": f'{number} "]}},\u00e9' * 300} for number in range(1000)]  # over 4 MB, marks within strings
    (tmp_path / "x.json").write_text(json.dumps(rows, indent=1, ensure_ascii=False), encoding="utf-8")

    [file] = read_files([tmp_path / "x.json"])

    assert file.rows == tuple(rows)


def test_the_wrong_format_is_named_with_the_right_one(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", [annotation("?", 1.5)])

    with pytest.raises(ConfigError, match=r"a\.jsonl has AlpacaEval annotations, which --format alpaca_eval reads"):
        fastchat_cards(stream_files([file]), OPTIONS)
    with pytest.raises(ConfigError, match=r"a\.jsonl has FastChat's ratings of single answers, which"):
        alpaca_cards(stream_files([write(file, [rating(3)])]), OPTIONS)


# ------------------------------------------------------------------------------------------------- AlpacaEval's files


@pytest.mark.parametrize("key", ["raw_completion", "preference_raw_completion"])
def test_a_completion_under_either_key_contradicts_or_gives_the_preference(key: str) -> None:
    instruction = POCKET.prompts[0].turns[0]
    without = {name: value for name, value in annotation(instruction, 0).items() if name != "preference"}
    right = {}
    for probability in (0.9, 0.1):
        [card] = alpaca_cards([SourceFile("a.json", [without | {key: completion(probability)}])], OPTIONS)
        right[probability] = card.scores["n_wins"].value
    assert sorted(right.values(), key=str) == [0.0, 1.0]  # which answer was m depends on the instruction alone

    stored = annotation(instruction, 1.5) | {key: completion(0.9)}
    [card] = alpaca_cards([SourceFile("a.json", [stored])], OPTIONS)
    assert card.scores["win_rate"].n == 0
    imported = read_rows([SourceFile("a.json", [stored])], ImportRequest(POCKET.prompts, "m"))
    assert [row.error.reason for row in imported.judgments if row.error] == ["conflict"]


def test_texts_are_found_in_spite_of_white_space_and_unicode_form() -> None:
    index = TextIndex(["Caf\u00e9 au lait?\n", "two  words"])

    assert index.find(unicodedata.normalize("NFD", "Caf\u00e9 au lait?")) == "Caf\u00e9 au lait?\n"
    assert index.find(" two words") == "two  words"
    assert index.find("twowords") is None


def rows_against(baseline: str) -> list[dict[str, Any]]:
    return [
        annotation(
            f" {prompt.turns[0]}\n" if position == 0 else prompt.turns[0],
            1.2 if position % 3 else 1.9,
            output_1="a" * (10 + 7 * (position % 11)),
            output_2="b" * (12 + 5 * (position % 13)),
            generator_1=baseline,
        )
        for position, prompt in enumerate(POCKET.prompts)
    ]


def test_another_baseline_keeps_name_answers_and_lengths_and_import_has_the_scores_of_score() -> None:
    files = [SourceFile("annotations.json", rows_against("my-old"))]
    [card] = alpaca_cards(files, ScoreOptions())
    imported = read_rows(files, ImportRequest(POCKET.prompts, "new"))

    assert imported.scores is not None
    assert imported.scores.scores == card.scores
    assert "1 instructions are the benchmark's but for white space or Unicode form" in card.notes
    assert (card.protocol["baseline"], imported.baseline) == ("my-old", "my-old")
    suite = AlpacaEval(POCKET)
    against = suite.against(imported.baseline_answers)
    answers, prompts = list(imported.answers.values()), POCKET.prompts
    fitted = against.score(prompts, answers, imported.judgments).scores["lc_win_rate"]
    assert fitted.value == card.scores["lc_win_rate"].value
    assert suite.score(prompts, answers, imported.judgments).scores["lc_win_rate"].value != fitted.value
    [task] = against.tasks(prompts[0], imported.answers[prompts[0].id])
    assert task.baseline is not None
    assert (task.baseline.model, task.baseline.turns) == ("my-old", ("a" * 10,))
    [again] = alpaca_cards([SourceFile("annotations.json", exported(imported, against))], ScoreOptions())
    assert (again.scores["lc_win_rate"], again.protocol["baseline"]) == (card.scores["lc_win_rate"], "my-old")


def test_the_suites_own_baseline_is_not_another_one() -> None:
    suite = AlpacaEval(POCKET)
    stripped = {
        name: answer.model_copy(update={"turns": (f"{answer.turns[0]}\n",)}) for name, answer in POCKET.baseline.items()
    }

    assert suite.against(stripped) is suite
    assert suite.against({"1": Answer(prompt_id="1", model="z", turns=("z",), finish=("stop",))}) is not suite


def test_several_baselines_are_several_cards_and_import_asks_which() -> None:
    files = [SourceFile("a.json", rows_against("one") + rows_against("two"))]

    assert len(alpaca_cards(files, OPTIONS)) == 2
    with pytest.raises(ConfigError, match="2 baselines: one, two; pass --baseline"):
        read_rows(files, ImportRequest(POCKET.prompts, "new"))
    assert read_rows(files, ImportRequest(POCKET.prompts, "new", baseline="two")).baseline == "two"


def test_a_card_that_lacks_only_the_fitted_rate_is_complete() -> None:
    rate, none = Score(value=50.0, n=2), Score(value=None, n=2)

    assert is_complete_card("alpaca_eval", "lc_win_rate", {"lc_win_rate": none, "win_rate": rate})
    assert not is_complete_card("alpaca_eval", "lc_win_rate", {"lc_win_rate": none, "win_rate": none})
    assert not is_complete_card("mt_bench", "mt_bench", {"mt_bench": none})


# ------------------------------------------------------------------------------------------------- Arena-Hard's files


def game(label: str) -> dict[str, Any]:
    return {"score": label, "judgment": {"answer": f"[[{label}]]"}, "prompt": []}


def test_v2_rows_against_another_baseline_name_it_on_the_card() -> None:
    def rows(baseline: str) -> list[dict[str, Any]]:
        games = [game("B>A"), game("A>B")]
        named = {"category": "hard_prompt", "judge": "j", "model": "x", "baseline": baseline}
        return [named | {"uid": f"q{number}", "games": games} for number in range(3)]

    [official] = arena_cards([SourceFile("x.jsonl", rows("o3-mini-2025-01-31"))], OPTIONS)
    [other] = arena_cards([SourceFile("x.jsonl", rows("mine"))], OPTIONS)
    assert official.protocol["baseline"] == "one a category"
    assert other.protocol["baseline"] == {"hard_prompt": "mine"}
    both = arena_cards([SourceFile("x.jsonl", rows("mine") + rows("o3-mini-2025-01-31"))], OPTIONS)
    assert [card.protocol["baseline"] for card in both] == [{"hard_prompt": "mine"}, "one a category"]


def test_preferences_of_imported_rows_are_those_of_the_file() -> None:
    [row] = read_rows(
        [SourceFile("a.json", [annotation(POCKET.prompts[0].turns[0], 1.25)])], ImportRequest(POCKET.prompts, "m")
    ).judgments

    assert row.verdict == Preference(value=0.25)
