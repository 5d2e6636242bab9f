"""TGI's Messages API: what differs from OpenAI's API in requests, whole answers and streams, corrected both ways.

Facts are those of TGI 3.3.7.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from backends.base import Engine, Failure, Kind, Request, RequestError
from backends.dialect.chunks import Chunks, Stamp, StopCutter, fresh_id
from backends.dialect.errors import garbled
from backends.dialect.shapes import Event
from backends.dialect.stream import EventStream
from backends.engines.tgi.native import REASONS
from backends.framing import sse

_anything = msgspec.json.Decoder()


def corrected(answer: dict[str, Any], stops: Sequence[str], new_id: str) -> dict[str, Any]:
    """Return a whole answer as OpenAI's clients expect it; `new_id` is its id if TGI gave none."""
    for choice in answer["choices"]:
        message = choice.get("message") or {}
        for call in message.get("tool_calls") or ():
            call["id"] = fresh_id("call")
        for holder, name in ((message, "content"), (choice, "text")):
            if isinstance(holder.get(name), str):
                cutter = StopCutter(stops)
                holder[name] = cutter.feed(holder[name]) + cutter.close()
        choice["finish_reason"] = _reason(choice, bool(message.get("tool_calls")))
    return {**answer, "id": answer.get("id") or new_id}


class MessagesStream(EventStream):
    """Watches a stream of the Messages API and corrects what OpenAI's clients would not understand."""

    __slots__ = ("_calls", "_cutter", "_id", "_include_usage", "_writer")

    def __init__(self, engine: Engine, request: Request, known_by: Stamp, stops: Sequence[str]) -> None:
        """`known_by` has the answer's id, which TGI leaves empty."""
        super().__init__(engine, request)
        self._id = b'"id":' + msgspec.json.encode(known_by.id)
        self._writer = Chunks(request, known_by)
        self._cutter = StopCutter(stops) if stops else None
        self._calls: dict[int, str] = {}
        """The ids of the tool calls so far, by index."""
        self._include_usage = request.include_usage

    def _alike(self, data: bytes, start: int, end: int) -> bytes | None:
        # With stop strings every text must be searched, so no event may pass undecoded.
        return None if self._cutter is not None else super()._alike(data, start, end)

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
        """Return the finish reason of tool calls, which TGI leaves out."""
        if self._ended or not self._calls:
            return b""
        self._ended.add(0)
        self.finished = True
        return self._writer.finish(0, "tool_calls")

    def _rewritten(self, chunk: dict[str, Any]) -> bytes:
        """Return an event with its finish reasons, tool calls, usage and text corrected."""
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
        """Give a tool call an id, in its first event only: TGI repeats it, and its id is always "0"."""
        place = call.get("index", 0)
        if place in self._calls:
            call.pop("id", None)
            call.pop("type", None)
        else:
            call["id"] = self._calls[place] = fresh_id("call")
        function = call.get("function") or {}
        if function.get("name") is None:
            function.pop("name", None)

    def _cut(self, holder: dict[str, Any], name: str, ends: bool) -> None:
        """Cut the text in a member before a stop string; `ends` if it is the last one."""
        if self._cutter is not None and isinstance(holder.get(name), str):
            holder[name] = self._cutter.feed(holder[name]) + (self._cutter.close() if ends else "")


_NO_ID = b'"id":""'
_MARKS = (b'"finish_reason":"', b'"tool_calls":[')
"""Bytes that mark an event which must be corrected."""


def _reason(choice: Mapping[str, Any], calls: bool) -> str | None:
    """Return the finish reason of a choice in OpenAI's words; None while it has none."""
    said = choice.get("finish_reason") or None
    found = REASONS.get(said, said) if said else None
    return "tool_calls" if found == "stop" and calls else found


def as_tgi_expects(members: dict[str, bytes]) -> dict[str, bytes]:
    """Return a request's members as TGI expects them. Raise RequestError for what it would accept and ignore."""
    for name, harmless in _REFUSED.items():
        if (value := members.pop(name, b"null")) not in harmless:
            if name == "logit_bias" and not value.startswith(b"{"):
                raise refused(Kind.REJECTED, "'logit_bias' must be a map of tokens", name)
            raise refused(Kind.UNSUPPORTED, f"this engine does not offer '{name}'", name)
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
"""Members that TGI ignores or fails on, and the values that have no effect."""


def _grammar(wish: Any) -> dict[str, Any] | None:
    """Return a `response_format` in TGI's form; one that is not OpenAI's passes unchanged."""
    kind = wish.get("type") if isinstance(wish, dict) else None
    if wish is None or kind == "text":
        return None
    if kind == "json_object" and "value" not in wish:
        return {"type": "json_object", "value": {"type": "object"}}
    if kind == "json_schema" and isinstance(wish.get("json_schema"), dict):
        return {"type": "json_schema", "value": wish["json_schema"].get("schema")}
    return dict(wish) if isinstance(wish, dict) else {"type": wish}


def one_prompt(asked: Mapping[str, Any]) -> str:
    """Return the prompt of a completion. Raise RequestError for several prompts, or tokens."""
    prompt = asked.get("prompt")
    prompts = prompt if isinstance(prompt, list) else [prompt]
    if len(prompts) != 1 or not isinstance(prompts[0], str):
        raise refused(Kind.UNSUPPORTED, "this engine takes one prompt, as text", "prompt")
    return prompts[0]


def stops_of(request: Request) -> tuple[str, ...]:
    """Return the client's stop strings."""
    if b'"stop"' not in request.body and b"\\u00" not in request.body:
        return ()
    stops = read_object(request.body).get("stop")
    return (
        (stops,) if isinstance(stops, str) else tuple(stop for stop in stops or () if isinstance(stop, str))
    )


def read_object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object; return an empty one for any other JSON."""
    found = _anything.decode(body)
    return found if isinstance(found, dict) else {}


def refused(kind: Kind, message: str, param: str) -> RequestError:
    """Return the error for a request that TGI cannot be asked for; `param` is the member at fault."""
    return RequestError(Failure(kind, message, param=param))
