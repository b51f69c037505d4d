"""A reward model as judge and as reward: Bradley-Terry preferences, batches that change nothing, refusals."""

from __future__ import annotations

import asyncio
import json
import math
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.records import Answer, Failure, JudgeSpec, JudgeTask, Judgment, Order, Preference, Prompt
from harness.records.errors import CheckpointError, ConfigError, IncompleteError
from harness.records.judge_choice import find_judge
from harness.records.protocols import RewardOptions, load_plugin
from harness.store import JsonlRows
from judges.reward_model import NOTE, RewardModel, RewardModelJudge
from recipes.layout import RewardRow, StepRecord
from recipes.stages.rewards import source_reward_steps
from recipes.steps import Step, run_step
from tests.fakes.recipe_files import Texts, answers_step, prompt_rows, prompts_step, recipe
from tests.fakes.toys import TEMPLATE

pytestmark = pytest.mark.skipif(find_spec("transformers") is None, reason="transformers is not installed")
CHAT = "{% for message in messages %}{{ message['role'][0] }}:{{ message['content'] }}\n{% endfor %}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with one score a sequence, random weights, bytes for tokens; its padding token is its last token."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

    out = tmp_path_factory.mktemp("models") / "tiny-rm"
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        num_labels=1,
        pad_token_id=10,
    )
    LlamaForSequenceClassification(config).save_pretrained(out)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: place for place, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.chat_template = CHAT
    fast.save_pretrained(out)
    return out


@pytest.fixture(autouse=True)
def _own_rewards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test is answered from another's reward cache."""
    monkeypatch.setenv("HARNESS_REWARD_CACHE", str(tmp_path / "rewards.sqlite"))


def spec(folder: Path, **params: int) -> JudgeSpec:
    return find_judge(f"reward_model:{folder}", {}).model_copy(update={"params": params})


def task(order: Order, mine: str, other: str = "the other answer", prompt_id: str = "q") -> JudgeTask:
    answer = Answer(prompt_id=prompt_id, model="m", turns=(mine,), finish=("stop",))
    return JudgeTask(
        prompt=Prompt(id=prompt_id, turns=("What is it?",), category="c"),
        answer=answer,
        baseline=answer.model_copy(update={"model": "b", "turns": (other,)}),
        order=order,
        template=TEMPLATE.model_copy(update={"parser": "arena_label"}),
        fields={},
    )


def rewards(model: RewardModel, texts: list[str]) -> list[float]:
    found = model(["What is it?"] * len(texts), texts)
    assert all(isinstance(reward, float) for reward in found)
    return [reward for reward in found if isinstance(reward, float)]


def judged(folder: Path, *tasks: JudgeTask) -> list[Judgment]:
    async def run() -> list[Judgment]:
        async with RewardModelJudge(spec(folder)) as judge:
            return list(await asyncio.gather(*map(judge.judge, tasks)))

    return asyncio.run(run())


def test_a_preference_is_the_sigmoid_of_the_difference_of_rewards_whatever_the_order(folder: Path) -> None:
    mine, other = rewards(RewardModel(spec(folder)), ["a fox", "the other answer"])

    both = judged(folder, task("ab", "a fox"), task("ba", "a fox"))

    for row in both:
        assert isinstance(row.verdict, Preference)
        assert row.verdict.value == pytest.approx(1 / (1 + math.exp(other - mine)), abs=1e-6)
        assert json.loads(row.reply or "") == pytest.approx({"candidate": mine, "baseline": other}, abs=1e-5)
        assert row.cost == 0
    assert [row.order for row in both] == ["ab", "ba"]


def test_equal_answers_are_a_draw(folder: Path) -> None:
    (row,) = judged(folder, task("ab", "same", "same"))
    assert row.verdict == Preference(value=0.5)


