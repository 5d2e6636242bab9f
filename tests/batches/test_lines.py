"""Lines of batches: what is read of one, what is wrong with one, and output lines that tell what they answer."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.batches import lines
from gateway.batches.lines import ENDPOINTS, LONGEST_ID, Line, Wrong

GOOD: dict[str, Any] = {
    "custom_id": "a",
    "method": "POST",
    "url": "/v1/chat/completions",
    "body": {"model": "m", "messages": []},
}


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


def test_a_body_goes_on_as_it_was_written() -> None:
    body = b'{ "model" : "m","messages":[ {"role":"user", "content":"\\u00e9"} ] }'
    data = b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":' + body + b',"more":1}\r\n'
    assert lines.read(data) == Line("a", "/v1/chat/completions", "m", body)


def test_a_body_may_name_no_model() -> None:
    for url in ENDPOINTS:
        found = lines.read(line(url=url, body={"input": "x", "stream": False}))
        assert isinstance(found, Line)
        assert (found.url, found.model) == (url, None)


WRONG: list[tuple[bytes, str, str | None]] = [
    (b"{", "invalid_json_line", None),
    (b"[]", "invalid_json_line", None),
    (b"\xff{}", "invalid_json_line", None),
    (b'{"custom_id": "\xff"}', "missing_required_parameter", "method"),
    (b"[" * 5000, "invalid_json_line", None),
    (line(custom_id=None), "missing_required_parameter", "custom_id"),
    (line(body=None), "missing_required_parameter", "body"),
    (line(custom_id=7), "invalid_custom_id", "custom_id"),
    (line(custom_id=""), "invalid_custom_id", "custom_id"),
    (line(custom_id="x" * (LONGEST_ID + 1)), "invalid_custom_id", "custom_id"),
    (line(method="GET"), "invalid_method", "method"),
    (line(url="/v1/models"), "invalid_url", "url"),
    (line(url=["/v1/models"]), "invalid_url", "url"),
    (line(body=[]), "invalid_body", "body"),
    (line(body="x"), "invalid_body", "body"),
    (line(body={"model": 1}), "invalid_body", "body"),
    (line(body={"model": "m", "stream": True}), "stream_not_supported", "body.stream"),
    (line(body={"model": "m", "background": True}), "background_not_supported", "body.background"),
]


@pytest.mark.parametrize(("data", "code", "param"), WRONG)
def test_what_is_wrong_with_a_line_has_a_code_and_a_place(data: bytes, code: str, param: str | None) -> None:
    found = lines.read(data)
    assert isinstance(found, Wrong)
    assert (found.code, found.param) == (code, param)
    assert found.message


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(data: bytes) -> None:
    assert isinstance(lines.read(data), Line | Wrong)


def test_an_output_line_is_what_openai_writes() -> None:
    written = lines.answered("abc", 7, "my id", 200, "req-1", b'{\n "n": [1.50,\r\n 2]\n}')
    assert written.endswith(b"\n")
    assert written.count(b"\n") == 1
    assert json.loads(written) == {
        "id": "batch_req_abc_7",
        "custom_id": "my id",
        "response": {"status_code": 200, "request_id": "req-1", "body": {"n": [1.5, 2]}},
        "error": None,
    }
    failed = json.loads(lines.unanswered("abc", 8, "b", "batch_expired", "it was too late"))
    assert failed["response"] is None
    assert failed["error"] == {"code": "batch_expired", "message": "it was too late"}


def test_an_answer_that_is_no_json_object_is_text() -> None:
    written = json.loads(lines.answered("abc", 1, "a", 502, "r", b"<html>\n"))
    assert written["response"]["body"] == "<html>\n"


@given(st.integers(1, 50_000), st.text(max_size=40), st.integers(0, 200))
def test_an_output_line_tells_which_line_it_answers_unless_it_is_torn(
    number: int, custom_id: str, cut: int
) -> None:
    for written in (
        lines.answered("ab12", number, custom_id, 200, "r", b'{"a":"}\\n"}'),
        lines.unanswered("ab12", number, custom_id, "code", "why"),
    ):
        assert lines.number_of(written) == number
        torn = written[: cut % len(written)]
        assert lines.number_of(torn) == 0


@pytest.mark.parametrize(
    ("body", "spent"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}}, (3, 4, None, None)),
        (
            {
                "usage": {
                    "prompt_tokens": 3,
                    "completion_tokens": 4,
                    "prompt_tokens_details": {"cached_tokens": 2},
                    "completion_tokens_details": {"reasoning_tokens": 1},
                }
            },
            (3, 4, 2, 1),
        ),
        (
            {
                "usage": {
                    "input_tokens": 5,
                    "output_tokens": 6,
                    "input_tokens_details": {"cached_tokens": 4},
                    "output_tokens_details": {"reasoning_tokens": 3},
                }
            },
            (5, 6, 4, 3),
        ),
        ({"usage": {"prompt_tokens": 9, "total_tokens": 9}}, (9, 0, None, None)),
        ({"usage": None}, None),
        ({"usage": "much"}, None),
        ({"choices": ['"usage"']}, None),
        ({}, None),
    ],
)
def test_what_an_answer_took(
    body: dict[str, Any], spent: tuple[int, int, int | None, int | None] | None
) -> None:
    line = lines.answered("n", 1, "a", 200, "req-1", json.dumps(body).encode())
    found = lines.usage(line)
    assert (None if found is None else (found.input, found.output, found.cached, found.reasoning)) == spent


def test_lines_without_an_answer_took_nothing() -> None:
    assert lines.usage(lines.unanswered("n", 1, 'the "usage"', "batch_expired", "late")) is None
    assert lines.usage(lines.answered("n", 1, "a", 200, "req-1", b'no "usage" in JSON')) is None
    assert lines.usage(b'{"usage": torn') is None
