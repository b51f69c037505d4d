"""Render a dummy conversation in every chat template of a recipe, before its first request; `preflight` calls it.

The target's template must render what is trained on; a source's what it is asked, and for InfiFPO also answers that
others gave; a reward model's must show the answer. Nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.records import ModelRef
from harness.records.errors import ConfigError, one_line
from harness.records.settings import ServeSpec

from .estimate import tokenizer_file
from .layout import Recipe
from .spec import SCORED_BY, RecipeSpec, sources_used
from .training.settings import TrainingSettings

DUMMY = ({"role": "user", "content": "How are you?"},)
ANSWERS = ("Well, thank you.", "I am fine.", "Bad.")
SCORED_IN_TEMPLATE = ("reward_model", "armorm", "pooling")
"""Kinds of rewards whose model reads the conversation in its chat template."""


def check_target_template(spec: RecipeSpec, trainings: dict[str, TrainingSettings]) -> None:
    """Render a dummy triple as training will. Raise ConfigError if no row could be rendered, or it ends twice."""
    from .training.templates import Rendering, render, target_tokenizer

    tokenizer = target_tokenizer(spec, spec.target)
    compat = any(settings.trainer.get("official_compat") for settings in trainings.values())
    for official in (False, True) if compat else (False,):
        with _rendering("target"):
            row = render(list(DUMMY), ANSWERS, tokenizer, Rendering(official_compat=official))
        ends = set(tokenizer.all_special_ids)
        if row is not None and not official and len(row.source_ids) > 1 and set(row.source_ids[-2:]) <= ends:
            shown = tokenizer.decode(list(row.source_ids[-2:]))
            raise ConfigError(
                f"target: the chat template ends an answer twice, with {shown!r}; remove one (`chat_template: FILE`)"
            )


def check_other_templates(recipe: Recipe, to_do: frozenset[str]) -> list[str]:
    """Check the templates of sources and of the reward model, and return the models of the Hub that are not here."""
    spec = recipe.spec
    scored = {
        source.name
        for variant in recipe.variants.values()
        if variant.method == "infifpo" and "logps" in to_do
        for source in sources_used(spec, variant)
    }
    absent: list[str] = []
    for source in spec.sources:
        if source.model is None or source.backend not in SCORED_BY:
            continue
        if "sources" in to_do or source.name in scored:
            where = f"source {source.name!r}"
            tokenizer = _tokenizer(where, source.model, source.serve, absent)
            if tokenizer is not None:
                _check_turns(where, tokenizer, answered=source.name in scored)
    reward = spec.reward
    if to_do & {"rewards", "evaluate"} and reward.kind in SCORED_IN_TEMPLATE and reward.model and not reward.url:
        where = f"reward: {reward.model!r}"
        tokenizer = _tokenizer(where, reward.model, reward.serve, absent)
        if tokenizer is not None:
            _check_scored(where, tokenizer)
    return list(dict.fromkeys(absent))


def _tokenizer(where: str, model: str, serve: ServeSpec, absent: list[str]) -> Any:
    """Return a model's tokenizer in the template that it is served with, or None if it is not here.

    Names of the Hub are then added to `absent`. Raise ConfigError if the model has no template.
    """
    ref, requested = ModelRef.parse(model), serve.chat_template
    if ref.scheme not in ("path", "hf") or (requested or "").startswith("fastchat:"):
        return None
    if tokenizer_file(model) is None:
        absent += [str(ref)] if ref.scheme == "hf" else []
        return None
    from transformers import AutoTokenizer

    from .training.templates import with_defaults

    location = str(Path(ref.name).expanduser()) if ref.scheme == "path" else ref.name
    code = serve.trust_remote_code
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location, revision=ref.revision, local_files_only=True, trust_remote_code=code
        )
    except (OSError, ValueError, ImportError):  # of the Hub's files only some are here; loading the model says more
        absent.append(str(ref))
        return None
    try:
        template = tokenizer.chat_template if requested is None else Path(requested).expanduser().read_text("utf-8")
    except (OSError, ValueError):
        raise ConfigError(f"{where}: chat_template {requested!r} cannot be read; give a Jinja file") from None
    if not template:
        raise ConfigError(f"{where} has no chat template; give one with `serve: {{chat_template: FILE.jinja}}`")
    if isinstance(template, str):
        tokenizer.chat_template = with_defaults(template, serve.chat_template_kwargs or {})
    return tokenizer


@contextmanager
def _rendering(where: str) -> Iterator[None]:
    """Turn what a chat template raises, or what is wrong with its text, into a ConfigError that begins with `where`."""
    from jinja2 import TemplateError

    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except (TemplateError, TypeError, ValueError, LookupError) as error:
        raise ConfigError(f"{where}: the chat template cannot render a conversation: {one_line(error)}") from None


def _check_turns(where: str, tokenizer: Any, *, answered: bool) -> None:
    """Raise ConfigError unless the question renders, and with `answered` if answers cannot be told from it."""
    from .training.templates import Rendering, conversation_ids, render_answers

    with _rendering(where):
        conversation_ids(tokenizer, DUMMY, add_generation_prompt=True)
        if answered:
            render_answers(DUMMY, ANSWERS, tokenizer, Rendering())


def _check_scored(where: str, tokenizer: Any) -> None:
    """Raise ConfigError if the template loses the answer: every answer would get the same reward."""
    from .training.templates import conversation_ids

    conversation = [*DUMMY, {"role": "assistant", "content": ANSWERS[0]}]
    with _rendering(where):
        conversation_ids(tokenizer, conversation, add_generation_prompt=False)
        if ANSWERS[0] not in tokenizer.apply_chat_template(conversation, tokenize=False):
            raise ConfigError("the chat template leaves out the answer, so all would get one reward; give it another")
