"""Ask MT-Bench's 80 two-turn questions; a judge rates each turn 1 to 10.

Two answers are compared with FastChat's pairwise prompts, side by side and in both orders, per turn: `pairs.py` and
head to head use them. Source of every rule: FastChat llm_judge at the pinned revision (common.py, gen_model_answer.py,
gen_judgment.py, show_result.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from pydantic import JsonValue

from ...records import Answer, JudgeTask, JudgeTemplate, Judgment, Order, Prompt, Sampling, Score, SuiteScores
from ...records.errors import ConfigError, DataError
from ...records.protocols import SuiteData, SuiteOptions
from ...store.official import pinned_files, sha256_of
from ..files import load_edition, official_files, pinned, read_json_lines, template_shas
from ..scoring import RATINGS, Slot, Unit, Verdicts, categories, draws, mean_score, score_notes, verdicts_by_slot
from .facts import MT_BENCH, REFERENCE_SETS

REFERENCED = frozenset({"math", "reasoning", "coding"})  # common.py NEED_REF_CATS; the judge sees a reference answer
JUDGE_MAX_TOKENS = 2048  # common.py run_judge_single
TEMPLATES = ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn")
PAIR_TEMPLATES = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
ORDERS: tuple[Order, ...] = get_args(Order)
TEMPERATURES = {  # common.py temperature_config
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
OTHER_TEMPERATURE = 0.7  # gen_model_answer.py: unknown category
MAX_TOKENS = 1024  # gen_model_answer.py --max-new-token


def build(options: SuiteOptions) -> MtBench:
    """Build the suite (`fusion_harness.suites` entry point).

    Raise DataError without data, ConfigError for an unknown edition or reference set."""
    if options.edition == "pocket" and options.references != "official":
        raise ConfigError(f"--references {options.references!r} is for the official edition; pocket has one set")
    pairs = (lambda: pair_templates(options)) if options.edition == "official" else None
    return MtBench(load_edition("mt_bench", options, load_official), references=options.references, pairs=pairs)


class MtBench:
    """The suite over any suitable data: prompts of one or two turns, the four single-answer templates."""

    name = MT_BENCH.name
    headline = MT_BENCH.headline

    def __init__(
        self,
        data: SuiteData,
        *,
        references: str = "official",
        intervals: bool = True,
        pairs: Callable[[], dict[str, JudgeTemplate]] | None = None,
    ) -> None:
        """`pairs` returns the templates that compare two answers. It is called on first use."""
        self._pairs = pairs
        self._pair_templates: dict[str, JudgeTemplate] = {}
        self.version = data.version
        self._data = data
        self._references = references if references in REFERENCE_SETS else "file"
        self._intervals = intervals

    @property
    def official_judges(self) -> tuple[str, ...]:
        """Return the judges of the published results; the corrected references belong to another judge."""
        return ("gpt-4-0125-preview",) if self._references == "pr3158" else MT_BENCH.official_judges

    def protocol(self) -> dict[str, JsonValue]:
        return {
            "data": dict(self._data.files),
            "references": self._references,
            "templates": template_shas(self._data.templates),
            "answer_settings": {"max_tokens": MAX_TOKENS, "temperature": dict(TEMPERATURES)},
        }

    def prompts(self) -> Sequence[Prompt]:
        return self._data.prompts

    def sampling(self, prompt: Prompt) -> Sampling:
        """Return the temperature by category; top_p and the rest are the checkpoint's own, as in the reference."""
        return Sampling(temperature=TEMPERATURES.get(prompt.category, OTHER_TEMPERATURE), max_tokens=MAX_TOKENS)

    def tasks(self, prompt: Prompt, answer: Answer) -> Sequence[JudgeTask]:
        """Return one rating task per turn."""
        if answer.error is not None:
            return ()
        return [
            JudgeTask(
                prompt=prompt,
                answer=answer,
                turn=turn,
                template=self._template(prompt, turn),
                fields=_fields(prompt, answer, turn),
            )
            for turn in range(1, min(len(answer.turns), len(prompt.turns)) + 1)
        ]

    def games(self, prompt: Prompt, answer: Answer, opponent: Answer) -> Sequence[JudgeTask]:
        """Return each turn of any two answers, in both orders. Raise ConfigError if the edition has no such prompts."""
        if self._pairs is None:
            raise ConfigError(f"mt_bench ({self.version}) has no prompts for comparing two answers")
        self._pair_templates = self._pair_templates or self._pairs()
        turns = range(1, 1 + min(len(prompt.turns), len(answer.turns), len(opponent.turns)))
        return [task for turn in turns for task in pair_tasks(prompt, answer, opponent, turn, self._pair_templates)]

    def _template(self, prompt: Prompt, turn: int) -> JudgeTemplate:
        return self._data.templates[single_template_name(prompt, turn)]

    def score(self, prompts: Sequence[Prompt], answers: Sequence[Answer], judgments: Sequence[Judgment]) -> SuiteScores:
        """Return all metrics; `mt_bench` is the mean of all scored turns, not of the two turn means (show_result.py).

        `legacy_mean` counts a judgment without a verdict as -1, like the leaderboard of June 2023 (before FastChat PR
        2074),
        for comparison with its numbers.
        """
        verdicts = verdicts_by_slot(judgments, answers)
        times = draws(answers)
        scores = self._scores(prompts, verdicts, times)
        scores["legacy_mean"] = self._legacy_mean(prompts, verdicts, judgments, times)
        by_id = {prompt.id: prompt for prompt in prompts}
        by_category = {
            category: self._scores([by_id[prompt_id] for prompt_id in ids], verdicts, times)
            for category, ids in categories(prompts).items()
        }
        return SuiteScores(
            scores=scores,
            by_category=by_category,
            notes=score_notes(scores["mt_bench"], "turns", intervals=self._intervals),
        )

    def _scores(self, prompts: Sequence[Prompt], verdicts: Verdicts, times: int) -> dict[str, Score]:
        slots = _slots(prompts, times)
        slots_by_metric = {
            "mt_bench": slots,
            "turn_1": [slot for slot in slots if slot.turn == 1],
            "turn_2": [slot for slot in slots if slot.turn == 2],
        }
        return {
            name: mean_score(
                _units(metric_slots, verdicts), len(metric_slots), bounds=RATINGS, intervals=self._intervals
            )
            for name, metric_slots in slots_by_metric.items()
        }

    def _legacy_mean(
        self, prompts: Sequence[Prompt], verdicts: Verdicts, judgments: Sequence[Judgment], times: int
    ) -> Score:
        slots = _slots(prompts, times)
        without = [slot for slot in slots if slot not in verdicts]
        judged = {Slot(row.prompt_id, row.index, row.turn) for row in judgments} if without else set()
        failed = [Unit(slot.prompt_id, -1.0) for slot in without if slot in judged]
        scored = _units(slots, verdicts)
        # the reference's -1 stands beside ratings; alone it would be a score made of failures only
        units = [*scored, *failed] if scored else []
        return mean_score(units, len(slots), bounds=(-1.0, RATINGS[1]), intervals=self._intervals)


