"""Text Generation Inference: its server, attached to by URL or launched as a child process.

Facts are those of TGI 3.3.7.

Rules:
- Chat is TGI's Messages API, OpenAI's but for details, mended both ways: `stop` is a list, `response_format` has a form
  of its own, ids are empty, a stop string stays in the text. Completions may go by its native protocol instead.
- What OpenAI's clients send as a default and TGI takes for something else (`top_p: 1`, `presence_penalty: 0`) is left
  out; what it would not do (`n`, `logit_bias`) is refused.
- In a stream every failure comes with status 200, in chat always as 422: there its words say what it is.
- The server listens only when the model is loaded; `/health` turns 503 when the model's own process has died.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec
from pydantic import Field

from backends.base import (
    Call,
    EngineOptions,
    Failure,
    Headers,
    Health,
    Kind,
    LaunchOptions,
    ModelCard,
    Operation,
    Reply,
    Request,
    RequestError,
    Signal,
    Signals,
    StreamDecoder,
)
from backends.dialect import chunks, rewrite
from backends.dialect.errors import garbled
from backends.dialect.openai import OpenAICompatible
from backends.dialect.shapes import Event
from backends.dialect.stream import EventStream
from backends.engines.tgi import native as tgi_native
from backends.engines.tgi.launch import CRASHES, TGILaunch
from backends.facts import logs
from backends.facts.signals import Metric, Table, from_metrics
from backends.framing import sse


class TGIOptions(EngineOptions):
    """How to speak to TGI."""

    api: Literal["messages", "native"] = Field(
        "messages",
        description="How completions are asked for: by its OpenAI-compatible API, or by its native protocol. Chat "
        "always goes by the former.",
    )

    def engine(self) -> TGI:
        return TGI(self)


TABLE: Table = {
    Signal.RUNNING: (Metric("tgi_batch_current_size", "all"),),
    Signal.WAITING: (Metric("tgi_queue_size", "all"),),
}
"""Neither is on the page before the first request."""


class _Info(msgspec.Struct):
    model_id: str
    max_total_tokens: int | None = None


class _Token(msgspec.Struct):
    id: int
    text: str = ""


class _Templated(msgspec.Struct):
    tokenize_response: list[_Token]


_info = msgspec.json.Decoder(_Info)
_tokens = msgspec.json.Decoder(list[_Token] | _Templated)
_anything = msgspec.json.Decoder()

_STATUS: Mapping[str, int] = {
    "validation": 422,
    "template_error": 422,
    "tool_error": 422,
    "overloaded": 429,
    "generation": 424,
    "incomplete_generation": 424,
    "incomplete_generation_stream": 424,
}
"""The status a type of error has outside of streams."""
_TOLD = (
    (re.compile(r"^Model is overloaded"), 429),
    (re.compile(r"^Request failed during generation"), 424),
    (re.compile(r"^Incomplete generation|^Stream event serialization"), 424),
)
"""The same by its words, for chat streams, where all errors are 422. TGI 3.3."""


class TGI(OpenAICompatible):
    """TGI's server."""

    name: ClassVar[str] = "tgi"
    checked: ClassVar[str] = "TGI 3.3.7 (source)"
    launch_options: ClassVar[type[LaunchOptions] | None] = TGILaunch
    options_type: ClassVar[type[EngineOptions] | None] = TGIOptions
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.COMPLETIONS, Operation.TOKENIZE}
    )

    def __init__(
        self,
        options: TGIOptions | None = None,
        new_stamp: Callable[[Operation], chunks.Stamp] = chunks.stamp,
    ) -> None:
        """`new_stamp` makes the ids of answers."""
        self._native_completions = options is not None and options.api == "native"
        self._stamp = new_stamp

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.TOKENIZE:
            return _tokenizing(_read(request.body))
        call = super().call(request, model)
        members = _as_tgi_takes(rewrite.members(call.body))
        if self._is_native(request):
            asked = {name: _anything.decode(raw) for name, raw in members.items()}
            return Call(tgi_native.PATH, tgi_native.body(_one_prompt(asked), asked))
        return msgspec.structs.replace(call, body=rewrite.joined(members))

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is Operation.TOKENIZE:
            return _tokenized(request, body)
        try:
            answer = _anything.decode(body)
            if isinstance(answer, dict) and "choices" in answer:
                body = msgspec.json.encode(self._mended(request, answer))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        known_by, stops = self._stamp(request.operation), _stops(request)
        if self._is_native(request):
            writer = chunks.Chunks(request, known_by)
            return tgi_native.NativeStream(request, writer, stops, self.failure)
        return MessagesStream(self, request, known_by, stops)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        told = failure.status or status
        if status == 500:
            told = _STATUS.get(_error_type(body), told)
            told = next((code for words, code in _TOLD if words.search(failure.detail)), told)
        return failure if told == failure.status else super().failure(told, headers, body)

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        return Health.READY if status == 200 else Health.DOWN

    def models(self) -> Call:
        return Call("/info", method="GET")

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        try:
            info = _info.decode(body)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"not what TGI tells of itself: {error}") from error
        return (ModelCard(info.model_id, info.max_total_tokens),)

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        return from_metrics(answers[0], TABLE)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, CRASHES)

    def _is_native(self, request: Request) -> bool:
        return self._native_completions and request.operation is Operation.COMPLETIONS

    def _mended(self, request: Request, answer: dict[str, Any]) -> dict[str, Any]:
        """A whole answer as OpenAI's clients know it."""
        stops = _stops(request)
        for choice in answer["choices"]:
            message = choice.get("message") or {}
            for call in message.get("tool_calls") or ():
                call["id"] = chunks.fresh_id("call")
            for holder, name in ((message, "content"), (choice, "text")):
                if isinstance(holder.get(name), str):
                    cutter = chunks.StopCutter(stops)
                    holder[name] = cutter.feed(holder[name]) + cutter.close()
            choice["finish_reason"] = _reason(choice, bool(message.get("tool_calls")))
        return {**answer, "id": answer.get("id") or self._stamp(request.operation).id}


