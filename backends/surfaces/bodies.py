"""Validate and decode a client's JSON body as far as the gateway has to know it.

Rules:
- One strict pass in C (msgspec) checks that the body is JSON in valid UTF-8, without NaN or excessive nesting, and that
  the fields the gateway uses have the right types. Everything else is left to the engine and forwarded unchanged.
- A value is refused as out of range only if no engine could use it, such as a billion answers or a negative limit.
- Errors name the field that is wrong in OpenAI's `param`.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from backends.base import Operation, Request
from backends.surfaces.shapes import SHAPES, Common, Speech, Streamable, Tokenize, Whole
from backends.surfaces.surface import InvalidRequest

_DECODERS: Final[dict[Operation, msgspec.json.Decoder[Any]]] = {
    operation: msgspec.json.Decoder(shape) for operation, shape in SHAPES.items()
}
_REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt", Operation.EMBEDDINGS: "input"}


def decode(operation: Operation, body: bytes) -> Request:
    """Return the request in a body. Raises InvalidRequest if anything is wrong with it."""
    try:
        if not body.isascii():
            body.decode()
        head = _DECODERS[operation].decode(body)
    except UnicodeDecodeError:
        raise _invalid("the body is not valid UTF-8", code="invalid_json") from None
    except msgspec.ValidationError as error:
        raise _wrong_type(str(error)) from None
    except msgspec.DecodeError as error:
        raise _invalid(f"the body is not valid JSON: {_why(str(error), body)}", code="invalid_json") from None
    except RecursionError:
        raise _invalid("the body is nested too deeply", code="invalid_json") from None
    field = _REQUIRED.get(operation)
    if field is not None and not getattr(head, field):
        empty = getattr(head, field) == []
        raise _invalid(f"{field!r} is {'empty' if empty else 'missing'}", param=field, code="missing_field")
    if not head.model:
        raise _invalid("'model' is empty", param="model")
    if not isinstance(head, Common):
        streams = field is None and _streams(head)
        return Request(operation, body, head.model, stream=streams)
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


def _streams(head: Whole) -> bool:
    """Tell whether a stream is requested, for operations other than those of `Common`. Raises InvalidRequest."""
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
        name = what.split("`")[1]
        return _invalid(f"{name!r} is missing", param=name, code="missing_field")
    where = f"{param!r}: " if param else "the body: "
    return _invalid(where + _plain(what), param=param)


def _why(said: str, body: bytes) -> str:
    if body and b"\\ud" in body.lower() and ("truncated" in said or "surrogate" in said):
        # msgspec reports a string that ends after the first half of a surrogate pair as "truncated".
        return "a \\u escape is half of a surrogate pair, or the text ends too early"
    return _plain(said)


_WORDS = {
    " | array": " or a list",
    "`str": "`text",
    "`int": "`a whole number",
    "`float": "`a number",
    "`bool": "`true or false",
    "`array": "`a list",
    "`object": "`an object",
    " | null`": "`",
}


def _plain(said: str) -> str:
    """Return msgspec's message with JSON's terms instead of Python's."""
    for word, plain in _WORDS.items():
        said = said.replace(word, plain)
    said = said.replace("`", "").removeprefix("JSON is malformed: ")
    return said[:1].lower() + said[1:]


def _invalid(message: str, param: str | None = None, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
