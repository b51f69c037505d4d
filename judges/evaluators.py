"""Read AlpacaEval's evaluator configurations as judge templates: prompt, parameters and parser.

`--judge alpaca_eval:NAME` uses a configuration as it is; `evaluator: NAME` in a YAML file gives any judge its prompt.

The files are read from the installed package at run time and never copied. The package is located but not imported,
because importing it takes seconds and writes into site-packages. A configuration that our request cannot express is
rejected with one sentence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import yaml
from pydantic import JsonValue

from harness.records import JudgeTask, JudgeTemplate, Record
from harness.records.errors import ConfigError
from harness.store.provenance import install_command

from .completions import Arguments, Steps, chain_name, known_parsers

CHATML = re.compile(r"<\|im_start\|>(\w+)\n(.*?)<\|im_end\|>", re.DOTALL)
SLOT = re.compile(r"{([^ \s]+?)}")  # alpaca_eval utils.make_prompts
FIELDS = ("instruction", "output_1", "output_2")
OPENAI_URL = "https://api.openai.com/v1"
UNMAPPED = ("tokens_to_favor", "tokens_to_avoid")
"""Unsupported: turning these into a logit_bias needs the model's tokenizer."""
OWN = ("model_name", "max_tokens", "temperature", "logprobs", "top_logprobs", "requires_chatml", "price_per_token")
LOCAL = (*OWN, "max_new_tokens", "max_tokens_to_sample", "model_kwargs", "is_chatml_prompt", "batch_size")


OFFICIAL_STEPS: Steps = (
    ("logprob_parser", {"numerator_token": "m", "denominator_tokens": ["m", "M"], "is_binarize": False}),
)
"""AlpacaEval 2's official parser. With it, the template equals the suite's own, digest included."""


class Evaluator(Record):
    """One evaluator configuration, mapped to our records."""

    name: str
    template: JudgeTemplate
    model: str
    url: str | None
    """None if the configuration does not use an OpenAI-compatible server."""
    price: float | None = None
    """US dollars per million tokens, input and output alike."""

    def identity(self) -> dict[str, JsonValue]:
        """Return what the card's protocol records; the digest covers prompt, parser and parameters."""
        return {"evaluator": self.name, "template": self.template.sha[:12]}

    def rephrase(self, task: JudgeTask) -> JudgeTask:
        """Return the task with the evaluator's prompt. Raise ConfigError unless it compares two single-turn answers."""
        later = task.turn is not None and task.turn > 1
        if task.baseline is None or task.order is None or later or (task.turn is None and len(task.prompt.turns) > 1):
            raise ConfigError(
                f"evaluator {self.name!r} compares two single-turn answers, which {task.template.name!r} does not "
                "ask for; choose another judge for that suite: --judge SUITE=JUDGE,SUITE=JUDGE"
            )
        candidate, baseline = task.answer.turns[0], task.baseline.turns[0]
        first, second = (baseline, candidate) if task.order == "ab" else (candidate, baseline)
        texts = {"instruction": task.prompt.turns[0], "output_1": first, "output_2": second}
        fields = {slot: texts[slot] for slot in dict.fromkeys(SLOT.findall(self.template.user))}
        return task.model_copy(update={"template": self.template, "fields": fields})


def evaluator_names() -> list[str]:
    """Return the names of all configurations in the installed package, supported or not."""
    return sorted(path.parent.name for path in _folder().glob("*/configs.yaml"))


def mapped_names() -> list[str]:
    """Return the names of the configurations that work as they are."""
    return [name for name in evaluator_names() if _is_mapped(name)]


def _is_mapped(name: str) -> bool:
    try:
        return _read(name).url is not None
    except _UnmappedError:
        return False


def read_evaluator(name: str) -> Evaluator:
    """Return the named configuration. Raise ConfigError with the supported names if it is unknown or unsupported."""
    try:
        return _read(name)
    except _UnmappedError as error:
        raise ConfigError(f"{error}; supported evaluators: {', '.join(mapped_names())}") from None