class MessagesStream(EventStream):
    """Watches a stream of the Messages API and mends what OpenAI's clients would stumble over."""

    __slots__ = ("_calls", "_cutter", "_id", "_include_usage", "_writer")

    def __init__(
        self, engine: OpenAICompatible, request: Request, known_by: chunks.Stamp, stops: Sequence[str]
    ) -> None:
        """`known_by` has the answer's id, which TGI leaves empty."""
        super().__init__(engine, request)
        self._id = b'"id":' + msgspec.json.encode(known_by.id)
        self._writer = chunks.Chunks(request, known_by)
        self._cutter = chunks.StopCutter(stops) if stops else None
        self._calls: dict[int, str] = {}
        """The ids of the tool calls so far, by their place."""
        self._include_usage = request.include_usage

    def _more(self, event: bytes) -> bytes | None:
        # Text that must be looked at for a stop string is no text that passes unread.
        return None if self._cutter is not None else super()._more(event)

    def _public(self, event: bytes, said: Event) -> bytes:
        event = super()._public(event.replace(_NO_ID, self._id, 1), said)
        if not said.choices:
            return self._missing_end() + event
        plain = self._cutter is None and not said.usage and not any(mark in event for mark in _MARKS)
        if plain:
            return event
        try:
            return self._rewritten(_anything.decode(event[len(b"data: ") :]))
        except (TypeError, AttributeError) as error:
            self.fail(garbled("the engine sent an event that is not valid", event, error))
            return b""

    def _on_done(self) -> bytes:
        return self._missing_end() + super()._on_done()

    def _missing_end(self) -> bytes:
        """The end of tool calls. TGI ends their stream without a reason."""
        if self._ended or not self._calls:
            return b""
        self._ended.add(0)
        self.finished = True
        return self._writer.finish(0, "tool_calls")

    def _rewritten(self, chunk: dict[str, Any]) -> bytes:
        usage = chunk.pop("usage", None)
        for choice in chunk["choices"]:
            delta = choice.get("delta") or choice
            for call in delta.get("tool_calls") or ():
                self._identify(call)
            choice["finish_reason"] = _reason(choice, bool(self._calls))
            self._cut(delta, "content" if "delta" in choice else "text", bool(choice["finish_reason"]))
        out = sse.encode(msgspec.json.encode(chunk))
        if usage and self._include_usage:
            out += sse.encode(msgspec.json.encode({**chunk, "choices": [], "usage": usage}))
        return out

    def _identify(self, call: dict[str, Any]) -> None:
        """A tool call's id and name come once; TGI repeats them, and calls every call "0"."""
        place = call.get("index", 0)
        if place in self._calls:
            call.pop("id", None)
            call.pop("type", None)
        else:
            call["id"] = self._calls[place] = chunks.fresh_id("call")
        function = call.get("function") or {}
        if function.get("name") is None:
            function.pop("name", None)

    def _cut(self, holder: dict[str, Any], name: str, ends: bool) -> None:
        if self._cutter is not None and isinstance(holder.get(name), str):
            holder[name] = self._cutter.feed(holder[name]) + (self._cutter.close() if ends else "")


