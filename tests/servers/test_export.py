"""The original tools read an exported run and print the card's numbers; failures are marked their way."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.records import Answer, Failure, Judgment, Preference, ScoreCard
from harness.stats.length_control import control_length
from harness.suites import pocket
from harness.suites.alpaca_eval.scores import JudgedAnswers, length_rows
from harness.suites.arena_hard.files import export_v2
from harness.suites.arena_hard.suite import ArenaHard
from harness.suites.exchange import FinishedRun
from tests.fakes.commands import Done, run_command
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, chat_reply, judge_reply, serving

NAME = 'a"b <c>/=d'
"""A model's name with what breaks CSV, HTML and file names."""
SLUG = "a_b_c_d"


def answers(request: Request) -> Reply:
    """Longer and shorter ones, now and then empty or with what looks like a slot; every 40th is refused."""
    number = int(hashlib.sha256(request.last.encode()).hexdigest(), 16)
    if number % 40 == 0:
        return Reply(status=400, text="refused")
    return Reply(text=f"{{answer_1}} {chr(0x2028)} \\ud800 {'word ' * (number % 60)}" + str(chat_reply(request).text))


def verdicts(request: Request) -> Reply:
    """About every 25th question gets no verdict, asked again or not."""
    asked = next(message["content"] for message in request.messages if message["role"] == "user")
    number = int(hashlib.sha256(asked.encode()).hexdigest(), 16)
    if number % 25 == 0:
        return Reply(text="I cannot say.", tops=(("x", -0.1),) if request.body.get("logprobs") else ())
    return judge_reply(request)


class Exported:
    """A pocket run of all suites, and its three exports."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with serving(FakeOpenAI(reply=answers, model=NAME)) as model, serving(FakeOpenAI(reply=verdicts)) as judge:
            done = self.call(
                *("run", "--model", f"endpoint:{NAME}@{model.url}", "--judge", f"endpoint:j/1@{judge.url}"),
                *("--suite", "all", "--edition", "pocket", "--json"),
            )
        assert done.out.startswith("{"), done.err
        self.cards: dict[str, Any] = {card["suite"]: card for card in json.loads(done.out)["cards"]}
        for name in ("fastchat", "alpaca_eval", "arena_hard"):
            done = self.call("export", NAME, "--format", name, "--out", name)
            assert done.code == 0, done.err

    def call(self, *words: str) -> Done:
        return run_command(*words, cwd=self.folder)

    def lines(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def score(self, suite: str, metric: str) -> Any:
        return self.cards[suite]["scores"][metric]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("exported"))


def printed(text: str) -> Iterator[tuple[str, float]]:
    """(section, number) of show_result's output."""
    section = ""
    for line in text.splitlines():
        if line.startswith("##########"):
            section = line.strip("# ")
        if found := re.search(r" (\d+\.\d+)$", line):
            yield section, float(found[1])


def test_fschats_show_result_prints_the_cards_means(exported: Exported) -> None:
    file = exported.folder / "fastchat/model_judgment/j_1_single.jsonl"
    command = [sys.executable, "-m", "fastchat.llm_judge.show_result", "--input-file", str(file)]

    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)

    found = dict(printed(done.stdout))
    expected = {
        "First turn": exported.score("mt_bench", "turn_1")["value"],
        "Second turn": exported.score("mt_bench", "turn_2")["value"],
        "Average": exported.score("mt_bench", "mt_bench")["value"],
    }
    assert found == pytest.approx(expected, abs=5e-7)


