"""Turn a judge task into chat messages by filling its template. Pure."""

from __future__ import annotations

from pydantic import JsonValue

from harness.errors import ConfigError
from harness.records import JudgeTask, JudgeTemplate

Message = dict[str, JsonValue]


def render(task: JudgeTask) -> list[Message]:
    """Return the messages of the first request: the system text, if there is one, and the filled user text."""
    user: Message = {"role": "user", "content": fill(task.template, task.fields)}
    if task.template.system is None:
        return [user]
    return [{"role": "system", "content": task.template.system}, user]


def fill(template: JudgeTemplate, fields: dict[str, str]) -> str:
    """Return the user text with its slots filled. Raise ConfigError if a slot has no field.

    Only braces in the template are slots, never those in answers. The exception is "replace" filling: as in
    alpaca_eval, the name of a later slot inside an earlier text counts as that slot.
    """
    if template.filling == "replace":
        text = template.user
        for slot, content in fields.items():
            text = text.replace("{" + slot + "}", content, 1)
        return text
    try:
        return template.user.format(**fields)
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(f"judge template {template.name!r} cannot be filled: {error!r}") from None
