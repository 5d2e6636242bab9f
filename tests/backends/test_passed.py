"""Answers whose bytes pass unchanged: whole ones, the end of streams, and the model's name in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from backends.base import NATIVE, Failure, Kind, Operation, Reply, Request, Usage
from backends.dialect import responses
from backends.dialect.passed import DECODERS, OPERATIONS, Events, Pieces
from backends.engines.openai import OpenAI
from backends.framing import limit as limits

RECORDINGS = Path(__file__).parent.parent / "recordings" / "llamacpp"
ENGINE = OpenAI()
JSON = ((b"content-type", b"application/json"),)


def recorded(name: str) -> bytes:
    """Return the body of a recorded answer."""
    return (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]


COMPLETE = (
    (RECORDINGS.parent / "ollama" / "responses_stream.http")
    .read_bytes()
    .partition(b"=====\n")[2]
    .partition(b"\n\n")[2]
    .replace(b'"cached_tokens":0', b'"cache_write_tokens":0,"cached_tokens":0')
)
"""The stream of an engine that leaves nothing out: Ollama's, but for one count."""


def request(operation: Operation, stream: bool = False, model: str = "public") -> Request:
    return Request(operation, b"{}", model, stream=stream)


def answer(
    operation: Operation, body: Any, kind: bytes = b"application/json", stream: bool = False
) -> Reply | Failure:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return ENGINE.reply(request(operation, stream), "private", ((b"content-type", kind),), data)


def accepted(operation: Operation, body: Any, kind: bytes = b"application/json") -> Reply:
    reply = answer(operation, body, kind)
    assert isinstance(reply, Reply), reply
    return reply


WHOLE: dict[Operation, tuple[dict[str, Any], Usage | None]] = {
    Operation.RERANK: (
        {"results": [{"index": 0, "relevance_score": 0.5}], "usage": {"total_tokens": 8}},
        Usage(8),
    ),
    Operation.SCORE: ({"data": [{"index": 0, "score": 1}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}, Usage(3)),
    Operation.TOKENIZE: ({"count": 0, "tokens": []}, None),
    Operation.DETOKENIZE: ({"prompt": ""}, None),
    Operation.INFILL: ({"content": "", "stop": True, "tokens_evaluated": 6, "tokens_predicted": 3}, Usage(6, 3)),
    Operation.RESPONSES: (
        {
            **responses.DEFAULTS,
            "object": "response",
            "created_at": 1,
            "error": None,
            "incomplete_details": None,
            "output": [],
            "usage": {
                "input_tokens": 9,
                "output_tokens": 2,
                "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
                "output_tokens_details": {"reasoning_tokens": 0},
            },
        },
        Usage(9, 2, 4, reasoning=0),
    ),
    Operation.MESSAGES: (
        {
            "type": "message",
            "content": [],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 1, "cache_read_input_tokens": 28, "output_tokens": 4},
        },
        Usage(29, 4, 28),
    ),
    Operation.COUNT_TOKENS: ({"input_tokens": 16, "context_management": {"original_input_tokens": 16}}, None),
    Operation.TRANSCRIPTIONS: ({"text": "", "usage": {"type": "duration", "seconds": 3}}, None),
    Operation.TRANSLATIONS: ({"text": "hello"}, None),
    Operation.IMAGES: ({"data": [{"b64_json": "aGk="}], "usage": {"input_tokens": 5, "output_tokens": 7}}, Usage(5, 7)),
}  # fmt: skip


@pytest.mark.parametrize("operation", WHOLE)
def test_a_whole_answer_passes_under_the_public_name(operation: Operation) -> None:
    said, usage = WHOLE[operation]
    reply = accepted(operation, said | {"model": "private"})
    assert json.loads(reply.body) == said | {"model": "public"}
    assert (reply.usage, reply.content_type) == (usage, b"application/json")
    unnamed = json.dumps(said).encode()
    if operation is not Operation.RESPONSES:  # which strict clients do not read without a model
        assert accepted(operation, unnamed).body is unnamed


