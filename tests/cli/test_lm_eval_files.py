"""lm-eval's files: which way a metric is better, which metric ranks, whose results they are, which questions pair."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from harness.suites.lm_eval.facts import direction, headline
from tests.fakes.commands import Done, run_command

Scores = Mapping[str, Mapping[str, object]]


def call(folder: Path, *words: str) -> Done:
    return run_command(*words, cwd=folder)


def results_file(path: Path, results: Scores, **document: object) -> Path:
    """Write a results file: every task has 100 questions, unless `document` says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    samples = {task: {"original": 100, "effective": 100} for task in results}
    path.write_text(json.dumps({"results": results, "n-samples": samples, "config": {"model": "hf"}, **document}))
    return path


def imported(folder: Path, path: Path | str, model: str | None = None) -> dict[str, Any]:
    """Return the cards of `harness import` by "suite model"."""
    named = () if model is None else ("--model", model)
    done = call(folder, "import", str(path), "--format", "lm_eval", *named, "--json")
    assert done.code == 0, done.err
    return {f"{card['suite']} {card['model']}": card for card in json.loads(done.out)["cards"]}


def ranked(folder: Path) -> list[tuple[int | None, str]]:
    done = call(folder, "leaderboard", "--format", "json")
    assert done.code == 0, done.err
    (table,) = json.loads(done.out)["tables"]
    return [(row["rank"], row["model"]) for row in table["rows"]]


def error_rates(folder: Path, **document: object) -> None:
    """Two models' rates of an error, 0.2 and 0.4, each with a standard error of 0.004."""
    for model, value in (("clean", 0.2), ("dirty", 0.4)):
        scores = {"slips": {"rate,none": value, "rate_stderr,none": 0.004}}
        imported(folder, results_file(folder / f"{model}.json", scores, **document), model)


# ------------------------------------------------------------------------------------------------- which way is better

LESS = {"higher_is_better": {"slips": {"rate": False}}}


@pytest.mark.slow
def test_a_metric_of_which_less_is_better_ranks_upwards(tmp_path: Path) -> None:
    error_rates(tmp_path, **LESS)

    assert ranked(tmp_path) == [(1, "clean"), (2, "dirty")]
    table = call(tmp_path, "leaderboard", "--format", "md").out
    assert "rate,none, less is better" in table
    assert "| 1 (1-1) | clean |" in table


@pytest.mark.slow
def test_compare_calls_a_rise_of_such_a_metric_worse(tmp_path: Path) -> None:
    error_rates(tmp_path, **LESS)

    done = call(tmp_path, "compare", "clean", "dirty")

    assert "dirty is worse than clean by rate,none, of which less is better: +0.2000" in done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("candidate", "baseline", "code", "sentence"),
    [
        ("dirty", "clean", 1, "+0.2000, a rise beyond the margin of 0.05"),
        ("clean", "dirty", 0, "-0.2000, with 95% confidence below -0.1907: no rise of 0.05"),
    ],
)
def test_the_gate_fails_a_rise_of_such_a_metric(
    tmp_path: Path, candidate: str, baseline: str, code: int, sentence: str
) -> None:
    error_rates(tmp_path, **LESS)
    (tmp_path / "gate.yaml").write_text('checks: [{suite: "lm_eval:slips", metric: rate, margin: 0.05}]')

    words = ("--candidate", candidate, "--baseline", baseline, "--policy", "gate.yaml")
    done = call(tmp_path, "gate", *words)

    assert done.code == code
    assert sentence in done.out


@pytest.mark.slow
def test_a_ceiling_is_the_floor_of_such_a_metric(tmp_path: Path) -> None:
    error_rates(tmp_path, **LESS)
    (tmp_path / "gate.yaml").write_text('checks: [{suite: "lm_eval:slips", margin: 1, floor: 0.3}]')

    done = call(tmp_path, "gate", "--candidate", "dirty", "--baseline", "clean", "--policy", "gate.yaml")

    assert done.code == 1
    assert "above the ceiling of 0.3" in done.out


