"""InfiFPO, FuseRL and distillation on tiny models: what their stages write, and what their trainings start from."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("trl")

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast  # noqa: E402

from harness.records.errors import ConfigError, IncompleteError, ReplyError  # noqa: E402
from harness.store.checkpoint import weights_digest  # noqa: E402
from recipes.layout import PreferencePair, Recipe, RewardRow, rows_in  # noqa: E402
from recipes.likelihood import PairLogps, Texts, score_pairs, summed  # noqa: E402
from recipes.sampling import Sampler  # noqa: E402
from recipes.stages.rewards import logps_steps  # noqa: E402
from recipes.stages.training import TrainedFrom, align_step, weighted_step  # noqa: E402
from recipes.steps import Step, run_step  # noqa: E402
from recipes.worlds.tiny import CHAT_TEMPLATE, SPECIALS, build_tokenizer  # noqa: E402
from tests.fakes.recipe_files import answers_step, prompt_rows, prompts_step  # noqa: E402
from tests.fakes.tiny_models import make_checkpoint  # noqa: E402
from tests.fakes.training_steps import (  # noqa: E402
    QUICK,
    distance,
    losses,
    made,
    one_thread,
    pairs_of,
    rows_step,
    sft,
    sha,
    target,
)
from tests.torch.test_distributed import PROCESSORS  # noqa: E402

__all__ = ["one_thread", "sft", "target"]  # fixtures


INFIFPO = {"x": {"method": "infifpo"}}


def sources(*folders: Path) -> list[dict[str, str]]:
    return [
        {"name": name, "model": str(path), "backend": "in_process"} for name, path in zip("ab", folders, strict=False)
    ]


def merging_tokenizer() -> PreTrainedTokenizerFast:
    """Like `build_tokenizer`, but with merges, so that its tokens are not ours, and another template."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=list(SPECIALS), initial_alphabet=sorted(alphabet))
    core.train_from_iterator(["say p1 say p2 abc abd acd bcd cde def efg fgh ghi hij"] * 20, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=SPECIALS[0], bos_token=SPECIALS[1], eos_token=SPECIALS[2]
    )
    tokenizer.chat_template = CHAT_TEMPLATE.replace("'<|", "'# <|")
    return tokenizer


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source with its own vocabulary."""
    folder = tmp_path_factory.mktemp("foreign")
    make_checkpoint(folder, seed=3)
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = merging_tokenizer()
    model.resize_token_embeddings(len(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def logp(folder: Path, prompt: str, answer: str) -> tuple[float, int]:
    """The log-probability of an answer, one token after the other, and its number of tokens."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]
    whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    start = len(tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"])
    values = torch.log_softmax(model(torch.tensor([whole])).logits[0], -1)
    return sum(float(values[at - 1, whole[at]]) for at in range(start, len(whole))), len(whole) - start


def scored(recipe: Recipe, pairs: Step, name: str) -> list[Step]:
    steps = logps_steps(recipe, 42, name, pairs)
    for step in steps:
        run_step(step)
    return steps


# ------------------------------------------------------------------------------------------- stage logps and InfiFPO


def test_a_source_scores_the_pairs_with_its_own_tokens(tmp_path: Path, target: Path, foreign: Path) -> None:
    recipe = made(tmp_path, target, sources=sources(foreign), variants={"x": {"method": "infifpo"}})
    pairs = pairs_of(recipe, 5)
    (step,) = scored(recipe, pairs, "x")
    rows = {row.prompt_id: row for row in rows_in(step.folder / "logps.jsonl", PairLogps)}
    pair = list(rows_in(pairs.folder / "pairs.jsonl", PreferencePair))[3]
    row = rows[pair.prompt.id]
    assert row.sums is not None
    assert row.tokens is not None
    expected = [logp(foreign, pair.prompt.turns[0], each.text) for each in (pair.source, pair.target, pair.rejected)]

    assert len(rows) == 5
    assert row.sums == pytest.approx([total for total, _ in expected], abs=1e-4)
    assert row.tokens == tuple(count for _, count in expected)
    assert row.tokens[0] < len(pair.source.text) + 1  # tokens were merged


def test_a_source_scores_with_the_variables_of_its_template(tmp_path: Path, target: Path) -> None:
    texts = {"open": "{{ guide | default('none') }}: " + CHAT_TEMPLATE, "filled": "Be brief.: " + CHAT_TEMPLATE}
    for name, text in texts.items():
        (tmp_path / f"{name}.jinja").write_text(text)

    def sums(name: str, **serve: Any) -> list[Any]:
        source = {"name": "a", "model": str(target), "backend": "in_process"}
        serve["chat_template"] = str(tmp_path / f"{name}.jinja")
        recipe = made(tmp_path / f"{name}{len(serve)}", target, sources=[source | {"serve": serve}], variants=INFIFPO)
        (step,) = scored(recipe, pairs_of(recipe, 2), "x")
        return [row.sums for row in rows_in(step.folder / "logps.jsonl", PairLogps)]

    filled = sums("filled")
    assert sums("open", chat_template_kwargs={"guide": "Be brief."}) == filled
    assert sums("open") != filled


def test_scoring_resumes_after_a_kill_and_counts_what_is_too_long(tmp_path: Path, target: Path, foreign: Path) -> None:
    recipe = made(tmp_path, target, sources=sources(foreign), variants={"x": {"method": "infifpo"}})
    pairs = [
        Texts.of(pair, keep_reasoning=False)
        for pair in rows_in(pairs_of(recipe, 4).folder / "pairs.jsonl", PreferencePair)
    ]
    pairs[2] = Texts(pairs[2].prompt, ("a " * 800, "b", "c"))  # 512 positions
    from harness.records import ModelRef

    sampler = Sampler("a", ModelRef.parse(str(foreign)), "in_process", max_failed=0.5)
    folder = tmp_path / "logps"
    folder.mkdir()
    first = score_pairs(sampler, pairs, folder)
    whole = (folder / "logps.jsonl").read_text().splitlines(keepends=True)
    (folder / "logps.jsonl").write_text("".join(whole[:2]) + whole[2][:20])  # kill -9 while a row was written
    again = score_pairs(sampler, pairs, folder)

    assert (first["pairs"], first["failed_context"], first["session_pairs"]) == (3, 1, 4)
    assert (again["pairs"], again["failed_context"], again["session_pairs"]) == (3, 1, 2)
    assert sorted((folder / "logps.jsonl").read_text().splitlines()) == sorted(line.strip() for line in whole)
    with pytest.raises(IncompleteError, match=r"a: 1 of 4 pairs have no log-probabilities \(context 1\)"):
        score_pairs(Sampler("a", sampler.model, "in_process", max_failed=0.1), pairs, folder)


def test_the_servers_log_probabilities_are_those_of_the_last_tokens() -> None:
    values = [None, {"5": {"logprob": -0.5}}, {"9": {"logprob": -1.0}, "6": {"logprob": -2.0}}]
    reply = {"choices": [{"prompt_logprobs": values}]}

    assert summed(reply, [4, 5, 6], 2) == -2.5
    with pytest.raises(ReplyError, match="no prompt_logprobs of all 1 tokens"):
        summed(reply, [4, 5, 7], 1)
    with pytest.raises(ReplyError, match="is the server vLLM"):
        summed({"choices": [{"prompt_logprobs": None}]}, [4, 5], 1)


def test_a_server_that_rejects_a_pair_leaves_a_failure(tmp_path: Path, target: Path) -> None:
    from recipes.likelihood import Ids, _served

    recipe = made(tmp_path, target)
    pairs = list(rows_in(pairs_of(recipe, 2).folder / "pairs.jsonl", PreferencePair))
    ids = [
        Ids(Texts.of(pair, keep_reasoning=False), (1, 2), ((3,), (4,), (5 + number,)))
        for number, pair in enumerate(pairs)
    ]

    class Server:
        served_name = "m"

        async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
            assert path == "/v1/completions"
            if body["prompt"][-1] == 6:
                raise ReplyError("too long", reason="context", status=400)
            given = [None, *({str(token): {"logprob": -float(token)}} for token in body["prompt"][1:])]
            return {"choices": [{"prompt_logprobs": given}]}

    async def rows() -> list[PairLogps]:
        return [row async for row in _served(Server(), ids, 8)]

    by_id = {row.prompt_id: row for row in asyncio.run(rows())}
    first, second = (by_id[pair.prompt.id] for pair in pairs)
    assert (first.sums, first.tokens) == ((-3.0, -4.0, -5.0), (1, 1, 1))
    assert second.error is not None
    assert second.error.reason == "context"


@pytest.mark.slow
def test_infifpo_against_its_own_start_is_lndpo(sft: Step, tmp_path: Path, target: Path) -> None:
    keys = {"alpha": 0.3, "alpha_schedule": "constant", "beta": 2.5}
    variants = {
        "infifpo": {"method": "infifpo", "training": {**keys, "clip_sources": False}},
        "lndpo": {"training": {**keys, "loss_type": "lndpo"}},
    }
    recipe = made(tmp_path, target, sources=sources(sft.folder), variants=variants)
    pairs = pairs_of(recipe)
    logps = scored(recipe, pairs, "infifpo")
    infifpo = align_step(recipe, 42, "infifpo", TrainedFrom(sft, pairs, logps))
    lndpo = align_step(recipe, 42, "lndpo", TrainedFrom(sft, pairs))
    records = [run_step(infifpo), run_step(lndpo)]

    assert losses(infifpo)[0] == pytest.approx(math.log(2), abs=1e-5)
    assert losses(infifpo) == pytest.approx(losses(lndpo), abs=1e-5)
    assert distance(infifpo.folder, lndpo.folder) < 1e-4
    assert "pairs/logps/a" in records[0].inputs
    assert records[0].settings["training"]["beta"] == 2.5  # type: ignore[index,call-overload]


@pytest.mark.slow
def test_infifpo_starts_from_the_distance_of_model_and_sources(
    sft: Step, tmp_path: Path, target: Path, foreign: Path
) -> None:
    keys = {"beta": 1.0, "per_device_train_batch_size": 4}
    variants = {"x": {"method": "infifpo", "training": keys}}
    recipe = made(tmp_path, target, sources=sources(sft.folder, foreign), variants=variants)
    pairs = pairs_of(recipe, 4)
    step = align_step(recipe, 42, "x", TrainedFrom(sft, pairs, scored(recipe, pairs, "x")))
    run_step(step)
    margins = []
    for pair in rows_in(pairs.folder / "pairs.jsonl", PreferencePair):
        prompt = pair.prompt.turns[0]
        own, other = (
            [
                total / count
                for total, count in (logp(folder, prompt, each.text) for each in (pair.source, pair.rejected))
            ]
            for folder in (sft.folder, foreign)
        )
        fused = max(own[0], other[0]), min(own[1], other[1])
        margins.append((own[0] - fused[0]) - (own[1] - fused[1]))
    expected = sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins)

    assert losses(step)[0] == pytest.approx(expected, abs=1e-4)