@pytest.mark.parametrize("operation", WHOLE)
@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"<html>", b'{"choices":[{"text":"hi"}]}', b"[" * 100_000, b'{"x":NaN}'],
)
def test_what_holds_no_result_is_garbled(operation: Operation, body: bytes) -> None:
    failure = answer(operation, body)
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


@pytest.mark.parametrize("operation", WHOLE)
@pytest.mark.parametrize("value", [None, 5, {}, False])
def test_a_result_of_another_type_is_garbled(operation: Operation, value: Any) -> None:
    said = dict(WHOLE[operation][0])
    names = ("results", "tokens", "prompt", "output", "content", "text", "data", "input_tokens")
    name = next(n for n in names if n in said)
    failure = answer(operation, said | {name: "5" if name == "input_tokens" and value == 5 else value})
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


@pytest.mark.parametrize("operation", [Operation.RERANK, Operation.SCORE, Operation.IMAGES])
def test_an_empty_list_is_no_result_where_something_was_asked_for(operation: Operation) -> None:
    name = "results" if operation is Operation.RERANK else "data"
    assert isinstance(answer(operation, b'{"%b": [ ]}' % name.encode()), Failure)


@pytest.mark.parametrize("operation", WHOLE)
@pytest.mark.parametrize(
    "error", [{"error": {"message": "m", "code": 503}}, {"object": "error", "message": "m", "code": 503}]
)
def test_an_error_under_status_200_is_the_engines(operation: Operation, error: dict[str, Any]) -> None:
    failure = answer(operation, WHOLE[operation][0] | error)
    assert isinstance(failure, Failure) and failure.kind is Kind.OVERLOADED


@pytest.mark.parametrize("kind", [b"text/plain; charset=utf-8", b"text/vtt", b"application/x-subrip"])
def test_a_transcription_may_be_text(kind: bytes) -> None:
    reply = accepted(Operation.TRANSCRIPTIONS, b"1\n00:00 --> 00:01\nhi", kind)
    assert (reply.body, reply.content_type) == (b"1\n00:00 --> 00:01\nhi", kind)
    assert isinstance(answer(Operation.TRANSCRIPTIONS, b"<html>", b"text/html"), Failure)
    assert isinstance(answer(Operation.RERANK, b"hi", kind), Failure)


@pytest.mark.parametrize(
    ("kind", "body", "told"),
    [
        (b"text/html; charset=utf-8", b" hello world", b"text/plain; charset=utf-8"),
        (b"application/octet-stream", b"hello", b"text/plain; charset=utf-8"),
        (b"text/plain", b'"Hello," she said', b"text/plain"),
        (b"application/json", b'"hello"', b"application/json"),
        (b"text/html", b'"hello"', b"text/plain; charset=utf-8"),
    ],
)
@pytest.mark.parametrize("operation", [Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS])
def test_a_transcription_passes_whatever_it_is_called(
    operation: Operation, kind: bytes, body: bytes, told: bytes
) -> None:
    reply = accepted(operation, body, kind)
    assert (reply.body, reply.content_type) == (body, told)
    streamed = answer(operation, body, kind, stream=True)
    assert isinstance(streamed, Reply)
    text = json.loads(body) if body == b'"hello"' else body.decode()
    events = [json.loads(line[6:]) for line in streamed.body.splitlines() if line]
    assert events == [
        {"type": "transcript.text.delta", "delta": text},
        {"type": "transcript.text.done", "text": text},
    ]


@pytest.mark.parametrize(
    ("kind", "body"),
    [(b"text/html", b"\n<html>"), (b"application/json", b'"cut'), (b"application/json", b"5")],
)
def test_a_page_or_half_a_text_is_no_transcription(kind: bytes, body: bytes) -> None:
    assert isinstance(answer(Operation.TRANSCRIPTIONS, body, kind), Failure)


def test_a_transcription_that_was_to_be_a_stream_becomes_one() -> None:
    reply = answer(Operation.TRANSCRIPTIONS, {"text": "hi"}, stream=True)
    assert isinstance(reply, Reply)
    assert reply.body == (
        b'data: {"type":"transcript.text.delta","delta":"hi"}\n\ndata: {"type":"transcript.text.done","text":"hi"}\n\n'
    )
    failure = answer(Operation.RESPONSES, WHOLE[Operation.RESPONSES][0], stream=True)
    assert isinstance(failure, Failure) and failure.kind is Kind.GARBLED


