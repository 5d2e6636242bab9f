"""Translate Ollama's own answers to OpenAI's: whole ones, streams of JSON lines, embeddings.

Facts: ollama/ollama v0.33.0-rc2, `api/types.go` and `server/routes.go`.

Rules:
- A stream is complete with the line that says `done`. An `error` line, or a stream without a `done` line, is a failure.
- Each line costs one decode and one encode; the members that all events share are encoded once.
- How long it took is told as llama.cpp tells it, in `timings`, so that Ollama's clients get the engine's own durations.
- Usage says what Ollama said: it tells of cached tokens only in newer versions.
- `thinking` becomes `reasoning_content`. The arguments of a tool call, an object in Ollama, become JSON text.
- An answer with tool calls has the finish reason `tool_calls`, unless it was cut off for its length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import msgspec

from backends.base import Failure, Operation, ReadFailure, Reply, Request, Usage
from backends.dialect import reasons, vectors
from backends.dialect.chunks import DONE, fresh_id
from backends.dialect.decoder import FramedDecoder
from backends.dialect.errors import garbled
from backends.dialect.logprobs import Token, of_text
from backends.dialect.unstreamed import stream_of
from backends.dialect.usage import count, openai_usage, told
from backends.framing import ndjson, sse

Members = dict[str, Any]


class _Function(msgspec.Struct):
    name: str
    arguments: msgspec.Raw = msgspec.Raw(b"{}")


class _Call(msgspec.Struct):
    function: _Function
    id: str | None = None


class _Message(msgspec.Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


# Counts are `Any`, so that one that cannot be read does not fail the answer.
class _Line(msgspec.Struct):
    created_at: str = ""
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    done: bool = False
    done_reason: str | None = None
    logprobs: list[Token] | None = None
    prompt_eval_count: Any = None
    prompt_eval_cached_count: Any = None
    eval_count: Any = None
    load_duration: Any = None
    prompt_eval_duration: Any = None
    eval_duration: Any = None
    error: Any = None


class _Vectors(msgspec.Struct):
    embeddings: list[msgspec.Raw] | None = None
    prompt_eval_count: Any = None
    error: Any = None


_line = msgspec.json.Decoder(_Line)
_vectors = msgspec.json.Decoder(_Vectors)
_encode = msgspec.json.Encoder().encode
_ROLE = b'"role":"assistant"'
_NOTHING: Mapping[str, Any] = {}
_MILLISECOND = 1_000_000
"""In nanoseconds, which Ollama's durations are in."""
_DURATIONS = {
    "load_ms": "load_duration",
    "prompt_ms": "prompt_eval_duration",
    "predicted_ms": "eval_duration",
}
"""llama.cpp's names of durations, and one like them, with Ollama's."""


def reply_of(request: Request, body: bytes, failure: ReadFailure) -> Reply | Failure:
    """Interpret the whole answer in `body`. If a stream was asked for, the reply is its events."""
    try:
        if request.operation is Operation.EMBEDDINGS:
            return _embeddings(request, body, failure)
        line = _line.decode(body)
    except (ValueError, RecursionError) as error:
        return garbled("the engine's reply is not the JSON object expected", body, error)
    if line.error:
        return failure(500, (), body)
    said = line.response if request.operation is Operation.COMPLETIONS else line.message
    if said is None:
        return garbled("the engine's reply has no result in it", body)
    if not line.done:
        # So ends what Ollama breaks off, an answer that repeats a token for instance.
        return reasons.broke_off(line.done_reason)
    usage = _usage(line)
    whole = _encode(_completion(request, line) | {"usage": _counts(usage, line)} | _timed(line))
    return Reply(stream_of(request, whole) if request.stream else whole, usage)


def _completion(request: Request, line: _Line) -> Members:
    """Return a whole chat completion or completion, without its usage."""
    chat = request.operation is Operation.CHAT
    calls = line.message.tool_calls if line.message else None
    choice: Members = {"index": 0, "logprobs": None, "finish_reason": _reason(line, bool(calls))}
    if line.message is not None:
        said = line.message
        message: Members = {"role": "assistant", "content": said.content or (None if calls else "")}
        if said.thinking:
            message["reasoning_content"] = said.thinking
        if calls:
            message["tool_calls"] = [_openai_call(call) for call in calls]
        choice["message"] = message
    else:
        choice["text"] = line.response
        if line.thinking:
            choice["reasoning_content"] = line.thinking
    if line.logprobs:
        choice["logprobs"] = _chat_logprobs(line.logprobs) if chat else of_text(line.logprobs, 0)
    return _head(request, line) | {"choices": [choice]}