# ------------------------------------------------------------------------------------------------------------ FuseRL


def fuserl_recipe(tmp_path: Path, target: Path, **further: Any) -> tuple[Recipe, Step, list[Step]]:
    variants = {
        "f-sft": {"method": "fusesft", "training": {"tau": 1.0}},
        "f": {"method": "fusepo", "after": "f-sft", "training": {"tau": 1.0, "beta": 0.5}},
    }
    recipe = made(tmp_path, target, sources=sources(target, target), variants=variants, **further)
    ids = [f"p{number}" for number in range(8)]
    prompts = prompts_step(recipe, [*prompt_rows(ids[:4], "sft"), *prompt_rows(ids[4:])])
    answers, rewards = [], []
    for value, name in enumerate("ab"):
        texts = {each: [f"{name} good", f"{name} bad"] for each in ids}
        answers.append(answers_step(recipe.source(name), f"sources/{name}", texts))
        rows = [
            RewardRow(
                prompt_id=row["prompt_id"],
                model=name,
                index=row["index"],
                answer_sha=sha(row),
                value=math.log(3) * value - row["index"],
            )
            for row in map(json.loads, (recipe.source(name) / "answers.jsonl").read_text().splitlines())
        ]
        rewards.append(rows_step("rewards", recipe.source_rewards(name), "rewards.jsonl", rows))
    return recipe, prompts, [*answers, *rewards]


