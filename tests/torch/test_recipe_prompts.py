"""Stage prompts: what is loaded, what is dropped and why, and the part each prompt is in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from harness.records import Prompt
from harness.records.errors import CheckpointError, ConfigError, DataError
from recipes.layout import Dropped, PromptRow, StepRecord
from recipes.prompts import (
    PromptError,
    Questions,
    duplicates,
    load_rows,
    normalised,
    prompt_in,
    read_prompts,
    suite_questions,
    words_of,
)
from recipes.spec import PromptsSpec
from recipes.stages.prompts import prompts_step
from recipes.steps import run_step
from tests.fakes.recipe_files import recipe
from tests.fakes.tiny_models import make_checkpoint


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose tokenizer has a token a byte and three more in its template."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "target")


def rows_file(folder: Path, rows: Sequence[Mapping[str, object]], name: str = "data.jsonl") -> Path:
    path = folder / name
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(folder: Path, target: Path, data: Path | str, **prompts: object) -> StepRecord:
    """`pad_token` is the recipe's, all else of its `prompts`."""
    pad_token = prompts.pop("pad_token", None)
    given = {"dataset": str(data), "decontaminate": [], **prompts}
    made = recipe(folder / "out", {"kind": "function"}, prompts=given, target=str(target), pad_token=pad_token)
    return run_step(prompts_step(made))


def rows(folder: Path) -> list[PromptRow]:
    lines = (folder / "out" / "prompts" / "prompts.jsonl").read_text().splitlines()
    return [PromptRow.model_validate_json(line) for line in lines]


def dropped(folder: Path) -> list[Dropped]:
    lines = (folder / "out" / "prompts" / "dropped.jsonl").read_text().splitlines()
    return [Dropped.model_validate_json(line) for line in lines]


def questions(count: int) -> list[dict[str, object]]:
    return [{"prompt": f"question {number}"} for number in range(count)]


def test_a_third_is_for_sft_and_what_is_held_out_is_not_trained_on(tmp_path: Path, target: Path) -> None:
    made = run(tmp_path, target, rows_file(tmp_path, questions(40)), validation=4, test=6)

    # 40 - 10 = 30 to train on: a third is 10
    assert made.counts == {
        "rows": 40, "prompts": 40, "sft": 10, "preference": 20, "validation": 4, "test": 6,
    }  # fmt: skip
    assert len({row.prompt.id for row in rows(tmp_path)}) == 40
    assert list(made.outputs) == ["dropped.jsonl", "origin.json", "prompts.jsonl"]


def test_the_split_depends_on_seed_and_ids_alone(tmp_path: Path, target: Path) -> None:
    def parts(name: str, data: list[dict[str, object]], seed: int) -> dict[str, str]:
        folder = tmp_path / name
        folder.mkdir()
        run(folder, target, rows_file(folder, data), seed=seed)
        return {row.prompt.turns[0]: row.part for row in rows(folder)}

    first = parts("a", questions(30), 1)

    assert parts("b", questions(30)[::-1], 1) == first
    assert parts("c", questions(30), 2) != first
    fewer = parts("d", questions(29), 1)
    assert sum(fewer[text] != first[text] for text in fewer) <= 1  # the one at the border, at most


def test_a_limit_draws_by_seed_and_names_what_it_left(tmp_path: Path, target: Path) -> None:
    made = run(tmp_path, target, rows_file(tmp_path, questions(30)), limit=12)

    assert (made.counts["prompts"], made.counts["dropped_limit"]) == (12, 18)
    assert len(rows(tmp_path)) == 12