def test_a_reward_does_not_depend_on_what_else_is_in_its_batch(folder: Path) -> None:
    texts = [f"{'word ' * (number % 7)}{number}" for number in range(23)]

    alone = rewards(RewardModel(spec(folder, batch_size=1)), texts)
    together = rewards(RewardModel(spec(folder, batch_size=16)), texts)
    backwards = rewards(RewardModel(spec(folder, batch_size=5)), texts[::-1])[::-1]

    assert len({round(reward, 6) for reward in alone}) > 20
    assert together == pytest.approx(alone, abs=1e-5)
    assert backwards == pytest.approx(alone, abs=1e-5)


def test_the_last_token_is_scored_even_where_it_is_the_padding_token(folder: Path) -> None:
    """Token 10 is both the configuration's padding and a letter: transformers alone would score the token before it."""
    from transformers import AutoModelForSequenceClassification

    model = RewardModel(spec(folder))
    scorer = model.load()
    row = [5, 6, 7, 10, 10]
    reference = AutoModelForSequenceClassification.from_pretrained(folder, dtype="float32").eval()
    reference.config.pad_token_id = None

    import torch

    with torch.inference_mode():
        expected = float(reference(input_ids=torch.tensor([row])).logits[0, 0])

    assert scorer.scores([row, [1] * 30])[0] == pytest.approx(expected, abs=1e-5)


def test_what_is_longer_than_the_context_is_unscored_and_never_cut(folder: Path) -> None:
    long, fine = judged(folder, task("ab", "x" * 400), task("ab", "short", prompt_id="r"))

    assert long.error is not None
    assert long.error.reason == "context"
    assert "limit is 256" in long.error.message
    assert fine.verdict is not None
    (found,) = RewardModel(spec(folder))(["q"], ["x" * 400])
    assert isinstance(found, Failure)
    assert found.reason == "context"


def test_what_the_template_rejects_is_unscored_and_the_rest_is_scored(folder: Path, tmp_path: Path) -> None:
    strict = shutil.copytree(folder, tmp_path / "strict")
    for file in strict.glob("chat_template*"):
        file.unlink()
    template = "{% if 'odd' in messages[1].content %}{{ raise_exception('no') }}{% endif %}" + CHAT
    config = json.loads((strict / "tokenizer_config.json").read_text())
    (strict / "tokenizer_config.json").write_text(json.dumps({**config, "chat_template": template}))

    odd, fine = RewardModel(spec(strict))(["q", "q"], ["an odd fox", "a fox"])

    assert odd == Failure(reason="other", message="the chat template rejects the conversation: no")
    assert isinstance(fine, float)


def test_a_suite_of_ratings_is_refused_before_anything_is_loaded(folder: Path) -> None:
    judge = RewardModelJudge(spec(folder))
    judge.check(task("ab", "x"))
    with pytest.raises(ConfigError, match="which only compares two answers"):
        judge.check(task("ab", "x").model_copy(update={"baseline": None}))


def test_it_says_what_it_is_on_the_card_and_in_the_protocol(folder: Path) -> None:
    judge = RewardModelJudge(spec(folder))

    assert judge.spec.note == NOTE
    assert judge.identity()["rule"] == "sigmoid of the difference of two rewards (Bradley-Terry)"
    assert judge.identity()["model"] == "tiny-rm"
    assert str(folder.parent) not in json.dumps(judge.identity())


def test_what_is_no_reward_model_is_refused(folder: Path, tmp_path: Path) -> None:
    two, causal = {"id2label": {"0": "a", "1": "b"}}, {"architectures": ["LlamaForCausalLM"]}
    for changed, why in ((two, "gives 2 scores"), (causal, "is a LlamaForCausalLM")):
        copy = tmp_path / why.split()[-1]
        copy.mkdir()
        for file in folder.iterdir():
            (copy / file.name).symlink_to(file)
        config = json.loads((folder / "config.json").read_text())
        (copy / "config.json").unlink()
        (copy / "config.json").write_text(json.dumps({**config, **changed}))
        with pytest.raises(CheckpointError, match=why):
            RewardModelJudge(spec(copy))
    with pytest.raises(ConfigError, match="batch_size, a number of at least 1"):
        RewardModel(spec(folder, batch_size=0))


