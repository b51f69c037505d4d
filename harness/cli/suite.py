"""`harness suite check`: show what a suite of the user's own will ask, before it asks anything."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, TypedDict

import typer
from pydantic import JsonValue

from ..records import Answer, JudgeTask, Prompt
from ..records.errors import ConfigError
from ..records.judge_choice import suite_names
from ..records.protocols import Definable, OwnRunner, Suite, SuiteOptions
from .options import Flags, JsonFlags, command, command_group

suite_app = command_group("Check a suite of your own: the questions, and what the judge is asked.")


class CheckFlags(JsonFlags, Flags):
    file: Annotated[str, typer.Argument(help="FILE.yaml, or a .jsonl of prompts alone.")]
    show: Annotated[int, typer.Option(min=0, help="Prompts whose judge requests are shown.")] = 2


class Rendered(TypedDict):
    """One request to the judge."""

    prompt: str
    order: str | None
    messages: list[dict[str, str]]


@suite_app.command("check", epilog="Example: harness suite check support.yaml")
@command
def check(flags: CheckFlags) -> None:
    """Read the file and show the first prompts and the judge's requests about them. Nothing is asked or written."""
    suite = _load(flags.file)
    summary = summary_of(suite)
    requests = [request for prompt in suite.prompts()[: flags.show] for request in rendered(suite, prompt)]
    if flags.as_json:
        print(json.dumps({**summary, "requests": requests}, indent=2, ensure_ascii=False))
        return
    for name, value in summary.items():
        if value not in (None, {}):
            print(f"{name.replace('_', ' ')}: {_value_text(value)}")
    for request in requests:
        order = {"ab": ", baseline shown first", "ba": ", candidate shown first"}.get(request["order"] or "", "")
        print(f"\n=== prompt {request['prompt']}{order}")
        for message in request["messages"]:
            print(f"--- {message['role']}\n{message['content']}")
    print(f"\nnext: harness run --model MODEL --suite {flags.file}")


@suite_app.callback()
def suite() -> None:
    """Keep `check` a subcommand although it is the only one."""


def _load(file: str) -> Suite:
    """Return the suite of a file, against placeholders if it compares with a baseline."""
    from ..running.baselines import placeholders  # deferred: it needs numpy, which the help does not
    from ..running.plan import load_suite

    names = suite_names(file)
    suite = load_suite(names[0], SuiteOptions())
    if len(names) > 1 or isinstance(suite, OwnRunner) or not isinstance(suite, Definable):
        raise ConfigError(f"{file!r} is not a suite's file; give FILE.yaml or PROMPTS.jsonl")
    return placeholders(suite)


def summary_of(suite: Suite) -> dict[str, JsonValue]:
    """Return what the suite's file amounts to: numbers of prompts, turns and judge calls, and how it is judged."""
    prompts = suite.prompts()
    protocol = suite.protocol()
    calls = sum(len(suite.tasks(prompt, _answer(prompt))) for prompt in prompts)
    return {
        "suite": suite.name,
        "judging": protocol.get("judging"),
        "headline": suite.headline,
        "margin": getattr(suite, "margin", None),
        "prompts": len(prompts),
        "turns": sum(len(prompt.turns) for prompt in prompts),
        "categories": dict(Counter(prompt.category for prompt in prompts)),
        "clusters": len({prompt.cluster or prompt.id for prompt in prompts}),
        "baseline": getattr(suite, "baseline_choice", None),
        "judge_calls": calls,
        "answer_settings": protocol.get("answer_settings"),
    }


def rendered(suite: Suite, prompt: Prompt) -> list[Rendered]:
    """Return the requests to the judge about a stand-in answer to a prompt; checks in Python have none."""
    return [
        {"prompt": prompt.id, "order": task.order, "messages": _messages(task)}
        for task in suite.tasks(prompt, _answer(prompt))
        if task.template.user
    ] or [
        {"prompt": prompt.id, "order": None, "messages": [{"role": "user", "content": text} for text in prompt.turns]}
    ]


def _messages(task: JudgeTask) -> list[dict[str, str]]:
    user = {"role": "user", "content": task.template.user.format(**task.fields)}
    system = task.template.system
    return [user] if system is None else [{"role": "system", "content": system}, user]


def _answer(prompt: Prompt) -> Answer:
    turns = tuple(f"(the candidate's answer {number})" for number, _ in enumerate(prompt.turns, start=1))
    return Answer(prompt_id=prompt.id, model="candidate", turns=turns, finish=tuple("stop" for _ in turns))


def _value_text(value: JsonValue) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {content}" for key, content in value.items() if content not in (None, [], ()))
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)