@lru_cache(maxsize=64)
def _read(name: str) -> Evaluator:
    folder = _folder()
    if name not in evaluator_names():
        raise ConfigError(f"alpaca-eval has no evaluator {name!r}; it has: {', '.join(evaluator_names())}")
    configs = yaml.safe_load((folder / name / "configs.yaml").read_text("utf-8"))
    if len(configs) != 1:
        raise _refusal(name, f"is a mixture of {len(configs)} annotators")
    (config,) = configs.values()
    _refuse_unmapped(name, config)
    kwargs = dict(config["completions_kwargs"])
    client = kwargs.pop("client_kwargs", {})
    openai = config["fn_completions"] == "openai_completions" and not str(kwargs["model_name"]).startswith("/")
    price = kwargs.get("price_per_token")
    return Evaluator(
        name=name,
        template=_template(name, config, kwargs),
        model=str(kwargs["model_name"]),
        url=str(client.get("base_url", OPENAI_URL)) if openai else None,
        price=None if price is None else float(price) * 1e6,
    )


def _folder() -> Path:
    spec = find_spec("alpaca_eval")
    locations = list(spec.submodule_search_locations or ()) if spec is not None else []
    if not locations:
        raise ConfigError(
            "--judge alpaca_eval:NAME needs the alpaca-eval package, which is not installed: "
            + install_command("alpaca-eval")
        )
    return Path(locations[0]) / "evaluators_configs"


class _UnmappedError(Exception):
    """Internal: our request cannot express this configuration."""


def _refusal(name: str, why: str) -> _UnmappedError:
    return _UnmappedError(f"evaluator {name!r} {why}, which is not supported")


def _refuse_unmapped(name: str, config: Mapping[str, JsonValue]) -> None:
    kwargs = config["completions_kwargs"]
    assert isinstance(kwargs, dict)
    if config.get("batch_size", 1) != 1:
        raise _refusal(name, f"asks about {config['batch_size']} pairs in one prompt")
    if config.get("is_randomize_output_order") is False:
        raise _refusal(name, "always shows the baseline first")
    for word in UNMAPPED:
        if word in kwargs:
            raise _refusal(name, f"biases tokens ({word})")
    arguments = config.get("completion_parser_kwargs") or {}
    if isinstance(arguments, dict) and arguments.get("log_prob_index", "batch") not in ("batch", 0):
        raise _refusal(name, "reads the last token's log-probabilities")


def _template(name: str, config: Mapping[str, JsonValue], kwargs: Mapping[str, JsonValue]) -> JudgeTemplate:
    text = (_folder() / str(config["prompt_template"])).read_text("utf-8")
    messages = [(role, content.strip()) for role, content in CHATML.findall(text)]
    if [role for role, _ in messages] not in (["system", "user"], ["user"]):
        raise _refusal(name, "has a prompt that is not an optional system message and one user message")
    if sorted(SLOT.findall(messages[-1][1])) != sorted(FIELDS):
        raise _refusal(name, f"has slots other than {', '.join(FIELDS)}")
    steps = _steps(name, config)
    is_official = steps == OFFICIAL_STEPS
    tops = kwargs.get("top_logprobs")
    limit = kwargs.get("max_tokens") or kwargs.get("max_new_tokens") or kwargs.get("max_tokens_to_sample")
    temperature = kwargs.get("temperature", 0.7)  # decoders/openai.py
    extra = {key: value for key, value in kwargs.items() if key not in LOCAL}
    return JudgeTemplate(
        name=str(config["prompt_template"]).partition("/")[0] if is_official else f"alpaca_eval:{name}",
        system=messages[0][1] if len(messages) == 2 else None,
        user=messages[-1][1],
        filling="replace",
        parser="letter_logprob" if is_official else chain_name(steps),
        temperature=float(str(temperature)),
        max_tokens=int(str(limit)),
        top_logprobs=None if tops is None else int(str(tops)),
        extra={"top_p": 1.0, **extra},  # decoders/openai.py
        identical_is_draw=True,
    )


def _steps(name: str, config: Mapping[str, JsonValue]) -> Steps:
    parser = str(config.get("fn_completion_parser") or "regex_parser")
    arguments = config.get("completion_parser_kwargs") or {}
    assert isinstance(arguments, dict)
    chain = arguments.get("parsers_to_kwargs") if parser == "pipeline_meta_parser" else {parser: arguments}
    assert isinstance(chain, dict)
    unknown = [step for step in chain if step not in known_parsers()]
    if unknown:
        raise _refusal(name, f"uses the parser {unknown[0]!r}")
    return tuple((step, _as_json(options if isinstance(options, dict) else {})) for step, options in chain.items())


def _as_json(arguments: Mapping[str, JsonValue]) -> Arguments:
    """Turn tables into lists of pairs, because their keys are numbers and JSON objects only have string keys."""
    return {
        key: [[source, target] for source, target in value.items()] if isinstance(value, dict) else value
        for key, value in arguments.items()
    }
