"""Models that think: their reasoning is stored apart and neither judged, measured, sent back nor ranked."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.backends.chat import Asker, ChatCompletions, ContextWindow
from harness.backends.thinking import Thinking
from harness.records import Answer, Prompt, Sampling
from tests.fakes.commands import Done
from tests.fakes.openai_server import FakeOpenAI, Reply, Request, judge_reply, serving

TWO_TURNS = Prompt(id="p", turns=("First?", "Second?"), category="toy")


def asked(replies: list[dict[str, Any]], thinking: Thinking | None = None) -> tuple[Answer, list[dict[str, Any]]]:
    """Return the answer to a prompt of two turns, and the bodies that were sent."""
    bodies: list[dict[str, Any]] = []

    async def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return replies[len(bodies) - 1]

    dialogue = ChatCompletions(post, "m", counter=lambda text: len(text.split()))
    asker = Asker(dialogue, ContextWindow(None), "m", thinking=thinking or Thinking())
    return asyncio.run(asker.answer(TWO_TURNS, Sampling(max_tokens=100))), bodies


def reply(text: str | None, *, finish: str = "stop", tokens: int = 10, **message: str) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": tokens}}


def test_inline_reasoning_is_stored_apart_and_not_sent_back() -> None:
    answer, bodies = asked([reply("<think>It is one.</think>\n\nOne."), reply("Two.")])

    assert answer.turns == ("One.", "Two.")
    assert (answer.reasoning, answer.reasoning_tokens, answer.is_split) == (("It is one.", ""), (3, 0), True)
    assert answer.visible_tokens == 20 - 3
    assert [message["content"] for message in bodies[1]["messages"]] == ["First?", "One.", "Second?"]


def test_a_parsers_reasoning_is_stored_and_its_missing_count_made_up_for() -> None:
    answer, _ = asked([reply("One.", reasoning="It is one."), reply("Two.")])

    assert (answer.turns, answer.reasoning, answer.is_split) == (("One.", "Two."), ("It is one.", ""), False)
    assert answer.reasoning_tokens == (3, 0)


def test_a_second_block_behind_a_parser_is_split_off_too() -> None:
    answer, _ = asked([reply("It is one.</think>One.", reasoning="It is one."), reply("Two.")])

    assert (answer.turns[0], answer.reasoning[0], answer.is_split) == ("One.", "It is one.\nIt is one.", True)


def test_a_block_that_never_ends_is_an_empty_answer_cut_in_its_reasoning() -> None:
    answer, _ = asked([reply("<think>It is"), reply("Two.")])

    assert (answer.turns, answer.finish) == (("", "Two."), ("length", "stop"))
    assert answer.is_blank
    assert answer.is_cut_in_reasoning


def test_a_text_that_goes_on_with_a_block_of_the_prompt_is_reasoning() -> None:
    answer, _ = asked([reply("It is", finish="length"), reply("It is two.</think>Two.")], Thinking(opens="<think>"))

    assert (answer.turns, answer.reasoning) == (("", "Two."), ("It is", "It is two."))


def test_a_parser_that_takes_an_answer_without_marks_for_reasoning_is_corrected() -> None:
    answer, _ = asked([reply(None, reasoning="One."), reply("Two.")], Thinking(opens=""))

    assert (answer.turns, answer.reasoning) == (("One.", "Two."), ())


def test_a_room_for_reasoning_is_added_to_the_answers_limit() -> None:
    _, bodies = asked([reply("One."), reply("Two.")], Thinking(room=50))

    assert [body["max_tokens"] for body in bodies] == [150, 150]


def thinker(request: Request) -> Reply:
    return Reply(text=f"<think>\n{'hm ' * 40}[[10]]\n</think>\n\nanswer to {request.last[:20]}")


def cut_off(request: Request) -> Reply:
    return Reply(reasoning="hm " * 40, finish="length")


def run_pocket(
    harness: Callable[..., Done], answer: Callable[[Request], Reply], *words: str, suite: str = "arena_hard"
) -> tuple[Done, list[Request]]:
    """Run a suite of the pocket edition on an endpoint; return the requests that the judge got."""
    with serving(FakeOpenAI(reply=answer, model="cand")) as cand, serving(FakeOpenAI(reply=judge_reply)) as judge:
        model, judged_by = f"endpoint:cand@{cand.url}", f"endpoint:judge@{judge.url}"
        settings = ("--backend", "endpoint", "--edition", "pocket", "--suite", suite, "--limit", "8")
        done = harness("run", "--model", model, "--judge", judged_by, *settings, *words)
        return done, judge.requests


def test_a_judge_sees_no_reasoning_and_the_card_counts_it_apart(harness: Callable[..., Done]) -> None:
    done, seen = run_pocket(harness, thinker, "--json")

    assert done.code == 0, done.err
    (card,) = json.loads(done.out)["cards"]
    assert seen
    assert not [request for request in seen if "hm hm" in json.dumps(request.messages)]
    assert card["counts"]["with_reasoning"] == 8
    assert "8 of 8 answers had reasoning in their text; it was split off by its marks" in card["notes"]
    # an endpoint cannot count the reasoning's tokens, so the length of its answers is unknown, not wrong
    assert card["usage"]["answer_reasoning_tokens"] is None
    assert card["scores"]["avg_tokens"]["value"] is None


@pytest.mark.slow
def test_a_run_of_empty_answers_says_so_and_is_not_ranked(harness: Callable[..., Done]) -> None:
    done, _ = run_pocket(harness, cut_off)
    board = json.loads(harness("leaderboard", "--json").out)["tables"][0]["rows"]
    forced = json.loads(harness("leaderboard", "--json", "--rank-incomplete").out)["tables"][0]["rows"]

    assert done.code == 0, done.err
    assert "8 of 8 answers are empty, 8 of them cut in their reasoning" in done.out
    assert [(row["rank"], row["empty"], row["cut_in_reasoning"]) for row in board] == [(None, 8, 8)]
    assert [row["rank"] for row in forced] == [1]
    assert "8 (8 cut in reasoning)" in harness("leaderboard", "--format", "md").out


@pytest.mark.slow
def test_the_switches_are_sent_and_make_another_run(harness: Callable[..., Done]) -> None:
    sent: list[dict[str, Any]] = []

    def plain(request: Request) -> Reply:
        sent.append(request.body)
        return Reply(text="four")

    words = ("--chat-template-kwargs", '{"enable_thinking": false}', "--reasoning-room", "64", "--json")
    changed = json.loads(run_pocket(harness, plain, *words)[0].out)["cards"][0]
    bodies = list(sent)
    usual = json.loads(run_pocket(harness, plain, "--json")[0].out)["cards"][0]

    assert all(body["chat_template_kwargs"] == {"enable_thinking": False} for body in bodies)
    assert {body["max_tokens"] for body in bodies} == {usual["sampling"]["max_tokens"] + 64}
    assert changed["protocol"]["sampling_deviation"] == {"reasoning_room": 64}
    assert any("enable_thinking" in note for note in changed["notes"])
    assert changed["provenance"]["run_id"] != usual["provenance"]["run_id"]


def test_a_switch_that_is_no_json_object_is_refused(harness: Callable[..., Done]) -> None:
    done, _ = run_pocket(harness, thinker, "--chat-template-kwargs", "off")

    assert done.code == 2
    assert "give an object, e.g." in done.err


# ----------------------------------------------------------------------------------------------------- the real thing

MARKS = ("<think>", "</think>")
THOUGHT = "I know it."
TEMPLATE_END = "{{- '<|assistant|><think>' -}}"


@pytest.fixture(scope="module")
def thinking_checkpoint(vllm_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint, trained a little further to think: its prompts end in `<think>`, and it closes the block.

    Two bytes that UTF-8 never uses give their tokens to the marks.
    """
    transformers = pytest.importorskip("transformers")
    import torch

    from recipes.worlds.embedded import EmbeddedSettings, RowWriter, batches, fit

    folder = Path(shutil.copytree(vllm_checkpoint, tmp_path_factory.mktemp("thinking") / "thinker"))
    _name_marks(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    opening, closing = tokenizer.convert_tokens_to_ids(list(MARKS))

    class ThinkingWriter(RowWriter):
        def question(self, text: str) -> list[int]:
            return [*super().question(text), opening]

        def answer(self, text: str) -> list[int]:
            return [*super().answer(THOUGHT)[:-1], closing, *super().answer(text)]

    settings = EmbeddedSettings(steps=120, rows=16, muon_lr=0.002, lr=0.002)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        fit(model, batches(ThinkingWriter(tokenizer), random.Random(0), steps=120, size=16), settings)
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    return folder


def _name_marks(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text("utf-8"))
    vocabulary = content["model"]["vocab"]
    for mark, byte in zip(MARKS, ("\u00fe", "\u00ff"), strict=True):  # bytes 0xFE and 0xFF as ByteLevel writes them
        number = vocabulary.pop(byte)
        vocabulary[mark] = number
        flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
        content["added_tokens"].append({"id": number, "content": mark, **flags})
    content["added_tokens"].sort(key=lambda token: token["id"])
    file.write_text(json.dumps(content), "utf-8")
    template = folder / "chat_template.jinja"
    template.write_text(template.read_text("utf-8").replace("{{- '<|assistant|>' -}}", TEMPLATE_END), "utf-8")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.parametrize(("parser", "special"), [("deepseek_r1", False), ("qwen3", True)])
def test_a_checkpoint_that_thinks_goes_through_a_real_vllm_and_its_parser(
    harness: Callable[..., Done], thinking_checkpoint: Path, tmp_path: Path, parser: str, special: bool
) -> None:
    """`special`: whether the marks are special tokens, which vLLM shows only if the parser asks for them."""
    thinker = Path(shutil.copytree(thinking_checkpoint, tmp_path / "thinker"))
    content = json.loads((thinker / "tokenizer.json").read_text("utf-8"))
    for token in content["added_tokens"]:
        token["special"] = special if token["content"] in MARKS else token["special"]
    (thinker / "tokenizer.json").write_text(json.dumps(content), "utf-8")
    with serving(FakeOpenAI(reply=judge_reply)) as judge:
        settings = (
            "--edition",
            "pocket",
            "--suite",
            "mt_bench",
            "--limit",
            "8",
            "--judge",
            f"endpoint:judge@{judge.url}",
        )
        done = harness("run", "--model", str(thinker), *settings, "--json")

    assert done.code == 0, done.err
    assert f"thinker: reasoning parser {parser}, by its chat template" in done.err
    (card,) = json.loads(done.out)["cards"]
    (file,) = tmp_path.rglob("answers.jsonl")
    answers = [Answer.model_validate_json(line) for line in file.read_text("utf-8").splitlines()]
    thoughts = [text for answer in answers for text in answer.reasoning]
    assert len(thoughts) == 16
    assert thoughts.count(THOUGHT) >= 12, thoughts
    assert not [turn for answer in answers for turn in answer.turns if "think" in turn]
    # a model this small sometimes thinks twice; qwen3 swallows the second closing mark, deepseek_r1 leaves it to us
    twice = [turn for answer in answers for turn in answer.turns if THOUGHT in turn]
    assert len(twice) <= (2 if special else 0)
    assert sum(answer.is_split for answer in answers) <= 2  # the server's parser did it, unless a block came twice
    assert sum(answer.is_blank for answer in answers) <= 2
    assert bool([request for request in judge.requests if THOUGHT in json.dumps(request.messages)]) == bool(twice)
    assert card["usage"]["answer_reasoning_tokens"] >= 12 * len(THOUGHT)  # a token per byte
    assert card["counts"]["with_reasoning"] == 8
