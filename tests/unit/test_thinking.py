"""Which parser reads a checkpoint's replies, and whether its prompts open the reasoning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.backends.thinking import (
    BY_TYPE,
    NEEDED,
    PARSER_PACKAGES,
    SGLANG_NAMES,
    SPECIAL_MARKS,
    TAGGED,
    TEXT_ALONE,
    choose_parser,
    installed_parsers,
    lost_mark,
    opened_block,
    parser_for,
)
from harness.store.checkpoint import Checkpoint

QWEN3 = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content.split('</think>')[-1] + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
R1 = (
    "{{ messages[0].content.split('</think>')[-1] }}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\\n' }}{% endif %}"
)
PLAIN = "{% for message in messages %}{{ bos_token + message.content }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "model_type", "parser"),
    [
        (QWEN3, "qwen3", "qwen3"),
        (QWEN3, "glm4_moe", "glm45"),
        (R1, "llama", "deepseek_r1"),
        (R1, "nemotron_h", "nemotron_v3"),
        (R1, "deepseek_v3", "deepseek_r1"),  # DeepSeek-R1 itself
        ("{% if thinking %}<think>{% else %}</think>{% endif %}", "deepseek_v3", "deepseek_v3"),  # V3.1
        (R1, "step3p5", "step3p5"),
        (R1, "step3_vl", "step3"),
        ("<|channel|>analysis<|message|>", "gpt_oss", "openai_gptoss"),
        ("[THINK]", "mistral3", "mistral"),
        ("<seed:think>", "seed_oss", "seed_oss"),
        (PLAIN, "qwen3", None),
        ("Write <think> and the rest", "llama", None),
    ],
)
def test_a_parser_is_chosen_by_template_and_model_type(template: str, model_type: str, parser: str | None) -> None:
    assert choose_parser(template, model_type) == parser


def test_every_parser_that_may_be_chosen_exists_in_the_installed_vllm() -> None:
    known = installed_parsers()
    if not known:
        pytest.skip("vllm is not installed")

    tables = (SPECIAL_MARKS.values(), TAGGED.values(), BY_TYPE.values(), ("qwen3", "deepseek_r1"))
    chosen = {parser for table in tables for parser in table}
    assert chosen - known == set()
    assert {*SGLANG_NAMES, *NEEDED, *PARSER_PACKAGES} <= chosen
    assert known >= TEXT_ALONE


def test_a_prompt_opens_a_block_or_not() -> None:
    assert opened_block(R1) == "<think>"
    assert opened_block(QWEN3) == ""
    assert opened_block(QWEN3, {"enable_thinking": False}) == ""  # opened and closed again
    assert opened_block(PLAIN) == ""
    assert opened_block("{{ raise_exception('no') }}") is None
    assert opened_block("{% generation %}{{ messages[0].content }}{% endgeneration %}<think>") == "<think>"


def checkpoint_of(folder: Path, template: str, model_type: str, *tokens: str, special: bool = False) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    added = [{"id": number, "content": token, "special": special} for number, token in enumerate(tokens)]
    (folder / "tokenizer.json").write_text(json.dumps({"added_tokens": added}, ensure_ascii=False))
    return Checkpoint(
        path=folder,
        architecture="LlamaForCausalLM",
        weights_digest="w",
        template=template,
        template_source="chat_template.jinja",
        template_digest="t",
    )


@pytest.mark.parametrize(
    ("tokens", "parser"), [(("<think>", "</think>"), "deepseek_r1"), (("</think>",), None), ((), None)]
)
def test_a_parser_needs_its_marks_in_the_vocabulary(
    tmp_path: Path, tokens: tuple[str, ...], parser: str | None
) -> None:
    assert parser_for(checkpoint_of(tmp_path, R1, "llama", *tokens)) == parser


def test_olmo_3_has_its_marks_in_pieces(tmp_path: Path) -> None:
    assert parser_for(checkpoint_of(tmp_path, R1, "olmo3", "<think>", "</think>")) is None
    assert parser_for(checkpoint_of(tmp_path, R1, "olmo3", "</", "\u0120</", "think", ">")) == "olmo3"


def test_marks_that_are_special_tokens_need_a_parser_that_asks_for_them(tmp_path: Path) -> None:
    """deepseek_r1 would see none of them and take every answer for reasoning."""
    marked = checkpoint_of(tmp_path, R1, "llama", "<think>", "</think>", special=True)

    assert (parser_for(marked), lost_mark(marked)) == ("qwen3", "</think>")
    shown = checkpoint_of(tmp_path, R1, "llama", "<think>", "</think>")
    assert (parser_for(shown), lost_mark(shown)) == ("deepseek_r1", None)


def test_channels_are_read_for_gpt_oss_alone(tmp_path: Path) -> None:
    assert parser_for(checkpoint_of(tmp_path, "<|channel|>analysis", "gpt_oss")) == "openai_gptoss"
    tuned = checkpoint_of(tmp_path, "<|channel|>analysis", "llama")
    assert (parser_for(tuned), lost_mark(tuned)) == (None, "<|channel|>")
