"""Text Generation Inference: its server, attached to by URL or launched as a child process.

Facts are those of TGI 3.3.7.

Rules:
- Chat uses TGI's Messages API, which differs from OpenAI's in details that are corrected both ways: `stop` must be a
  list, `response_format` has another form, ids are empty, and a stop string stays in the text. Completions use the
  Messages API or TGI's native protocol.
- Defaults that OpenAI's clients send and TGI interprets otherwise (`top_p: 1`, `presence_penalty: 0`) are left out;
  what TGI would ignore (`n`, `logit_bias`) is refused.
- Every failure in a stream comes with status 200, and in a chat stream always as 422: there only its wording tells what
  failed.
- The server listens only once the model is loaded; `/health` answers 503 once the model's process has died.
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
    LaunchOptions,
    ModelCard,
    Operation,
    Reply,
    Request,
    Signal,
    Signals,
    StreamDecoder,
)
from backends.dialect import rewrite
from backends.dialect.chunks import Chunks, Stamp, stamp
from backends.dialect.errors import garbled
from backends.dialect.openai import OpenAICompatible
from backends.engines.tgi import native
from backends.engines.tgi.launch import CRASHES, TGILaunch
from backends.engines.tgi.messages import (
    MessagesStream,
    as_tgi_expects,
    corrected,
    one_prompt,
    read_object,
    stops_of,
)
from backends.facts import cards, logs
from backends.facts.signals import Metric, Table, from_metrics


class TGIOptions(EngineOptions):
    """How to speak to TGI."""

    api: Literal["messages", "native"] = Field(
        "messages",
        description="The API for completions: its OpenAI-compatible API, or its native protocol. Chat always uses the "
        "former.",
    )

    def engine(self) -> TGI:
        return TGI(self)


TABLE: Table = {
    Signal.RUNNING: (Metric("tgi_batch_current_size", "all"),),
    Signal.WAITING: (Metric("tgi_queue_size", "all"),),
}
"""Neither metric is on the page before the first request."""


class _Token(msgspec.Struct):
    id: int
    text: str = ""


class _Templated(msgspec.Struct):
    tokenize_response: list[_Token]


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
"""The status that each type of error has outside of streams."""
_TOLD = (
    (re.compile(r"^Model is overloaded"), 429),
    (re.compile(r"^Request failed during generation"), 424),
    (re.compile(r"^Incomplete generation|^Stream event serialization"), 424),
)
"""The same by wording, for chat streams, where every error is 422. TGI 3.3."""


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
        new_stamp: Callable[[Operation], Stamp] = stamp,
    ) -> None:
        """`new_stamp` makes the ids of answers."""
        self._native_completions = options is not None and options.api == "native"
        self._stamp = new_stamp

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.TOKENIZE:
            return _tokenizing(read_object(request.body))
        call = super().call(request, model)
        members = as_tgi_expects(rewrite.members(call.body))
        if self._is_native(request):
            asked = {name: _anything.decode(raw) for name, raw in members.items()}
            return Call(native.PATH, native.body(one_prompt(asked), asked))
        return msgspec.structs.replace(call, body=rewrite.joined(members))

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is Operation.TOKENIZE:
            return _tokenized(request, body)
        try:
            answer = _anything.decode(body)
            if isinstance(answer, dict) and "choices" in answer:
                new_id = self._stamp(request.operation).id
                body = msgspec.json.encode(corrected(answer, stops_of(request), new_id))
        except (ValueError, TypeError, AttributeError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        return super().reply(request, model, headers, body)

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        known_by, stops = self._stamp(request.operation), stops_of(request)
        if self._is_native(request):
            writer = Chunks(request, known_by)
            return native.NativeStream(request, writer, stops, self.failure)
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
        info = cards.Entry(body)
        name = info.text("model_id")
        if not name:
            raise ValueError(f"not what TGI tells of itself: {info.odd or 'it has no model_id'}")
        return (info.card(name, info.whole("max_total_tokens")),)

    def signal_calls(self) -> tuple[Call, ...]:
        return (Call("/metrics", method="GET"),)

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        return from_metrics(answers[0], TABLE)

    def log_level(self, line: str) -> int:
        return logs.level(line)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, CRASHES)

    def _is_native(self, request: Request) -> bool:
        """Return whether a request goes by the native protocol."""
        return self._native_completions and request.operation is Operation.COMPLETIONS


def _tokenizing(asked: Mapping[str, Any]) -> Call:
    """Return the request for the tokens of messages or of a prompt."""
    if asked.get("messages") is not None:
        return Call("/chat_tokenize", msgspec.json.encode({"messages": asked["messages"]}))
    whole = asked.get("add_special_tokens", True)
    return Call(
        "/tokenize", msgspec.json.encode({"inputs": asked.get("prompt"), "add_special_tokens": whole})
    )


def _tokenized(request: Request, body: bytes) -> Reply | Failure:
    """Interpret the answer with the tokens."""
    try:
        found = _tokens.decode(body)
    except (ValueError, RecursionError) as error:
        return garbled("the engine's reply is not a list of tokens", body, error)
    tokens = found.tokenize_response if isinstance(found, _Templated) else found
    answer: dict[str, Any] = {"count": len(tokens), "tokens": [token.id for token in tokens]}
    if read_object(request.body).get("return_token_strs"):
        answer["token_strs"] = [token.text for token in tokens]
    return Reply(msgspec.json.encode(answer))


def _error_type(body: bytes) -> str:
    """Return TGI's type of an error; empty if it has none."""
    try:
        said = read_object(body).get("error_type")
    except (ValueError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""