def test_sound_passes_with_its_type() -> None:
    reply = accepted(Operation.SPEECH, b"\xff\xf3sound", b"application/octet-stream")
    assert (reply.body, reply.content_type) == (b"\xff\xf3sound", b"application/octet-stream")
    assert isinstance(answer(Operation.SPEECH, b"", b"application/octet-stream"), Failure)
    failure = answer(Operation.SPEECH, b'{"error":{"message":"m","code":503}}')
    assert isinstance(failure, Failure) and failure.kind is Kind.OVERLOADED
    assert isinstance(answer(Operation.SPEECH, b'{"text":"no sound"}'), Failure)


def test_sound_in_pieces() -> None:
    pieces = ENGINE.decoder(request(Operation.SPEECH), "private")
    assert isinstance(pieces, Pieces)
    assert pieces.feed(b"\x00data: \n\n") == b"\x00data: \n\n" and pieces.content == 1 and not pieces.finished
    assert pieces.close() == b"" and pieces.finished and pieces.failure is None and pieces.usage == Usage()
    silent = Pieces()
    silent.close()
    assert silent.failure is not None and not silent.finished


# Streams


def played(
    operation: Operation, data: bytes, size: int = 1 << 20, model: str = "public"
) -> tuple[bytes, Events]:
    """Return what the client gets for a stream that arrives in pieces of this size."""
    events = ENGINE.decoder(request(operation, stream=True, model=model), "private")
    assert isinstance(events, Events)
    out = []
    for at in range(0, len(data), size):
        out.append(events.feed(data[at : at + size]))
        if events.failure is not None:
            break
    else:
        out.append(events.close())
    return b"".join(out), events


