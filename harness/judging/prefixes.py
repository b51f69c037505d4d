"""Order the tasks for a server of our own so that prompts with a common beginning follow each other.

vLLM keeps the key-value blocks of a prompt's beginning (automatic prefix caching), so a second game about the same
question costs only what differs. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from ..records import JudgeTask, JudgeTemplate

T = TypeVar("T")


def in_prefix_order(tasks: Iterable[tuple[T, JudgeTask]]) -> list[tuple[T, JudgeTask]]:
    """Return the tasks by template, then by their texts in the order in which the template shows them.

    Sorted texts have the longest common beginnings side by side that any order gives.
    """
    slots: dict[int, tuple[str, ...]] = {}

    def key(item: tuple[T, JudgeTask]) -> tuple[str, ...]:
        template, fields = item[1].template, item[1].fields
        if id(template) not in slots:
            slots[id(template)] = _shown(template, fields)
        return (template.system or "", template.user, *(fields[slot] for slot in slots[id(template)]), item[1].key)

    return sorted(tasks, key=key)


def _shown(template: JudgeTemplate, fields: Iterable[str]) -> tuple[str, ...]:
    """Return the template's slots in the order in which it shows them."""
    positions = {slot: template.user.find("{" + slot + "}") for slot in fields}
    return tuple(sorted((slot for slot, position in positions.items() if position >= 0), key=positions.__getitem__))