@pytest.mark.slow
def test_a_metric_of_unknown_direction_is_compared_but_neither_ranked_nor_gated(tmp_path: Path) -> None:
    error_rates(tmp_path)  # the file states nothing, and lm-eval has no metric called `rate`
    check = '{suite: "lm_eval:slips", margin: 0.05MORE}'
    (tmp_path / "gate.yaml").write_text(f"checks: [{check.replace('MORE', '')}]")
    (tmp_path / "stated.yaml").write_text(f"checks: [{check.replace('MORE', ', higher_is_better: false')}]")

    gate = ("gate", "--candidate", "dirty", "--baseline", "clean", "--policy")
    silent, stated = call(tmp_path, *gate, "gate.yaml"), call(tmp_path, *gate, "stated.yaml")

    assert [rank for rank, _ in ranked(tmp_path)] == [None, None]
    assert "unknown whether more or less is better" in call(tmp_path, "compare", "clean", "dirty").out
    assert (silent.code, stated.code) == (4, 1)
    assert "state higher_is_better in the check" in silent.out


def test_lm_evals_own_metrics_have_a_direction_without_a_statement() -> None:
    assert direction("bits_per_byte", None) is False
    assert direction("acc_norm", None) is True
    assert direction("acc_norm", False) is False  # the file's own word counts more
    assert direction("score", None) is None  # lm-eval's tasks use it both ways


@pytest.mark.slow
def test_only_cards_that_need_it_state_a_direction(tmp_path: Path) -> None:
    plain = imported(tmp_path, results_file(tmp_path / "a.json", {"sums": {"acc,none": 0.5}}), "m")
    words: Scores = {"words": {"word_perplexity,none": 9.5, "odd,none": 1.0}}
    stating = imported(tmp_path, results_file(tmp_path / "b.json", words), "m")

    assert "higher_is_better" not in plain["lm_eval:sums m"]
    card = stating["lm_eval:words m"]
    assert card["higher_is_better"] == {"word_perplexity,none": False, "odd,none": None}
    assert card["headline"] == "word_perplexity,none"


# ------------------------------------------------------------------------------------------------- which metric ranks


def test_the_ranking_metric_does_not_depend_on_the_order_of_the_file() -> None:
    ways = {"f1,none": True, "acc,none": True, "perplexity,none": False}

    assert headline(list(ways), ways) == headline(list(ways)[::-1], ways) == "acc,none"
    assert headline(list(ways), ways, listed=("f1", "acc")) == "f1,none"
    assert headline(["em,b", "em,a"], {"em,a": True, "em,b": True}, filters=("b", "a")) == "em,b"


@pytest.mark.slow
def test_a_column_has_one_metric_by_name(tmp_path: Path) -> None:
    imported(tmp_path, results_file(tmp_path / "a.json", {"t": {"acc,none": 0.35, "loose_acc,none": 0.6}}), "A")
    imported(tmp_path, results_file(tmp_path / "b.json", {"t": {"loose_acc,none": 0.5, "acc,none": 0.25}}), "B")

    assert ranked(tmp_path) == [(1, "A"), (2, "B")]


@pytest.mark.slow
def test_every_metric_and_member_of_a_group_is_compared_and_gated(tmp_path: Path) -> None:
    for model, value in (("old", 0.5), ("new", 0.2)):
        scores: Scores = {
            "grp": {"acc,none": 0.6, "acc_stderr,none": 0.01, "f1,none": value, "f1_stderr,none": 0.01},
            "grp_a": {"acc,none": value, "acc_stderr,none": 0.01},
        }
        imported(tmp_path, results_file(tmp_path / f"{model}.json", scores, group_subtasks={"grp": ["grp_a"]}), model)
    (tmp_path / "f1.yaml").write_text('checks: [{suite: "lm_eval:grp", metric: f1, margin: 0.1}]')
    (tmp_path / "part.yaml").write_text('checks: [{suite: "lm_eval:grp", category: grp_a, margin: 0.1}]')

    gate = ("gate", "--candidate", "new", "--baseline", "old", "--policy")

    assert call(tmp_path, *gate, "f1.yaml").code == 1
    assert call(tmp_path, *gate, "part.yaml").code == 1


# --------------------------------------------------------------------------------------------------- what has no score


def test_a_group_without_a_score_gives_way_to_its_members(tmp_path: Path) -> None:
    scores: Scores = {"grp": {" ": " "}, "one": {"acc,none": 0.4}, "two": {"acc,none": 0.6}, "rest": {"acc,none": 0.7}}
    path = results_file(tmp_path / "r.json", scores, group_subtasks={"grp": ["one", "two"], "rest": []})

    cards = imported(tmp_path, path, "m")

    assert list(cards) == ["lm_eval:one m", "lm_eval:two m", "lm_eval:rest m"]
    assert "part of grp, which has no score of its own in this file" in cards["lm_eval:one m"]["notes"]


