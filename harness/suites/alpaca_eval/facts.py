"""State what the product knows about AlpacaEval 2, besides asking and scoring."""

from __future__ import annotations

from ...records.facts import DefaultCheck, Facts, FileFormat, Metric, OfficialFile, QuestionRule, RecordedJudgments

REPOSITORY = "tatsu-lab/alpaca_eval/cd543a149df89434d8a54582c0151c0b945c3d20"
HUB = "huggingface.co/datasets/tatsu-lab/alpaca_eval"
HUB_REVISION = "2edc6fad8be6b14ea7230aabfd08188da6b8b814"
FILES = "harness.suites.alpaca_eval.files"

ALPACA_EVAL = Facts(
    name="alpaca_eval",
    title="AlpacaEval 2",
    headline="lc_win_rate",
    metrics=(
        Metric("lc_win_rate", "percent", "length-controlled win rate", slope=1.0),
        Metric("lc_win_rate_reference", "percent", "the same with the reference's interval"),
        # as widely spread as the other over the models that are on Arena-Hard's board, too (`arena_hard/facts.py`)
        Metric("win_rate", "percent", "win rate", slope=1.0),
        Metric("discrete_win_rate", "percent", "win rate of preferences rounded to 0, 0.5, 1"),
        Metric("standard_error", "percent", "standard error of the win rate", higher_is_better=None),
        Metric("n_wins", "count", "wins"),
        Metric("n_wins_base", "count", "wins of the baseline", higher_is_better=False),
        Metric("n_draws", "count", "draws", higher_is_better=None),
        Metric("avg_length", "characters", "mean length of an answer", higher_is_better=None),
    ),
    columns=("win_rate", "avg_length"),
    rules=(QuestionRule("win_rate", 100.0, ordered=False),),  # the headline is fitted, not summed
    gate=(DefaultCheck(5.5), DefaultCheck(4.0, metric="win_rate", tier="supporting")),
    order=1,
    decontaminates=True,
    questions=805,
    judge_tokens=(1_127_748, 805),
    official_judges=("gpt-4-1106-preview",),
    recorded=(RecordedJudgments("alpaca_eval", "harness.suites.alpaca_eval.recorded:load"),),
    formats=(
        FileFormat(
            name="alpaca_eval",
            score=f"{FILES}:cards",
            score_flags={"fold_order": "the folds of the fit, published or stable"},
            read=f"{FILES}:read_rows",
            judged=f"{FILES}:judged_models",
            export=f"{FILES}:export",
            names=f"{FILES}:content_of",
            needs="instruction, output_1, output_2 and preference",
        ),
    ),
    files=(
        OfficialFile(
            name="alpaca_eval/baseline",
            suite="alpaca_eval",
            path=f"{REPOSITORY}/results/gpt4_1106_preview/model_outputs.json",
            sha256="83db546b872ddebee8965fd05fa48461ee3c32bc695c62fb57f2d214ff741ec4",
            size=1_899_765,
            licence="CC-BY-NC-4.0",
        ),
        OfficialFile(
            name="alpaca_eval/gamed",
            suite="alpaca_eval",
            path=f"{HUB}/main/df_gamed.csv",
            sha256="97aeec3f1c7de6dee6fd31fe66f1702623f4614c3efe1c6fc5f4927cd5fd674d",
            size=148_956,
            licence="CC-BY-NC-4.0",
            source=f"https://{HUB}/resolve/{HUB_REVISION}/df_gamed.csv",
        ),
    ),
)
