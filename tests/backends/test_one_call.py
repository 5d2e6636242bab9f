"""Only the first tool call of each choice, where the client wants one at a time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from backends.base import Operation, Request
from backends.dialect import one_call
from backends.engines.openai import OpenAI


def asked(operation: Operation = Operation.CHAT, n: int = 1, **body: Any) -> Request:
    return Request(operation, json.dumps({"model": "m", **body}).encode(), "m", stream=True, choices=n)


@pytest.mark.parametrize(
    ("request_", "wanted"),
    [
        (asked(parallel_tool_calls=False), True),
        (asked(parallel_tool_calls=True), False),
        (asked(parallel_tool_calls=None), False),
        (asked(parallel_tool_calls="no"), False),
        (asked(messages=[{"content": '"parallel_tool_calls": false'}]), False),
        (asked(Operation.RESPONSES, parallel_tool_calls=False), False),
    ],
)
def test_who_wants_one(request_: Request, wanted: bool) -> None:
    assert one_call.wanted(request_) is wanted


def piece(choice: int, call: int, reason: str | None = None, **function: str) -> dict[str, Any]:
    delta = {"tool_calls": [{"index": call, "function": function}]}
    return {"index": choice, "delta": {} if reason else delta, "finish_reason": reason}


def test_each_choice_of_a_stream_keeps_its_first_call() -> None:
    decoder = one_call.FirstCall(OpenAI(), asked(n=2))
    events = [
        [piece(0, 0, name="f"), piece(1, 0, name="g")],
        [piece(0, 0, arguments="{}"), piece(1, 1, name="h")],
        [piece(0, 1, arguments="{}")],
        [piece(0, 0, "tool_calls"), piece(1, 0, "tool_calls")],
    ]
    data = b"".join(b"data: " + json.dumps({"choices": event}).encode() + b"\n\n" for event in events)
    out = decoder.feed(data) + decoder.close()
    told = [json.loads(event[6:]) for event in out.split(b"\n\n") if event and b"[DONE]" not in event]
    calls = [
        (choice["index"], call["index"], call["function"])
        for event in told
        for choice in event["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert calls == [(0, 0, {"name": "f"}), (1, 0, {"name": "g"}), (0, 0, {"arguments": "{}"})]
    assert decoder.finished and decoder.failure is None


def test_each_choice_of_a_whole_answer_keeps_its_first_call() -> None:
    choices = [{"message": {"tool_calls": [1, 2]}}, {"message": {"content": "a"}}, {"message": None}]
    told = json.loads(one_call.first_call(json.dumps({"choices": choices}).encode()))
    assert told["choices"] == [{"message": {"tool_calls": [1]}}, *choices[1:]]
