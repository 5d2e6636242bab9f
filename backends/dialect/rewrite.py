"""Edits of a body that leave every other byte as it was: the model's name, and the wish for usage in a stream.

Rules:
- The common case is one splice at a place that is beyond doubt. Where it is not (a second `"model"` somewhere, a key
  written with escapes) the body is put together anew from its top-level members, each with its bytes untouched.
- What the gateway decided on is what the engine reads: after an edit no second `model` remains that a parser with other
  habits might prefer.
- A quote inside a JSON string is escaped. So `"model"` before a colon is always a key, whatever anyone wrote.
"""

from __future__ import annotations

import re

import msgspec

from backends.base import Operation, Request
from backends.framing import multipart

_KEY = b'"model"'
_OPTIONS_KEY = b'"stream_options"'
_ASK_USAGE = _OPTIONS_KEY + b':{"include_usage":true},'
_SPACE = (b" ", b"\t", b"\r", b"\n")
# A key can only be disguised by an escaped ASCII letter or underscore: U+0041 to U+007A.
_DISGUISE = re.compile(rb"\\u00[4-7]")
_COUNTING = (Operation.CHAT, Operation.COMPLETIONS)
"""Streams that tell usage only where it is asked for."""
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def request_body(request: Request, model: str) -> bytes:
    """The client's body with `model` as the backend knows it, and usage asked for if it is a stream."""
    ask = request.stream and not request.include_usage and request.operation in _COUNTING
    body = request.body
    span = _model_span(body, request.model)
    if span is None or (ask and _OPTIONS_KEY in body):
        return _rebuilt(body, model, ask)
    if model != request.model:
        body = body[: span[0]] + msgspec.json.encode(model) + body[span[1] :]
    if ask:
        brace = body.index(b"{") + 1
        body = body[:brace] + _ASK_USAGE + body[brace:]
    return body


def form(request: Request, model: str) -> bytes:
    """The client's form with `model` as the backend knows it. Only where the names differ it is copied."""
    if model == request.model:
        return request.body
    parts = multipart.parts_of(request.body, multipart.boundary_of(request.content_type))
    named = next(part for part in parts if part.name == "model")
    return multipart.replaced(request.body, named, model.encode())


def streamed(body: bytes) -> bytes:
    """The body as a wish for a stream, whatever it said of that."""
    if b'"stream' not in body and not (b"\\u00" in body and _DISGUISE.search(body)):
        brace = body.index(b"{") + 1
        return body[:brace] + b'"stream":true,' + body[brace:]
    members = {name: bytes(raw) for name, raw in _members.decode(body).items()}
    return joined({**members, "stream": b"true"})


def _model_span(body: bytes, model: str) -> tuple[int, int] | None:
    """Where the value of the only `model` in the body stands, if that is beyond doubt.

    The body is known to have a top-level `model`. If its key is not disguised and `"model"` occurs once, that is it.
    """
    key = body.find(_KEY)
    if key < 0 or body.rfind(_KEY) != key or (b"\\" in body and b"\\u00" in body and _DISGUISE.search(body)):
        return None
    start = _value(body, key)
    value = msgspec.json.encode(model)
    return (start, start + len(value)) if body.startswith(value, start) else None


def _value(text: bytes, key: int) -> int:
    """Where the value of the `"model"` at `key` begins; the end of that string if it is no key."""
    end = start = key + len(_KEY)
    if text.startswith((b': "', b':"'), end):
        return text.index(b'"', end)
    while text[start : start + 1] in _SPACE:
        start += 1
    if text[start : start + 1] != b":":
        return end
    start += 1
    while text[start : start + 1] in _SPACE:
        start += 1
    return start


def _rebuilt(body: bytes, model: str, ask: bool) -> bytes:
    members = {name: bytes(raw) for name, raw in _members.decode(body).items()}
    members["model"] = msgspec.json.encode(model)
    if ask:
        options = members.get("stream_options", b"null")
        inner = {} if options == b"null" else {k: bytes(v) for k, v in _members.decode(options).items()}
        members["stream_options"] = joined({**inner, "include_usage": b"true"})
    return joined(members)


def members(body: bytes) -> dict[str, bytes]:
    """The top-level members of a JSON object by name, their values untouched."""
    return {name: bytes(raw) for name, raw in _members.decode(body).items()}


def joined(members: dict[str, bytes]) -> bytes:
    """The JSON object with these members."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + raw for name, raw in members.items()) + b"}"


def without(body: bytes, name: str) -> bytes:
    """A JSON object without one of its members."""
    found = members(body)
    found.pop(name, None)
    return joined(found)


def renamed(answer: bytes, said: bytes, name: bytes) -> bytes:
    """An engine's answer with the model's name as the client asked for it.

    `said` is the JSON value of `model` in the answer, empty if it has none; `name` the JSON value it shall have.
    """
    if said == name or not said.startswith(b'"'):
        return answer
    compact = answer.replace(_KEY + b":" + said, _KEY + b":" + name)
    if compact != answer:
        return compact
    parts = []
    done = 0
    key = answer.find(_KEY)
    while key >= 0:
        start = _value(answer, key)
        if answer.startswith(said, start):
            parts += [answer[done:start], name]
            done = start + len(said)
        key = answer.find(_KEY, key + len(_KEY))
    return b"".join([*parts, answer[done:]])