@pytest.mark.slow
def test_the_reference_of_weighted_pairs_is_computed_by_all_processes(tmp_path: Path, target: Path) -> None:
    config = tmp_path / "two.yaml"
    config.write_text(PROCESSORS)
    keys = {**QUICK, "per_device_train_batch_size": 4}
    recipe, prompts, answered = fuserl_recipe(tmp_path / "here", target, training=keys)
    first = weighted_step(recipe, 42, "f-sft", prompts, answered, None)
    alone = weighted_step(recipe, 42, "f", prompts, answered, first)
    keys = {**QUICK, "per_device_train_batch_size": 2}
    launched, _, _ = fuserl_recipe(tmp_path / "there", target, training=keys, launch=str(config))
    both = weighted_step(launched, 42, "f", prompts, answered, first)
    for step in (first, alone, both):
        run_step(step)

    references = [
        json.loads(next(made_from.seed(42).glob("rows/*/reference-*.json")).read_text())
        for made_from in (recipe, launched)
    ]
    assert [value for row in references[1] for value in row] == pytest.approx(
        [value for row in references[0] for value in row], abs=1e-4
    )
    # Adam makes steps of full size from gradients that are rounding errors, so the weights of eight rows differ more
    assert losses(both) == pytest.approx(losses(alone), abs=1e-3)


