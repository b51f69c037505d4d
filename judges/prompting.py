"""A judge task -> chat messages. Pure: template filling and nothing else."""

from __future__ import annotations

from pydantic import JsonValue

from harness.errors import ConfigError
from harness.records import JudgeTask, JudgeTemplate

Message = dict[str, JsonValue]


def render(task: JudgeTask) -> list[Message]:
    """The messages of the first request: the system text as it is (where there is one), and the filled user text."""
    user: Message = {"role": "user", "content": fill(task.template, task.fields)}
    if task.template.system is None:
        return [user]
    return [{"role": "system", "content": task.template.system}, user]


def fill(template: JudgeTemplate, fields: dict[str, str]) -> str:
    """The user text with its slots filled. Only the template's own braces are slots, those in answers never are,
    except under "replace", where (as in alpaca_eval) a later slot's name inside an earlier text is taken for the slot.
    Raises ConfigError for a slot without a field."""
    if template.filling == "replace":
        text = template.user
        for slot, content in fields.items():
            text = text.replace("{" + slot + "}", content, 1)
        return text
    try:
        return template.user.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {template.name!r} cannot be filled: {error!r}") from None
