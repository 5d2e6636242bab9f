"""llama-cpp-python: its server (`python -m llama_cpp.server`), attached to by URL or launched as a child process.

Facts are those of llama-cpp-python 0.3.36.

Rules:
- The server computes one request at a time. By default a second request interrupts the first, whose stream then ends
  with `[DONE]` as if it were complete. A launch switches that off; only one request is sent at a time in any case.
- Nearly every mistake of a client is reported as status 500, distinguished only by its wording, or as a stream that
  ends before it began. What the server cannot do at all is refused here.
- The server can be forced to call a named tool, but does not hear that any tool must be called: if there is only one
  tool, it is named, otherwise the request is refused. A call that the token limit cut ends like a whole one; it is
  `length` if its arguments are no JSON.
- The server refuses nulls, some of them as its own fault, and the role `developer`.
- The server answers a request whose `x-request-id` is not a UUID with an empty 400, so no id is sent.
- The server answers for any model name.
- Streams report no usage, and only in streams does the server notice that a client has left, at once. Whole answers
  are asked for as such, for their usage, and are computed to their end even if nobody waits for them (measured: an
  answer of 9.2 s whose client left after 0.7 s was computed for 7.2 s more).
- A model without pooling returns a vector for each token; their mean is taken, as llama.cpp itself does.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, ClassVar

import msgspec

from backends.base import (
    LONG_FIRST_TOKEN,
    Call,
    Failure,
    Headers,
    Kind,
    LaunchOptions,
    Operation,
    Reply,
    Request,
    RequestError,
    StreamDecoder,
)
from backends.dialect import edits, partial, rewrite
from backends.dialect.errors import garbled, unreadable
from backends.dialect.openai import OpenAICompatible
from backends.dialect.stream import EventStream
from backends.engines.llama_cpp_python.launch import LlamaCppPythonLaunch
from backends.facts import logs
from backends.framing import sse

TOO_LONG = "the engine found the request wrong before its answer began; most likely the prompt is too long"


class _Asked(msgspec.Struct):
    """The members of a request that are checked."""

    n: int | None = None
    prompt: Any = None


class _Schema(msgspec.Struct):
    schema: msgspec.Raw = msgspec.Raw(b"{}")


class _Format(msgspec.Struct):
    json_schema: _Schema | None = None


class _Function(msgspec.Struct):
    name: str = ""


class _Tool(msgspec.Struct):
    function: _Function


class _Chat(msgspec.Struct):
    """What is said in other words."""

    response_format: _Format | None = None
    tools: list[_Tool] | None = None


class _Tokenize(msgspec.Struct):
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class _Tokens(msgspec.Struct):
    tokens: list[int]


class _Text(msgspec.Struct):
    text: str


class _Vector(msgspec.Struct):
    embedding: list[Any]
    index: int = 0


class _Vectors(msgspec.Struct):
    data: list[_Vector]


_asked = msgspec.json.Decoder(_Asked)
_chat = msgspec.json.Decoder(_Chat)
_tokenize = msgspec.json.Decoder(_Tokenize)
_tokens = msgspec.json.Decoder(_Tokens)
_text = msgspec.json.Decoder(_Text)
_vectors = msgspec.json.Decoder(_Vectors)


class LlamaCppPython(OpenAICompatible):
    """llama-cpp-python's server."""

    name: ClassVar[str] = "llama-cpp-python"
    checked: ClassVar[str] = "llama-cpp-python 0.3.36 (run, recordings)"
    first_token: ClassVar[float | None] = LONG_FIRST_TOKEN
    shortens: ClassVar[bool] = False
    launch_options: ClassVar[type[LaunchOptions] | None] = LlamaCppPythonLaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {
            Operation.CHAT,
            Operation.COMPLETIONS,
            Operation.EMBEDDINGS,
            Operation.TOKENIZE,
            Operation.DETOKENIZE,
        }
    )
    paths: ClassVar[Mapping[Operation, str]] = {
        Operation.TOKENIZE: "/extras/tokenize",
        Operation.DETOKENIZE: "/extras/detokenize",
    }
    parallel: ClassVar[int | None] = 1
    request_ids: ClassVar[bool] = False

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.EMBEDDINGS and not _is_text(request.body):
            raise edits.unsupported("input", "the engine embeds texts, not tokens")
        call = super().call(request, model)
        if request.operation is Operation.TOKENIZE:
            return msgspec.structs.replace(call, body=_tokenizing(request.body))
        if request.operation in (Operation.CHAT, Operation.COMPLETIONS):
            try:
                _check(request)
                return msgspec.structs.replace(call, body=_as_it_reads(call.body))
            except msgspec.ValidationError as error:
                raise RequestError(unreadable(error)) from error
        return call

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        try:
            if request.operation is Operation.TOKENIZE:
                tokens = _tokens.decode(body).tokens
                return Reply(msgspec.json.encode({"count": len(tokens), "tokens": tokens}))
            if request.operation is Operation.DETOKENIZE:
                return Reply(msgspec.json.encode({"prompt": _text.decode(body).text}))
            if request.operation is Operation.EMBEDDINGS:
                body = _pooled(body)
            if request.operation is Operation.CHAT and b'"finish_reason":"tool_calls"' in body:
                body = partial.cut_told(body)
        except (ValueError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        if request.operation in (Operation.CHAT, Operation.COMPLETIONS):
            return _Stream(self, request)
        return super().decoder(request, model)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        if status != 500:
            return failure
        for pattern, words in _MISTAKES:
            if pattern.search(failure.detail):
                return dataclasses.replace(failure, kind=Kind.REJECTED, message=words)
        return failure

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, _CRASHES)