@pytest.mark.slow
def test_fuserl_learns_all_sources_by_weight_and_then_prefers_their_best(tmp_path: Path, target: Path) -> None:
    from recipes.training.rows import Rows

    recipe, prompts, answered = fuserl_recipe(tmp_path, target)
    first = weighted_step(recipe, 42, "f-sft", prompts, answered, None)
    second = weighted_step(recipe, 42, "f", prompts, answered, first)
    records = [run_step(first), run_step(second)]
    both = [Rows(path).load() for path in (tmp_path / "seed-42" / "rows").iterdir()]
    tokenizer = build_tokenizer()
    (sft_rows,) = (rows for rows in both if "rejected_ids" not in rows.column_names)
    (pair_rows,) = (rows for rows in both if "rejected_ids" in rows.column_names)

    assert [record.counts["rows"] for record in records] == [8, 8]
    assert sft_rows["weight"][:2] == pytest.approx([0.5, 1.5])  # softmax of 0 and log 3, times two sources
    assert tokenizer.decode(sft_rows[1]["chosen_ids"], skip_special_tokens=True) == "b good"
    assert tokenizer.decode(sft_rows[0]["prompt_ids"]).startswith("<|bos|><|user|>say p0")
    assert tokenizer.decode(pair_rows[0]["prompt_ids"]).startswith("<|bos|><|user|>say p4")
    assert tokenizer.decode(pair_rows[1]["rejected_ids"], skip_special_tokens=True) == "b bad"
    assert sum(pair_rows["weight"]) == pytest.approx(8)
    assert distance(first.folder, target) > 0
    assert distance(second.folder, first.folder) > 0
    mean = sum(losses(second)[:1]) / math.log(2)  # the mean weight of the first batch
    assert 0.5 <= mean <= 1.5
    assert "seed-42/align/f-sft" in records[1].inputs


