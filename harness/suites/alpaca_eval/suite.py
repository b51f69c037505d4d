"""Ask AlpacaEval 2's 805 instructions; each answer gets one weighted preference against the baseline's.

Source of every rule: alpaca_eval at the pinned revision. The judge's prompt is read from the installed alpaca-eval
package, which is located but never imported (importing it takes seconds and writes into site-packages).
"""

from __future__ import annotations

import csv
import json
import math
import random
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

from pydantic import JsonValue

from ...records import Answer, JudgeTask, JudgeTemplate, Judgment, Order, Prompt, Sampling, SuiteScores
from ...records.errors import DataError
from ...records.protocols import Refits, RunRows, SuiteData, SuiteOptions
from ...store.official import sha256_of
from ...store.provenance import install_command
from ..exchange import same_baseline
from ..files import load_edition, official_files, only_template, pinned, template_shas
from .facts import ALPACA_EVAL
from .scores import ScoreRules, paired_length_control, remembered_refits, score_preferences

MAX_TOKENS = 4096
TEMPERATURE = 0.7
TOP_P = 1.0
"""AlpacaEval prescribes no answer settings, so these are our choice. They apply if the checkpoint states none."""
TEMPLATE_FILE = "evaluators_configs/alpaca_eval_clf_gpt4_turbo/alpaca_eval_clf.txt"
TEMPLATE_SHA256 = "784227e6dc2832fc08c43d2c8ea3a308e7523780187a1aaad2f85e30bac85f62"
BASELINE = "gpt4_1106_preview"
NAMES = ("alpaca_eval/baseline", "alpaca_eval/gamed")
CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)


def build(options: SuiteOptions) -> AlpacaEval:
    """Build the suite (`fusion_harness.suites` entry point).

    Raise DataError without data or the alpaca-eval package, ConfigError for an unknown edition.
    """
    data = load_edition("alpaca_eval", options, load_official)
    return AlpacaEval(data, generation_config=options.generation_config)


class AlpacaEval:
    """The suite over any suitable data: one-turn prompts, a baseline's answers, one template with the reply m or M."""

    name = ALPACA_EVAL.name
    headline = ALPACA_EVAL.headline
    official_judges = ALPACA_EVAL.official_judges

    def __init__(
        self, data: SuiteData, *, generation_config: Mapping[str, JsonValue] | None = None, seed: int = 0
    ) -> None:
        self.version = data.version
        self._data = data
        self._template = only_template(data)
        self._sampling = _answer_settings(generation_config or {})
        self._seed = seed

    def protocol(self) -> dict[str, JsonValue]:
        """Return the protocol. Answer settings are named by rule, because their values belong to the checkpoint."""
        settings = f"max_tokens {MAX_TOKENS}; generation_config, else temperature {TEMPERATURE}, top_p {TOP_P}"
        return {
            "data": dict(self._data.files),
            "baseline": self._data.baseline_name,
            "templates": template_shas(self._data.templates),
            "answer_settings": settings,
            "fold_order": "published",
        }

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        return self._sampling

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return one preference task; none for a failed answer or without a baseline answer."""
        baseline = self._data.baseline.get(prompt.id)
        if answer.error is not None or baseline is None:
            return ()
        return [preference_task(prompt, answer, baseline, shown_order(prompt.turns[0]), self._template)]

    def games(self, prompt: Prompt, answer: Answer, opponent: Answer) -> Sequence[JudgeTask]:
        """Return the tasks for two answers of any models, shown in both orders."""
        return [preference_task(prompt, answer, opponent, order, self._template) for order in get_args(Order)]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        return score_preferences(self._data, prompts, answers, judgments, ScoreRules(seed=self._seed))

    def against(self, answers: Mapping[str, Answer]) -> AlpacaEval:
        """Return the suite with another baseline's answers; lengths are then controlled for against these."""
        if not answers or same_baseline(self._data.baseline, answers):
            return self
        suite = copy(self)
        name = next(iter(answers.values())).model
        suite._data = replace(self._data, baseline_name=name, baseline=dict(answers))
        return suite

    def paired_refits(self, prompts: Sequence[Prompt], first: RunRows, second: RunRows) -> Refits | None:
        """Return the refitted length-controlled win rates of two models for a comparison."""
        return paired_length_control(self._data, prompts, first, second, seed=self._seed, draw=remembered_refits)


def preference_task(
    prompt: Prompt, answer: Answer, baseline: Answer, order: Order, template: JudgeTemplate
) -> JudgeTask:
    """Return the judge task for an answer in the given order."""
    first, second = (baseline, answer) if order == "ab" else (answer, baseline)
    fields = {"instruction": prompt.turns[0], "output_1": first.turns[0], "output_2": second.turns[0]}
    return JudgeTask(prompt=prompt, answer=answer, baseline=baseline, order=order, template=template, fields=fields)