@pytest.mark.slow
def test_answers_that_were_only_predicted_have_no_score(tmp_path: Path) -> None:
    alone = results_file(tmp_path / "alone.json", {"sums": {"bypass,none": 999, "bypass_stderr,none": "N/A"}})
    mixed = results_file(tmp_path / "mixed.json", {"sums": {"bypass,none": 999}, "t": {"acc,none": 0.5}})

    done = call(tmp_path, "import", str(alone), "--format", "lm_eval", "--model", "m")

    assert done.code == 2
    assert "sums ran with --predict_only" in done.err
    assert not (tmp_path / "results").exists()
    card = imported(tmp_path, mixed, "m")["lm_eval:t m"]
    assert any("sums ran with --predict_only" in note for note in card["notes"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "metric"),
    [
        ({"ppl": 4.1, "ppl_stderr": 0.05, "acc": 0.7, "acc_stderr": 0.006}, "acc"),  # lm-eval 0.3
        ({"perplexity,none": 4.1, "acc,none": 0.7, "acc_stderr,none": 0.006}, "acc,none"),  # 0.4.0
    ],
)
def test_old_files_keep_their_errors_and_are_not_ranked(tmp_path: Path, row: dict[str, object], metric: str) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"results": {"words": row}, "versions": {"words": 0}, "config": {"model": "gpt2"}}))

    card = imported(tmp_path, path, "m")["lm_eval:words m"]

    score = card["scores"][metric]
    assert (card["headline"], score["value"], score["se"], score["n"]) == (metric, 0.7, 0.006, 0)
    assert list(card["higher_is_better"].values()) == [False]
    assert not card["complete"]
    assert ranked(tmp_path) == [(None, "m")]


# ------------------------------------------------------------------------------------------------------- whose results


def two_models(folder: Path) -> Path:
    for name, value in (("org/small", 0.3), ("org/large", 0.8)):
        path = folder / "out" / name.replace("/", "__") / "results_2026-01-01T00-00-00.000000.json"
        results_file(path, {"sums": {"acc,none": value}}, model_name=name)
    return folder / "out"


@pytest.mark.slow
def test_two_models_never_become_one(tmp_path: Path) -> None:
    folder = two_models(tmp_path)

    done = call(tmp_path, "import", str(folder), "--format", "lm_eval", "--model", "mine")

    assert done.code == 2
    assert "2 models, none named 'mine': org/large, org/small" in done.err
    assert not (tmp_path / "results").exists()
    assert list(imported(tmp_path, folder, "org/large")) == ["lm_eval:sums org/large"]
    assert sorted(imported(tmp_path, folder)) == ["lm_eval:sums org/large", "lm_eval:sums org/small"]


def test_of_several_results_the_newest_by_its_date_counts(tmp_path: Path) -> None:
    for name, date, value in (("results_2026-01-01T00-00-00", 200.0, 0.8), ("results_2026-01-09T00-00-00", 100.0, 0.3)):
        results_file(tmp_path / "out" / f"{name}.json", {"sums": {"acc,none": value}}, model_name="m", date=date)

    card = imported(tmp_path, tmp_path / "out")["lm_eval:sums m"]

    assert card["scores"]["acc,none"]["value"] == 0.8
    assert any(note.startswith("the newest of 2 results") for note in card["notes"])


def test_results_without_a_model_need_a_name(tmp_path: Path) -> None:
    path = results_file(tmp_path / "r.json", {"sums": {"acc,none": 0.5}})

    done = call(tmp_path, "import", str(path), "--format", "lm_eval")

    assert done.code == 2
    assert "pass --model NAME" in done.err


# ------------------------------------------------------------------------------------------------------- samples files


def logged_run(folder: Path, model: str, right: Sequence[int], *, hashes: bool = True, counted: bool = True) -> None:
    """Write what --log_samples writes of one task `sums`, and import it: a mean of 0s and 1s, and a corpus score."""
    stamp, n = "2026-01-01T00-00-00.000000", len(right)
    mean = sum(right) / n
    error = (mean * (1 - mean) / (n - 1)) ** 0.5
    samples = {"sums": {"original": n, "effective": n}} if counted else {}
    scores = {"sums": {"acc,none": mean, "acc_stderr,none": error, "bleu,none": 31.0, "bleu_stderr,none": 1.0}}
    results_file(folder / model / f"results_{stamp}.json", scores, **{"n-samples": samples})
    rows = [
        {"doc_id": at, "filter": "none", "metrics": ["acc", "bleu"], "acc": value, "bleu": ["gold", "text"]}
        | ({"doc_hash": f"hash-{at // 2}"} if hashes else {})  # every document twice, as some data sets have them
        for at, value in enumerate(right)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / model / f"samples_sums_{stamp}.jsonl").write_text(lines)
    imported(folder, folder / model, model)