STREAMS = {
    "responses": (
        Operation.RESPONSES,
        COMPLETE,
        Usage(16, 12, 0, reasoning=0),
    ),
    "messages": (Operation.MESSAGES, recorded("messages_stream"), Usage(16, 8, 15)),
    "infill": (Operation.INFILL, recorded("completion_stream"), None),
    "transcript": (
        Operation.TRANSCRIPTIONS,
        (
            b'event: transcript.text.delta\ndata: {"type":"transcript.text.delta","delta":"Hi"}\n\n'
            b'data: {"type":"transcript.text.done","text":"Hi","usage":{"input_tokens":14,"output_tokens":2}}\n\n'
        ),
        Usage(14, 2),
    ),
    "transcript as chat": (
        Operation.TRANSCRIPTIONS,
        (
            b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":"Hi"}}],"model":"demo"}\n\n'
            b'data: {"object":"transcription.chunk","choices":[{"delta":{"content":""},"finish_reason":"stop"}]}\n\n'
            b"data: [DONE]\n\n"
        ),
        None,
    ),
    "speech": (
        Operation.SPEECH,
        (
            b'data: {"type":"speech.audio.delta","audio":"AAA="}\n\n'
            b'data: {"type":"speech.audio.done","usage":{"input_tokens":3,"output_tokens":9}}\n\n'
        ),
        Usage(3, 9),
    ),
    "images": (
        Operation.IMAGES,
        (
            b'event: image_generation.partial_image\ndata: {"type":"image_generation.partial_image","b64_json":"A"}\n\n'
            b'event: image_generation.completed\ndata: {"type":"image_generation.completed","b64_json":"AAAA"}\n\n'
        ),
        None,
    ),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("size", [1, 2, 7, 100, 1 << 20])
def test_a_stream_passes_unchanged_however_it_is_cut(name: str, size: int) -> None:
    operation, data, usage = STREAMS[name]
    sent, events = played(operation, data, size, model="demo")
    assert sent == data
    assert events.finished and events.failure is None and events.content > 0
    assert usage is None or events.usage == usage


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("newline", [b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 3, 1 << 20])
def test_other_line_ends_become_line_feeds(name: str, newline: bytes, size: int) -> None:
    operation, data, _ = STREAMS[name]
    sent, events = played(operation, data.replace(b"\n", newline), size, model="demo")
    assert (sent, events.finished) == (data, True)


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_without_its_last_event_is_broken(name: str) -> None:
    operation, data, _ = STREAMS[name]
    whole = data.removesuffix(b"data: [DONE]\n\n")
    cut = whole[: whole.rindex(b"\n\n", 0, -2) + 2]
    sent, events = played(operation, cut, model="demo")
    assert sent == cut
    assert events.failure is not None and events.failure.kind is Kind.RESET and not events.finished
    sent, events = played(operation, cut + b"data: [DONE]\n\n", model="demo")
    assert sent == cut
    assert events.failure is not None and events.failure.kind is Kind.GARBLED


@pytest.mark.parametrize("name", STREAMS)
def test_half_an_event_at_the_end_says_nothing_and_a_whole_one_counts(name: str) -> None:
    operation, data, _ = STREAMS[name]
    whole = data.removesuffix(b"data: [DONE]\n\n")
    sent, events = played(operation, whole[:-2], model="demo")
    assert (sent, events.finished) == (whole, True)
    _, events = played(operation, whole[:-5], model="demo")
    assert events.failure is not None


@pytest.mark.parametrize("name", ["responses", "messages", "infill", "transcript as chat"])
@pytest.mark.parametrize("public", ["public", 'a"b', "模型"])
def test_every_event_names_the_model_as_the_client_did(name: str, public: str) -> None:
    operation, data, _ = STREAMS[name]
    sent, _ = played(operation, data, 10, model=public)
    assert b'"model":"demo"' in data
    assert sent == data.replace(
        b'"model":"demo"', b'"model":' + json.dumps(public, ensure_ascii=False).encode()
    )


ERRORS = {
    "OpenAI's": (b'data: {"error":{"message":"m","code":503}}\n\n', Kind.OVERLOADED),
    "flat": (b'data: {"object":"error","message":"m","code":400}\n\n', Kind.REJECTED),
    "of responses": (
        b'event: error\ndata: {"type":"error","code":"server_error","message":"m"}\n\n',
        Kind.FAILED,
    ),
    "Anthropic's": (
        b'event: error\ndata: {"type":"error","error":{"type":"api_error","message":"m"}}\n\n',
        Kind.FAILED,
    ),
    "a response that failed": (
        b'data: {"type":"response.failed","response":{"error":{"code":"429","message":"m"}}}\n\n',
        Kind.OVERLOADED,
    ),
    "by its name alone": (b'event: error\ndata: {"message":"m","code":429}\n\n', Kind.OVERLOADED),
    "by its name, as text": (b"event: error\ndata: it broke\n\n", Kind.FAILED),
    "by its name, without data": (b"event: error\n\n", Kind.FAILED),
    "a field": (b'error: {"message":"m","code":503}\n\n', Kind.OVERLOADED),
    "not UTF-8": (b'data: {"type":"x","y":"\xff"}\n\n', Kind.GARBLED),
    "no JSON": (b"data: {\n\n", Kind.GARBLED),
    "a list": (b"data: []\n\n", Kind.GARBLED),
}


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("error", ERRORS)
def test_an_error_ends_the_stream_and_is_not_passed_on(name: str, error: str) -> None:
    operation, data, _ = STREAMS[name]
    begin = data[: data.index(b"\n\n") + 2]
    said, kind = ERRORS[error]
    sent, events = played(operation, begin + said + data, model="demo")
    assert sent == begin
    assert events.failure is not None and events.failure.kind is kind and not events.finished
    assert events.feed(data) == b""


def test_comments_and_pings_are_no_content() -> None:
    ping = b'event: ping\ndata: {"type":"ping"}\n\n'
    start = (
        b'data: {"type":"message_start","message":{"content":[]}}\n\n'
        b'event: content_block_start\ndata: {"type":"content_block_start","content_block":{"text":""}}\n\n'
    )
    empty = b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":""}}\n\n'
    events = ENGINE.decoder(request(Operation.MESSAGES, stream=True), "private")
    assert (
        events.feed(b": waiting\n\n" + ping + b"\n\n\n" + start + empty + b"data: null\n\n")
        == ping + start + empty
    )
    assert events.content == 0
    events.feed(b'data: {"type":"content_block_delta","delta":{"type":"text_delta","text":"x"}}\n\n')
    assert events.content == 1


def test_an_event_without_end_is_refused() -> None:
    events = ENGINE.decoder(request(Operation.RESPONSES, stream=True), "private")
    piece = b"x" * (1 << 20)
    events.feed(b"data: ")
    for _ in range(limits.EVENT >> 20):
        events.feed(piece)
    assert events.failure is not None and events.failure.kind is Kind.LIMIT
    assert events.feed(b"\n\ndata: 1\n\n") == b""


@pytest.mark.parametrize(
    "said", ["null", "5", '"many"', "[]", "{}", '{"input_tokens":"3"}', '{"input_tokens":-1}']
)
def test_usage_is_read_and_never_spoils_a_stream(said: str) -> None:
    data = (
        b'data: {"type":"message_start"}\n\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
        b'data: {"type":"message_stop","usage":%b}\n\n' % said.encode()
    )
    sent, events = played(Operation.MESSAGES, data)
    assert (sent, events.finished) == (data, True)
    assert events.usage in (None, Usage())


def test_every_operation_is_read_somewhere() -> None:
    ours = {Operation.CHAT, Operation.COMPLETIONS, Operation.EMBEDDINGS}
    assert ours | OPERATIONS | {Operation.REALTIME} == NATIVE, "what goes over a WebSocket is not read"
    assert set(DECODERS) <= OPERATIONS


STOPPED = b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n'
OVER = b'data: {"type":"message_stop"}\n\n'


@pytest.mark.parametrize("reason", ["null", '""', '"null"', "5"])
def test_a_message_without_a_reason_to_stop_was_broken_off(reason: str) -> None:
    """One rule for whole messages and for streams."""
    told = STOPPED.replace(b'"end_turn"', reason.encode())
    _, events = played(Operation.MESSAGES, told + OVER)
    assert events.failure is not None and events.failure.kind is Kind.FAILED and not events.finished
    whole = answer(Operation.MESSAGES, b'{"content":[{"text":"half"}],"stop_reason":%b}' % reason.encode())
    assert reason == "5" or (isinstance(whole, Failure) and whole.kind is Kind.FAILED)
    assert played(Operation.MESSAGES, STOPPED + OVER)[1].finished


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ({"type": "thinking", "thinking": ""}, {"type": "thinking", "thinking": "", "signature": ""}),
        ({"type": "thinking", "thinking": "", "signature": "s"}, None),
        (
            {"type": "tool_use", "id": "a", "name": "f"},
            {"type": "tool_use", "id": "a", "name": "f", "input": {}},
        ),
        ({"type": "tool_use", "id": "a", "name": "f", "input": {}}, None),
        ({"type": "text", "text": ""}, None),
        ("text", None),
    ],
)
def test_a_block_that_begins_without_what_its_type_has_gets_it_empty(block: object, wanted: object) -> None:
    """llama.cpp leaves out a signature and an input, vLLM the former; typed clients cannot read the block then."""
    event = {"type": "content_block_start", "index": 0, "content_block": block}
    data = b"event: content_block_start\ndata: " + json.dumps(event).encode() + b"\n\n"
    begun = b'event: message_start\ndata: {"type":"message_start","message":{}}\n\n'
    sent, _ = played(Operation.MESSAGES, begun + data, 1000)
    if wanted is None:
        assert sent == begun + data
    else:
        line = sent.removeprefix(begun).removeprefix(b"event: content_block_start\ndata: ")
        assert json.loads(line) == event | {"content_block": wanted}


