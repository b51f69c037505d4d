"""Keys: what a header can carry, and which variables no process of ours sees."""

from __future__ import annotations

import pytest

from harness.records.errors import ConfigError
from harness.records.providers import HUB, api_key, belongs, masked, providers, without_keys
from harness.records.settings import FileSpec, checked
from judges.llm import LlmJudge


@pytest.mark.parametrize(("tail", "sign"), [("\n", "U+000A"), ("\r\n", "U+000D"), ("\x00", "U+0000"), (" ", "U+0020")])
def test_a_key_with_a_control_character_is_refused_by_the_name_of_its_variable(
    tail: str, sign: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {"MY_KEY": f"sk-hidden{tail}"}  # a NUL cannot be in a real one
    monkeypatch.setattr("harness.records.providers.os.environ", environment)

    with pytest.raises(ConfigError) as refusal:
        api_key("MY_KEY")

    assert f"the key in the environment variable MY_KEY contains the character {sign}" in str(refusal.value)
    assert "sk-hidden" not in str(refusal.value)


def test_a_judge_with_such_a_key_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-hidden\n")
    spec = checked(FileSpec, {"judges": {"j": {"kind": "llm"}}}, "file")
    from harness.records import JudgeSpec

    assert spec.judges == {"j": {"kind": "llm"}}
    with pytest.raises(ConfigError, match=r"MY_KEY contains the character U\+000A"):
        LlmJudge(JudgeSpec(name="j", kind="llm", model="m", url="http://h/v1", key_env="MY_KEY"))


def test_an_empty_or_missing_key_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "")
    assert api_key("MY_KEY") is api_key("NOT_SET") is api_key(None) is None


def test_secrets_are_withheld_by_name_and_a_judges_key_whatever_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNUSUAL", "sesame-street")
    environment = {
        **dict.fromkeys(("PATH", "HF_HOME", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "KEYBOARD"), "kept"),
        **dict.fromkeys(("OPENAI_API_KEY", "GITHUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "my_secret_1"), "x"),
        "HF_TOKEN": "hub",
        "UNUSUAL": "sesame-street",
    }
    assert "UNUSUAL" in without_keys(environment)

    api_key("UNUSUAL")

    kept = {"PATH", "HF_HOME", "TOKENIZERS_PARALLELISM", "CUDA_VISIBLE_DEVICES", "KEYBOARD"}
    assert set(without_keys(environment)) == kept
    assert set(without_keys(environment, keep=HUB)) == kept | {"HF_TOKEN"}
    assert masked("a sesame-street b") == "a *** b"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("https://api.openai.com/v1", True),
        ("https://api.openai.com:443/v1", True),
        ("https://API.OpenAI.com/v1", True),
        ("http://api.openai.com/v1", False),
        ("https://api.openai.com:8443/v1", False),
        ("https://api.openai.com.example/v1", False),
        ("https://api.openai.com@example.org/v1", False),
        ("https://example.org/api.openai.com", False),
    ],
)
def test_a_providers_key_belongs_to_its_encrypted_host_alone(url: str, right: bool) -> None:
    assert belongs("OPENAI_API_KEY", url) is right
    assert not belongs("MY_KEY", url)


def test_the_page_on_security_lists_every_provider() -> None:
    from tests import ROOT

    page = (ROOT / "docs" / "security.md").read_text("utf-8")
    words = {
        word for entry in providers().values() for word in (*entry.keys, *(host.lstrip(".") for host in entry.hosts))
    }
    assert [word for word in sorted(words) if f"`{word}`" not in page and f"`*.{word}`" not in page] == []