def shown_order(instruction: str, seed: int = 0) -> Order:
    """Return which answer is shown first; it depends on the instruction only, so it is the same for every model.

    Source: alpaca_eval processors.RandomSwitchTwoColumnsProcessor; switched means the candidate comes first.
    """
    switched = random.Random(f"is_switched_outputs{instruction}{seed}").choices([False, True], k=1)[0]
    return "ba" if switched else "ab"


def _answer_settings(generation_config: Mapping[str, JsonValue]) -> Sampling:
    """Return our settings, overridden by the checkpoint's generation_config; `do_sample: false` means greedy."""
    temperature, top_p = generation_config.get("temperature"), generation_config.get("top_p")
    if generation_config.get("do_sample") is False:
        return Sampling(temperature=0.0, max_tokens=MAX_TOKENS)
    # a checkpoint's file may contain anything; what cannot be a setting is as if it were not there
    usable = isinstance(temperature, int | float) and math.isfinite(temperature) and temperature >= 0
    return Sampling(
        temperature=float(str(temperature)) if usable else TEMPERATURE,
        top_p=float(top_p) if isinstance(top_p, int | float) and 0 < top_p <= 1 else TOP_P,
        max_tokens=MAX_TOKENS,
    )


# -------------------------------------------------------------------------------------------------------- official data


def load_official(options: SuiteOptions) -> SuiteData:
    """Load the baseline's file, which contains the instructions, the gamed rows, and the installed package's prompt."""
    template = _installed_template()
    paths = official_files(options, NAMES)
    rows = json.loads(paths["alpaca_eval/baseline"].read_text("utf-8"))
    prompts = tuple(
        Prompt(id=str(index), turns=(row["instruction"],), category=row["dataset"]) for index, row in enumerate(rows)
    )
    baseline = {
        str(index): Answer(prompt_id=str(index), model=BASELINE, turns=(row["output"],), finish=("stop",))
        for index, row in enumerate(rows)
    }
    difficulty, gamed = read_gamed(paths["alpaca_eval/gamed"])
    return SuiteData(
        version="official-1",
        prompts=prompts,
        templates={template.name: template},
        baseline_name=BASELINE,
        baseline=baseline,
        difficulty=difficulty,
        gamed=gamed,
        files=pinned(NAMES),
    )


def read_gamed(path: Path) -> tuple[dict[str, float], tuple[tuple[float, float, float], ...]]:
    """Return instruction difficulty by prompt id (the file's `index`), and the regularisation rows in file order."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    difficulty = {row["index"]: float(row["instruction_difficulty"]) for row in rows}
    gamed = tuple(
        (float(row["preference"]), float(row["std_delta_len"]), float(row["instruction_difficulty"])) for row in rows
    )
    return difficulty, gamed


def _installed_template() -> JudgeTemplate:
    spec = find_spec("alpaca_eval")
    folders = list(spec.submodule_search_locations or ()) if spec is not None else []
    path = Path(folders[0]) / TEMPLATE_FILE if folders else None
    if path is None or not path.is_file():
        raise DataError(
            "AlpacaEval's judge prompt comes from the alpaca-eval package, which is not installed: "
            + install_command("alpaca-eval")
        )
    if sha256_of(path) != TEMPLATE_SHA256:
        raise DataError(f"{path} is not the official AlpacaEval 2 prompt; install alpaca-eval 0.6.6")
    return read_chatml(path.read_text("utf-8"), name="alpaca_eval_clf_gpt4_turbo")


def read_chatml(text: str, *, name: str) -> JudgeTemplate:
    """Return a ChatML prompt of one system and one user message as a template, with stripped texts as in the reference.

    The reference fills the slots before it splits the messages, so an answer that contains `<|im_end|>` truncates the
    prompt. We split first, so such an answer stays text.
    """
    parts = {role: content.strip() for role, content in CHATML.findall(text)}
    if set(parts) != {"system", "user"}:
        raise DataError(f"judge prompt {name!r} has messages {sorted(parts)}, expected system and user")
    return JudgeTemplate(  # parameters: weighted_alpaca_eval_gpt4_turbo/configs.yaml; top_p: decoders/openai.py
        name=name,
        system=parts["system"],
        user=parts["user"],
        filling="replace",
        parser="letter_logprob",
        temperature=1.0,
        max_tokens=1,
        top_logprobs=5,
        extra={"top_p": 1.0},
        identical_is_draw=True,
    )
