"""Flags and YAML become one RunSpec; a wrong key or name is one sentence that lists what exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from harness.records import ModelRef, digest
from harness.records.errors import ConfigError, PluginError
from harness.records.judge_choice import choose_judges, find_judge, find_jury, split_jury, suite_names
from harness.records.protocols import load_plugin
from harness.records.settings import FileSpec, RunSpec, ServeSpec, read_file_spec
from harness.running.resolve import overlaid, resolve
from harness.store import run_dir

SUITES = ("mt_bench", "arena_hard")


@pytest.fixture(autouse=True)
def _no_judge_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HARNESS_JUDGE", "HARNESS_JUDGE_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def yaml_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "harness.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("text", ["./ckpt", "hf:org/name", "hf:org/name@abc123", "endpoint:m@http://127.0.0.1:8000/v1"])
def test_a_model_reference_is_read_and_written_alike(text: str) -> None:
    assert str(ModelRef.parse(text)) == text


@pytest.mark.parametrize("text", ["", "hf:name", "hf:a/b/c", "endpoint:m", "endpoint:@http://x", "endpoint:m@ftp://x"])
def test_a_malformed_model_reference_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        ModelRef.parse(text)


@pytest.mark.parametrize("url", ["http://user:secret@host/v1", "https://host/v1?api-key=secret"])
def test_a_url_that_carries_a_secret_is_refused_and_not_repeated(url: str) -> None:
    for read in (lambda: ModelRef.parse(f"endpoint:m@{url}"), lambda: find_judge(f"endpoint:m@{url}", {})):
        with pytest.raises(ConfigError, match="environment variables") as error:
            read()
        assert "secret" not in str(error.value)
    with pytest.raises(ConfigError, match="environment variables"):
        find_judge("mine", {"mine": {"kind": "llm", "model": "m", "url": url}})


@pytest.mark.parametrize(
    ("name", "slug"), [("../../etc", "etc"), ("/..", "_"), ("x/über:1", f"_ber_1-{digest('über:1')[:8]}")]
)
def test_a_slug_is_never_a_path(name: str, slug: str) -> None:
    assert ModelRef(scheme="path", name=name).slug == slug


def test_names_that_differ_in_unusual_characters_have_folders_of_their_own() -> None:
    names = ["a b", "a_b", "a:b", "a%b", "模型一", "模型二", ".a", "a", "x" * 200, "x" * 201]
    slugs = [ModelRef(scheme="endpoint", name=name).slug for name in names]

    assert len(set(slugs)) == len(names)
    assert all(re.fullmatch(r"[\w.-]{1,110}", slug, flags=re.ASCII) for slug in slugs)
    assert slugs[1] == "a_b"


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/models/llama-wrpo", "llama-wrpo"),
        ("/models/llama-wrpo/", "llama-wrpo"),
        ("/out/run-A/checkpoint-100", "run-A/checkpoint-100"),
        ("/out/run-B/checkpoint-100/", "run-B/checkpoint-100"),
        ("/out/run-A/checkpoints/step_20", "run-A/checkpoints/step_20"),
        ("/out/run-A/epoch-3", "run-A/epoch-3"),
        ("/out/run-A/final", "run-A/final"),
        ("/out/run-A/../run-B/model", "run-B/model"),
        ("/final", "final"),
        (f"/hub/models--org--name/snapshots/{'0123456789' * 4}", "org/name@01234567"),
        (f"/hub/models--gpt2/snapshots/{'0123456789' * 4}/adapter", "gpt2@01234567/adapter"),
        ("hf:org/name", "org/name"),
        ("hf:org/name@v2", "org/name@v2"),
        (f"hf:org/name@{'0123456789' * 4}", "org/name@01234567"),
        ("endpoint:candidate@http://host:1/v1", "candidate"),
    ],
)
def test_a_label_is_enough_of_the_path_to_tell_two_models_apart(text: str, label: str) -> None:
    assert ModelRef.parse(text).label == label


def test_a_generic_name_in_the_working_folder_gets_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "run-A" / "checkpoint-5").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "run-A")
    assert ModelRef.parse("checkpoint-5").label == "run-A/checkpoint-5"
    monkeypatch.chdir(tmp_path / "run-A" / "checkpoint-5")
    assert ModelRef.parse(".").label == "run-A/checkpoint-5"


def test_a_given_name_is_the_label_and_the_reference_stays() -> None:
    ref = ModelRef.parse("endpoint:candidate@http://host:1/v1", title="run-A step 100")

    assert (ref.label, ref.name, str(ref)) == ("run-A step 100", "candidate", "endpoint:candidate@http://host:1/v1")
    for title in ("", " a", "a\nb", "x" * 101):
        with pytest.raises(ConfigError, match="--name"):
            ModelRef.parse("ckpt", title=title)


def test_a_run_stays_in_the_folder_where_it_began(tmp_path: Path) -> None:
    ref = ModelRef.parse("/out/run-A/checkpoint-100", title="mine")

    def folder() -> Path:
        earlier = ref.earlier_slugs
        return run_dir(tmp_path, model=ref.slug, suite="s", version="1", run_id="0123", earlier=earlier)

    assert folder() == tmp_path / "runs/mine/s@1/0123"
    for name in ("checkpoint-100", "run-A_checkpoint-100", "mine"):
        (tmp_path / "runs" / name / "s@1" / "0123").mkdir(parents=True)
        assert folder() == tmp_path / "runs" / name / "s@1/0123"


def test_an_unknown_key_is_named_with_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"unknown key 'serve\.tensor_paralel'; known: .*tensor_parallel"):
        read_file_spec(yaml_file(tmp_path, "serve: {tensor_paralel: 2}"))


def test_a_wrong_value_is_shown_with_its_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"serve\.tensor_parallel = 0"):
        read_file_spec(yaml_file(tmp_path, "serve: {tensor_parallel: 0}"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("serve: {tensor_parallel: 0}", r"serve\.tensor_parallel = 0: must be at least 1$"),
        ("limit: many", r"limit = 'many': must be a whole number$"),
        ("cache: maybe", r"cache = 'maybe': must be true or false$"),
        ("jury: best", r"jury = 'best': must be 'mean', "),
        ("judge: 5", r"judge = 5: must be text or keys and values$"),
        ("judge: {mt_bench: 5}", r"judge\.mt_bench = 5: must be text$"),
        ("serve: fast", r"serve = 'fast': must be keys and values$"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_file_spec(yaml_file(tmp_path, text))


@pytest.mark.parametrize("text", ["- a\n- b", "a: [1", "\x00"])
def test_a_file_that_is_no_mapping_is_one_sentence(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"harness\.yaml"):
        read_file_spec(yaml_file(tmp_path, text))


def test_yaml_cannot_make_objects(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        read_file_spec(yaml_file(tmp_path, "model: !!python/object/apply:os.system ['true']"))


def test_all_means_the_three_benchmarks_and_a_suite_is_run_once() -> None:
    assert suite_names("all") == ("mt_bench", "alpaca_eval", "arena_hard")
    assert suite_names("arena_hard,all") == ("arena_hard", "mt_bench", "alpaca_eval")


def test_an_unknown_suite_lists_what_is_installed() -> None:
    with pytest.raises(ConfigError, match="no suite named 'mtbench'; installed: alpaca_eval, arena_hard"):
        suite_names("mtbench")


def test_an_unknown_backend_lists_what_is_installed() -> None:
    with pytest.raises(PluginError, match=r"no backend named 'vlm'; installed: .*vllm"):
        load_plugin("backends", "vlm")


def test_pocket_brings_its_own_judge_and_official_needs_one() -> None:
    assert choose_judges(SUITES, None, edition="pocket", own_judges={})["mt_bench"][0].name == "reference"
    with pytest.raises(ConfigError, match=r"--judge endpoint:MODEL@URL.*--edition pocket"):
        choose_judges(SUITES, None, edition="official", own_judges={})


def test_a_providers_key_chooses_a_judge_that_is_still_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")

    judges = choose_judges(SUITES, None, edition="official", own_judges={})

    assert {judge.name for jury in judges.values() for judge in jury} == {"gpt-5.4"}
    assert all(judge.retired is None for jury in judges.values() for judge in jury)
    assert "sk-secret" not in str(judges)


def test_a_dry_run_assumes_the_default_judge_without_its_key() -> None:
    judges = choose_judges(SUITES, None, edition="official", own_judges={}, needs_key=False)

    assert {spec.name for specs in judges.values() for spec in specs} == {"gpt-5.4"}


def test_a_named_judge_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_JUDGE", "gpt-4.1")

    judges = choose_judges(SUITES, "mt_bench=endpoint:j@http://127.0.0.1:1/v1", edition="official", own_judges={})

    assert judges["mt_bench"][0].url == "http://127.0.0.1:1/v1"
    assert judges["arena_hard"][0].name == "gpt-4.1"


URL = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("a+b+c", ["a", "b", "c"]),
        (f"endpoint:M@{URL}+endpoint:org/N@{URL}", [f"endpoint:M@{URL}", f"endpoint:org/N@{URL}"]),
        (f"endpoint:big+small@{URL}+gpt-4.1", [f"endpoint:big+small@{URL}", "gpt-4.1"]),
        ("mine+yours+a", ["mine+yours", "a"]),  # a judge of harness.yaml may have that name
        ("local:hf:org/name@sha+a", ["local:hf:org/name@sha", "a"]),
    ],
)
def test_a_jury_is_split_where_no_name_or_url_breaks(name: str, parts: list[str]) -> None:
    assert split_jury(name, {"mine+yours": {}}) == parts


def test_a_file_with_a_plus_in_its_name_stays_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a+b.yaml").write_text("kind: reference")

    assert split_jury("a+b.yaml+reference", {}) == ["a+b.yaml", "reference"]


def test_members_of_a_jury_stand_in_the_order_of_their_names() -> None:
    judges = choose_judges(SUITES, f"reference+endpoint:m@{URL}", edition="pocket", own_judges={})

    assert [judge.name for judge in judges["mt_bench"]] == ["m", "reference"]


def test_each_suite_may_have_a_jury_of_its_own() -> None:
    given = f"mt_bench=reference+endpoint:m@{URL},arena_hard=reference"

    judges = choose_judges(SUITES, given, edition="pocket", own_judges={})

    assert {suite: [judge.name for judge in jury] for suite, jury in judges.items()} == {
        "mt_bench": ["m", "reference"],
        "arena_hard": ["reference"],
    }


@pytest.mark.parametrize("name", ["reference+reference", f"endpoint:m@{URL}+endpoint:m@http://127.0.0.1:2/v1"])
def test_two_members_of_one_name_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="two members are called"):
        find_jury(name, {})


@pytest.mark.parametrize("name", ["a++b", "+a", "a+"])
def test_a_jury_with_an_empty_name_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="empty name"):
        split_jury(name, {})


def test_the_file_may_name_judges_for_suites_that_are_not_run_today() -> None:
    given = {"mt_bench": "reference", "alpaca_eval": "gpt-4.1", "arena_hard": "reference"}

    assert set(choose_judges(SUITES, given, edition="official", own_judges={})) == set(SUITES)


def test_an_own_judge_cannot_take_the_name_of_one_that_ships() -> None:
    with pytest.raises(ConfigError, match="has the name of a shipped judge"):
        find_judge("gpt-4.1", {"gpt-4.1": {"kind": "llm", "model": "other", "url": "http://127.0.0.1:1/v1"}})


def test_a_judge_for_a_suite_that_is_not_run_is_refused() -> None:
    with pytest.raises(ConfigError, match="'alpaca_eval', which is not part of this run: mt_bench, arena_hard"):
        choose_judges(SUITES, "alpaca_eval=reference", edition="pocket", own_judges={})


def test_an_unknown_judge_lists_those_that_exist() -> None:
    with pytest.raises(ConfigError, match=r"no judge named 'gpt-9'.*; known: mine, .*gpt-4\.1.*reference"):
        find_judge("gpt-9", {"mine": {"kind": "llm"}})


def test_own_judges_of_the_file_are_found_and_checked() -> None:
    own = {"mine": {"kind": "llm", "model": "m", "url": "http://127.0.0.1:1/v1", "price_in": -1}}
    with pytest.raises(ConfigError, match="price_in = -1"):
        find_judge("mine", own)


def test_flags_win_over_the_file_and_the_file_over_defaults() -> None:
    file = FileSpec(model="./from-file", edition="pocket", seed=3, serve=ServeSpec(concurrency=8, dtype="float32"))
    flags = {"model": None, "suite": "mt_bench", "seed": 5, "serve": {"concurrency": 2, "dtype": None}}

    spec = resolve(overlaid(file, flags))

    assert isinstance(spec, RunSpec)
    assert (spec.model.name, spec.seed, spec.suites) == ("./from-file", 5, ("mt_bench",))
    assert (spec.serve.concurrency, spec.serve.dtype) == (2, "float32")
    assert spec.backend == "vllm"


def test_an_endpoint_model_needs_no_backend_flag() -> None:
    spec = resolve(FileSpec(model="endpoint:m@http://127.0.0.1:1/v1", edition="pocket"))

    assert spec.backend == "endpoint"


def test_one_patience_is_for_the_model_and_for_judges_without_their_own() -> None:
    url = "http://127.0.0.1:1/v1"
    file = FileSpec(
        model=f"endpoint:m@{url}",
        suite="mt_bench,arena_hard",
        judges={"calm": {"kind": "llm", "model": "m", "url": url, "patience": 7}},
        judge={"mt_bench": "calm", "arena_hard": f"endpoint:j@{url}"},
    )
    spec = resolve(overlaid(file, {"serve": {"patience": 600}}))

    assert spec.serve.patience == 600
    assert [spec.judges[suite][0].patience for suite in ("mt_bench", "arena_hard")] == [7, 600]
    assert "patience" not in ServeSpec().model_dump()