def test_a_message_that_has_no_beginning_gets_one() -> None:
    """llama.cpp leaves it out where the model opens with a part of a character."""
    data = recorded("messages_stream")
    beginless = data[data.index(b"\n\n") + 2 :]
    sent, events = played(Operation.MESSAGES, b'event: ping\ndata: {"type":"ping"}\n\n' + beginless, 100)
    assert events.finished
    ping, first, rest = sent.split(b"\n\n", 2)
    assert ping.startswith(b"event: ping") and rest == beginless
    name, line = first.split(b"\n")
    begun = json.loads(line.removeprefix(b"data: "))
    message = begun["message"]
    assert (name, begun["type"], message.pop("id")[:4]) == (b"event: message_start", "message_start", "msg-")
    assert message == {
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "public",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }


SPEAKING = [
    {"type": "response.output_text.delta", "delta": "a"},
    {"type": "response.refusal.delta", "delta": "no"},
    {"type": "response.output_item.added", "item": {"type": "function_call", "name": "f", "arguments": ""}},
    {"type": "response.web_search_call.searching", "item_id": "w"},
    {"type": "response.image_generation_call.in_progress", "item_id": "i"},
    {"type": "response.image_generation_call.partial_image", "partial_image_b64": "AA"},
    {"type": "response.output_text.done", "text": "a"},
    {"type": "response.a_new_kind", "what": 1},
    {
        "type": "content_block_start",
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {}},
    },
    {"type": "content_block_start", "content_block": {"type": "redacted_thinking", "data": "x"}},
    {"type": "content_block_delta", "delta": {"type": "thinking_delta", "thinking": "hm"}},
    {"type": "content_block_delta", "delta": {"type": "a_new_delta", "what": [1]}},
    {"type": "image_generation.partial_image", "b64_json": "A"},
    {"type": "speech.audio.delta", "audio": "AA"},
    {"content": "a"},
    {"content": "", "prompt_progress": {"total": 5}},
    {"choices": [{"delta": {"content": "a"}}]},
]
SILENT = [
    {"type": "ping"},
    {"type": "response.created", "response": {"instructions": "x" * 1000}},
    {"type": "response.in_progress", "response": {}},
    {"type": "response.output_item.added", "item": {"type": "message", "status": "in_progress", "content": []}},
    {"type": "response.content_part.added", "part": {"type": "output_text", "text": "", "annotations": []}},
    {"type": "response.output_text.delta", "delta": ""},
    {"type": "message_start", "message": {"content": []}},
    {"type": "content_block_start", "content_block": {"type": "text", "text": ""}},
    {"type": "content_block_delta", "delta": {"type": "text_delta", "text": ""}},
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "end_turn"}},
    {"content": "", "stop": False},
    {"choices": [{"delta": {"role": "assistant", "content": ""}}]},
]  # fmt: skip


