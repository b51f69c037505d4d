"""What the product states about the installed vLLM, asked of vLLM: its flags, and how its parsers read texts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from harness.backends import vllm as backend
from harness.backends.thinking import BY_TYPE, NEEDED, SPECIAL_MARKS, TAGGED, TEXT_ALONE
from tests import ROOT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")]

FLAGS = """\
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.utils.argparse_utils import FlexibleArgumentParser
import json
print(json.dumps(sorted(make_arg_parser(FlexibleArgumentParser())._option_string_actions)))
"""

PARSERS = """\
import json, sys
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.parser_manager import ParserManager

def vocabulary(tokens, special=False):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens([AddedToken(token, special=special, normalized=False) for token in tokens])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)

def starts(name, tokens):
    try:
        ParserManager.get_parser(reasoning_parser_name=name, tokenizer=vocabulary(tokens))
    except Exception as error:
        return False
    return True

def read(name, text, marks, special):
    tokenizer = vocabulary(marks, special)
    request = ChatCompletionRequest(model="m", messages=[{"role": "user", "content": "x"}])
    kwargs = {"thinking": True} if name == "deepseek_v3" else {}
    parser = ParserManager.get_parser(reasoning_parser_name=name)(tokenizer, None, chat_template_kwargs=kwargs)
    request = parser.adjust_request(request)
    ids = tokenizer.encode(text, add_special_tokens=False)
    shown = tokenizer.decode(ids, skip_special_tokens=request.skip_special_tokens)
    reasoning, content, _ = parser.parse(shown, request, model_output_token_ids=ids)
    return [part and part.strip() for part in (reasoning, content)]

answers = {}
for name, (text, marks, special) in json.load(sys.stdin).items():
    if isinstance(special, bool):
        answers[name] = read(name.split()[0], text, marks, special)
    else:
        answers[name] = starts(name.split()[0], marks)
print(json.dumps(answers))
"""


def python_output(program: str, asked: str = "") -> Any:
    """Return the JSON on the last line that a Python process of its own prints, as vLLM stays out of this one."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=asked, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_flag_that_we_pass_refuse_or_document_exists() -> None:
    known = set(python_output(FLAGS))

    source = (ROOT / "harness" / "backends" / "vllm.py").read_text("utf-8")
    used = set(re.findall(r'"(--[a-z][a-z-]+)', source.replace('f"', '"')))
    page = (ROOT / "docs" / "servers.md").read_text("utf-8")
    section = page[page.index("## Several machines") : page.index("## Memory on CPUs")]
    documented = set(re.findall(r"--engine-arg=(--[a-z][a-z-]+)", page.replace("--enable-deterministic-inference", "")))
    served = " ".join(re.findall(r"vllm\sserve[^`#]*", section))
    documented |= set(re.findall(r" (--[a-z-]+)", served))
    assert {*backend.OURS, *backend.FLAGS.values(), *backend.OTHER_WEIGHTS, *backend.CACHE_SIZES} - known == set()
    assert used - known - {"--chat-template-kwargs", "--reasoning", "--backend"} == set()
    assert len(documented) > 8
    assert documented - known == set()


def marks_of(parser: str) -> tuple[str, str]:
    return {
        "mistral": ("[THINK]", "[/THINK]"),
        "gemma4": ("<|channel>thought\n", "<channel|>"),
        "seed_oss": ("<seed:think>", "</seed:think>"),
        "minimax_m3": ("<mm:think>", "</mm:think>"),
    }.get(parser, ("<think>", "</think>"))


def tokens_of(parser: str) -> list[str]:
    opening, closing = (mark.removesuffix("thought\n") for mark in marks_of(parser))
    return [opening, closing, *NEEDED.get(parser, ())]


def test_each_parser_that_is_chosen_divides_its_marks_and_needs_the_tokens_that_we_say() -> None:
    # gpt-oss is read by its own token ids, and Cohere's by a package that is not installed
    parsers = {"qwen3", "deepseek_r1", *BY_TYPE.values(), *TAGGED.values(), *SPECIAL_MARKS.values()}
    parsers -= {"openai_gptoss", "cohere_command3", "olmo3"}
    questions: dict[str, Any] = {}
    for parser in sorted(parsers):
        opening, closing = marks_of(parser)
        text = f"{opening}Two of them.{closing}\n\nFour."
        if parser == "hunyuan_a13b":
            text = "<think>\nTwo of them.\n</think>\n<answer>\nFour.\n</answer>"
        if parser == "step3":
            text = text.removeprefix(opening)  # its template opens the block
        questions[f"{parser} shown"] = (text, tokens_of(parser), False)
        questions[f"{parser} special"] = (text, tokens_of(parser), True)
        questions[f"{parser} start"] = ("", tokens_of(parser), None)
        # without its tokens deepseek_v3 starts, and fails at the first request that says `thinking`
        if parser in NEEDED and parser != "deepseek_v3":
            questions[f"{parser} bare"] = ("", ["x"], None)

    answers = python_output(PARSERS, json.dumps(questions))

    divided = ["Two of them.", "Four."]
    assert {name: answers[name] for name in answers if name.endswith("shown") and answers[name] != divided} == {}
    assert all(answers[f"{parser} start"] for parser in parsers)
    assert [name for name in answers if name.endswith("bare") and answers[name]] == []
    lost = {parser for parser in parsers if answers[f"{parser} special"] != divided}
    assert lost - {"minimax_m3"} == TEXT_ALONE & parsers
