"""MT-Bench's pairwise prompts: two answers side by side, in both orders, per turn. Scored by mt_bench_pairs.

Source: FastChat llm_judge at the pinned revision (gen_judgment.py make_match; common.py run_judge_pair).
"""

from __future__ import annotations

from typing import get_args

from ..protocols import SuiteOptions
from ..records import Answer, JudgeTask, JudgeTemplate, Order, Prompt
from .editions import official_files
from .mt_bench_data import REFERENCED, read_templates

NAMES = ("pair-v2", "pair-math-v1", "pair-v2-multi-turn", "pair-math-v1-multi-turn")
ORDERS: tuple[Order, ...] = get_args(Order)


def pair_templates(options: SuiteOptions) -> dict[str, JudgeTemplate]:
    """Return the four pairwise prompts of the pinned file by name; raise DataError if it is unavailable."""
    path = official_files(options, ["mt_bench/judge_prompts"])["mt_bench/judge_prompts"]
    return read_templates(path, NAMES, "pair_letter")


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
            fields=_fields(prompt, *((baseline, answer) if order == "ab" else (answer, baseline)), turn),
        )
        for order in ORDERS
    ]


def _fields(prompt: Prompt, first: Answer, second: Answer, turn: int) -> dict[str, str]:
    if turn == 1:
        fields = {"question": prompt.turns[0], "answer_a": first.turns[0], "answer_b": second.turns[0]}
    else:
        fields = {f"question_{number}": text for number, text in enumerate(prompt.turns, start=1)}
        for letter, answer in (("a", first), ("b", second)):
            fields |= {f"answer_{letter}_{number}": text for number, text in enumerate(answer.turns, start=1)}
    if prompt.category in REFERENCED:
        fields |= {f"ref_answer_{number}": text for number, text in enumerate(prompt.reference[:turn], start=1)}
    return fields
