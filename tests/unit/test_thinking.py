"""Which parser reads a checkpoint's replies, and whether its prompts open the reasoning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.backends.thinking import choose_parser, installed_parsers, opened_block, parser_for
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
        ("<|channel|>analysis<|message|>", "gpt_oss", "openai_gptoss"),
        ("[THINK]", "mistral3", "mistral"),
        ("<seed:think>", "seed_oss", "seed_oss"),
        (PLAIN, "qwen3", None),
        ("Write <think> and the rest", "llama", None),
    ],
)
def test_a_parser_is_chosen_by_template_and_model_type(template: str, model_type: str, parser: str | None) -> None:
    assert choose_parser(template, model_type) == parser


def test_every_chosen_parser_exists_in_the_installed_vllm() -> None:
    known = installed_parsers()
    if not known:
        pytest.skip("vllm is not installed")

    cases = ((QWEN3, "qwen3"), (QWEN3, "glm4_moe"), (R1, "llama"), (R1, "granite"), (R1, "hunyuan"), ("[THINK]", ""))
    assert {choose_parser(*case) for case in cases} <= known
    assert "deepseek_r1" in known


def test_a_prompt_opens_a_block_or_not() -> None:
    assert opened_block(R1) == "<think>"
    assert opened_block(QWEN3) == ""
    assert opened_block(QWEN3, {"enable_thinking": False}) == ""  # opened and closed again
    assert opened_block(PLAIN) == ""
    assert opened_block("{{ raise_exception('no') }}") is None
    assert opened_block("{% generation %}{{ messages[0].content }}{% endgeneration %}<think>") == "<think>"


@pytest.mark.parametrize(("vocabulary", "parser"), [({"</think>": 7}, "deepseek_r1"), ({"a": 1}, None)])
def test_a_parser_needs_its_marks_in_the_vocabulary(
    tmp_path: Path, vocabulary: dict[str, int], parser: str | None
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    checkpoint = Checkpoint(
        path=tmp_path,
        architecture="LlamaForCausalLM",
        weights_digest="w",
        template=R1,
        template_source="chat_template.jinja",
        template_digest="t",
    )

    assert parser_for(checkpoint) == parser
