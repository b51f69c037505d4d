"""alpaca-eval's evaluators as judges: what is sent and how replies are read, beside the installed package itself."""

from __future__ import annotations

import json
import math
import warnings
from importlib.util import find_spec
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.records import Answer, JudgeTask, JudgeTemplate, Order, Preference, Prompt, TokenLogprob
from harness.records.errors import ConfigError, VerdictParseError
from harness.records.judge_choice import find_judge
from judges.completions import chain_name, read_completion
from judges.evaluators import mapped_names, read_evaluator
from judges.llm import AlpacaEvalJudge, render, request_body, with_evaluator_defaults
from judges.parsing import read_verdict

pytestmark = pytest.mark.skipif(find_spec("alpaca_eval") is None, reason="alpaca-eval is not installed")
ANY = JudgeTemplate(name="suite's own", user="{x}", parser="arena_label")
RANKED = "[{'model': 'model_1', 'rank': 2}, {'model': 'model_2', 'rank': 1}]"


def task(order: Order = "ab", question: str = "Say {output_1}.", mine: str = "mine", other: str = "other") -> JudgeTask:
    answer = Answer(prompt_id="q", model="m", turns=(mine,), finish=("stop",))
    return JudgeTask(
        prompt=Prompt(id="q", turns=(question,), category="c"),
        answer=answer,
        baseline=answer.model_copy(update={"model": "b", "turns": (other,)}),
        order=order,
        template=ANY,
        fields={},
    )


@pytest.fixture(scope="module")
def package() -> Any:
    """alpaca_eval's own modules (importing them takes seconds)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from alpaca_eval import completion_parsers, utils
    return completion_parsers, utils


def config(name: str) -> dict[str, Any]:
    import yaml

    from judges.evaluators import _folder

    (found,) = yaml.safe_load((_folder() / name / "configs.yaml").read_text("utf-8")).values()
    return dict(found)


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", mapped_names() if find_spec("alpaca_eval") else ())
def test_the_request_is_the_one_the_package_renders(name: str, strict: bool, package: Any) -> None:
    """With slots' names in the texts too, if the run is strict."""
    import pandas as pd  # type: ignore[import-untyped]  # no stubs here

    from judges.evaluators import _folder

    _, utils = package
    instruction = "Say {output_1}." if strict else "Say it."
    plain = task("ba", mine="first {instruction}", other="second")
    prompt = plain.prompt.model_copy(update={"turns": (instruction,)})
    asked = read_evaluator(name).rephrase(plain.model_copy(update={"prompt": prompt, "strict": strict}))
    text = (_folder() / config(name)["prompt_template"]).read_text("utf-8")
    row = {"instruction": instruction, "output_1": "first {instruction}", "output_2": "second"}
    (theirs,), _ = utils.make_prompts(pd.DataFrame([row]), text)

    ours = [{"role": message["role"], "content": message["content"]} for message in render(asked)]

    assert ours == [
        {"role": part["role"], "content": part["content"]} for part in utils.prompt_to_chatml(theirs.strip())
    ]


def test_the_parameters_are_the_configurations_with_the_decoders_defaults() -> None:
    spec = find_judge("alpaca_eval:alpaca_eval_gpt4_turbo_fn", {})
    template = read_evaluator("alpaca_eval_gpt4_turbo_fn").template
    kwargs = config("alpaca_eval_gpt4_turbo_fn")["completions_kwargs"]

    body = request_body(with_evaluator_defaults(spec), template, [])

    assert body == {
        "model": "gpt-4-1106-preview",
        "messages": [],
        "temperature": 0,
        "max_tokens": 100,
        "top_p": 1.0,
        "tools": kwargs["tools"],
        "tool_choice": kwargs["tool_choice"],
    }


def test_the_official_evaluator_is_the_suites_own_template_to_the_digest() -> None:
    from harness.suites.alpaca_eval.suite import _installed_template

    assert read_evaluator("weighted_alpaca_eval_gpt4_turbo").template.sha == _installed_template().sha


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("claude", "not an optional system message and one user message"),
        ("alpaca_farm_greedy_gpt4", "asks about 5 pairs in one prompt"),
        ("alpaca_farm", "is a mixture of 13 annotators"),
        ("lmsys_gpt4", "always shows the baseline first"),
        ("weighted_alpaca_eval_cot_gpt4_turbo", "reads the last token's log-probabilities"),
    ],
)
def test_what_cannot_be_mapped_is_one_sentence_with_those_that_can(name: str, why: str) -> None:
    with pytest.raises(ConfigError, match=rf"{why}.*supported evaluators: .*alpaca_eval_gpt4_turbo_fn") as error:
        AlpacaEvalJudge(find_judge(f"alpaca_eval:{name}", {}))
    assert "\n" not in str(error.value)


def test_an_unknown_evaluator_lists_those_there_are() -> None:
    with pytest.raises(ConfigError, match=r"no evaluator 'gpt9'; it has: .*alpaca_eval_gpt4"):
        AlpacaEvalJudge(find_judge("alpaca_eval:gpt9", {}))


def test_a_rating_suite_is_refused_before_anything_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    judge = AlpacaEvalJudge(find_judge("alpaca_eval:alpaca_eval_gpt4", {}))

    judge.check(task())
    with pytest.raises(ConfigError, match="compares two single-turn answers"):
        judge.check(task().model_copy(update={"baseline": None, "order": None}))


