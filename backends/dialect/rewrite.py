"""Edit a body and leave every other byte as it was: replace the model's name, ask for usage in a stream.

Rules:
- The common case is one splice at a position that is certain. Where it is not (a second `"model"`, a key written with
  escapes), the body is rebuilt from its top-level members, whose bytes stay untouched.
- The engine reads what the gateway judged: after an edit no second `model`, nor another key by which the gateway
  decides, remains that another parser might prefer. Of a repeated key the last counts.
- Quotes inside a JSON string are escaped, so `"model"` before a colon is always a key.
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
# A key can only be hidden by an escaped ASCII letter or underscore: U+0041 to U+007A.
_DISGUISE = re.compile(rb"\\u00[4-7]")
_DECIDING = (b'"stream"', _OPTIONS_KEY, b'"n"', b'"stream_format"')
"""Keys besides the model by which the gateway decides what an answer must be."""
_LARGE = 256 << 10
"""Bytes of a body from which on it is rebuilt and not searched."""
_COUNTING = (Operation.CHAT, Operation.COMPLETIONS)
"""Operations whose streams report usage only if asked to."""
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def request_body(request: Request, model: str) -> bytes:
    """Return the client's body with the backend's name for the model, which asks for usage if it is a stream."""
    ask = request.stream and not request.include_usage and request.operation in _COUNTING
    body = request.body
    # To look for keys takes several times as long as to take a body apart, which counts only for a large one.
    span = _model_span(body, request.model) if len(body) < _LARGE else None
    if span is None or (ask and _OPTIONS_KEY in body) or _repeats(body):
        return _rebuilt(body, model, ask)
    if model != request.model:
        body = body[: span[0]] + msgspec.json.encode(model) + body[span[1] :]
    if ask:
        brace = body.index(b"{") + 1
        body = body[:brace] + _ASK_USAGE + body[brace:]
    return body


def form(request: Request, model: str) -> bytes:
    """Return the client's form with the backend's name for the model; a copy only if the names differ."""
    if model == request.model:
        return request.body
    parts = multipart.parts_of(request.body, multipart.boundary_of(request.content_type))
    named = next(part for part in parts if part.name == "model")
    return multipart.replaced(request.body, named, model.encode())


def streamed(body: bytes) -> bytes:
    """Return the body as a request for a stream, whatever it said about streaming."""
    if b'"stream' not in body and not (b"\\u00" in body and _DISGUISE.search(body)):
        brace = body.index(b"{") + 1
        return body[:brace] + b'"stream":true,' + body[brace:]
    return joined({**members(body), "stream": b"true"})


def _model_span(body: bytes, model: str) -> tuple[int, int] | None:
    """Return the range of the value of the only `model` in the body; None if that is not certain.

    The body is known to have a top-level `model`. If its key has no escapes and `"model"` occurs once, that is the one.
    """
    key = body.find(_KEY)
    if key < 0 or body.rfind(_KEY) != key or (b"\\" in body and b"\\u00" in body and _DISGUISE.search(body)):
        return None
    start = _value(body, key)
    value = msgspec.json.encode(model)
    return (start, start + len(value)) if body.startswith(value, start) else None


def _repeats(body: bytes) -> bool:
    """Tell whether a key by which the gateway decides may stand in the body twice."""
    for key in _DECIDING:
        at = body.find(key)
        if at >= 0 and body.rfind(key) != at:
            return True
    return False


def _value(text: bytes, key: int) -> int:
    """Return where the value of the `"model"` at `key` begins; the end of that string if it is not a key."""
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
    """Return the body, assembled from its members, with this `model`, and with usage asked for if `ask`."""
    found = members(body)
    found["model"] = msgspec.json.encode(model)
    if ask:
        options = found.get("stream_options", b"null")
        inner = {} if options == b"null" else members(options)
        found["stream_options"] = joined({**inner, "include_usage": b"true"})
    return joined(found)


def members(body: bytes) -> dict[str, bytes]:
    """Return the top-level members of a JSON object by name, with the bytes of their values."""
    return {name: bytes(raw) for name, raw in _members.decode(body).items()}


def joined(members: dict[str, bytes]) -> bytes:
    """Return the JSON object with these members."""
    return b"{" + b",".join(msgspec.json.encode(name) + b":" + raw for name, raw in members.items()) + b"}"


def without(body: bytes, name: str) -> bytes:
    """Return a JSON object without one of its members."""
    found = members(body)
    found.pop(name, None)
    return joined(found)


def renamed(answer: bytes, said: bytes, name: bytes) -> bytes:
    """Return an engine's answer with the model's name as the client knows it.

    `said` is the JSON value of `model` in the answer, empty if it has none; `name` is the JSON value to put there.
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
