"""A client's body, checked and decoded as far as the gateway must know it.

Rules:
- One strict pass in C (msgspec): JSON with true UTF-8, no NaN, no endless nesting, the right types in the fields that
  matter. Everything else is the engine's to judge, and passes as it came.
- What is wrong is said with OpenAI's `param`.
"""

from __future__ import annotations

import msgspec

from backends.base import Operation, Request
from gateway.errors import GatewayError, Own


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: int | None = None
    max_tokens: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None


class _Chat(_Common):
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list)
    max_completion_tokens: int | None = None
    tools: list[msgspec.Raw] | None = None


class _Completion(_Common):
    prompt: msgspec.Raw = msgspec.Raw()


class _Embedding(msgspec.Struct):
    model: str
    input: msgspec.Raw = msgspec.Raw()
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None


_DECODERS: dict[
    Operation,
    msgspec.json.Decoder[_Chat] | msgspec.json.Decoder[_Completion] | msgspec.json.Decoder[_Embedding],
] = {
    Operation.CHAT: msgspec.json.Decoder(_Chat),
    Operation.COMPLETIONS: msgspec.json.Decoder(_Completion),
    Operation.EMBEDDINGS: msgspec.json.Decoder(_Embedding),
}
_REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt", Operation.EMBEDDINGS: "input"}


def decode(operation: Operation, body: bytes) -> Request:
    """The request in a body. Raises GatewayError, 400, for anything wrong with it."""
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
    field = _REQUIRED[operation]
    if not getattr(head, field):
        empty = getattr(head, field) == []
        raise _invalid(f"{field!r} is {'empty' if empty else 'missing'}", param=field, code="missing_field")
    if not head.model:
        raise _invalid("'model' is empty", param="model")
    if isinstance(head, _Embedding):
        return Request(operation, body, head.model)
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
    )


def _wrong_type(said: str) -> GatewayError:
    """msgspec says "Expected `str`, got `int` - at `$.model`", or "Object missing required field `model`"."""
    what, _, place = said.partition(" - at ")
    param = place.strip("`").removeprefix("$").removeprefix(".") or None
    if what.startswith("Object missing required field"):
        name = what.split("`")[1]
        return _invalid(f"{name!r} is missing", param=name, code="missing_field")
    where = f"{param!r}: " if param else "the body: "
    return _invalid(where + _plain(what), param=param)


def _why(said: str, body: bytes) -> str:
    if body and b"\\ud" in body.lower() and ("truncated" in said or "surrogate" in said):
        # msgspec calls a string that ends after half a pair "truncated".
        return "a \\u escape is half of a surrogate pair, or the text ends too early"
    return _plain(said)


_WORDS = {
    "`str": "`text",
    "`int": "`a whole number",
    "`float": "`a number",
    "`bool": "`true or false",
    "`array": "`a list",
    "`object": "`an object",
    " | null`": "`",
}


def _plain(said: str) -> str:
    """msgspec's message in words that are not Python's."""
    for word, plain in _WORDS.items():
        said = said.replace(word, plain)
    said = said.replace("`", "").removeprefix("JSON is malformed: ")
    return said[:1].lower() + said[1:]


def _invalid(message: str, param: str | None = None, code: str | None = None) -> GatewayError:
    return GatewayError(Own.INVALID, message, param=param, code=code)