def _slots(prompts: Sequence[Prompt], times: int) -> list[Slot]:
    return [
        Slot(prompt.id, index, turn)
        for prompt in prompts
        for index in range(times)
        for turn in range(1, len(prompt.turns) + 1)
    ]


def _units(slots: Sequence[Slot], verdicts: Verdicts) -> list[Unit]:
    units = []
    for slot in slots:
        ratings = [verdict.value for verdict in verdicts.get(slot, ())]
        if ratings:
            units.append(Unit(slot.prompt_id, sum(ratings) / len(ratings)))
    return units


def _fields(prompt: Prompt, answer: Answer, turn: int) -> dict[str, str]:
    if turn == 1:
        fields = {"question": prompt.turns[0], "answer": answer.turns[0]}
    else:
        fields = {
            "question_1": prompt.turns[0],
            "question_2": prompt.turns[1],
            "answer_1": answer.turns[0],
            "answer_2": answer.turns[1],
        }
    if prompt.category in REFERENCED:
        fields |= {f"ref_answer_{number}": text for number, text in enumerate(prompt.reference[:turn], start=1)}
    return fields


# ----------------------------------------------------------------------------------------------------- pairwise prompts


def pair_templates(options: SuiteOptions) -> dict[str, JudgeTemplate]:
    """Return the four pairwise prompts of the pinned file by name. Raise DataError if it is unavailable."""
    path = official_files(options, ["mt_bench/judge_prompts"])["mt_bench/judge_prompts"]
    return read_templates(path, PAIR_TEMPLATES, "pair_letter")


def single_template_name(prompt: Prompt, turn: int) -> str:
    """Return the name of the prompt that rates a turn of this question."""
    kind = "single-math-v1" if prompt.category in REFERENCED else "single-v1"
    return kind if turn == 1 else f"{kind}-multi-turn"