@pytest.mark.slow
def test_weighted_sft_learns_and_saves_the_values_of_template_variables(tmp_path: Path, target: Path) -> None:
    values = {"enable_thinking": False}
    recipe, prompts, answered = fuserl_recipe(tmp_path, target, chat_template_kwargs=values)
    first = weighted_step(recipe, 42, "f-sft", prompts, answered, None)
    run_step(first)

    assert first.settings["chat_template_kwargs"] == values
    saved = AutoTokenizer.from_pretrained(first.folder).chat_template
    assert saved.startswith("{%- if enable_thinking is not defined %}{% set enable_thinking = false %}")


@pytest.mark.slow
def test_equal_weights_give_plain_sft(tmp_path: Path, target: Path) -> None:
    """With a large tau, the first loss is the mean log-probability per token of the batch's answers."""
    recipe, prompts, answered = fuserl_recipe(tmp_path, target)
    recipe.variants["f-sft"].training["tau"] = 1e9
    recipe.variants["f-sft"].training["per_device_train_batch_size"] = 8
    step = weighted_step(recipe, 42, "f-sft", prompts, answered, None)
    run_step(step)
    answers = [logp(target, f"say p{number}", f"{name} good") for number in range(4) for name in "ab"]

    assert losses(step)[0] == pytest.approx(-sum(total / count for total, count in answers) / 8, abs=1e-4)


# ------------------------------------------------------------------------------------------------------ distillation


def distilled(sft: Step, out: Path, target: Path, teacher: Path, **training: Any) -> tuple[Step, Step]:
    keys = {"per_device_train_batch_size": 4, "num_train_epochs": 3, **training}
    variants = {"x": {"method": "distill", "teacher": "a", "training": keys}}
    recipe = made(out, target, sources=sources(teacher), variants=variants)
    pairs = pairs_of(recipe, 4)
    step = align_step(recipe, 42, "x", TrainedFrom(sft, pairs))
    run_step(step)
    return step, pairs


def rendered(folder: Path, pairs: Step) -> list[tuple[list[int], int]]:
    """Each prompt with its source answer as token ids, and the prompt's length."""
    tokenizer, rows = AutoTokenizer.from_pretrained(folder), []
    for pair in rows_in(pairs.folder / "pairs.jsonl", PreferencePair):
        messages = [
            {"role": "user", "content": pair.prompt.turns[0]},
            {"role": "assistant", "content": pair.source.text},
        ]
        whole = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
        opened = tokenizer.apply_chat_template(messages[:1], add_generation_prompt=True, return_dict=True)["input_ids"]
        rows.append((whole, len(opened)))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("beta", [0.5, *(pytest.param(end, marks=pytest.mark.slow) for end in (0.0, 1.0))])
def test_one_vocabulary_is_distilled_by_the_loss_of_gkd(sft: Step, tmp_path: Path, target: Path, beta: float) -> None:
    from trl.experimental.gkd import GKDTrainer
    from trl.experimental.gold import GOLDTrainer

    teacher = make_checkpoint(tmp_path / "teacher", seed=5)
    step, pairs = distilled(sft, tmp_path / "out", target, teacher, beta=beta, temperature=1.0)
    student_model, teacher_model = map(AutoModelForCausalLM.from_pretrained, (sft.folder, teacher))
    total: dict[Any, float] = {}
    count = 0
    for ids, start in rendered(sft.folder, pairs):
        inputs, labels = torch.tensor([ids]), torch.tensor([[-100] * start + ids[start:]])
        with torch.no_grad():
            logits = [model(inputs).logits[:, :-1] for model in (student_model, teacher_model)]
        count += len(ids) - start
        for kind in (GKDTrainer, GOLDTrainer):
            loss = kind.generalized_jsd_loss(*logits, labels=labels[:, 1:], beta=beta, reduction="sum")
            total[kind] = total.get(kind, 0.0) + float(loss)

    assert losses(step)[0] == pytest.approx(total[GKDTrainer] / count, abs=1e-4)
    recorded = json.loads((step.folder / "made_from.json").read_text())
    assert recorded == {"a": weights_digest(teacher, None)}  # other weights of that name are another step's
    assert "made_from.json" in run_step(step).outputs
    assert total[GOLDTrainer] == pytest.approx(total[GKDTrainer])
    assert distance(step.folder, sft.folder) > 0