def differences(folder: Path, *models: str) -> dict[str, Any]:
    done = call(folder, "compare", *models, "--json")
    assert done.code == 0, done.err
    (comparison,) = json.loads(done.out)["comparisons"]
    return {row["metric"]: row for row in comparison["differences"]} | {"all": comparison}


@pytest.mark.slow
def test_samples_pair_the_questions_of_two_runs(tmp_path: Path) -> None:
    """40 questions, 20 right; the other gets 4 more right: 0.1. With one lost and one won besides: 6 of 42, 4 net."""
    logged_run(tmp_path, "a", [1] * 20 + [0] * 20)
    logged_run(tmp_path, "b", [1] * 24 + [0] * 16)

    rows = differences(tmp_path, "a", "b")

    acc = rows["acc,none"]
    assert (acc["method"], acc["n"]) == ("paired", 40)
    assert acc["value"] == pytest.approx(0.1)
    assert acc["se"] == pytest.approx(((6 / 42 - (4 / 42) ** 2) / 42) ** 0.5)
    assert rows["bleu,none"]["method"] == "unpaired"  # not a mean over questions
    assert [flip["kind"] for flip in rows["all"]["flips"]] == ["gained"] * 4
    assert "unpaired" not in call(tmp_path, "leaderboard", "--format", "md").out.split("| rank")[1]
    (tmp_path / "gate.yaml").write_text('checks: [{suite: "lm_eval:sums", margin: 0.01}]')
    gate = call(tmp_path, "gate", "--candidate", "b", "--baseline", "a", "--policy", "gate.yaml", "--json")
    assert gate.code == 0
    assert json.loads(gate.out)["checks"][0]["difference"]["method"] == "paired"


def test_few_right_and_wrong_answers_are_not_taken_as_certain(tmp_path: Path) -> None:
    """Two models with the same 40 answers: as if one were lost and one won besides, se sqrt(2 / 42) / sqrt(42)."""
    logged_run(tmp_path, "a", [1] * 38 + [0] * 2)
    logged_run(tmp_path, "b", [1] * 38 + [0] * 2)

    acc = differences(tmp_path, "a", "b")["acc,none"]

    assert (acc["value"], acc["p"]) == (0.0, 1.0)
    assert acc["se"] == pytest.approx(2**0.5 / 42)
    (tmp_path / "gate.yaml").write_text('checks: [{suite: "lm_eval:sums", margin: 0.01}]')
    gate = call(tmp_path, "gate", "--candidate", "b", "--baseline", "a", "--policy", "gate.yaml")
    assert gate.code == 3


def test_right_and_wrong_answers_are_tested_exactly(tmp_path: Path) -> None:
    logged_run(tmp_path, "a", [1] * 20 + [0] * 20)
    logged_run(tmp_path, "b", [0] * 1 + [1] * 26 + [0] * 13)

    # 7 won, 1 lost: 2 (C(8,0) + C(8,1)) / 2^8
    assert differences(tmp_path, "a", "b")["acc,none"]["p"] == pytest.approx(18 / 256)


@pytest.mark.slow
def test_runs_without_common_samples_are_unpaired_and_say_what_to_do(tmp_path: Path) -> None:
    logged_run(tmp_path, "a", [1] * 20 + [0] * 20)
    logged_run(tmp_path, "b", [1] * 24 + [0] * 16, hashes=False)  # other names for the questions
    imported(tmp_path, next((tmp_path / "b").glob("results_*")), "c")

    other_names, none = differences(tmp_path, "a", "b"), differences(tmp_path, "a", "c")

    assert (other_names["acc,none"]["method"], none["acc,none"]["method"]) == ("unpaired", "unpaired")
    assert any("share too few questions" in note for note in other_names["all"]["notes"])
    assert any("of c, so nothing is paired" in note and "--log_samples" in note for note in none["all"]["notes"])


@pytest.mark.slow
def test_samples_count_the_questions_of_old_results(tmp_path: Path) -> None:
    logged_run(tmp_path, "a", [1] * 30 + [0] * 10, counted=False)

    assert ranked(tmp_path) == [(1, "a")]
