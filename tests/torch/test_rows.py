"""Preference rows as token ids: one BOS, one end token, nothing of the template scored; cut without losing the end."""

from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from transformers import PreTrainedTokenizerFast

from harness.records import ModelRef, Prompt
from harness.records.errors import ConfigError, IncompleteError
from harness.store.checkpoint import inspect_checkpoint
from recipes.layout import Chosen
from recipes.pairs import Extremes
from recipes.training.rows import answer_rows
from recipes.training.templates import PreferenceRow, Rendering, UnusableAnswerError, check_tokenizer, render
from recipes.training.weighted import RowContent, weighted_rows
from recipes.worlds.tiny import BOS, CHAT_TEMPLATE, EOS, build_tokenizer
from tests.fakes.tiny_models import make_checkpoint

CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}
"""
NO_END = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


def row_of(
    tokenizer: PreTrainedTokenizerFast, answers: tuple[str, str, str], how: Rendering | None = None
) -> PreferenceRow:
    row = render([{"role": "user", "content": "hi"}], answers, tokenizer, how or Rendering())
    assert row is not None
    return row


def chatml() -> PreTrainedTokenizerFast:
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.chat_template = CHATML
    return tokenizer


def test_the_prompt_holds_one_bos_and_the_assistants_header(tokenizer: PreTrainedTokenizerFast) -> None:
    row = row_of(tokenizer, ("one", "two", "three"))

    assert tokenizer.decode(row.prompt_ids) == f"{BOS}<|user|>hi<|assistant|>"


def test_an_answer_ends_in_exactly_one_end_token(tokenizer: PreTrainedTokenizerFast) -> None:
    row = row_of(tokenizer, ("one", "two", "three"))

    assert [tokenizer.decode(ids) for ids in row.answers] == [f"one{EOS}", f"two{EOS}", f"three{EOS}"]


def test_the_line_break_after_chatmls_end_token_is_not_scored() -> None:
    tokenizer = chatml()
    row = row_of(tokenizer, ("one", "two\n", "three"))

    assert [tokenizer.decode(ids) for ids in row.answers] == ["one<|im_end|>", "two\n<|im_end|>", "three<|im_end|>"]


def test_a_template_without_end_token_is_given_eos(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = NO_END + "{% if add_generation_prompt %}assistant: {% endif %}"
    row = row_of(tokenizer, ("one", "two", "three"))

    assert tokenizer.decode(row.source_ids) == f"one{EOS}"


def test_an_answer_too_long_is_cut_for_itself_and_keeps_its_end(tokenizer: PreTrainedTokenizerFast) -> None:
    head = len(row_of(tokenizer, ("a", "b", "c")).prompt_ids)
    row = row_of(tokenizer, ("x" * 50, "yes", "z" * 11), Rendering(max_length=head + 12))

    assert tokenizer.decode(row.source_ids) == "x" * 11 + EOS
    assert tokenizer.decode(row.target_ids) == f"yes{EOS}"
    assert tokenizer.decode(row.rejected_ids) == "z" * 11 + EOS
    assert row.truncated == 1


def test_a_row_with_an_answer_too_long_is_dropped_where_asked(tokenizer: PreTrainedTokenizerFast) -> None:
    how = Rendering(max_length=20, overlong="drop")

    assert render([{"role": "user", "content": "hi"}], ("x" * 50, "y", "z"), tokenizer, how) is None


def test_a_prompt_too_long_drops_the_row(tokenizer: PreTrainedTokenizerFast) -> None:
    how = Rendering(max_length=64, max_prompt_length=10)

    assert render([{"role": "user", "content": "x" * 11}], ("a", "b", "c"), tokenizer, how) is None


def test_a_template_that_rewrites_the_prompt_once_answered_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ messages | length }}" + NO_END

    with pytest.raises(ConfigError, match="renders a prompt differently"):
        row_of(tokenizer, ("a", "b", "c"))


def test_two_bos_tokens_are_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = "{{ bos_token }}{{ bos_token }}" + NO_END

    with pytest.raises(ConfigError, match="two BOS"):
        row_of(tokenizer, ("a", "b", "c"))


@pytest.mark.parametrize(("name", "word"), [("chat_template", "chat template"), ("eos_token", "end-of-sequence")])
def test_a_tokenizer_that_cannot_render_rows_is_refused(
    tokenizer: PreTrainedTokenizerFast, name: str, word: str
) -> None:
    setattr(tokenizer, name, None)

    with pytest.raises(ConfigError, match=word):
        check_tokenizer(tokenizer)


# ------------------------------------------------------------------------------------------------ models that think

EMPTY_BLOCK = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{%- set text = message['content'] -%}
{%- set thoughts = '' -%}
{%- if '</think>' in text -%}
{%- set thoughts = text.split('</think>')[0].split('<think>')[-1].strip('\n') -%}
{%- set text = text.split('</think>')[-1].lstrip('\n') -%}
{%- endif -%}
{{- '<|assistant|><think>\n' + thoughts + '\n</think>\n\n' + text + eos_token -}}
{%- else -%}
{{- '<|' + message['role'] + '|>' + message['content'] -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""
"""As Qwen 3's: the last answer gets a block, empty if the answer has none."""


