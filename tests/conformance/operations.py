"""Every operation beside chat, completions and vectors: Messages, Responses, infill, sound and pictures.

Rules:
- Each is asked of every engine. One that lacks the operation refuses it by name, which is what its check looks for
  then. Where neither a recording nor a real engine shows it, `unproven.py` says so.
- Answers and events are held against the types of OpenAI's and Anthropic's SDKs (`sdk.py`).
- Forms reach the engine as they are recorded, byte for byte, but for the model's name.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Mapping
from typing import Any

from backends.base import Operation
from tests.conformance import sdk
from tests.conformance.checks import PORT, QUESTION, STREAM, user
from tests.conformance.shapes import MODEL
from tests.conformance.stage import check
from tests.serving import Answer

MESSAGES = "/v1/messages"
RESPONSES = "/v1/responses"
COUNT_TOKENS = "/v1/messages/count_tokens"
INFILL = "/infill"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
SPEECH = "/v1/audio/speech"
IMAGES = "/v1/images/generations"
EDITS = "/v1/images/edits"
VARIATIONS = "/v1/images/variations"

TOOLS = ("get_port", "ping")
"""The tools of the check, and of those recordings that asked for another one."""

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
    sdk.fits_message(body)


@check(MESSAGES, MESSAGE | STREAM, operation=Operation.MESSAGES)
def messages_stream(answer: Answer) -> None:
    events = message_events(answer)
    deltas = [event["delta"] for event in events if event["type"] == "content_block_delta"]
    assert "".join(delta.get("text") or "" for delta in deltas)
    begun = [event["index"] for event in events if event["type"] == "content_block_start"]
    assert begun == [event["index"] for event in events if event["type"] == "content_block_stop"] != []
    (end,) = [event for event in events if event["type"] == "message_delta"]
    assert end["delta"]["stop_reason"] in STOPPED and end["usage"]["output_tokens"] > 0


def message_events(answer: Answer) -> list[dict[str, Any]]:
    """Return the events of a whole message."""
    events = named(answer)
    for event in events:
        sdk.fits_message_event(event)
    first, last = events[0], events[-1]
    assert (first["type"], last["type"]) == ("message_start", "message_stop")
    assert first["message"]["model"] == MODEL and first["message"]["role"] == "assistant"
    return events


def said(answer: Answer) -> None:
    """Expect a message, whatever it says."""
    assert answer.status == 200, answer.body[:500]
    if answer.body.startswith(b"{"):
        sdk.fits_message(answer.json())
    else:
        message_events(answer)


MESSAGE_WITH_TOOLS = MESSAGE | {
    "max_tokens": 200,
    "messages": user("Which port does Ollama use?"),
    "tools": [
        {
            "name": "get_port",
            "description": PORT["description"],
            "input_schema": PORT["parameters"],
        }
    ],
    "tool_choice": {"type": "any"},
}


@check(MESSAGES, MESSAGE_WITH_TOOLS, operation=Operation.MESSAGES)
def messages_tools(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    sdk.fits_message(body)
    (call,) = [block for block in body["content"] if block["type"] == "tool_use"]
    assert call["id"] and call["name"] in TOOLS and isinstance(call["input"], dict)
    assert body["stop_reason"] == "tool_use"


@check(MESSAGES, MESSAGE_WITH_TOOLS | STREAM, operation=Operation.MESSAGES)
def messages_tools_stream(answer: Answer) -> None:
    events = message_events(answer)
    (begun,) = [
        event
        for event in events
        if event["type"] == "content_block_start" and event["content_block"]["type"] == "tool_use"
    ]
    assert begun["content_block"]["id"] and begun["content_block"]["name"] in TOOLS
    deltas = [
        event["delta"]
        for event in events
        if event["type"] == "content_block_delta" and event["index"] == begun["index"]
    ]
    assert isinstance(json.loads("".join(delta["partial_json"] for delta in deltas)), dict)
    (end,) = [event for event in events if event["type"] == "message_delta"]
    assert end["delta"]["stop_reason"] == "tool_use"


THINKING = MESSAGE | {"max_tokens": 1200, "thinking": {"type": "enabled", "budget_tokens": 1024}}


@check(MESSAGES, THINKING, replayed=True, operation=Operation.MESSAGES)
def messages_thinking(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_message(answer.json())
    assert any(block["type"] == "thinking" and block["thinking"] for block in answer.json()["content"])


@check(MESSAGES, THINKING | STREAM, replayed=True, operation=Operation.MESSAGES)
def messages_thinking_stream(answer: Answer) -> None:
    deltas = [event.get("delta") or {} for event in message_events(answer)]
    assert "".join(delta.get("thinking") or "" for delta in deltas)


COUNT = {"model": MODEL, "messages": user(QUESTION)}


@check(COUNT_TOKENS, COUNT, operation=Operation.COUNT_TOKENS)
def count_tokens(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_message_count(answer.json())
    assert answer.json()["input_tokens"] > 0


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


@check(
    RESPONSES + "/input_tokens",
    {"model": MODEL, "input": QUESTION},
    operation=Operation.INPUT_TOKENS,
)
def input_tokens(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    assert answer.json()["object"] == "response.input_tokens"
    assert answer.json()["input_tokens"] > 0


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


# --- text between two others

BETWEEN = {
    "model": MODEL,
    "input_prefix": "The gateway is one ",
    "input_suffix": " in front of every engine.",
    "n_predict": 16,
    "temperature": 0,
}


@check(INFILL, BETWEEN, operation=Operation.INFILL)
def infill(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    body = answer.json()
    assert body["content"] and body["stop"] is True and body["model"] == MODEL
    assert body["tokens_predicted"] > 0 and body["tokens_evaluated"] > 0


@check(INFILL, BETWEEN | STREAM, operation=Operation.INFILL)
def infill_stream(answer: Answer) -> None:
    assert answer.status == 200 and answer.whole, answer.body[:500]
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event for event in answer.events if event != "[DONE]"]
    assert "".join(event["content"] for event in events)
    assert [event["stop"] for event in events] == [*[False] * (len(events) - 1), True]


# --- sound

_FORMAT = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, 8000, 16000, 2, 16)
_SAMPLES = bytes(1600)
SOUND = (
    struct.pack("<4sI4s", b"RIFF", 36 + len(_SAMPLES), b"WAVE")
    + _FORMAT
    + struct.pack("<4sI", b"data", len(_SAMPLES))
    + _SAMPLES
)
"""A tenth of a second of silence."""
_PART = b'--edge\r\ncontent-disposition: form-data; name="%b"%b\r\n\r\n%b\r\n'


def _form(**members: str) -> bytes:
    """Return a form with a recording, and these members."""
    return _with(b"file", b'; filename="a.wav"\r\ncontent-type: audio/wav', SOUND, members)


def _with(name: bytes, kind: bytes, data: bytes, members: Mapping[str, str]) -> bytes:
    """Return a form with these members and one file."""
    parts = [_PART % (each.encode(), b"", value.encode()) for each, value in members.items()]
    return b"".join([*parts, _PART % (name, kind, data), b"--edge--"])


@check(TRANSCRIPTIONS, _form(model=MODEL), operation=Operation.TRANSCRIPTIONS)
def transcriptions(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_transcription(answer.json())


@check(TRANSCRIPTIONS, _form(model=MODEL, stream="true"), operation=Operation.TRANSCRIPTIONS)
def transcriptions_stream(answer: Answer) -> None:
    assert answer.status == 200 and answer.whole, answer.body[:500]
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event for event in answer.events if event != "[DONE]"]
    for event in events:
        sdk.fits_transcription_event(event)
    said = "".join(event["delta"] for event in events if event["type"] == "transcript.text.delta")
    assert events[-1]["type"] == "transcript.text.done" and events[-1]["text"] == said


@check(TRANSLATIONS, _form(model=MODEL), operation=Operation.TRANSLATIONS)
def translations(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_translation(answer.json())


TO_SAY = {"model": MODEL, "input": "The gateway is one URL.", "voice": "alloy", "response_format": "wav"}


@check(SPEECH, TO_SAY, operation=Operation.SPEECH)
def speech(answer: Answer) -> None:
    assert answer.status == 200 and answer.whole, answer.body[:500]
    assert answer.headers["content-type"] == "audio/wav" and answer.body.startswith(b"RIFF")


@check(SPEECH, TO_SAY | {"stream_format": "sse"}, operation=Operation.SPEECH)
def speech_stream(answer: Answer) -> None:
    assert answer.status == 200 and answer.whole, answer.body[:500]
    *deltas, last = answer.events
    assert {event["type"] for event in deltas} == {"speech.audio.delta"}
    assert b"".join(base64.b64decode(event["audio"]) for event in deltas).startswith(b"RIFF")
    assert last["type"] == "speech.audio.done" and last["usage"]["total_tokens"] > 0


# --- pictures

TO_DRAW = {"model": MODEL, "prompt": "A gateway.", "size": "1024x1024", "output_format": "png"}


@check(IMAGES, TO_DRAW, operation=Operation.IMAGES)
def images(answer: Answer) -> None:
    _drawn(answer)


@check(IMAGES, TO_DRAW | STREAM | {"partial_images": 1}, operation=Operation.IMAGES)
def images_stream(answer: Answer) -> None:
    events = named(answer)
    for event in events:
        sdk.fits_image_event(event)
    assert [event["type"] for event in events] == [
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert base64.b64decode(events[-1]["b64_json"]).startswith(b"\x89PNG")


PICTURE = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGNgaPgPAAIDAYAkYfWXAAAAAElFTkSuQmCC"
)
"""A picture of one dot."""
_PNG = b'; filename="a.png"\r\ncontent-type: image/png'


def _drawn(answer: Answer) -> None:
    assert answer.status == 200, answer.body[:500]
    sdk.fits_images(answer.json())
    (image,) = answer.json()["data"]
    assert base64.b64decode(image["b64_json"]).startswith(b"\x89PNG")


@check(
    EDITS,
    _with(b"image", _PNG, PICTURE, {"model": MODEL, "prompt": "In blue."}),
    operation=Operation.IMAGE_EDITS,
)
def image_edits(answer: Answer) -> None:
    _drawn(answer)


@check(
    EDITS,
    _with(b"image[]", _PNG, PICTURE, {"model": MODEL, "prompt": "In blue.", "stream": "true"}),
    operation=Operation.IMAGE_EDITS,
)
def image_edits_stream(answer: Answer) -> None:
    events = named(answer)
    for event in events:
        sdk.fits_image_edit_event(event)
    assert [event["type"] for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert base64.b64decode(events[-1]["b64_json"]).startswith(b"\x89PNG")


@check(
    VARIATIONS,
    _with(b"image", _PNG, PICTURE, {"model": MODEL, "n": "1", "response_format": "b64_json"}),
    operation=Operation.IMAGE_VARIATIONS,
)
def image_variations(answer: Answer) -> None:
    _drawn(answer)
