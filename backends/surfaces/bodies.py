"""A client's body, checked and decoded as far as the gateway must know it.

Rules:
- One strict pass in C (msgspec): JSON with true UTF-8, no NaN, no endless nesting, the right types in the fields that
  matter. Everything else is the engine's to judge, and passes as it came.
- Ranges are refused here only where no engine has a use for what is beyond: a billion answers, a negative limit.
- What is wrong is said with OpenAI's `param`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from backends.base import Operation, Request
from backends.surfaces.surface import InvalidRequest

Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 31) - 1)]
"""Engines keep these in 32 bits; below zero some of them generate without end."""
Choices = Annotated[int, msgspec.Meta(ge=1, le=128)]
"""OpenAI's limit. Engines reserve memory for each before they look any further."""
Some = Annotated[list[msgspec.Raw], msgspec.Meta(min_length=1)]


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class _Common(msgspec.Struct):
    model: str
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    temperature: float | None = None
    top_p: float | None = None
    n: Choices | None = None
    max_tokens: Count | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None


class _Chat(_Common):
    messages: list[msgspec.Raw] = msgspec.field(default_factory=list)
    max_completion_tokens: Count | None = None
    top_logprobs: int | None = None
    tools: list[msgspec.Raw] | None = None


class _Completion(_Common):
    prompt: msgspec.Raw = msgspec.Raw()
    best_of: Choices | None = None


class _Embedding(msgspec.Struct):
    model: str
    input: msgspec.Raw = msgspec.Raw()
    dimensions: int | None = None
    encoding_format: str | None = None
    user: str | None = None


class _Whole(msgspec.Struct):
    """What is never streamed."""

    model: str


class _Streamable(_Whole):
    stream: bool | None = None


class _Rerank(_Whole, kw_only=True):
    query: str
    documents: Some
    top_n: Count | None = None


class _Score(_Whole, kw_only=True):
    text_1: msgspec.Raw
    text_2: msgspec.Raw


class _Tokenize(_Whole):
    prompt: str | None = None
    messages: Some | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class _Detokenize(_Whole, kw_only=True):
    tokens: list[Count]


class _Infill(_Streamable, kw_only=True):
    input_prefix: str
    input_suffix: str
    n_predict: int | None = None


class _Responses(_Streamable, kw_only=True):
    input: str | Some
    max_output_tokens: Count | None = None
    temperature: float | None = None
    top_p: float | None = None


class _Messages(_Streamable, kw_only=True):
    messages: Some
    max_tokens: Count
    temperature: float | None = None
    top_p: float | None = None


class _Speech(_Whole, kw_only=True):
    input: str
    response_format: str | None = None
    stream_format: str | None = None
    speed: float | None = None


class _Images(_Streamable, kw_only=True):
    prompt: str
    n: Choices | None = None


_SHAPES: Mapping[Operation, type[msgspec.Struct]] = {
    Operation.CHAT: _Chat,
    Operation.COMPLETIONS: _Completion,
    Operation.EMBEDDINGS: _Embedding,
    Operation.RERANK: _Rerank,
    Operation.SCORE: _Score,
    Operation.TOKENIZE: _Tokenize,
    Operation.DETOKENIZE: _Detokenize,
    Operation.INFILL: _Infill,
    Operation.RESPONSES: _Responses,
    Operation.MESSAGES: _Messages,
    Operation.SPEECH: _Speech,
    Operation.IMAGES: _Images,
}
_DECODERS: Mapping[Operation, msgspec.json.Decoder[Any]] = {
    operation: msgspec.json.Decoder(shape) for operation, shape in _SHAPES.items()
}
_REQUIRED = {Operation.CHAT: "messages", Operation.COMPLETIONS: "prompt", Operation.EMBEDDINGS: "input"}


def decode(operation: Operation, body: bytes) -> Request:
    """The request in a body. Raises InvalidRequest for anything wrong with it."""
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
    if not isinstance(head, _Common):
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
    )


def _streams(head: _Whole) -> bool:
    """Whether a stream is wanted, by an operation that has more to say of it than `stream`, or nothing."""
    if isinstance(head, _Streamable):
        return bool(head.stream)
    if isinstance(head, _Tokenize) and (head.prompt is None) is (head.messages is None):
        both = "both 'prompt' and 'messages' are given" if head.messages else "'prompt' is missing"
        raise _invalid(both, param="prompt", code=None if head.messages else "missing_field")
    if not isinstance(head, _Speech):
        return False
    if head.stream_format not in (None, "audio", "sse"):
        raise _invalid("'stream_format': expected audio or sse", param="stream_format")
    return head.stream_format == "sse"


def _wrong_type(said: str) -> InvalidRequest:
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
    """msgspec's message in words that are not Python's."""
    for word, plain in _WORDS.items():
        said = said.replace(word, plain)
    said = said.replace("`", "").removeprefix("JSON is malformed: ")
    return said[:1].lower() + said[1:]


def _invalid(message: str, param: str | None = None, code: str | None = None) -> InvalidRequest:
    return InvalidRequest(message, param=param, code=code)