@pytest.mark.slow
def test_two_vocabularies_are_distilled_by_texts_aligned_by_bytes(
    sft: Step, tmp_path: Path, target: Path, foreign: Path
) -> None:
    from trl.experimental.gold import GOLDConfig
    from trl.experimental.gold.gold_trainer import ULDLoss

    step, pairs = distilled(sft, tmp_path / "out", target, foreign)
    student_model, teacher_model = map(AutoModelForCausalLM.from_pretrained, (sft.folder, foreign))
    tokenizers = [AutoTokenizer.from_pretrained(folder) for folder in (sft.folder, foreign)]
    loss = ULDLoss(GOLDConfig(output_dir=str(tmp_path), use_uld_loss=True, use_cpu=True, bf16=False))
    values = []
    for (student, start), (teacher, opened) in zip(rendered(sft.folder, pairs), rendered(foreign, pairs), strict=True):
        batches = []
        for ids, first, tokenizer in ((student, start, tokenizers[0]), (teacher, opened, tokenizers[1])):
            ends = [0]
            for token in ids[first:-1]:
                ends.append(ends[-1] + len(tokenizer.convert_ids_to_tokens(token)))
            offsets = [(0, 0)] * first + list(zip(ends, [*ends[1:], ends[-1]], strict=True))
            batches.append((torch.tensor([ids]), torch.tensor([[-100] * first + ids[first:]]), torch.tensor([offsets])))
        (student_ids, student_labels, student_bytes), (teacher_ids, teacher_labels, teacher_bytes) = batches
        with torch.no_grad():
            values.append(
                float(
                    loss(
                        student_logits=student_model(student_ids).logits,
                        teacher_logits=teacher_model(teacher_ids).logits,
                        student_labels=student_labels,
                        teacher_labels=teacher_labels,
                        student_input_ids=student_ids,
                        teacher_input_ids=teacher_ids,
                        student_byte_offsets=student_bytes,
                        teacher_byte_offsets=teacher_bytes,
                    )
                )
            )

    assert losses(step)[0] == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert distance(step.folder, sft.folder) > 0


@pytest.mark.slow
@pytest.mark.parametrize("across", [pytest.param(False, marks=pytest.mark.slow), True])
def test_distillation_on_the_models_own_answers(
    sft: Step, tmp_path: Path, target: Path, foreign: Path, across: bool
) -> None:
    teacher = foreign if across else make_checkpoint(tmp_path / "teacher", seed=5)
    step, _ = distilled(sft, tmp_path / "out", target, teacher, lmbda=1.0, max_completion_length=6)
    logged = [json.loads(line) for line in (step.folder / "training_log.jsonl").read_text().splitlines()]

    assert all("on_policy_loss" in entry for entry in logged if "loss" in entry)
    assert distance(step.folder, sft.folder) > 0


@pytest.mark.slow
def test_a_loss_that_needs_one_vocabulary_rejects_two(sft: Step, tmp_path: Path, target: Path, foreign: Path) -> None:
    with pytest.raises(ConfigError, match=r"the vocabulary of the teacher .* differs from the student's"):
        distilled(sft, tmp_path / "out", target, foreign, use_uld_loss=False)
