"""What adapters were wrong in while plain chats were right: other APIs, nulls, stop strings, full queues, cut calls.

Rules:
- Each kind is asked of every engine. Where neither a recording nor a real engine shows it, its row says so
  (`unproven`); an operation that an engine lacks is refused by name, which is what its check looks for then.
- A check looks at the text, not only at the shape: where an answer ends, and that streamed and whole are the same.
"""

from __future__ import annotations

import json
import struct
from typing import Any

from backends.base import Operation
from tests.conformance import sdk, shapes
from tests.conformance.checks import (
    CHAT,
    COMPLETING,
    COMPLETIONS,
    QUESTION,
    STREAM,
    WITH_TOOLS,
    asking,
    user,
)
from tests.conformance.shapes import MODEL
from tests.conformance.stage import Stage, check
from tests.serving import Answer

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
TRANSCRIPTIONS = "/v1/audio/transcriptions"

STOPPED = ("end_turn", "max_tokens", "stop_sequence", "tool_use", "refusal", "pause_turn")
"""Anthropic's reasons for the end of a message."""

# --- Anthropic's Messages API

MESSAGE: dict[str, Any] = {"model": MODEL, "messages": user(QUESTION), "max_tokens": 24, "temperature": 0}


@check(MESSAGES, MESSAGE, operation=Operation.MESSAGES)
def messages(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    assert (body["type"], body["role"], body["model"]) == ("message", "assistant", MODEL) and body["id"]
    assert "".join(block.get("text") or "" for block in body["content"] if block["type"] == "text")
    assert body["stop_reason"] in STOPPED
    assert body["usage"]["input_tokens"] > 0 and body["usage"]["output_tokens"] > 0


@check(MESSAGES, MESSAGE | STREAM, operation=Operation.MESSAGES)
def messages_stream(answer: Answer) -> None:
    events = named(answer)
    first, last = events[0], events[-1]
    assert (first["type"], last["type"]) == ("message_start", "message_stop")
    assert first["message"]["model"] == MODEL and first["message"]["role"] == "assistant"
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text") or "" for delta in deltas)
    begun = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert begun == [event["index"] for event in events if event["type"] == "content_block_stop"] != []
    (end,) = [event for event in events if event["type"] == "message_delta"]
    assert end["delta"]["stop_reason"] in STOPPED and end["usage"]["output_tokens"] > 0


# --- OpenAI's Responses API

RESPONSE: dict[str, Any] = {"model": MODEL, "input": QUESTION, "max_output_tokens": 40, "temperature": 0}


def output_text(response: dict[str, Any]) -> str:
    """Return the text of a response that ended, completely or at its limit."""
    assert response["object"] == "response" and response["model"] == MODEL and response["id"]
    assert response["status"] in ("completed", "incomplete"), response["status"]
    texts = [
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
        if part["type"] == "output_text"
    ]
    return "".join(texts)


@check(RESPONSES, RESPONSE, operation=Operation.RESPONSES)
def responses(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    assert output_text(body)
    assert body["usage"]["input_tokens"] > 0 and body["usage"]["output_tokens"] > 0
    sdk.fits(body)


@check(RESPONSES, RESPONSE | STREAM, operation=Operation.RESPONSES)
def responses_stream(answer: Answer) -> None:
    events = named(answer)
    assert events[0]["type"] == "response.created"
    assert events[-1]["type"] in ("response.completed", "response.incomplete")
    for event in events:
        sdk.fits_response_event(event)
    said = "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    assert said and output_text(events[-1]["response"]) == said


def named(answer: Answer) -> list[dict[str, Any]]:
    """Return the events of a stream whose events have names, which are their types too."""
    assert answer.status == 200, answer.body[:500]
    assert answer.headers["content-type"].startswith("text/event-stream") and answer.whole
    found = []
    for block in answer.body.split(b"\n\n"):
        lines = dict(line.split(b": ", 1) for line in block.split(b"\n") if b": " in line)
        if lines.get(b"data", b"[DONE]") != b"[DONE]":
            event = json.loads(lines[b"data"])
            assert lines.get(b"event", event["type"].encode()).decode() == event["type"]
            found.append(event)
    return [event for event in found if event["type"] != "ping"]


# --- sound

_PART = b'--edge\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'
_FORMAT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
SOUND = (
    struct.pack("<4sI4s", b"RIFF", 36 + 1600, b"WAVE")
    + _FORMAT
    + struct.pack("<4sI", b"data", 1600)
    + bytes(1600)
)
"""A tenth of a second of silence."""


@check(TRANSCRIPTIONS)
async def transcriptions(stage: Stage) -> None:
    form = _PART % (b"model", b"", MODEL.encode())
    form += _PART % (b"file", b'; filename="a.wav"\r\ncontent-type: audio/wav', SOUND) + b"--edge--\r\n"
    kind = "multipart/form-data; boundary=edge"
    answer = await stage.served.post(TRANSCRIPTIONS, form, content_type=kind)
    if Operation.TRANSCRIPTIONS not in stage.engine.operations:
        shapes.error(answer, 400, "not_supported")
    else:
        assert answer.status == 200, answer.body[:500]
        assert isinstance(answer.json()["text"], str)


# --- what clients send and engines do not expect

NULLS = (
    *("stop", "seed", "n", "tools", "tool_choice", "response_format", "logprobs", "top_logprobs", "stream"),
    *("stream_options", "top_p", "presence_penalty", "frequency_penalty", "logit_bias", "user"),
    *(
        "max_completion_tokens",
        "parallel_tool_calls",
        "metadata",
        "store",
        "reasoning_effort",
        "service_tier",
    ),
)
"""Members that SDKs send as null where nothing was asked for."""


@check(CHAT, {**asking(), **dict.fromkeys(NULLS)})
def nulls(answer: Answer) -> None:
    shapes.content(shapes.completion(answer))


STOP = "URL in front"
"""Several tokens of what the demo model and the scripts say to `QUESTION`."""


def _cut(text: str, stop: str) -> None:
    assert text and stop not in text and not text.endswith(stop[: len(stop) // 2 + 1]), text


@check(CHAT, asking(stop=[STOP]))
def stop_of_tokens(answer: Answer) -> None:
    body = shapes.completion(answer, counted=False)
    assert body["choices"][0]["finish_reason"] == "stop"
    _cut(shapes.content(body), STOP)


@check(CHAT, asking(stop=[STOP], **STREAM))
def stop_of_tokens_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.finish_reason == "stop"
    _cut(told.text, STOP)


# --- ends


@check(COMPLETIONS, COMPLETING)
async def completions_end(stage: Stage) -> None:
    whole = shapes.text_completion(await stage.ask(COMPLETIONS, COMPLETING))
    told = shapes.streamed(await stage.ask(COMPLETIONS, COMPLETING | STREAM), "text_completion")
    (choice,) = whole["choices"]
    assert (told.text, told.finish_reason) == (choice["text"], choice["finish_reason"])
    assert "<|" not in told.text, "the name of a special token"


CUT = WITH_TOOLS | {"max_tokens": 12}
"""A call that its limit cuts. What is there of its arguments is given as it is."""


@check(CHAT, CUT)
def cut_in_call(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    for call in choice["message"].get("tool_calls") or ():
        assert call["id"] and call["function"]["name"] and isinstance(call["function"]["arguments"], str)


@check(CHAT, CUT | STREAM)
def cut_in_call_stream(answer: Answer) -> None:
    told = shapes.streamed(answer)
    assert told.finish_reason == "length"
    assert all(call["id"] for call in told.tool_calls.values())


@check(CHAT, asking("Be too busy.", **STREAM), replayed=True)
def overloaded_stream(answer: Answer) -> None:
    shapes.error(answer, 503, "overloaded")
    assert int(answer.headers["retry-after"]) >= 1