def test_prompts_that_cannot_be_used_are_dropped_with_a_reason(tmp_path: Path, target: Path) -> None:
    talk = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    data: list[dict[str, object]] = [
        {"prompt": "What is 3 + 4?"},
        {"prompt": "What is 3 - 4?"},
        {"prompt": "What is 3 + 4?"},
        {"prompt": "what  IS 3 + 4? "},
        {"prompt": [talk[0], talk[2]]},
        {"prompt": talk[:2]},
        {"prompt": " \n"},
        {"prompt": None},
        {"prompt": "x" * 98},
        {"prompt": "y" * 97},
    ]
    # in the byte tokenizer's template a prompt of 97 letters takes 100 tokens: BOS, user, assistant
    record = run(tmp_path, target, rows_file(tmp_path, data), max_prompt_length=100)

    assert [row.prompt.turns[0] for row in rows(tmp_path)] == ["What is 3 + 4?", "What is 3 - 4?", "a", "y" * 97]
    assert {name: count for name, count in record.counts.items() if name.startswith("dropped")} == {
        "dropped_duplicate": 1,
        "dropped_empty": 1,
        "dropped_near_duplicate": 1,
        "dropped_no_prompt": 1,
        "dropped_several_turns": 1,
        "dropped_too_long": 1,
    }
    assert {(one.reason, one.detail) for one in dropped(tmp_path)} >= {("too_long", "101 tokens")}


def test_a_conversation_is_asked_after_its_earlier_turns(tmp_path: Path, target: Path) -> None:
    def talk(*texts: str) -> list[dict[str, str]]:
        return [{"role": "assistant" if at % 2 else "user", "content": text} for at, text in enumerate(texts)]

    data: list[dict[str, object]] = [
        {"prompt": talk("Hi", "Hello.", "And now?", "the answer that is left out")},
        {"prompt": talk("Hi", "Hello.", "And now?")},
        {"prompt": talk("Hi", "Good day.", "And now?")},  # another conversation
        {"prompt": talk("hi", "hello. ", "and  now?")},
        {"prompt": talk("Hi", " ", "And now?")},
        {"prompt": talk("x" * 60, "y", "z" * 60)},
    ]
    made = run(tmp_path, target, rows_file(tmp_path, data), max_prompt_length=100)

    assert [(row.prompt.turns, row.prompt.answered) for row in rows(tmp_path)] == [
        (("Hi", "And now?"), ("Hello.",)),
        (("Hi", "And now?"), ("Good day.",)),
    ]
    assert {name: count for name, count in made.counts.items() if name.startswith("dropped")} == {
        "dropped_duplicate": 1,
        "dropped_empty": 1,
        "dropped_near_duplicate": 1,
        "dropped_too_long": 1,
    }


def test_one_bad_row_stops_no_recipe(tmp_path: Path, target: Path) -> None:
    """Half a character, which no file can store, and a system message that the template rejects."""
    from transformers import AutoTokenizer

    folder = shutil.copytree(target, tmp_path / "target")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
        + tokenizer.chat_template
    )
    tokenizer.save_pretrained(folder)
    data: list[dict[str, object]] = [
        {"prompt": "fine", "gold": "a"},
        {"prompt": "half \ud83d", "gold": "b"},
        {"prompt": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}], "gold": "c"},
        {"prompt": "a column with half", "gold": "\ud83d"},
    ]

    made = run(tmp_path, folder, rows_file(tmp_path, data), columns=["gold"])

    assert [row.columns["gold"] for row in rows(tmp_path)] == ["a", "?"]
    assert (made.counts["dropped_surrogates"], made.counts["dropped_rejected_by_template"]) == (1, 1)


def test_a_system_message_stays_with_its_prompt() -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}]

    assert prompt_in({"prompt": messages}, "prompt") == ("be brief", ("hello",), ())
    assert prompt_in({"prompt": messages[1]}, "prompt") == (None, ("hello",), ())  # the released WRPO rows
    with pytest.raises(PromptError, match="does not start with a user message"):
        prompt_in({"prompt": [{"role": "assistant", "content": "hello"}]}, "prompt")


