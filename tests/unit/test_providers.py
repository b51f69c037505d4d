"""Judges named by their provider: what providers.yaml states, which key goes where, dates, prices, misspelt names."""

from __future__ import annotations

from datetime import date

import pytest

from harness.records import JudgeSpec
from harness.records.errors import ConfigError
from harness.records.judge_choice import (
    PROVIDER_DEFAULT,
    find_judge,
    judge_presets,
    refuse_shut_down,
    shutdown_warning,
    unlisted_model_warning,
)
from harness.records.providers import belongs, list_price, providers

NAMES = ("openai", "anthropic", "gemini", "openrouter", "together", "deepseek", "mistral", "groq", "fireworks", "xai")


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for entry in providers().values():
        for name in entry.keys:
            monkeypatch.delenv(name, raising=False)
    for name in ("HARNESS_JUDGE_KEY", "AZURE_OPENAI_ENDPOINT", "OPENAI_API_VERSION"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("name", NAMES)
def test_a_providers_key_goes_to_its_own_host(name: str) -> None:
    judge = find_judge(f"{name}:some/model", {})

    assert judge.name == f"{name}:some/model"
    assert judge.model == "some/model"
    assert judge.key_env is not None
    assert judge.url is not None
    assert belongs(judge.key_env, judge.url)


@pytest.mark.parametrize("name", NAMES)
def test_another_server_of_the_same_protocol_never_gets_the_providers_key(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(providers()[name].keys[0], "secret")

    judge = find_judge(f"{name}:m@http://127.0.0.1:1/v1", {})

    assert (judge.url, judge.key_env) == ("http://127.0.0.1:1/v1", None)


def test_what_is_stated_of_a_provider_has_a_source_and_a_day() -> None:
    for name, entry in providers().items():
        assert "2026-11-27" in entry.read, name
        assert all(quirk.source for quirk in entry.quirks)
        assert bool(entry.shutdowns) == bool(entry.shutdown_source), name


def test_the_key_that_is_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_API_KEY", "k")

    assert find_judge("gemini:gemini-3-pro", {}).key_env == "GOOGLE_API_KEY"


def test_azure_puts_the_deployment_into_the_path_only_with_a_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", "https://mine.openai.azure.com/")
    newer = find_judge("azure:gpt-5.4", {})
    monkeypatch.setenv("OPENAI_API_VERSION", "2024-10-21")
    older = find_judge("azure:gpt-5.4", {})

    assert newer.url == "https://mine.openai.azure.com/openai/v1"
    assert newer.access.query == {}
    assert older.url == "https://mine.openai.azure.com/openai/deployments/gpt-5.4"
    assert older.access.query == {"api-version": "2024-10-21"}
    assert newer.access.key_header == older.access.key_header == "api-key"
    assert older.token_limit == "max_completion_tokens"


@pytest.mark.parametrize(
    "address", ["https://openai.azure.com.evil.org", "http://mine.openai.azure.com", "https://x.org"]
)
def test_azures_key_goes_to_no_other_host(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_OPENAI_ENDPOINT", address)

    with pytest.raises(ConfigError, match="sent nowhere else"):
        find_judge("azure:d", {})


def test_azure_without_a_resource_says_which_variable() -> None:
    with pytest.raises(ConfigError, match="AZURE_OPENAI_ENDPOINT"):
        find_judge("azure:d", {})


def test_prices_come_from_genai_prices_and_own_numbers_replace_them() -> None:
    assert list_price("openai", "gpt-5.4") == (2.5, 15.0)
    assert list_price("openai", "gpt-9000") is None
    mine = {"kind": "llm", "model": "gpt-5.4", "url": "https://api.openai.com/v1"}
    assert find_judge("a", {"a": mine}).price_out == 15.0
    assert find_judge("a", {"a": {**mine, "price_in": 1.0, "price_out": 2.0}}).price_out == 2.0
    assert find_judge("a", {"a": {**mine, "url": "https://proxy.example/v1"}}).price_out is None


def test_the_default_judge_has_no_announced_shutdown_and_a_price() -> None:
    for name in PROVIDER_DEFAULT.values():
        judge = find_judge(name, {})
        assert judge.retired is None
        assert judge.price_in is not None


def spec(day: date | None, url: str = "https://api.openai.com/v1") -> JudgeSpec:
    return JudgeSpec(name="j", kind="llm", model="m", url=url, retired=day)


def test_a_judge_warns_from_sixty_days_before_its_shutdown() -> None:
    today = date(2026, 11, 27)

    assert shutdown_warning(spec(None), today) is None
    assert shutdown_warning(spec(date(2027, 1, 27)), today) is None  # 61 days
    assert "in 60 days" in (shutdown_warning(spec(date(2027, 1, 26)), today) or "")
    assert "was shut down" in (shutdown_warning(spec(today), today) or "")


def test_a_shut_down_judge_is_refused_at_its_provider_only() -> None:
    today = date(2026, 11, 27)

    refuse_shut_down(spec(date(2026, 11, 28)), today)
    refuse_shut_down(spec(today, "http://127.0.0.1:1/v1"), today)
    with pytest.raises(ConfigError, match="endpoint:m@URL"):
        refuse_shut_down(spec(today), today)


@pytest.mark.parametrize(
    ("name", "near"),
    [("gpt-5.44", "gpt-5.4"), ("opnai:gpt-5.4", "openai"), ("local:qwen-32b", "qwen3-32b"), ("refrence", "reference")],
)
def test_a_misspelt_name_suggests_the_nearest(name: str, near: str) -> None:
    with pytest.raises(ConfigError, match=f"did you mean '{near}'"):
        find_judge(name, {})


def test_a_model_that_no_price_list_has_is_a_warning_with_the_nearest() -> None:
    assert "did you mean 'gpt-5.4'" in (unlisted_model_warning(find_judge("openai:gpt-5.44", {})) or "")
    assert unlisted_model_warning(find_judge("openai:gpt-5.4", {})) is None


def test_an_open_weight_preset_is_served_here_or_asked_elsewhere() -> None:
    here = find_judge("local:qwen3-32b", {})
    pinned = find_judge("local:qwen3-32b@main", {})
    there = find_judge("local:qwen3-32b@http://127.0.0.1:1/v1", {})

    assert (here.kind, here.model, here.serve["reasoning"]) == ("local", "hf:Qwen/Qwen3-32B", "qwen3")
    assert pinned.model == "hf:Qwen/Qwen3-32B@main"
    assert (there.kind, there.model, there.url, there.serve) == ("llm", "Qwen/Qwen3-32B", "http://127.0.0.1:1/v1", {})
    assert there.params == here.params
    assert there.reasoning_room == here.reasoning_room == 12000


def test_every_preset_is_valid() -> None:
    for name in judge_presets():
        judge = find_judge(name, {})
        assert judge.name == name
        assert str(judge.model).startswith("hf:")