def pair_template_name(prompt: Prompt, turn: int) -> str:
    """Return the name of the prompt for a turn of this question."""
    kind = "pair-math-v1" if prompt.category in REFERENCED else "pair-v2"
    return kind if turn == 1 else f"{kind}-multi-turn"


def pair_tasks(
    prompt: Prompt, answer: Answer, baseline: Answer, turn: int, templates: dict[str, JudgeTemplate]
) -> list[JudgeTask]:
    """Return both games of one turn; a second turn is shown together with the first."""
    template = templates[pair_template_name(prompt, turn)]
    return [
        JudgeTask(
            prompt=prompt,
            answer=answer,
            baseline=baseline,
            turn=turn,
            order=order,
            template=template,
            fields=_game_fields(prompt, *((baseline, answer) if order == "ab" else (answer, baseline)), turn),
        )
        for order in ORDERS
    ]


def _game_fields(prompt: Prompt, first: Answer, second: Answer, turn: int) -> dict[str, str]:
    if turn == 1:
        fields = {"question": prompt.turns[0], "answer_a": first.turns[0], "answer_b": second.turns[0]}
    else:
        fields = {f"question_{number}": text for number, text in enumerate(prompt.turns, start=1)}
        for letter, answer in (("a", first), ("b", second)):
            fields |= {f"answer_{letter}_{number}": text for number, text in enumerate(answer.turns, start=1)}
    if prompt.category in REFERENCED:
        fields |= {f"ref_answer_{number}": text for number, text in enumerate(prompt.reference[:turn], start=1)}
    return fields


# -------------------------------------------------------------------------------------------------------- official data


def load_official(options: SuiteOptions) -> SuiteData:
    """Load the pinned questions and judge prompts, and the requested reference answers."""
    names = ["mt_bench/questions", "mt_bench/judge_prompts"]
    paths = official_files(options, names)
    files = pinned(names)
    reference_file = _reference_file(options)
    if options.references in REFERENCE_SETS:
        files |= pinned([f"mt_bench/references/{options.references}"])
    else:
        files["mt_bench/references/file"] = sha256_of(reference_file)
    references = _read_references(reference_file)
    prompts = tuple(
        Prompt(
            id=str(row["question_id"]),
            turns=tuple(row["turns"]),
            category=row["category"],
            # The file's own `reference` field is never shown to the judge (spec 1.1).
            reference=_reference_of(row["question_id"], row["category"], references, reference_file),
        )
        for row in read_json_lines(paths["mt_bench/questions"])
    )
    templates = read_templates(paths["mt_bench/judge_prompts"], TEMPLATES, "rating")
    return SuiteData(version="official-1", prompts=prompts, templates=templates, files=files)


def _reference_file(options: SuiteOptions) -> Path:
    name = f"mt_bench/references/{options.references}"
    if name in pinned_files():
        return official_files(options, [name])[name]
    path = Path(options.references)
    if path.is_file():
        return path
    raise ConfigError(f"no reference set or file {options.references!r}; reference sets: {', '.join(REFERENCE_SETS)}")


def _read_references(path: Path) -> dict[int, tuple[str, ...]]:
    """Return question id -> reference answers, one per turn, from a file in FastChat's answer format."""
    try:
        return {row["question_id"]: tuple(row["choices"][0]["turns"]) for row in read_json_lines(path)}
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(f"{path} is not in FastChat's answer format: {error!r}") from None


def _reference_of(question: int, category: str, references: dict[int, tuple[str, ...]], path: Path) -> tuple[str, ...]:
    if category not in REFERENCED:
        return ()
    if len(references.get(question, ())) < 2:
        raise DataError(f"{path} has no reference answer of two turns for question {question} ({category})")
    return references[question]


def read_templates(path: Path, names: Sequence[str], parser: str) -> dict[str, JudgeTemplate]:
    """Return the named judge prompts of the pinned file, with the reference's request parameters."""
    rows = {row["name"]: row for row in read_json_lines(path)}
    return {
        name: JudgeTemplate(
            name=name,
            system=rows[name]["system_prompt"],
            user=rows[name]["prompt_template"],
            parser=parser,
            temperature=0.0,
            max_tokens=JUDGE_MAX_TOKENS,
            extra={"n": 1},  # common.py chat_completion_openai
        )
        for name in names
    }