def test_ids_are_digests_of_the_text_or_a_column(tmp_path: Path) -> None:
    data = [{"prompt": "hello", "key": "a-1", "gold": 7}]
    (made, columns) = read_prompts(data, PromptsSpec(dataset="d.jsonl", columns=("gold",))).prompts[0]
    (named, _) = read_prompts(data, PromptsSpec(dataset="d.jsonl", id_column="key")).prompts[0]

    # sha256 of the canonical JSON [null,"hello"]
    assert made.id == "909638bc2ce15183"
    assert columns == {"gold": "7"}
    assert named.id == "a-1"


@pytest.mark.parametrize(
    ("data", "spec", "sentence"),
    [
        ([{"text": "a"}], {}, "row 1 has no column 'prompt'; it has: text"),
        ([{"prompt": "a"}], {"columns": ("gold",)}, "row 1 has no column 'gold'"),
        ([{"prompt": "a", "k": "../x"}], {"id_column": "k"}, "row 1: k = '../x' is not a valid id"),
        ([{"prompt": "a", "k": "1#0"}], {"id_column": "k"}, "row 1: k = '1#0' is not a valid id"),
        (
            [{"prompt": "a", "k": 1}, {"prompt": "b", "k": 1}],
            {"id_column": "k"},
            "row 2: the id '1' belongs to another prompt",
        ),
    ],
)
def test_rows_that_cannot_be_read_are_named(
    data: list[dict[str, object]], spec: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError) as raised:
        read_prompts(data, PromptsSpec.model_validate({"dataset": "d.jsonl", **spec}))

    assert sentence in str(raised.value)