def test_fastchat_rows_mark_failures_as_fastchat_does(exported: Exported) -> None:
    rows = exported.lines("fastchat/model_judgment/j_1_single.jsonl")
    answered = exported.lines(f"fastchat/model_answer/{SLUG}.jsonl")

    card = exported.cards["mt_bench"]
    failed = [row for row in rows if row["score"] == -1]
    assert len(failed) == sum(card["counts"]["unjudged"].values()) > 0
    assert {row["judgment"] for row in failed} == {"I cannot say."}
    broken = [row for row in answered if row["choices"][0]["turns"] == ["$ERROR$", "$ERROR$"]]
    assert len(broken) == sum(card["counts"]["unanswered"].values()) > 0
    assert not {row["question_id"] for row in broken} & {row["question_id"] for row in rows}
    assert {row["model"] for row in rows} == {NAME} == {row["model_id"] for row in answered}
    assert {row["judge"][1] for row in rows if row["turn"] == 2} <= {
        "single-v1-multi-turn",
        "single-math-v1-multi-turn",
    }
    assert all(row["user_prompt"] for row in rows)


METRICS = """
import json, sys, warnings
warnings.filterwarnings("ignore")
from alpaca_eval.metrics import get_length_controlled_winrate
found = get_length_controlled_winrate(json.load(open(sys.argv[1])), save_weights_dir=None)
print(json.dumps({name: float(value) for name, value in found.items()}))
"""