class _Stream(EventStream):
    """A stream that may end before it begins, and repeats a tool's name and id with each piece of its arguments."""

    __slots__ = ("_arguments",)

    def __init__(self, engine: OpenAICompatible, request: Request) -> None:
        super().__init__(engine, request)
        self._arguments: dict[tuple[int, int], str] = {}
        """What was said of the arguments of each call, by the indices of its choice and its own."""

    def _decode(self, payload: bytes, event: bytes) -> bytes:
        if b'"tool_calls": [' in payload:
            payload = self._named_once(payload)
            event = sse.encode(payload)
        elif _CALLED in payload and not all(map(partial.is_whole, self._arguments.values())):
            payload = payload.replace(_CALLED, b'"finish_reason": "length"')
            event = sse.encode(payload)
        return super()._decode(payload, event)

    def _named_once(self, payload: bytes) -> bytes:
        """Return the event with a call's name and id only in its first piece, as clients expect."""
        try:
            chunk = msgspec.json.decode(payload)
            for choice in chunk["choices"]:
                choice["delta"].pop("function_call", None)
                for call in choice["delta"]["tool_calls"]:
                    place = choice["index"], call["index"]
                    said = call["function"]["arguments"]
                    if place in self._arguments:
                        call.update(function={"arguments": said})
                        del call["id"], call["type"]
                    self._arguments[place] = self._arguments.get(place, "") + said
            return msgspec.json.encode(chunk)
        except (ValueError, LookupError, TypeError, AttributeError):
            return payload

    def close(self) -> bytes:
        out = super().close()
        if self.failure is not None and self.failure.kind is Kind.RESET and not self._begun:
            self.failure = Failure(Kind.REJECTED, TOO_LONG)
        return out


_CALLED = b'"finish_reason": "tool_calls"'


def _check(request: Request) -> None:
    """Raise RequestError for what the engine ignores, or would fail on."""
    wish = _asked.decode(request.body)
    if wish.n is not None and wish.n > 1:
        message = "the engine makes one choice for each request"
        raise RequestError(Failure(Kind.UNSUPPORTED, message, param="n"))
    if isinstance(wish.prompt, list) and len(wish.prompt) > 1 and isinstance(wish.prompt[0], str):
        message = "the engine takes one prompt for each request"
        raise RequestError(Failure(Kind.UNSUPPORTED, message, param="prompt"))


_REWRITTEN = (b"max_completion_tokens", b"json_schema", b'"required"', b"null", b'"developer"')


def _as_it_reads(body: bytes) -> bytes:
    """Return the body without nulls, and with OpenAI's newer members replaced by the older ones that the engine knows.

    Raise RequestError where any of several tools must be called.
    """
    if not any(word in body for word in _REWRITTEN):
        return body
    members = edits.without_nulls(rewrite.members(body))
    edits.developer(members)
    if "max_completion_tokens" in members:
        members["max_tokens"] = members.pop("max_completion_tokens")
    chat = _chat.decode(body)
    form, tools = chat.response_format, chat.tools
    if form is not None and form.json_schema is not None:
        members["response_format"] = b'{"type":"json_object","schema":%s}' % bytes(form.json_schema.schema)
    if members.get("tool_choice") == b'"required"' and tools:
        if len(tools) > 1:
            message = "the engine can be made to call a named tool, not any of several"
            raise RequestError(Failure(Kind.UNSUPPORTED, message, param="tool_choice"))
        named = {"type": "function", "function": {"name": tools[0].function.name}}
        members["tool_choice"] = msgspec.json.encode(named)
    return rewrite.joined(members)


def _tokenizing(body: bytes) -> bytes:
    """Return the engine's tokenize request. Raise RequestError for messages: the engine tokenizes texts only."""
    wish = _tokenize.decode(body)
    if wish.prompt is None or wish.return_token_strs:
        what = "messages" if wish.prompt is None else "return_token_strs"
        message = f"the engine has no way to tokenize with {what!r}"
        raise RequestError(Failure(Kind.UNSUPPORTED, message, param=what))
    return msgspec.json.encode({"input": wish.prompt})


def _is_text(body: bytes) -> bool:
    """Tell whether what is to be embedded may be texts: whether it does not begin like tokens."""
    given = rewrite.members(body).get("input", b"").lstrip(b"[ \t\r\n")
    return not given[:1].isdigit()


def _pooled(body: bytes) -> bytes:
    """Return embeddings with one vector for each text: the mean of its tokens' vectors, if there are several."""
    found = _vectors.decode(body).data
    if all(item.embedding and isinstance(item.embedding[0], float) for item in found):
        return body
    data = [
        {"object": "embedding", "index": item.index, "embedding": _mean(item.embedding)} for item in found
    ]
    return rewrite.joined({**rewrite.members(body), "data": msgspec.json.encode(data)})


def _mean(vectors: Sequence[Any]) -> list[float]:
    return [fmean(column) for column in zip(*vectors, strict=True)]


_MISTAKES = (  # 0.3.36
    (re.compile(r"^\d+ validation errors?:"), "the engine found a field of the request wrong"),
    (re.compile(r"embedding=True"), "the engine was started without embeddings"),
)

_CRASHES: logs.Crashes = (
    (re.compile(r"Model path does not exist: (.+)"), "there is no model file {0}"),
    (
        re.compile(r"Failed to load model from file: (.+)"),
        "cannot load {0}: it is no model that llama.cpp can read",
    ),
    (re.compile(r"Invalid chat handler: ([^(]+?) \(valid"), "there is no chat format {0}"),
)