@pytest.mark.parametrize("event", SPEAKING, ids=lambda event: str(event.get("type", event))[:50])
def test_whatever_a_client_could_use_is_content(event: dict[str, Any]) -> None:
    events = ENGINE.decoder(request(Operation.RESPONSES, stream=True), "private")
    events.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert events.content == 1


@pytest.mark.parametrize("event", SILENT, ids=lambda event: str(event.get("type", event))[:50])
def test_what_only_makes_room_for_content_is_silence(event: dict[str, Any]) -> None:
    events = ENGINE.decoder(request(Operation.RESPONSES, stream=True), "private")
    events.feed(b"data: " + json.dumps(event).encode() + b"\n\n")
    assert events.content == 0 and events.failure is None


def test_what_is_said_once_more_is_counted_once() -> None:
    _, events = played(Operation.RESPONSES, recorded("responses_stream"))
    assert events.content == recorded("responses_stream").count(b"event: response.output_text.delta")


@pytest.mark.parametrize("kind", ["response.completed", "response.incomplete"])
@pytest.mark.parametrize("rest", ["", ',"response":null', ',"response":"resp_1"', ',"response":[]'])
def test_a_response_that_ends_without_itself_is_no_whole_one(kind: str, rest: str) -> None:
    """Clients take the whole response from the last event, and so does the gateway where no stream was asked for."""
    said = b'data: {"type":"response.output_text.delta","delta":"Hi"}\n\n'
    out, events = played(Operation.RESPONSES, said + f'data: {{"type":"{kind}"{rest}}}\n\n'.encode())
    assert b"Hi" in out and kind.encode() not in out
    assert events.failure is not None and events.failure.kind is Kind.GARBLED and not events.finished