def gamed_csv(home: Path) -> None:
    """The pocket edition's gamed rows where alpaca_eval looks for its own, as a Hub cache has them."""
    data = pocket.load("alpaca_eval")
    root = home / "hub/datasets--tatsu-lab--alpaca_eval"
    folder = root / "snapshots" / ("0" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs/main").write_text("0" * 40)
    half = len(data.prompts)
    with (folder / "df_gamed.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["preference", "index", "std_delta_len", "instruction_difficulty", "not_gamed_baseline", "model"]
        )
        for place, (preference, length, difficulty) in enumerate(data.gamed):
            writer.writerow([preference, place % half, length, difficulty, False, f"gamed{place // half}"])


@pytest.fixture(scope="module")
def alpaca(exported: Exported) -> dict[str, float]:
    """What the installed alpaca_eval says of the export."""
    pytest.importorskip("pandas")
    home = exported.folder / "hf"
    gamed_csv(home)
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_CACHE": str(home / "hub"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", METRICS, str(exported.folder / "alpaca_eval/annotations.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.slow
def test_alpaca_evals_metrics_are_the_cards(exported: Exported, alpaca: dict[str, float]) -> None:
    for theirs in ("win_rate", "standard_error", "discrete_win_rate", "n_wins", "n_wins_base", "n_draws"):
        assert alpaca[theirs] == pytest.approx(exported.score("alpaca_eval", theirs)["value"], abs=1e-9), theirs
    assert alpaca["n_total"] == exported.score("alpaca_eval", "win_rate")["n"] < 120


@pytest.mark.slow
def test_alpaca_evals_length_controlled_rate_is_ours_in_the_fold_order_of_its_scikit_learn(
    exported: Exported, alpaca: dict[str, float]
) -> None:
    data = pocket.load("alpaca_eval")
    rows = json.loads((exported.folder / "alpaca_eval/annotations.json").read_text())
    prompts = {prompt.turns[0]: prompt.id for prompt in data.prompts}
    judged = JudgedAnswers(
        lengths={prompts[row["instruction"]]: [len(row["output_2"])] for row in rows},
        baseline_lengths={prompts[row["instruction"]]: len(row["output_1"]) for row in rows},
        preferences={
            prompts[row["instruction"]]: [row["preference"] - 1] for row in rows if row["preference"] is not None
        },
    )
    found = length_rows(data, data.prompts, judged)
    assert found is not None

    rates = [control_length(found, data.gamed, order=order) for order in ("stable", "published")]

    # scikit-learn before 1.9 sorts ties as the published board has it, on most machines; from 1.9 on stably
    near = [fit for fit in rates if fit is not None and abs(fit.win_rate - alpaca["length_controlled_winrate"]) < 1e-6]
    assert near
    assert near[0].reference_se == pytest.approx(alpaca["lc_standard_error"], abs=1e-6)
    card = exported.score("alpaca_eval", "lc_win_rate")["value"]
    assert rates[1] is not None
    assert card == pytest.approx(rates[1].win_rate, abs=1e-9)


def test_alpaca_eval_files_hold_null_for_a_failure_and_a_leaderboard_row(exported: Exported) -> None:
    rows = json.loads((exported.folder / "alpaca_eval/annotations.json").read_text())
    outputs = json.loads((exported.folder / "alpaca_eval/model_outputs.json").read_text())
    counts = exported.cards["alpaca_eval"]["counts"]

    assert sum(row["preference"] is None for row in rows) == sum(counts["unjudged"].values()) > 0
    assert len(rows) == len(outputs) == counts["answers"] < 120
    assert np.mean([len(row["output"]) for row in outputs]) // 1 == exported.score("alpaca_eval", "avg_length")["value"]
    with (exported.folder / "alpaca_eval/leaderboard.csv").open(newline="") as file:
        (line,) = csv.DictReader(file)
    assert line[""] == NAME
    assert float(line["length_controlled_winrate"]) == exported.score("alpaca_eval", "lc_win_rate")["value"]
    assert float(line["lc_standard_error"]) == exported.score("alpaca_eval", "lc_win_rate_reference")["se"]
    assert (line["n_total"], line["mode"]) == (str(exported.score("alpaca_eval", "win_rate")["n"]), "community")


def arena_battles(rows: list[dict[str, Any]]) -> list[float]:
    """Wins of the model, a battle each, as arena-hard-auto's get_battles_from_judgment counts them (WEIGHT 3)."""
    found: list[float] = []
    for row in rows:
        for game, model in zip(row["games"], "BA", strict=True):
            score = game["score"]
            if score == "A=B":
                found.append(0.5)
            elif score in ("A>B", "A>>B", "B>A", "B>>A"):
                found += [float(score[0] == model)] * (3 if ">>" in score else 1)
    return found


def test_arena_hards_score_of_the_export_is_the_cards(exported: Exported) -> None:
    rows = exported.lines(f"arena_hard/model_judgment/j_1/{SLUG}.jsonl")

    wins = arena_battles(rows)

    assert 100 * sum(wins) / len(wins) == pytest.approx(exported.score("arena_hard", "arena_hard")["value"], abs=1e-9)
    counts = exported.cards["arena_hard"]["counts"]
    games = [game for row in rows for game in row["games"]]
    assert sum(game["score"] is None for game in games) == sum(counts["unjudged"].values()) > 0
    answered = exported.lines(f"arena_hard/model_answer/{SLUG}.jsonl")
    broken = [row for row in answered if row["choices"][0]["turns"][0]["content"] == "$ERROR$"]
    assert len(answered) == len(rows) + len(broken) == 60


def test_arena_hards_bradley_terry_fit_of_the_export_is_the_cards(exported: Exported) -> None:
    model = pytest.importorskip("sklearn.linear_model")
    wins = np.array(arena_battles(exported.lines(f"arena_hard/model_judgment/j_1/{SLUG}.jsonl")))
    # compute_mle_elo: battles twice; a tie is the baseline's win in the first copy and the model's in the second
    won = np.concatenate([wins == 0.0, wins == 0.0]).astype(float)
    won[: len(wins)][wins == 0.5] = 1.0
    design = np.log(10) * np.tile([1.0, -1.0], (len(won), 1))

    fit = model.LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-8).fit(design, won)

    elo = 400 * fit.coef_[0]
    rate = 100 / (1 + 10 ** ((elo[0] - elo[1]) / 400))
    assert rate == pytest.approx(exported.score("arena_hard", "arena_hard")["value"], abs=0.005)


def test_arena_hard_v2_rows_have_their_own_keys_and_null_for_a_failed_call() -> None:
    data = pocket.load("arena_hard")
    suite = ArenaHard(data)
    prompt = data.prompts[0]
    answer = Answer(prompt_id=prompt.id, model="m", turns=("mine",), finish=("stop",), completion_tokens=(5,))
    common: dict[str, Any] = {
        "prompt_id": prompt.id,
        "model": "m",
        "judge": "j",
        "template_sha": "",
        "answer_sha": answer.sha,
    }
    won = Preference(value=1.0, strength=2)
    judgments = (
        Judgment(**common, order="ab", verdict=won, reply="[[B>>A]]"),
        Judgment(**common, order="ba", error=Failure(reason="timeout", message="no reply")),
    )
    score = suite.score(data.prompts, [answer], judgments)
    card = ScoreCard.model_validate(
        {
            **{"suite": "arena_hard_v2", "suite_version": "official-1", "model": "m", "judge": "j"},
            **{"headline": "arena_hard", "complete": False, "protocol": {}, "sampling": {}, "provenance": {}},
            "scores": score.scores,
        }
    )

    files = export_v2(FinishedRun(card, suite, (answer,), judgments))

    row = json.loads(files["model_judgment/j/m.jsonl"])
    assert (row["uid"], row["category"], row["model"]) == (prompt.id, prompt.category, "m")
    assert row["baseline"] == data.baseline_name
    assert row["games"][0]["score"] == "B>>A"
    assert row["games"][0]["judgment"] == {"answer": "[[B>>A]]"}
    assert row["games"][0]["prompt"][-1]["role"] == "user"
    assert row["games"][1] is None
    said = json.loads(files["model_answer/m.jsonl"])
    assert said["messages"][-1]["content"]["answer"] == "mine"
    assert said["metadata"]["token_len"] == 5


def test_exported_judgments_score_the_same_when_read_back(exported: Exported) -> None:
    for name, suite, metric in (
        ("fastchat/model_judgment/j_1_single.jsonl", "mt_bench", "mt_bench"),
        (f"arena_hard/model_judgment/j_1/{SLUG}.jsonl", "arena_hard", "arena_hard"),
    ):
        done = exported.call("score", name, "--format", name.split("/")[0], "--json")
        assert done.code == 0, done.err
        (card,) = json.loads(done.out)["cards"]
        assert card["model"] == NAME
        assert card["scores"][metric]["value"] == pytest.approx(exported.score(suite, metric)["value"], abs=1e-9)


def test_a_run_that_is_none_or_of_another_suite_is_one_sentence(exported: Exported) -> None:
    card = next((exported.folder / "results/runs").glob("*/mt_bench@*/*/card.json"))
    alone = exported.folder / "alone" / "card.json"
    alone.parent.mkdir()
    alone.write_bytes(card.read_bytes())
    for words, sentence in (
        ((str(alone), "--format", "fastchat"), "alone has only a card: without answers.jsonl or judgments.jsonl"),
        (("nobody", "--format", "fastchat"), "no run of mt_bench or mt_bench_pairs named 'nobody'"),
        (
            (str(card), "--format", "arena_hard"),
            "a run of 'mt_bench' has no arena_hard files; formats for it: fastchat",
        ),
        ((NAME, "--format", "opencompass"), "no format 'opencompass'; known: fastchat"),
    ):
        done = exported.call("export", *words, "--out", "none")
        assert done.code == 2
        assert sentence in done.err
        assert len(done.err.strip().splitlines()) == 1
    assert not (exported.folder / "none").exists()


def test_a_file_that_is_there_with_other_rows_is_not_overwritten(exported: Exported) -> None:
    words = ("export", NAME, "--format", "fastchat", "--out", "elsewhere")
    file = exported.folder / "elsewhere/model_judgment/j_1_single.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text('{"model": "another"}\n')

    refused = exported.call(*words)

    assert refused.code == 2
    assert "exists and differs; move it away, or give another --out" in refused.err
    assert [path for path in (exported.folder / "elsewhere").rglob("*") if path.is_file()] == [file]
    file.unlink()
    assert exported.call(*words).code == exported.call(*words).code == 0  # the same files again are no harm