def _embeddings(request: Request, body: bytes, failure: ReadFailure) -> Reply | Failure:
    """Interpret an answer with embeddings."""
    answer = _vectors.decode(body)
    if answer.error:
        return failure(500, (), body)
    if not answer.embeddings:
        return garbled("the engine's reply has no result in it", body)
    usage = Usage(input=count(answer.prompt_eval_count))
    told = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": place, "embedding": vector}
            for place, vector in enumerate(answer.embeddings)
        ],
        "model": request.model,
        "usage": {"prompt_tokens": usage.input, "total_tokens": usage.input},
    }
    found = vectors.answered(request.body, _encode(told))
    return found if isinstance(found, Failure) else Reply(found, usage)


class LineStream(FramedDecoder):
    """Turns one stream of Ollama's lines into OpenAI's events; see `backends.base.StreamDecoder`."""

    __slots__ = ("_called", "_chat", "_head", "_include_usage", "_offset", "_read_failure", "_request")

    piece: ClassVar[str] = "a line"

    def __init__(self, request: Request, read_failure: ReadFailure) -> None:
        super().__init__(ndjson.Framer())
        self._request = request
        self._chat = request.operation is Operation.CHAT
        self._include_usage = request.include_usage
        self._read_failure = read_failure
        self._head = b""
        """The beginning of every event, up to its choices; empty before the first one."""
        self._called = 0
        """The number of tool calls so far."""
        self._offset = 0
        """The number of characters so far, for the offsets in log probabilities."""

    def _event(self, piece: bytes) -> bytes:
        if self.over:
            return b""
        try:
            line = _line.decode(piece)
        except (ValueError, RecursionError) as error:
            self.fail(garbled("the engine sent a line that is not valid", piece, error))
            return b""
        if line.error:
            self.fail(self._read_failure(500, (), piece))
            return b""
        said = self._delta(line) if self._chat else self._text(line)
        return said + self._finish(line) if line.done else said

    def _is_whole(self, piece: bytes) -> bool:
        try:
            _line.decode(piece)
        except (ValueError, RecursionError):
            return False
        return True

    def _delta(self, line: _Line) -> bytes:
        """Return the event for a line of a chat; empty if it adds nothing."""
        said = line.message
        if said is None:
            return b""
        text, calls = said.content, said.tool_calls
        if not (text or said.thinking or calls or line.logprobs):
            return b""
        before = b""
        if line.logprobs and not self._head:
            # Clients that add up a stream's choices would count log probabilities beside the role twice.
            before = self._chunk(line, b'"delta":{' + _ROLE + b',"content":""}', b"null")
        members = [] if self._head else [_ROLE]
        if said.thinking:
            members.append(b'"reasoning_content":' + _encode(said.thinking))
        if text or not (said.thinking or calls):
            members.append(b'"content":' + _encode(text or ""))
        if calls:
            members.append(b'"tool_calls":' + _encode(self._numbered(calls)))
        self.content += bool(text or said.thinking or calls)
        logprobs = _encode(_chat_logprobs(line.logprobs)) if line.logprobs else b"null"
        return before + self._chunk(line, b'"delta":{' + b",".join(members) + b"}", logprobs)

    def _text(self, line: _Line) -> bytes:
        """Return the event for a line of a completion; empty if it adds nothing."""
        text = line.response or ""
        if not (text or line.thinking or line.logprobs):
            return b""
        self.content += bool(text or line.thinking)
        said = b'"text":' + _encode(text)
        if line.thinking:
            said += b',"reasoning_content":' + _encode(line.thinking)
        logprobs = b"null"
        if line.logprobs:
            logprobs = _encode(of_text(line.logprobs, self._offset))
            self._offset += sum(len(token.token) for token in line.logprobs)
        return self._chunk(line, said, logprobs)

    def _numbered(self, calls: Sequence[_Call]) -> list[Members]:
        """Return tool calls with their index in the answer."""
        first = self._called
        self._called += len(calls)
        return [{"index": first + place, **_openai_call(call)} for place, call in enumerate(calls)]

    def _finish(self, line: _Line) -> bytes:
        """Return the end of the stream, for its last line."""
        self.usage = _usage(line)
        self.finished = self.over = True
        said = b'"text":""'
        if self._chat:
            said = b'"delta":{}' if self._head else b'"delta":{' + _ROLE + b"}"
        out = self._chunk(line, said, b"null", _encode(_reason(line, self._called > 0)), _timed(line))
        if self._include_usage:
            counts = _encode(_counts(self.usage, line))
            out += sse.encode(self._begin(line) + b'"choices":[],"usage":' + counts + b"}")
        return out + DONE

    def _chunk(
        self,
        line: _Line,
        said: bytes,
        logprobs: bytes,
        reason: bytes = b"null",
        beside: Mapping[str, Any] = _NOTHING,
    ) -> bytes:
        """Return an event whose choice has these members, all in JSON; `beside` are more of the event's own."""
        choice = b'"choices":[{"index":0,' + said + b',"logprobs":' + logprobs
        more = b"," + _encode(beside)[1:-1] if beside else b""
        end = b',"finish_reason":' + reason + b"}]" + more + b"}\n\n"
        return b"data: " + self._begin(line) + choice + end

    def _begin(self, line: _Line) -> bytes:
        """Return the beginning of every event of this stream."""
        if not self._head:
            head = _head(self._request, line)
            if self._chat:
                head["object"] = "chat.completion.chunk"
            self._head = _encode(head)[:-1] + b","
        return self._head


