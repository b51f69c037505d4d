"""Find the answers with the highest rewards: y_ws of each prompt over all sources. Reads one file at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import IncompleteError
from harness.records import Answer, Prompt
from harness.store import JsonlRows

from ..records import Chosen, Part, PromptRow, RewardRow

ANSWERS, PROMPTS, REWARDS = "answers.jsonl", "prompts.jsonl", "rewards.jsonl"

Seen = Callable[[Answer, RewardRow | None], None]


@dataclass(frozen=True)
class RewardedAnswer:
    """An answer that has a reward."""

    answer: Answer
    reward: float
    model: str
    """Who answered, as in the reward's row: the name of the source, not of its weights."""

    @property
    def text(self) -> str:
        return self.answer.turns[0]

    @property
    def chosen(self) -> Chosen:
        return Chosen(text=self.text, model=self.model, index=self.answer.index, reward=self.reward)


def read_prompts(path: Path, part: Part) -> list[PromptRow]:
    """Return the prompts of a part in the file's order. Raise IncompleteError if there are none."""
    with path.open("rb") as file:
        rows = [PromptRow.model_validate_json(line) for line in file]
    chosen = [row for row in rows if row.part == part]
    if not chosen:
        raise IncompleteError(f"none of the {len(rows)} prompts in {path} is in the part {part!r}")
    return chosen


def rated(
    answers: Path, rewards: Path, *, drop_truncated: bool = False, seen: Seen = lambda answer, reward: None
) -> Iterator[RewardedAnswer]:
    """Yield every answer of a file that has a reward, in the file's order.

    `seen` is called for every answer, including those left out.
    """
    by_key = {row.key: row for row in JsonlRows(rewards, RewardRow).read()}
    for answer in JsonlRows(answers, Answer).read():
        row = None if answer.error is not None else by_key.get(f"{answer.key}|{answer.sha}")
        seen(answer, row)
        if row is not None and row.value is not None and not (drop_truncated and answer.truncated):
            yield RewardedAnswer(answer, row.value, row.model)


def best_by_prompt(
    answers: Sequence[Path],
    rewards: Sequence[Path],
    wanted: frozenset[str],
    *,
    drop_truncated: bool = False,
    seen: Sequence[Seen] | None = None,
) -> dict[str, Chosen]:
    """Return the best source answer of each wanted prompt id; prompts without a rewarded answer are left out.

    Ties go to the earlier source, then to the lower index. `seen` has one callback per source, as in `rated`.
    """
    best: dict[str, Chosen] = {}
    observers = seen or [lambda answer, reward: None] * len(answers)
    for answered, rewarded, observer in zip(answers, rewards, observers, strict=True):
        source_best = _best_of_source(rated(answered, rewarded, drop_truncated=drop_truncated, seen=observer), wanted)
        for prompt_id, chosen in source_best.items():
            if prompt_id not in best or chosen.reward > best[prompt_id].reward:
                best[prompt_id] = chosen
    return best


def _best_of_source(answers: Iterator[RewardedAnswer], wanted: frozenset[str]) -> dict[str, Chosen]:
    best: dict[str, Chosen] = {}
    for candidate in answers:
        prompt_id = candidate.answer.prompt_id
        if prompt_id in wanted and (prompt_id not in best or _rank(candidate.chosen) > _rank(best[prompt_id])):
            best[prompt_id] = candidate.chosen
    return best


def _rank(chosen: Chosen) -> tuple[float, int]:
    return (chosen.reward, -chosen.index)


def best_source_answers(
    prompts: Path, answers: Sequence[Path], rewards: Sequence[Path], part: Part, *, drop_truncated: bool = False
) -> Iterator[tuple[Prompt, Chosen]]:
    """Yield each prompt of a part with its best source answer, in the prompts' order; skip prompts without one.

    `answers` and `rewards` are the files of the sources, in the recipe's order. Raises IncompleteError if no prompt of
    the part has a rewarded answer.
    """
    rows = read_prompts(prompts, part)
    wanted = frozenset(row.prompt.id for row in rows)
    best = best_by_prompt(answers, rewards, wanted, drop_truncated=drop_truncated)
    if not best:
        raise IncompleteError(f"none of the {len(rows)} prompts in the part {part!r} has a rewarded source answer")
    for row in rows:
        if row.prompt.id in best:
            yield row.prompt, best[row.prompt.id]
