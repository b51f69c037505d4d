"""A harness.yaml that lies in the folder: what it may do before the user trusts it, and where keys are sent."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from harness.records.errors import ConfigError
from harness.records.settings import FileSpec
from harness.store.trusted import read_config, trust, trusted_files, untrust, wishes

OWN_HOST = "judges: {mine: {kind: llm, model: m, url: 'https://judge.example/v1', key_env: MY_KEY}}"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a user whose configuration folder is empty, and who has three keys."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in ("MY_KEY", "OPENAI_API_KEY", "HARNESS_JUDGE_KEY", "HARNESS_ENDPOINT_KEY"):
        monkeypatch.setenv(name, "sesame")
    monkeypatch.delenv("NO_KEY", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    return work


def written(folder: Path, text: str) -> Path:
    path = folder / "harness.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("serve: {trust_remote_code: true}", "serve.trust_remote_code"),
        ("serve: {allow_pickle: true}", "serve.allow_pickle"),
        ("serve: {engine_args: [--load-format=pt]}", "serve.engine_args"),
        ("judges: {j: {kind: local, model: m, serve: {trust_remote_code: true}}}", "judges.j.serve.trust_remote_code"),
        ("suite: 'some_tasks:./tasks.yaml'", "the file in suite: 'some_tasks:./tasks.yaml'"),
        ("judge: evil.yaml", "the judge file 'evil.yaml'"),
        ("judge: {mt_bench: gpt-4.1+evil.yml}", "the judge file 'evil.yml'"),
        (OWN_HOST, "sending the key in MY_KEY to https://judge.example/v1"),
        (
            "judges: {j: {kind: llm, model: m, url: 'https://api.openai.com.example/v1', key_env: OPENAI_API_KEY}}",
            "sending the key in OPENAI_API_KEY to https://api.openai.com.example/v1",
        ),
        (  # its own provider, but anyone on the way can read it
            "judges: {j: {kind: llm, model: m, url: 'http://api.openai.com/v1', key_env: OPENAI_API_KEY}}",
            "sending the key in OPENAI_API_KEY to http://api.openai.com/v1",
        ),
        ("judge: endpoint:m@https://h.example/v1", "sending the key in HARNESS_JUDGE_KEY to https://h.example/v1"),
        ("judge: alpaca_eval:e@https://h.example/v1", "sending the key in HARNESS_JUDGE_KEY to https://h.example/v1"),
        (
            "judges: {j: {kind: alpaca_eval, evaluator: e, url: 'https://h.example/v1'}}",
            "sending the key in HARNESS_JUDGE_KEY to https://h.example/v1",
        ),
        ("model: endpoint:m@https://h.example/v1", "sending the key in HARNESS_ENDPOINT_KEY to https://h.example/v1"),
    ],
)
def test_what_an_untrusted_file_may_not_ask_for(folder: Path, text: str, wish: str) -> None:
    path = written(folder, text)

    with pytest.raises(ConfigError) as refusal:
        read_config(None)

    assert str(refusal.value) == (
        f"./harness.yaml is not trusted and asks for {wish}: read it, then run `harness config trust`, or name it with "
        "--config harness.yaml"
    )
    assert read_config(path) == read_config(Path("harness.yaml"))  # named by the user
    trust(path)
    assert read_config(None) == read_config(path)


@pytest.mark.parametrize(
    "text",
    [
        "judges: {j: {kind: llm, model: m, url: 'https://api.openai.com/v1', key_env: OPENAI_API_KEY}}",
        "judges: {j: {kind: llm, model: m, url: 'http://127.0.0.1:1/v1'}}",
        "judges: {j: {kind: llm, model: m, url: 'https://judge.example/v1', key_env: NO_KEY}}",  # nothing to send
        "model: ./ckpt\nsuite: mt_bench,alpaca_eval\njudge: gpt-4.1\nserve: {tensor_parallel: 2}",
        "",
    ],
)
def test_an_untrusted_file_may_do_everything_else(folder: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    path = written(folder, text)

    assert read_config(None) == read_config(path)
    assert "using ./harness.yaml" in caplog.text
    assert "trusted" not in "".join(caplog.messages)  # nothing that it sets needs trust


def test_its_judges_are_listed_with_address_and_variable_of_the_key(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(folder, f"{OWN_HOST[:-1]}, plain: {{kind: llm, model: m, url: 'http://127.0.0.1:1/v1'}}}}")
    trust(Path("harness.yaml"))

    with caplog.at_level(logging.WARNING):
        read_config(None)

    assert caplog.messages == [
        "using ./harness.yaml (trusted)",
        "its judge mine: https://judge.example/v1, with the key in MY_KEY",
        "its judge plain: http://127.0.0.1:1/v1, without a key",
    ]


def test_trust_ends_when_the_file_changes_or_is_another_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, OWN_HOST)
    trust(path)
    assert read_config(None).judges

    written(folder, OWN_HOST.replace("judge.example", "evil.example"))
    with pytest.raises(ConfigError, match=r"https://evil\.example/v1"):
        read_config(None)
    copy = folder / "copy"
    copy.mkdir()
    written(copy, OWN_HOST)
    monkeypatch.chdir(copy)
    with pytest.raises(ConfigError, match="not trusted"):
        read_config(None)


def test_untrusted_again(folder: Path) -> None:
    path = written(folder, OWN_HOST)
    trust(path)
    assert list(trusted_files()) == [str(path)]

    untrust(path)

    assert trusted_files() == {}
    with pytest.raises(ConfigError, match="is not trusted, so there is nothing to forget"):
        untrust(path)


def test_the_users_own_file_names_hosts_and_judges_for_every_folder(folder: Path, tmp_path: Path) -> None:
    users = tmp_path / "config" / "fusion-harness"
    users.mkdir(parents=True)
    (users / "harness.yaml").write_text(OWN_HOST)
    assert list(read_config(None).judges) == ["mine"]

    written(folder, OWN_HOST.replace("mine", "theirs").replace("model: m", "model: n"))
    assert sorted(read_config(None).judges) == ["mine", "theirs"]
    written(folder, OWN_HOST.replace("judge.example", "judge.example:8443"))
    with pytest.raises(ConfigError, match="8443"):
        read_config(None)

    (users / "harness.yaml").write_text("judge: gpt-4.1\n")
    with pytest.raises(ConfigError, match="may have `judges:` only, not judge"):
        read_config(None)


def test_without_a_home_folder_a_named_file_works(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(folder, OWN_HOST)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setattr(Path, "home", no_home)

    assert list(read_config(path).judges) == ["mine"]
    with pytest.raises(ConfigError, match="not trusted"):
        read_config(None)
    with pytest.raises(ConfigError, match=r"no home folder .* --config harness\.yaml"):
        trust(path)


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_damaged_list_of_trusted_files_trusts_nothing(folder: Path, tmp_path: Path) -> None:
    written(folder, "seed: 1")
    trust(Path("harness.yaml"))
    (tmp_path / "config" / "fusion-harness" / "trusted.json").write_text("[]")

    with pytest.raises(ConfigError, match=r"trusted\.json is not a JSON object but a list; move it away"):
        read_config(None)


def test_several_wishes_are_one_sentence() -> None:
    file = FileSpec.model_validate({"serve": {"allow_pickle": True, "engine_args": ["--x"]}})

    assert wishes(file, {}) == ["serve.allow_pickle", "serve.engine_args"]