def _head(request: Request, line: _Line) -> Members:
    """Return the members that begin every answer. The time is Ollama's; the id is new, because Ollama has none."""
    chat = request.operation is Operation.CHAT
    return {
        "id": fresh_id("chatcmpl" if chat else "cmpl"),
        "object": "chat.completion" if chat else "text_completion",
        "created": _seconds(line.created_at),
        "model": request.model,
    }


def _seconds(text: str) -> int:
    """Return a time in Go's format as seconds since 1970; 0 if it is not one."""
    try:
        return int(datetime.fromisoformat(text).timestamp())
    except (ValueError, OverflowError):
        return 0


def _reason(line: _Line, called: bool) -> str:
    """Return the finish reason in OpenAI's words."""
    if line.done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _openai_call(call: _Call) -> Members:
    """Return a tool call in OpenAI's form."""
    arguments = bytes(call.function.arguments).decode()
    return {
        "id": call.id or fresh_id("call"),
        "type": "function",
        "function": {"name": call.function.name, "arguments": arguments},
    }


def _usage(line: _Line) -> Usage:
    """Return the tokens counted in the last line, which omits counts of zero."""
    return Usage(count(line.prompt_eval_count), count(line.eval_count), told(line.prompt_eval_cached_count))


def _timed(line: _Line) -> Members:
    """Return the durations that the last line tells, in milliseconds; nothing where it tells none."""
    told = {name: getattr(line, own) for name, own in _DURATIONS.items()}
    found = {name: value / _MILLISECOND for name, value in told.items() if type(value) is int and value > 0}
    return {"timings": found} if found else {}


def _counts(usage: Usage, line: _Line) -> Members:
    """Return the `usage` of an answer; with the cached tokens, where Ollama tells of them."""
    counts = openai_usage(usage)
    if usage.cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return counts


def _chat_logprobs(tokens: Sequence[Token]) -> Members:
    """Return log probabilities in the form of chat completions."""
    return {
        "content": [
            {**_told(token), "top_logprobs": [_told(other) for other in token.top_logprobs or ()]}
            for token in tokens
        ]
    }


def _told(token: Token) -> Members:
    """Return one token with its log probability and its bytes."""
    spelled = token.bytes if token.bytes is not None else list(token.token.encode())
    return {"token": token.token, "logprob": token.logprob, "bytes": spelled}