_NO_ID = b'"id":""'
_MARKS = (b'"finish_reason":"', b'"tool_calls":[')
"""What makes an event one to look into."""


def _reason(choice: Mapping[str, Any], calls: bool) -> str | None:
    """A choice's reason in OpenAI's words, None while there is none."""
    said = choice.get("finish_reason") or None
    found = tgi_native.REASONS.get(said, said) if said else None
    return "tool_calls" if found == "stop" and calls else found


def _as_tgi_takes(members: dict[str, bytes]) -> dict[str, bytes]:
    """A request's members as TGI takes them. Raises RequestError for what it would take and not do."""
    for name, harmless in _REFUSED.items():
        if (value := members.pop(name, b"null")) not in harmless:
            if name == "logit_bias" and not value.startswith(b"{"):
                raise _refused(Kind.REJECTED, "'logit_bias' must be a map of tokens", name)
            raise _refused(Kind.UNSUPPORTED, f"this engine does not offer '{name}'", name)
    if members.get("presence_penalty") in _ZERO:
        del members["presence_penalty"]
    if members.get("top_p") in _ONE:
        del members["top_p"]
    if members.get("stop", b"").startswith(b'"'):
        members["stop"] = b"[" + members["stop"] + b"]"
    if "response_format" in members:
        grammar = _grammar(_anything.decode(members.pop("response_format")))
        members |= {"response_format": msgspec.json.encode(grammar)} if grammar is not None else {}
    return members


_ZERO, _ONE = (b"0", b"0.0", b"-0.0"), (b"1", b"1.0")
_REFUSED: Mapping[str, tuple[bytes, ...]] = {
    "n": (b"null", b"1"),
    "best_of": (b"null", b"1"),
    "echo": (b"null", b"false"),
    "logit_bias": (b"null", b"{}"),
}
"""Members that TGI does not read, or stumbles over, and the values that ask for nothing."""


def _grammar(wish: Any) -> dict[str, Any] | None:
    """A `response_format` in TGI's form. What is none of OpenAI's passes as it is."""
    kind = wish.get("type") if isinstance(wish, dict) else None
    if wish is None or kind == "text":
        return None
    if kind == "json_object" and "value" not in wish:
        return {"type": "json_object", "value": {"type": "object"}}
    if kind == "json_schema" and isinstance(wish.get("json_schema"), dict):
        return {"type": "json_schema", "value": wish["json_schema"].get("schema")}
    return dict(wish) if isinstance(wish, dict) else {"type": wish}


def _one_prompt(asked: Mapping[str, Any]) -> str:
    prompt = asked.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise _refused(Kind.UNSUPPORTED, "this engine takes one prompt, as text", "prompt")
    return prompts[0]


def _stops(request: Request) -> tuple[str, ...]:
    """The stop strings a client gave."""
    if b'"stop"' not in request.body and b"\\u00" not in request.body:
        return ()
    stops = _read(request.body).get("stop")
    return (
        (stops,) if isinstance(stops, str) else tuple(stop for stop in stops or () if isinstance(stop, str))
    )


def _read(body: bytes) -> dict[str, Any]:
    found = _anything.decode(body)
    return found if isinstance(found, dict) else {}


def _tokenizing(asked: Mapping[str, Any]) -> Call:
    if asked.get("messages") is not None:
        return Call("/chat_tokenize", msgspec.json.encode({"messages": asked["messages"]}))
    whole = asked.get("add_special_tokens", True)
    return Call(
        "/tokenize", msgspec.json.encode({"inputs": asked.get("prompt"), "add_special_tokens": whole})
    )


def _tokenized(request: Request, body: bytes) -> Reply | Failure:
    try:
        found = _tokens.decode(body)
    except (ValueError, RecursionError) as error:
        return garbled("the engine's reply is not a list of tokens", body, error)
    tokens = found.tokenize_response if isinstance(found, _Templated) else found
    answer: dict[str, Any] = {"count": len(tokens), "tokens": [token.id for token in tokens]}
    if _read(request.body).get("return_token_strs"):
        answer["token_strs"] = [token.text for token in tokens]
    return Reply(msgspec.json.encode(answer))


def _error_type(body: bytes) -> str:
    try:
        said = _read(body).get("error_type")
    except (ValueError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""


def _refused(kind: Kind, message: str, param: str) -> RequestError:
    return RequestError(Failure(kind, message, param=param))