def test_openais_key_goes_to_openai_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "k")
    monkeypatch.delenv("HARNESS_JUDGE_KEY", raising=False)
    assert with_evaluator_defaults(find_judge("alpaca_eval:alpaca_eval_gpt4", {})).key_env == "OPENAI_API_KEY"
    assert with_evaluator_defaults(find_judge("alpaca_eval:mistral-large-2402_ranking", {})).key_env is None
    assert with_evaluator_defaults(find_judge("alpaca_eval:alpaca_eval_gpt4@http://127.0.0.1:1/v1", {})).key_env is None


# ------------------------------------------------------------------------------------------------------- parsing

REPLIES = (
    RANKED,
    "[{'model': 'model_1', 'rank': 1}, {'model': 'model_2', 'rank': 2}]",
    "[{'model': 'm', 'rank': 1}]",
    "[{'model': 'model_1', 'rank': 3}]",
    '{"ordered_models": [{"model": "M", "rank": 1}, {"model": "m", "rank": 2}]}',
    '{"ordered_models": [{"model": "m", "rank": 1}, {"model": "M", "rank": 2}]}',
    '```json\n{"ordered_models": [{"model": "m", "rank": 2}]}```',
    '{"ordered_models": []}',
    "Output (a)",
    "Output (b)\nOutput (a)",
    " Output (b)",
    "I prefer Output (a)",
    "\nOutput (a)Output (b)",
    "7 9\nbecause",
    "9, 7",
    "9,7",
    "8 8\n",
    "m",
    "",
    " ",
    "[[[[[[",
    "{",
    "None",
)
NAMES = (
    "alpaca_eval_gpt4_turbo_fn",
    "alpaca_eval_gpt4",
    "alpaca_eval_gpt4_fn",
    "chatgpt",
    "chatgpt_fn",
    "improved_lmsys_gpt4",
)


def theirs(package: Any, name: str, reply: str) -> float | None:
    """The package's annotation as the probability that the first wins; None where it stores none."""
    parsers, _ = package
    found = config(name)
    function = getattr(parsers, found.get("fn_completion_parser") or "regex_parser")
    try:
        annotations = function(reply, **(found.get("completion_parser_kwargs") or {}))
    except Exception:  # as in SingleAnnotator._parse_completions
        return None
    if len(annotations) != 1 or not isinstance(annotations[0], int | float) or math.isnan(annotations[0]):
        return None
    return 0.5 if annotations[0] == 0 else 2.0 - annotations[0]


def ours(name: str, reply: str) -> float | None:
    try:
        return read_verdict(read_evaluator(name).template.parser, reply, (), "ba").value
    except VerdictParseError:
        return None


@pytest.mark.parametrize("name", NAMES)
def test_replies_are_read_as_the_package_reads_them(name: str, package: Any) -> None:
    assert {reply: ours(name, reply) for reply in REPLIES} == {reply: theirs(package, name, reply) for reply in REPLIES}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_mutated_replies_too_and_nothing_but_a_parse_error_is_raised(package: Any, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    reply = data.draw(st.sampled_from(REPLIES))
    cut = data.draw(st.integers(0, len(reply)))
    more = data.draw(st.text(alphabet="[]{}'\": ,()abmM129\n_model", max_size=8))
    changed = reply[:cut] + more + reply[cut:]
    assert ours(name, changed) == theirs(package, name, changed)


@pytest.mark.parametrize("name", ["gpt4_turbo_clf", "gpt4_turbo_logprob", "alpaca_eval_clf_gpt4_turbo"])
@pytest.mark.parametrize(
    "tops",
    # letters with less than a tenth of the probability, and other spellings, are read differently: test_first_token.py
    [{"m": -0.2, "M": -1.7, "A": -2.0, "B": -0.4}, {"m": -1.0, "A": -2.0}, {"M": -1.0, "B": -1.0}, {"x": -0.1}, {}],
)
def test_log_probabilities_are_read_as_the_package_reads_them(name: str, tops: dict[str, float], package: Any) -> None:
    parsers, _ = package
    listed = [{"token": token, "logprob": value} for token, value in tops.items()]
    raw = {"logprobs": {"content": [{"top_logprobs": listed}]}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (found,) = parsers.logprob_parser(raw, **config(name)["completion_parser_kwargs"])
    logprobs = tuple(TokenLogprob(token=token, logprob=value) for token, value in tops.items())
    parser = read_evaluator(name).template.parser

    if math.isnan(found):
        with pytest.raises(VerdictParseError):
            read_verdict(parser, "", logprobs, "ba")
    else:
        assert read_verdict(parser, "", logprobs, "ba").value == pytest.approx(2 - found, abs=1e-12)


def test_a_score_that_is_no_number_is_no_draw() -> None:
    assert ours("improved_lmsys_gpt4", "nan 7") is None  # the package compares, and calls it a draw


def test_a_preference_is_turned_to_the_candidate() -> None:
    parser = chain_name((("ranking_parser", {}),))
    assert read_verdict(parser, RANKED, (), "ba") == Preference(value=0)  # model_1 was the candidate, and is second
    assert read_verdict(parser, RANKED, (), "ab") == Preference(value=1)


def test_a_chain_of_unknown_parsers_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match=r"not a chain of AlpacaEval parsers; known parsers: .*json_parser"):
        read_completion("alpaca_eval:" + json.dumps([["os.system", {}]]), "x", ())
