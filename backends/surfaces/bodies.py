"""Validate and decode a client's JSON body as far as the gateway has to know it.

Rules:
- One strict pass in C (msgspec) checks that the body is JSON in valid UTF-8, without NaN or excessive nesting. The
  members that the gateway uses are then checked for their types; of long ones only how they begin. Everything else is
  left to the engine and forwarded unchanged.
- A value is refused as out of range only if no engine could use it, such as a billion answers.
- A key that differs from a known one only in case is refused: engines written in Go would read it as that one.
- A whole number written as a fraction (`4096.0`) is put right for the engine: Go and Rust do not take it.
- Errors name the field that is wrong in OpenAI's `param`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from backends.base import Operation, Request
from backends.dialect import rewrite
from backends.dialect.errors import plain
from backends.surfaces.shapes import KNOWN, SHAPES, WHOLE, Common, Lines, Speech, Streamable, Tokenize, Whole
from backends.surfaces.surface import InvalidRequest

_DECODERS: Final[dict[Operation, msgspec.json.Decoder[Any]]] = {
    operation: msgspec.json.Decoder(shape) for operation, shape in SHAPES.items()
}
_members: Final[msgspec.json.Decoder[dict[str, Any]]] = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NEEDED: Final[Mapping[Operation, tuple[str, ...]]] = {
    Operation.CHAT: ("messages",),
    Operation.COMPLETIONS: ("prompt", "prompt_embeds"),
    Operation.EMBEDDINGS: ("input", "messages"),
    Operation.RERANK: ("documents", "texts"),
    Operation.RESPONSES: ("input", "previous_response_id", "prompt", "conversation"),
}
"""Members of which a request has at least one. `prompt_embeds`, and `messages` to embed, are vLLM's (0.33)."""
_COMPARED: Final = ("queries", "data_1", "query")
"""Members of which a score has one, where it has no texts: vLLM's (0.33) and SGLang's (0.5)."""
_LONG: Final = 1024
"""Bytes of a member from which on only its beginning is looked at."""
_STAND_INS: Final = {b"[": b"[0]", b"{": b"{}", b'"': b'""'}
"""What stands for a long member while the types are checked, by its first byte."""
_IN_FULL: Final = frozenset(("model", "stream_options", "tokens"))
"""Members that are read to their end, however long."""
_LONGEST_NAME: Final = 4096
"""Most bytes of a model's name, escapes included."""
_MOST: Final = 1000
"""Most members at the top of a body; the APIs have fewer than a hundred."""


def decode(operation: Operation, body: bytes) -> Request:
    """Return the request in a body. Raises InvalidRequest if anything is wrong with it."""
    try:
        if not body.isascii():
            body.decode()
        found = _members.decode(body)
        if not KNOWN[operation].issuperset(found):
            _check_names(found, KNOWN[operation])
        known, body = _known(operation, found, body)
        head = _DECODERS[operation].decode(known)
    except UnicodeDecodeError:
        raise _invalid("the body is not valid UTF-8", code="invalid_json") from None
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except msgspec.DecodeError as error:
        raise _invalid(f"the body is not valid JSON: {_why(str(error), body)}", code="invalid_json") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply", code="invalid_json") from None
    if not head.model:
        raise _invalid("'model' is empty", param="model")
    _check_needed(operation, found)
    if not isinstance(head, Common):
        return Request(operation, body, head.model, stream=_streams(head))
    options = head.stream_options
    if options is not None and not head.stream:
        raise _invalid("'stream_options' is only allowed with 'stream': true", param="stream_options")
    return Request(
        operation,
        body,
        head.model,
        stream=bool(head.stream),
        stream_options=options is not None,
        include_usage=options is not None and bool(options.include_usage),
        choices=head.n or 1,
    )