@pytest.mark.parametrize(
    ("data", "prompts", "sentence"),
    [
        ([], {}, "has no usable prompt: it has no rows"),
        ([{"prompt": ""}], {}, "has no usable prompt: empty"),
        (questions(3), {"validation": 2, "test": 1}, "only 3 are left, and holding out 3"),
    ],
)
def test_nothing_is_written_where_nothing_is_left_to_train_on(
    tmp_path: Path, target: Path, data: list[dict[str, object]], prompts: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        run(tmp_path, target, rows_file(tmp_path, data), **prompts)

    assert not list(tmp_path.glob("out/prompts/*.jsonl"))


# ------------------------------------------------------------------------------------------------- the tokenizer


def test_a_target_without_template_or_pad_token_is_named_with_the_key_that_helps(tmp_path: Path) -> None:
    data = rows_file(tmp_path, questions(3))
    bare = make_checkpoint(tmp_path / "bare", template=False)
    with pytest.raises(ConfigError, match=r"bare has no chat template; give one with `chat_template: FILE.jinja`"):
        run(tmp_path, bare, data)

    padless = make_checkpoint(tmp_path / "padless")
    config = json.loads((padless / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (padless / "tokenizer_config.json").write_text(json.dumps(config))
    assert run(tmp_path / "padded", padless, data).counts["prompts"] == 3  # by its end token
    with pytest.raises(ConfigError, match=r"pad_token: '<nope>' is not in the vocabulary"):
        run(tmp_path / "b", padless, data, pad_token="<nope>")
    assert run(tmp_path / "c", padless, data, pad_token="<|system|>").counts["prompts"] == 3

    with pytest.raises(CheckpointError, match="no such model folder: 'models/none'"):
        run(tmp_path / "d", Path("models/none"), data)


# --------------------------------------------------------------------------------------------------- where rows lie


def test_rows_come_from_parquet_and_from_functions(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(questions(5)), tmp_path / "data.parquet")
    assert load_rows(str(tmp_path / "data.parquet"), "train") == questions(5)

    (tmp_path / "toy_world.py").write_text("def rows():\n    return [{'prompt': f'q{n}'} for n in range(4)]\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert run(tmp_path, target, "toy_world:rows").counts["prompts"] == 4


@pytest.mark.parametrize(
    ("dataset", "sentence"),
    [
        ("none.jsonl", "no such data file: 'none.jsonl'"),
        ("ultrafeedback", "'ultrafeedback' is not a data set; use FILE.jsonl, FILE.json, FILE.parquet, hf:ORG/NAME"),
        ("no_such_module:rows", "no_such_module:rows cannot be imported"),
        ("json:no_rows", "json:no_rows cannot be imported"),
        ("json:dumps", "json:dumps cannot be used as a data set: dumps"),
    ],
)
def test_a_data_set_that_is_not_there_is_one_sentence(dataset: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_rows(dataset, "train")


def test_broken_files_are_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text('{"prompt": "a"}\n{"prompt": \n')
    with pytest.raises(DataError, match="line 2 is not JSON"):
        load_rows(str(tmp_path / "data.jsonl"), "train")

    (tmp_path / "data.parquet").write_text("PAR1")
    with pytest.raises(DataError, match="is not Parquet"):
        load_rows(str(tmp_path / "data.parquet"), "train")


# -------------------------------------------------------------------------------------------------- decontamination


def test_thirteen_words_in_common_are_too_many_whatever_stands_between_them() -> None:
    index = Questions()
    index.add("suite:1", "One two three four five six seven, eight nine ten eleven twelve thirteen fourteen.")

    # words 2 to 14, in other case and punctuation, in the middle of another text
    assert index.lookup("Say: TWO three - four five six seven eight nine ten eleven twelve thirteen fourteen now") == (
        "suite:1"
    )
    assert index.lookup("three four five six seven eight nine ten eleven twelve thirteen fourteen") is None  # 12


def test_a_short_question_counts_only_as_a_whole() -> None:
    index = Questions()
    index.add("suite:2", "What is a tree?")

    assert index.lookup("what is a tree") == "suite:2"
    assert index.lookup("What is a tree made of?") is None


def test_scripts_without_spaces_are_compared_by_character() -> None:
    assert words_of("日本語 and 3km") == ("日", "本", "語", "and", "3km")
    index = Questions()
    index.add("suite:3", "一二三四五六七八九十百千万億")
    assert index.lookup("問: 二三四五六七八九十百千万億") == "suite:3"


def test_the_suites_own_questions_are_dropped(tmp_path: Path, target: Path) -> None:
    index, versions = suite_questions(("mt_bench", "alpaca_eval", "arena_hard"), "pocket")
    assert versions == dict.fromkeys(("mt_bench", "alpaca_eval", "arena_hard"), "pocket-1")
    from harness.records.protocols import SuiteOptions, load_plugin

    turn = load_plugin("suites", "mt_bench")(SuiteOptions(edition="pocket")).prompts()[0].turns[0]
    data = [*questions(5), {"prompt": turn.upper()}]
    made = run(tmp_path, target, rows_file(tmp_path, data), decontaminate=["mt_bench"], edition="pocket")

    assert made.counts["dropped_contaminated"] == 1
    (one,) = dropped(tmp_path)
    assert one.detail.startswith("mt_bench:")
    assert index.lookup(turn) is not None


def test_official_questions_that_are_not_at_hand_are_one_sentence(
    tmp_path: Path, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HARNESS_MIRROR", str(tmp_path / "nothing"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    with pytest.raises(DataError, match="harness data pull mt_bench"):
        run(tmp_path, target, rows_file(tmp_path, questions(3)), decontaminate=["mt_bench"])
    with pytest.raises(ConfigError, match="suite 'lm_eval' does not expose its questions"):
        suite_questions(("lm_eval",), "official")


def test_near_duplicates_are_found_by_form_not_by_punctuation() -> None:
    assert normalised("Ｗhat\u00a0IS\n3 + 4?") == "what is 3 + 4?"
    why = duplicates()
    seen = [Prompt(id=str(n), turns=(text,), category="c") for n, text in enumerate(("a!", "A!", "a?", "a!"))]
    assert [why(prompt) for prompt in seen] == [None, ("near_duplicate", "0"), None, ("duplicate", "0")]
