"""Digests name runs, rows and cached replies: their form never changes, however they are computed."""

from __future__ import annotations

import hashlib
import json

import pytest

from harness.client.chat import payload_of
from harness.records import Answer, JudgeTemplate, digest


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@pytest.mark.parametrize(
    ("value", "canonical"),
    [
        ({"b": [1, 0.7, 1e-5, 1e16], "a": {"z": None, "y": True}}, '{"a":{"y":true,"z":null},"b":[1,0.7,1e-05,1e+16]}'),
        (['\t\n\r\b\f\\"/\x00\x1f\x7f'], '["\\t\\n\\r\\b\\f\\\\\\"/\\u0000\\u001f\x7f"]'),
        (("\u00e9 \u2028 \U0001f600", "\ud800 alone"), '["\u00e9 \u2028 \U0001f600","\ud800 alone"]'),
        ({2: "a", 10: "b"}, '{"2":"a","10":"b"}'),
        ({"\ud800": 1, "a": {}}, '{"a":{},"\ud800":1}'),
        (float("nan"), "NaN"),
        ("", '""'),
        ({"a": 10**30, "b": -(2**63)}, '{"a":1000000000000000000000000000000,"b":-9223372036854775808}'),
    ],
)
def test_the_canonical_form_is_sorted_compact_and_utf8(value: object, canonical: str) -> None:
    assert digest(value) == sha256(canonical)


def test_a_changed_copy_has_its_own_digest() -> None:
    answer = Answer(prompt_id="q", model="m", turns=("one",), finish=("stop",))
    assert answer.sha == sha256('["one"]')[:16]
    assert answer.model_copy(update={"turns": ("two",)}).sha == sha256('["two"]')[:16]
    template = JudgeTemplate(name="t", user="{answer}", parser="rating")
    longer = template.model_copy(update={"max_tokens": 4096})
    assert template.sha != longer.sha == JudgeTemplate(name="t", user="{answer}", parser="rating", max_tokens=4096).sha


def test_a_digest_is_no_part_of_its_record() -> None:
    answer = Answer(prompt_id="q", model="m", turns=("one",), finish=("stop",))
    row, copy = answer.model_dump_json(), answer.model_copy()
    assert answer.sha == sha256('["one"]')[:16]
    assert answer.model_dump_json() == row
    assert answer == copy


def test_a_request_is_json_with_question_marks_for_surrogates() -> None:
    body = {"model": "judge", "messages": [{"role": "user", "content": "\u00e9 {}\n\ud83d"}], "temperature": 1e-5}
    sent = json.loads(payload_of(body))  # type: ignore[arg-type]
    assert sent == {"model": "judge", "messages": [{"role": "user", "content": "\u00e9 {}\n?"}], "temperature": 1e-5}
    assert payload_of({"a": "\u00e9", "b": [1, None]}) == '{"a":"\u00e9","b":[1,null]}'.encode()