def test_it_is_a_reward_by_name_as_well(folder: Path) -> None:
    options = RewardOptions("reward_model", model=str(folder), batch_size=3)
    with load_plugin("rewards", "reward_model")(options) as reward:
        texts = reward(prompts=["a", "b"], completions=["c", "d"], reference=["e", "f"])
        talks = [[{"role": "user", "content": "b"}]], [[{"role": "assistant", "content": "d"}]]
        assert reward(*talks) == [pytest.approx(texts[1], abs=1e-5)]


def score_step(folder: Path, out: Path, size: int, texts: Texts, **further: object) -> tuple[Step, StepRecord]:
    """The answers of source a scored by the model, `size` at once."""
    made = recipe(out, {"kind": "reward_model", "model": str(folder), "batch_size": size, **further})
    prompts = prompts_step(made, prompt_rows(list(texts)))
    answers = [answers_step(made.source(name), f"sources/{name}", texts) for name in "ab"]
    step = source_reward_steps(made, prompts, answers)[0]
    return step, run_step(step)


def values(step: Step) -> dict[str, float | None]:
    return {row.key: row.value for row in JsonlRows(step.folder / "rewards.jsonl", RewardRow).read()}


SAMPLES: Texts = {f"p{number}": [f"{'word ' * (number % 5)}{draw}" for draw in range(3)] for number in range(7)}


@pytest.mark.slow
def test_a_steps_rewards_do_not_depend_on_its_batches(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone, _ = score_step(folder, tmp_path / "alone", 1, SAMPLES)
    monkeypatch.setenv("HARNESS_REWARD_CACHE", str(tmp_path / "another.sqlite"))
    together, _ = score_step(folder, tmp_path / "together", 16, SAMPLES)

    assert len(values(alone)) == 21
    assert values(together) == pytest.approx(values(alone), abs=1e-5)


@pytest.mark.slow
def test_an_answer_is_scored_once_whatever_the_recipes_folder(folder: Path, tmp_path: Path) -> None:
    first, one = score_step(folder, tmp_path / "one", 4, SAMPLES)
    second, other = score_step(folder, tmp_path / "other", 4, {**SAMPLES, "new": ["one more"]})

    assert (one.counts["session_scored"], one.counts["session_from_cache"]) == (21, 0)
    assert (other.counts["session_scored"], other.counts["session_from_cache"]) == (1, 21)
    assert values(first).items() <= values(second).items()


def test_a_cache_that_cannot_be_used_costs_time_only(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no database")
    monkeypatch.setenv("HARNESS_REWARD_CACHE", str(tmp_path / "file"))

    step, done = score_step(folder, tmp_path / "out", 4, SAMPLES)

    assert done.counts["session_scored"] == len(values(step)) == 21
    assert "the reward cache" in caplog.text


@pytest.mark.slow
def test_an_answer_that_does_not_fit_stops_the_step_or_is_left_out(folder: Path, tmp_path: Path) -> None:
    texts: Texts = {"p": ["short", "x" * 400]}
    with pytest.raises(IncompleteError, match=r"answer of 'a' to prompt 'p' \(draw 1\) is too long .*limit is 256"):
        score_step(folder, tmp_path, 4, texts)
    assert [row.value is None for row in JsonlRows(tmp_path / "rewards/a/rewards.jsonl", RewardRow).read()] == [False]

    step, done = score_step(folder, tmp_path, 4, texts, overlong="drop")  # the same folder goes on

    assert (done.counts["rewarded"], done.counts["overlong"], done.counts["session_scored"]) == (1, 1, 1)
    assert sorted(value is None for value in values(step).values()) == [False, True]