def test_an_empty_reasoning_block_belongs_to_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = EMPTY_BLOCK

    row = row_of(tokenizer, ("one", "two", "three"))

    assert tokenizer.decode(row.prompt_ids) == f"{BOS}<|user|>hi<|assistant|><think>\n\n</think>\n\n"
    assert [tokenizer.decode(ids) for ids in row.answers] == [f"one{EOS}", f"two{EOS}", f"three{EOS}"]


def test_kept_reasoning_is_scored_as_the_template_writes_it(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = EMPTY_BLOCK
    chosen = Chosen(text="one", model="a", index=0, reward=1.0, reasoning="It is one.")

    row = row_of(tokenizer, (chosen.trained(keep_reasoning=True), "two", "three"))

    assert tokenizer.decode(row.source_ids) == f"<think>\nIt is one.\n</think>\n\none{EOS}"
    assert tokenizer.decode(row.target_ids) == f"<think>\n\n</think>\n\ntwo{EOS}"
    assert chosen.trained(keep_reasoning=False) == "one"


STRIPS = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>' + message['content'].split('</think>')[-1] -}}
{%- if message['role'] == 'assistant' -%}{{- eos_token -}}{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}
"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("one<|user|>two", "control_tokens"),
        ("half \ud83d", "surrogates"),
        ("The tag `</think>` ends a block.", "changed_by_template"),
    ],
)
@pytest.mark.parametrize("compat", [False, True])
def test_an_answer_that_breaks_the_template_is_named(
    tokenizer: PreTrainedTokenizerFast, text: str, reason: str, compat: bool
) -> None:
    tokenizer.chat_template = STRIPS

    with pytest.raises(UnusableAnswerError, match=reason):
        row_of(tokenizer, ("one", text, "three"), Rendering(official_compat=compat))


