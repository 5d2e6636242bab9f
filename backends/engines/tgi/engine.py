"""Text Generation Inference: its server, attached to by URL or launched as a child process.

Facts are those of TGI 3.3, tried on its own router with a scripted model.

Rules:
- Requests are edited in `asked.py`, which says by which protocol; `answers.py` and `native.py` read the answers.
- Every failure in a stream comes with status 200, and in a chat stream always as 422: there only its wording tells what
  failed.
- A format or a tool that TGI's grammars cannot hold an answer to is not supported, rather than the client's mistake.
- The server listens only once the model is loaded; `/health` answers 503 once the model's process has died.
- `/tokenize` adds special tokens whatever it is told, and repeats a character for each of its tokens in `token_strs`.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import (
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    LaunchOptions,
    MetricsPage,
    ModelCard,
    Operation,
    Reply,
    Request,
    Signal,
    Signals,
    StreamDecoder,
)
from backends.dialect.chunks import Chunks, Stamp, stamp
from backends.dialect.errors import garbled
from backends.dialect.openai import OpenAICompatible
from backends.engines.tgi import answers, asked, native
from backends.engines.tgi.launch import CRASHES, SAYING, TGILaunch
from backends.facts import cards, logs, metrics
from backends.facts.signals import Metric, Table, from_metrics
from backends.metrics import Counted, Finish, MetricsTable, Outcomes, Timing

TABLE: Table = {
    Signal.RUNNING: (Metric("tgi_batch_current_size", "all"),),
    Signal.WAITING: (Metric("tgi_queue_size", "all"),),
}
"""Neither metric is on the page before the first request."""

_REFUSED = ("overloaded", "validation", "template_error", "missing_template_vertex", "tool_error")
PAGE = metrics.page(
    "/metrics",
    MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: (
                Metric("tgi_request_input_length_sum", "all, of requests that were not refused"),
            ),
            Counted.GENERATION_TOKENS: (
                Metric("tgi_request_generated_tokens_sum", "all, of requests that ended well"),
            ),
            Counted.ACCEPTED_TOKENS: (Metric("tgi_request_skipped_tokens_sum", "all"),),
        },
        finished=(
            Outcomes("tgi_request_success", "all", other=Finish.COMPLETE),
            Outcomes(
                "tgi_request_failure",
                "all",
                "err",
                {"dropped": Finish.ABORT, **dict.fromkeys(_REFUSED, Finish.REJECTED)},
                other=Finish.ERROR,
            ),
        ),
        timings={
            Timing.PER_TOKEN: (Metric("tgi_request_mean_time_per_token_duration", "all"),),
            Timing.REQUEST: (Metric("tgi_request_duration", "all"),),
            Timing.QUEUE: (Metric("tgi_request_queue_duration", "all"),),
        },
    ),
    [TABLE],
)


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
_NO_GRAMMAR = re.compile(r"cannot compile regex from schema|grammar is not valid")
"""What it says of a schema that its grammars do not know. TGI 3.3."""


class TGI(OpenAICompatible):
    """TGI's server."""

    name: ClassVar[str] = "tgi"
    checked: ClassVar[str] = "TGI 3.3 (its router with a scripted model: recordings)"
    launch_options: ClassVar[type[LaunchOptions] | None] = TGILaunch
    operations: ClassVar[frozenset[Operation]] = frozenset(
        {Operation.CHAT, Operation.COMPLETIONS, Operation.TOKENIZE}
    )

    def __init__(self, new_stamp: Callable[[Operation], Stamp] = stamp) -> None:
        """`new_stamp` makes the ids of answers."""
        self._stamp = new_stamp

    def call(self, request: Request, model: str) -> Call:
        if request.operation is Operation.TOKENIZE:
            return _tokenizing(_object(request.body))
        return asked.call(request, model)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        if request.operation is Operation.TOKENIZE:
            return _tokenized(request, body)
        try:
            answer = _anything.decode(body)
            if isinstance(answer, dict) and "choices" in answer:
                new_id = self._stamp(request.operation).id
                answer = answers.corrected(answer, asked.wanted(request), new_id, headers)
                body = msgspec.json.encode(answer)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        return super().reply(request, model, headers, body)

    def refusal(self, request: Request, status: int, headers: Headers, body: bytes) -> Reply | Failure:
        todo = asked.wanted(request)
        choice = answers.unread(body, todo) if todo.tools and status == 422 else None
        if choice is None:
            return self.failure(status, headers, body)
        known_by = self._stamp(request.operation)
        answer = {
            "id": known_by.id,
            "object": "chat.completion",
            "created": known_by.created,
            "model": request.model,
            "choices": [choice],
        }
        return super().reply(request, request.model, headers, msgspec.json.encode(answer))

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        known_by, todo = self._stamp(request.operation), asked.wanted(request)
        if request.operation is Operation.COMPLETIONS:
            return native.NativeStream(request, Chunks(request, known_by), todo.stops, self.failure)
        return answers.ChatStream(self, request, known_by, todo)

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        told = failure.status or status
        if status == 500:
            told = _STATUS.get(_error_type(body), told)
            told = next((code for words, code in _TOLD if words.search(failure.detail)), told)
        if told != failure.status:
            failure = super().failure(told, headers, body)
        if failure.kind is Kind.REJECTED and _NO_GRAMMAR.search(failure.detail or failure.message):
            return dataclasses.replace(failure, kind=Kind.UNSUPPORTED)
        return failure

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

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def log_level(self, line: str) -> int:
        found = logs.level(line)
        return logging.DEBUG if found == logging.INFO and SAYING.search(line) else found

    def crash_reason(self, log: Sequence[str]) -> str | None:
        return logs.crash_reason(log, CRASHES)


def _tokenizing(asked: Mapping[str, Any]) -> Call:
    """Return the request for the tokens of messages or of a prompt."""
    if asked.get("messages") is not None:
        return Call("/chat_tokenize", msgspec.json.encode({"messages": asked["messages"]}), native=True)
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
    if _object(request.body).get("return_token_strs"):
        answer["token_strs"] = [token.text for token in tokens]
    return Reply(msgspec.json.encode(answer))


def _object(body: bytes) -> dict[str, Any]:
    """Decode a JSON object; return an empty one for any other JSON."""
    found = _anything.decode(body)
    return found if isinstance(found, dict) else {}


def _error_type(body: bytes) -> str:
    """Return TGI's type of an error; empty if it has none."""
    try:
        said = _object(body).get("error_type")
    except (ValueError, RecursionError):
        return ""
    return said if isinstance(said, str) else ""
