"""How two answers differ, from their bytes as clients get them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Operation, Request
from gateway.dispatch.likeness import Difference, Told, compare, said


def request(operation: Operation, stream: bool = False) -> Request:
    return Request(operation, b"{}", "m", stream=stream)


def sse(*events: Any, done: bool = True) -> bytes:
    payloads = [json.dumps(event).encode() for event in events] + [b"[DONE]"] * done
    return b"".join(b"data: " + payload + b"\n\n" for payload in payloads)


def chunk(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


def chat(text: str | None, **more: Any) -> bytes:
    message = {"role": "assistant", "content": text, **more}
    return json.dumps({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}).encode()


def test_a_stream_says_what_the_whole_answer_says() -> None:
    stream = b": heartbeat\n\n" + sse(chunk("one "), chunk("two"), chunk("", "stop"))
    found = said(request(Operation.CHAT, stream=True), stream)
    assert found == said(request(Operation.CHAT), chat("one two"))
    assert found[0] == "stop" and found[1] is not None


def test_another_text_or_another_call_is_another_answer() -> None:
    def call(arguments: str) -> bytes:
        function = {"name": "look", "arguments": arguments}
        return chat(None, tool_calls=[{"id": "x", "type": "function", "function": function}])

    bodies = [chat("one"), chat("two"), chat(None), call('{"at":1}'), call('{"at":2}')]
    digests = [said(request(Operation.CHAT), body)[1] for body in bodies]
    assert len(set(digests)) == len(bodies) and None not in digests


MESSAGE = {
    "content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
}
RESPONSE = {
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": []},
        {"type": "message", "content": [{"type": "output_text", "text": "hi"}]},
        {"type": "function_call", "name": "look", "arguments": "{}"},
    ],
}


@pytest.mark.parametrize(
    ("operation", "body", "finish"),
    [
        (Operation.MESSAGES, MESSAGE, "end_turn"),
        (Operation.RESPONSES, RESPONSE, "completed"),
        (Operation.COMPLETIONS, {"choices": [{"text": "hi", "finish_reason": "length"}]}, "length"),
    ],
)
def test_each_api_tells_its_text_and_why_it_ended(operation: Operation, body: Any, finish: str) -> None:
    found = said(request(operation), json.dumps(body).encode())
    assert found[0] == finish and found[1] is not None
    other = json.dumps(body).replace('"hi"', '"ho"').encode()
    assert said(request(operation), other)[1] != found[1]


@pytest.mark.parametrize(
    "body", [None, b"", b"{", b"[]", b'"x"', b'{"choices":[]}', b'{"choices":[1]}', b'{"choices":{"a":1}}']
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_no_answer_tells_nothing(body: bytes | None, stream: bool) -> None:
    assert said(request(Operation.CHAT, stream=stream), body) == (None, None)


def test_vectors_are_not_compared() -> None:
    body = b'{"data":[{"embedding":[0.1]}]}'
    assert said(request(Operation.EMBEDDINGS), body) == (None, None)


def test_what_both_tell_is_compared() -> None:
    original = Told(True, "stop", b"a", 100, 0.5)
    assert compare(original, original) == Difference(True, True, True, 1.0, 1.0)
    other = Told(True, "length", b"b", 50, 1.0)
    assert compare(original, other) == Difference(True, False, False, 0.5, 2.0)
    assert compare(original, Told(True)) == Difference(True, None, None, None, None)
    assert compare(Told(True, tokens=0, first_token=0.0), other) == Difference(True, None, None, None, None)


def test_a_failure_is_another_outcome_and_nothing_else() -> None:
    good, bad = Told(True, "stop", b"a", 100, 0.5), Told(False)
    assert compare(good, bad) == compare(bad, good) == Difference(False, None, None, None, None)
    assert compare(bad, bad) == Difference(True, None, None, None, None)
