"""Import existing answers into answers.jsonl, in our own format or in that of released preference data sets.

Released formats: SimPO's (`prompt`, `all_generated_responses`; princeton-nlp/llama3-ultrafeedback-armorm) and WRPO's
(`prompt` as a message, `chosen` = [y_ws, y_wt]; AALF/ultrafeedback_wrpo), whose first chosen answer is the sources'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from harness.errors import ConfigError
from harness.records import Answer, Failure, Prompt
from harness.store import JsonlRows

from .prompts.dataset import PromptError, Row, prompt_in
from .sampling import answer_counts
from .steps import Counts

KNOWN = "`prompt_id` and `turns` (our format), or `prompt` with `all_generated_responses` or `chosen`"
SPACE = re.compile(r"\s+")


def take_answers(rows: Iterable[Row], prompts: Sequence[Prompt], source: str, path: Path, *, where: str) -> Counts:
    """Write the answers to these prompts under the source's name, and keep existing ones.

    Rows in our format match a prompt by id, others by text, ignoring white space. Raises ConfigError if a row has an
    unknown format or no row matches a prompt.
    """
    finder = _Finder(prompts)
    counted: dict[str, int] = {}
    unknown = 0
    file = JsonlRows(path, Answer)
    file.open()
    with closing(file):
        for number, row in enumerate(rows, start=1):
            texts = _texts(row, f"{where}, row {number}")
            prompt = finder.find(row)
            if prompt is None:
                unknown += len(texts)
                continue
            for text in texts:
                index = counted.get(prompt.id, 0)
                counted[prompt.id] = index + 1
                if f"{prompt.id}#{index}" not in file:
                    file.append(_answer(prompt, source, index, text))
        answers = list(file.all())
    if not answers:
        raise ConfigError(f"{where}: none of its {unknown} answers matches one of this recipe's {len(prompts)} prompts")
    return answer_counts(answers) | {
        "not_among_the_prompts": unknown,
        "prompts_without_answer": sum(prompt.id not in counted for prompt in prompts),
    }


class _Finder:
    """Finds the prompt that a row answers."""

    def __init__(self, prompts: Sequence[Prompt]) -> None:
        self._by_id = {prompt.id: prompt for prompt in prompts}
        self._by_text = {_plain(prompt.turns[-1]): prompt for prompt in prompts}

    def find(self, row: Row) -> Prompt | None:
        """Return the prompt that the row answers, or None."""
        if "turns" in row and row.get("prompt_id") in self._by_id:
            return self._by_id[row["prompt_id"]]
        try:
            _, words = prompt_in(row, "prompt")
        except PromptError:
            return None
        return self._by_text.get(_plain(words))


def _texts(row: Row, where: str) -> list[str]:
    """Return the answers in one row; a failed one in our format is "". Raise ConfigError if the format is unknown."""
    responses: Any = row.get("all_generated_responses")
    if (
        isinstance(responses, Sequence)
        and not isinstance(responses, str)
        and all(isinstance(text, str) for text in responses)
    ):
        return list(responses)
    turns = row.get("turns")
    if "prompt_id" in row and isinstance(turns, Sequence) and not isinstance(turns, str):
        return [str(turns[0])] if turns else [""]
    chosen = row.get("chosen")
    if isinstance(chosen, str):
        return [chosen]
    if isinstance(chosen, Sequence):
        answers = list(_assistants(chosen))
        if answers:
            return answers[:1]
    raise ConfigError(
        f"{where} has no answers; expected {KNOWN}, but its fields are: {', '.join(sorted(row)) or 'none'}"
    )


def _assistants(messages: Sequence[Any]) -> Iterator[str]:
    for message in messages:
        if isinstance(message, Mapping) and message.get("role") == "assistant":
            yield str(message.get("content") or "")


def _answer(prompt: Prompt, source: str, index: int, text: str) -> Answer:
    if not text.strip():
        failure = Failure(reason="empty", message="the answer is empty")
        return Answer(prompt_id=prompt.id, model=source, index=index, error=failure)
    return Answer(prompt_id=prompt.id, model=source, index=index, turns=(text,), finish=("stop",))


def _plain(text: str) -> str:
    return SPACE.sub(" ", text).strip()
