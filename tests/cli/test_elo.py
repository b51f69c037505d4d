"""`harness elo`: votes as LMArena and Kaggle write them; verdicts of files, calibrations and runs; refusals."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.human_elo import read_verdicts, read_votes
from harness.records.errors import HarnessError
from tests.fakes.commands import Done
from tests.fakes.made_runs import make_run, pocket

Harness = Callable[..., Done]
Rows = Iterable[Mapping[str, object]]


def battle(winner: str, a: str = "a", b: str = "b", **columns: object) -> dict[str, object]:
    return {"model_a": a, "model_b": b, "winner": winner, **columns}


def write(path: Path, rows: Rows) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def ladder(sharpness: float, *, models: str = "abcd", times: int = 8, judge: str | None = None) -> list[dict[str, Any]]:
    """Battles of neighbours, each on its own question: the later letter wins all but 1 of 2 + 2 * sharpness."""
    rows = []
    for low, high in pairwise(models):
        for number in range(times):
            for place in range(int(2 + 2 * sharpness)):
                winner = "model_b" if place < 1 + 2 * sharpness else "model_a"
                row = battle(winner, low, high, question_id=f"{low}{number}{place}")
                rows.append(row if judge is None else row | {"judge": judge})
    return rows


def elo(done: Done) -> dict[str, Any]:
    assert done.code == 0, done.err
    record: dict[str, Any] = json.loads(done.out)
    return record


# -------------------------------------------------------------------------------------------------- files of votes


def test_the_winners_of_lmarena_are_read_and_votes_that_saw_names_are_not(tmp_path: Path) -> None:
    winners = ["model_a", "model_b", "tie", "tie (bothbad)", "both_bad"]
    rows = [battle(winner, question_id=7, turn=1, anony=True) for winner in winners]
    file = write(tmp_path / "battles.jsonl", [*rows, battle("model_a", anony=False), battle("model_a", "a", "a")])

    votes = read_votes([file])

    assert [vote.points for vote in votes.battles] == [1.0, 0.0, 0.5, 0.5, 0.5]
    assert {(vote.question, vote.turn) for vote in votes.battles} == {("7", "1")}
    assert votes.notes == (
        "left out because the voter saw the models' names (anony is false): 1",
        "left out because both models are the same: 1",
    )


def test_a_list_in_a_json_file_is_read(tmp_path: Path) -> None:
    file = tmp_path / "battles.json"
    file.write_text(json.dumps([battle("model_a", judge=["gpt-4", "pair"]), battle("tie", judge="someone")]))

    assert [(vote.points, vote.voter, vote.question) for vote in read_votes([file]).battles] == [
        (1.0, "gpt-4", None),
        (0.5, "someone", None),
    ]


def test_kaggles_columns_are_read_from_csv(tmp_path: Path) -> None:
    file = tmp_path / "train.csv"
    names = ["id", "model_a", "model_b", "prompt", "response_a", "winner_model_a", "winner_model_b", "winner_tie"]
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerows(
            [
                names,
                ["30192", "a", "b", "two\nlines", "x", 1, 0, 0],
                [3, "a", "b", "p", "x", 0, 1, 0],
                [4, "b", "a", "p", "", 0, 0, 1],
            ]
        )

    votes = read_votes([file]).battles

    assert [(vote.model_a, vote.points, vote.question) for vote in votes] == [
        ("a", 1.0, "30192"),
        ("a", 0.0, "3"),
        ("b", 0.5, "4"),
    ]


def test_parquet_is_read_without_its_conversations(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    from pyarrow import Table
    from pyarrow.parquet import write_table

    rows = [battle("model_b", id="q1", conversation_a=[{"role": "user", "content": "Hello"}]), battle("tie", id="q2")]
    write_table(Table.from_pylist(rows), tmp_path / "train.parquet")

    votes = read_votes([tmp_path / "train.parquet"]).battles

    assert [(vote.points, vote.question) for vote in votes] == [(0.0, "q1"), (0.5, "q2")]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (battle("model_c"), r"battles.jsonl, row 1: winner 'model_c'; expected one of model_a, model_b, tie"),
        ({"model_a": "a", "winner": "tie"}, r"row 1 has no model_a and model_b but model_a, winner"),
        ({"model_a": "a", "model_b": "b"}, r"row 1: winner None; expected one of"),
        (battle("tie", preference=1.5), r"row 1: preference 1.5 is not a number from 0 to 1"),
        (battle("tie", preference="nan"), r"row 1: preference 'nan' is not a number from 0 to 1"),
    ],
)
def test_a_row_of_another_form_is_refused_with_its_number(
    tmp_path: Path, row: dict[str, object], sentence: str
) -> None:
    with pytest.raises(HarnessError, match=sentence):
        read_votes([write(tmp_path / "battles.jsonl", [row])])


# ------------------------------------------------------------------------------------------------------ the command


@pytest.mark.slow
def test_votes_alone_give_elo_and_no_word_about_a_judge(harness: Harness, tmp_path: Path) -> None:
    """Each model wins 3 of 4 against the one before it: 400 * log10(3) = 190.8 Elo apart."""
    write(tmp_path / "votes.jsonl", ladder(1.0))

    record = elo(harness("elo", "--votes", "votes.jsonl", "--anchor", "a=800", "--json"))

    assert [model["model"] for model in record["models"]] == ["d", "c", "b", "a"]
    assert [model["elo"]["value"] for model in record["models"]] == pytest.approx(
        [1372.6, 1181.7, 990.8, 800.0], abs=0.1
    )
    assert record["models"][3]["elo"]["ci_low"] is None
    assert record["anchor"] == "a = 800"
    assert record["slope"] is None
    assert record["notes"] == [
        "no question has two votes, so the intervals take every vote as independent",
        "no verdicts, so no temperature and no Elo of models without votes",
    ]


@pytest.mark.slow
def test_a_sharper_judge_places_a_new_model_at_its_temperature(harness: Harness, tmp_path: Path) -> None:
    """People 3 of 4, the judge 7 of 8: slope ln 3 / ln 7. The judge sees `e` win 7 of 8 against `d`: extrapolated."""
    write(tmp_path / "votes.jsonl", ladder(1.0, times=20))
    write(tmp_path / "verdicts.jsonl", ladder(3.0, models="abcde", times=20, judge="sharp"))

    record = elo(harness("elo", "--votes", "votes.jsonl", "--verdicts", "verdicts.jsonl", "--json"))

    assert record["judge"] == "sharp"
    assert record["slope"]["value"] == pytest.approx(0.5646, abs=1e-3)
    assert record["misplaced"] == pytest.approx(0.0, abs=1.0)
    new = record["models"][0]
    assert (new["model"], new["source"], new["extrapolated"]) == ("e", "judge", True)
    assert new["elo"]["value"] == pytest.approx(1000 + 2.5 * 190.85, abs=0.5)
    assert new["elo"]["ci_low"] < new["elo"]["value"] < new["elo"]["ci_high"]
    assert any(
        "e outside the range of the models that people voted on: extrapolated" in note for note in record["notes"]
    )
    table = harness("elo", "--votes", "votes.jsonl", "--verdicts", "verdicts.jsonl").out
    assert "judge, extrapolated" in table
    assert "temperature: people's log-odds are 0.56" in table


@pytest.mark.parametrize(
    ("votes", "words", "sentence"),
    [
        ([battle("tie")] * 20, (), "too few votes: 20 on 2 models, 20 at most on one. Two models need 30 each"),
        ([battle("model_a")] * 40, (), "too few votes: 40 on 2 models"),
        (ladder(1.0), ("--anchor", "a"), "--anchor 'a' is not MODEL=ELO"),
        (ladder(1.0), ("--anchor", "aa=1"), "--anchor 'aa' is not a model with 30 votes"),
        (ladder(1.0), ("--verdicts", "none.jsonl"), "no run named 'none.jsonl'"),
        (ladder(1.0), ("--verdicts", "two.jsonl"), "the verdicts are of 2 judges, each with its own temperature: x"),
    ],
)
def test_what_cannot_be_answered_is_one_sentence(
    harness: Harness, tmp_path: Path, votes: Rows, words: tuple[str, ...], sentence: str
) -> None:
    write(tmp_path / "votes.jsonl", votes)
    write(tmp_path / "two.jsonl", [battle("tie", judge="x"), battle("tie", judge="y")])

    done = harness("elo", "--votes", "votes.jsonl", *words)

    assert (done.code, done.out) == (2, "")
    assert sentence in done.err


@pytest.mark.slow
def test_too_few_voted_models_with_verdicts_place_no_model_and_say_so(harness: Harness, tmp_path: Path) -> None:
    write(tmp_path / "votes.jsonl", ladder(1.0))
    write(tmp_path / "verdicts.jsonl", ladder(3.0, models="abx"))

    record = elo(harness("elo", "--votes", "votes.jsonl", "--verdicts", "verdicts.jsonl", "--json"))

    assert [model["source"] for model in record["models"]] == ["votes"] * 4
    assert record["slope"] is None
    assert any(note.startswith("the verdicts are about 2 of the voted models: a, b. 4 are") for note in record["notes"])


def test_runs_against_a_baseline_are_verdicts_about_both_models(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "results", "fused", pocket("alpaca_eval"), skill=0.8)
    make_run(tmp_path / "results", "base", pocket("mt_bench"), skill=0.5)

    source = read_verdicts([str(folder)], tmp_path / "results")
    everything = read_verdicts([str(tmp_path / "results")], tmp_path / "results")

    assert source.judges == ("reference",)
    assert everything.battles == source.battles  # MT-Bench's ratings compare nobody
    assert {battle.model_a for battle in source.battles} == {"fused"}
    assert len({battle.model_b for battle in source.battles}) == 1
    assert len({battle.question for battle in source.battles}) == len(source.battles)
    with pytest.raises(HarnessError, match="runs of mt_bench have no comparisons of two models; let a judge compare"):
        read_verdicts(["base"], tmp_path / "results")