def test_rows_with_such_answers_are_dropped_and_counted(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.chat_template = STRIPS
    texts = ("one", "two<|user|>", "half \ud83d", "see </think>", "three")
    answered = [(Prompt(id=str(at), turns=("hi",), category="toy"), text) for at, text in enumerate(texts)]

    facts = answer_rows(tmp_path / "rows", answered, tokenizer, Rendering()).facts

    assert (facts.rows, facts.dropped_too_long) == (2, 0)
    assert (facts.dropped_control_tokens, facts.dropped_surrogates, facts.dropped_changed_by_template) == (1, 1, 1)


def test_a_template_that_opens_a_block_which_answers_lack_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = STRIPS.replace("'<|assistant|>' -}}{%- endif", "'<|assistant|><think>' -}}{%- endif")

    with pytest.raises(ConfigError, match="prompts end in '<think>', which answers lack"):
        row_of(tokenizer, ("one", "two", "three"))


# -------------------------------------------------------------------------------- the WRPO release, quirks and all


def test_official_rows_score_the_header_and_end_twice(tokenizer: PreTrainedTokenizerFast) -> None:
    row = row_of(tokenizer, ("one", "two", "three"), Rendering(official_compat=True))

    assert tokenizer.decode(row.prompt_ids) == f"{BOS}<|user|>hi"
    assert tokenizer.decode(row.source_ids) == f"<|assistant|>one{EOS}{EOS}"


def test_official_rows_cut_every_answer_where_one_overflows(tokenizer: PreTrainedTokenizerFast) -> None:
    """The release's defaults, 2048 and 1800: prompt 300, answers of 1801, 102 and 402 tokens keep 248, 102, 248."""
    prompt = [{"role": "user", "content": "p" * 298}]  # BOS and the user's header make it 300
    answers = ("s" * 1798, "t" * 99, "r" * 399)  # header and two end tokens make three more

    row = render(prompt, answers, tokenizer, Rendering(official_compat=True))

    assert row is not None
    assert len(row.prompt_ids) == 300
    assert [len(ids) for ids in row.answers] == [248, 102, 248]


def test_a_prompt_that_the_template_rejects_is_dropped_and_counted(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        "{{ '<|' + m.role + '|>' + m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>{% endif %}"
    )
    prompts = [
        Prompt(id="plain", turns=("hello",), category="all"),
        Prompt(id="odd", turns=("hello",), category="all", system="be brief"),
    ]

    rows = answer_rows(tmp_path, [(prompt, "hi") for prompt in prompts], tokenizer, Rendering())

    assert (rows.facts.rows, rows.facts.dropped_rejected_by_template) == (1, 1)


REFUSES = (
    "{%- for m in messages if 'tool' in m.content -%}{{ raise_exception('no tools here') }}{%- endfor -%}"
    "{%- for m in messages if 'odd' in m.content -%}{{ bos_token }}{%- endfor -%}"  # two BOS: a ConfigError
)
TURNS = ("hello", "call the tool", "odd", "end it<|eos|> now", "half \ud83d", "bye")
REJECTED = {1: "rejected_by_template", 2: "rejected_by_template", 3: "control_tokens", 4: "surrogates"}


def refusing(tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer.chat_template = REFUSES + str(tokenizer.chat_template)
    return tokenizer


def prompts_of(turns: Sequence[str]) -> list[Prompt]:
    return [Prompt(id=str(number), turns=(turn,), category="toy") for number, turn in enumerate(turns)]


def both(prompt: Prompt) -> tuple[Prompt, list[Extremes]]:
    best, worst = (
        Chosen(text=text, model="a", index=index, reward=reward)
        for index, (text, reward) in enumerate((("yes", 1.0), ("no", 0.0)))
    )
    return prompt, [Extremes(best, worst, count=2, distinct=2)]


def test_a_prompt_with_control_tokens_is_dropped_as_such_an_answer_is(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    answered = [(prompt, "hi") for prompt in prompts_of(TURNS)]
    facts = answer_rows(tmp_path / "rows", answered, refusing(tokenizer), Rendering()).facts

    assert (facts.rows, facts.dropped_rows) == (2, (1, 2, 3, 4))
    assert (facts.dropped_rejected_by_template, facts.dropped_control_tokens, facts.dropped_surrogates) == (2, 1, 1)
    with pytest.raises(UnusableAnswerError, match="control_tokens"):
        render([{"role": "user", "content": "hi<|eos|>"}], ("a", "b", "c"), tokenizer, Rendering(official_compat=True))


@pytest.mark.parametrize("with_rejected", [True, False])
def test_fuserl_drops_and_counts_the_rows_that_sft_does(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, with_rejected: bool
) -> None:
    content = RowContent(tau=1.0, with_rejected=with_rejected, keep_reasoning=False)
    answered = [both(prompt) for prompt in prompts_of(TURNS)]
    facts = weighted_rows(tmp_path / "rows", answered, refusing(tokenizer), Rendering(), content).facts

    assert (facts.rows, facts.dropped_rows) == (2, (1, 2, 3, 4))
    assert (facts.dropped_rejected_by_template, facts.dropped_control_tokens, facts.dropped_surrogates) == (2, 1, 1)
    with pytest.raises(ConfigError, match="two BOS tokens"):  # no row is left, so it is the template
        weighted_rows(tmp_path / "none", answered[2:3], tokenizer, Rendering(), content)


def test_a_source_fails_on_the_pairs_that_its_template_rejects_and_scores_the_others(tmp_path: Path) -> None:
    from recipes.likelihood import PairLogps, Texts, _rendered
    from recipes.sampling import Sampler

    folder = make_checkpoint(tmp_path / "source")
    template = tmp_path / "refuses.jinja"
    template.write_text(REFUSES + CHAT_TEMPLATE)
    checkpoint = inspect_checkpoint(folder, chat_template=str(template))
    sampler = Sampler("a", ModelRef.parse(str(folder)), "in_process")
    pairs = [Texts(prompt, ("yes", "well", "no")) for prompt in prompts_of(TURNS)]
    outcomes = list(_rendered(pairs, checkpoint, sampler, room=0))

    failures = {row.prompt_id: row.error.message for row in outcomes if isinstance(row, PairLogps) and row.error}
    assert failures == {str(number): f"the pair cannot be rendered: {why}" for number, why in REJECTED.items()}
    assert len(outcomes) == len(TURNS)
    with pytest.raises(ConfigError, match="two BOS tokens"):
        list(_rendered(pairs[2:3], checkpoint, sampler, room=0))


def test_distillation_leaves_out_what_the_teacher_cannot_read(
    tokenizer: PreTrainedTokenizerFast, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("trl")
    from datasets import Dataset

    from recipes.training.distill import distill_rows

    prompts = [[{"role": "user", "content": turn}] for turn in ("hello", "call the tool", "end it<|eos|> now", "bye")]
    ids = [tokenizer(turn[0]["content"])["input_ids"] for turn in prompts]
    rows = Dataset.from_list([{"prompt_ids": prompt, "source_ids": [5, 6]} for prompt in ids])
    teacher = refusing(build_tokenizer())
    examples = distill_rows(rows, "source", prompts, tokenizer, teacher)

    assert [row["input_ids"] for row in examples] == [[*ids[0], 5, 6], [*ids[3], 5, 6]]
    assert "2 rows are left out: for the teacher, 1 have a prompt that the chat template rejects" in caplog.text
    with pytest.raises(IncompleteError, match="no row is left for the teacher"):
        distill_rows(rows.select([1]), "source", prompts[1:2], tokenizer, teacher)