def _known(operation: Operation, found: dict[str, Any], body: bytes) -> tuple[bytes, bytes]:
    """Return the known members of a body as an object of their own, and the body with whole numbers put right."""
    fields, whole = KNOWN[operation], WHOLE[operation]
    parts: list[bytes] = []
    changed = False
    for name, raw in found.items():
        if name not in fields:
            continue
        view = memoryview(raw)
        stand_in = None
        if len(view) > _LONG and name not in _IN_FULL:
            stand_in = _STAND_INS.get(bytes(view[:1]))
        if name == "model" and len(view) > _LONGEST_NAME:
            raise _invalid("'model' is too long for a name", param=name)
        value = bytes(view) if stand_in is None else stand_in
        if name in whole and not value.lstrip(b"-").isdigit():
            number = _whole(value)
            if number is not None:
                found[name] = value = number
                changed = True
        parts.append(b'"%b":%b' % (name.encode(), value))
    if changed:
        body = rewrite.joined({name: bytes(raw) for name, raw in found.items()})
    return b"{" + b",".join(parts) + b"}", body


def _whole(value: bytes) -> bytes | None:
    """Return a whole number that is written as a fraction the usual way; None if the value is no such number."""
    if len(value) > _LONG or not value[:2].lstrip(b"-")[:1].isdigit():
        return None
    number = float(value)
    return b"%d" % int(number) if number.is_integer() else None


def _check_names(found: dict[str, Any], known: frozenset[str]) -> None:
    """Raise InvalidRequest if a member has the name of a known one in other letters, as Go compares them.

    Go's `encoding/json` takes the long s (U+017F) and the Kelvin sign (U+212A) for the letters s and k.
    """
    if len(found) > _MOST:
        raise _invalid(f"the body has more than {_MOST} members", code="invalid_json")
    for name in found:
        if name not in known:
            plain = name.replace("\u017f", "s").lower()
            if plain in known:
                raise _invalid(f"{name!r}: write it {plain!r}", param=name)


def _check_needed(operation: Operation, found: dict[str, Any]) -> None:
    """Raise InvalidRequest if the body lacks what the operation is about."""
    needed = _NEEDED.get(operation)
    if needed is not None:
        if not any(_given(found, name) for name in needed):
            raise _missing(needed[0])
        if (
            operation is Operation.CHAT
            and bytes(memoryview(found["messages"])[:_LONG]).translate(None, b" \t\r\n") == b"[]"
        ):
            raise _invalid("'messages' is empty", param="messages", code="missing_field")
    elif operation is Operation.SCORE and not any(_given(found, name) for name in _COMPARED):
        for name in ("text_1", "text_2"):
            if name not in found:
                raise _missing(name)


def _given(found: dict[str, Any], name: str) -> bool:
    """Tell whether a body has a member, and not as null."""
    raw = found.get(name)
    return raw is not None and bytes(memoryview(raw)[:4]) != b"null"


def _missing(name: str) -> InvalidRequest:
    return _invalid(f"{name!r} is missing", param=name, code="missing_field")


def _streams(head: Whole) -> bool:
    """Tell whether a stream is requested, for operations other than those of `Common`. Raises InvalidRequest."""
    if isinstance(head, Lines):
        return head.stream is not False
    if isinstance(head, Streamable):
        return bool(head.stream)
    if isinstance(head, Tokenize) and (head.prompt is None) is (head.messages is None):
        both = "both 'prompt' and 'messages' are given" if head.messages else "'prompt' is missing"
        raise _invalid(both, param="prompt", code=None if head.messages else "missing_field")
    if not isinstance(head, Speech):
        return False
    if head.stream_format not in (None, "audio", "sse"):
        raise _invalid("'stream_format': expected audio or sse", param="stream_format")
    return head.stream_format == "sse"


def _wrong_type(said: str) -> InvalidRequest:
    """Convert an error of msgspec, such as "Expected `str`, got `int` - at `$.model`"."""
    what, _, path = said.partition(" - at ")
    param = path.strip("`").removeprefix("$").removeprefix(".") or None
    if what.startswith("Object missing required field"):
        return _missing(what.split("`")[1])
    where = f"{param!r}: " if param else "the body: "
    return _invalid(where + plain(what), param=param)


def _why(said: str, body: bytes) -> str:
    if body and b"\\ud" in body.lower() and ("truncated" in said or "surrogate" in said):
        # msgspec reports a string that ends after the first half of a surrogate pair as "truncated".
        return "a \\u escape is half of a surrogate pair, or the text ends too early"
    return plain(said)


def _invalid(message: str, param: str | None = None, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
