"""llama.cpp: its HTTP server, attached to by URL or launched as a child process (see `launch.py`).

Facts are those of llama.cpp b11549 (xllamacpp 2026.10). The server speaks OpenAI's API, the Responses and the Messages
API, and has its own infill. Its tokenize and detokenize use other member names and are translated.

Rules:
- `asked.py` says what the server would not hear, `answers.py` puts log probabilities right, `forced.py` looks whether
  the tool was called that had to be.
- The engine is launched under the public model name, so its answers need no rewriting.
- The type of an error decides; wording decides only where the type is not specific.
- The fraction of the cache in use is computed from the tokens of running requests. With `--kv-unified` every slot
  reports the size of the whole cache, and the fraction appears smaller than it is.
"""

from __future__ import annotations

import dataclasses
import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from backends.base import (
    LONG_FIRST_TOKEN,
    NATIVE,
    Call,
    Failure,
    Headers,
    Health,
    Kind,
    LaunchOptions,
    MetricsPage,
    ModelCard,
    Operation,
    Reading,
    Reply,
    Request,
    RequestError,
    Signal,
    Signals,
    Status,
    StreamDecoder,
)
from backends.dialect import rewrite
from backends.dialect.errors import garbled
from backends.dialect.openai import OpenAICompatible
from backends.engines.llamacpp import adapters, answers, forced
from backends.engines.llamacpp.asked import LACKS, edited, ignored, page
from backends.engines.llamacpp.launch import LlamaCppLaunch
from backends.facts import cards, metrics
from backends.facts.signals import Metric, Table, from_metrics, reading, samples
from backends.metrics import Counted, MetricsTable


class _Error(msgspec.Struct):
    type: str = ""
    message: str = ""


class _Body(msgspec.Struct):
    error: _Error


class _ToTokenize(msgspec.Struct):
    prompt: str | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class _Piece(msgspec.Struct):
    """A token and its text, as bytes if it is not a whole character."""

    id: int
    piece: str | list[int]


class _Tokens(msgspec.Struct):
    tokens: list[int | _Piece]


class _Text(msgspec.Struct):
    content: str


class _Slot(msgspec.Struct):
    n_ctx: int
    is_processing: bool
    n_prompt_tokens: int = 0
    """The tokens in the cache, those of the answer so far included."""


_body = msgspec.json.Decoder(_Body)
_to_tokenize = msgspec.json.Decoder(_ToTokenize)
_tokens = msgspec.json.Decoder(_Tokens)
_text = msgspec.json.Decoder(_Text)
_slots = msgspec.json.Decoder(list[_Slot])


def _error(body: bytes) -> _Error:
    """Return llama.cpp's typed error; an empty one if the body has none."""
    try:
        return _body.decode(body).error
    except (msgspec.MsgspecError, RecursionError):
        return _Error()


_METRICS: Table = {
    Signal.RUNNING: (Metric("llamacpp:requests_processing", "b11549"),),
    Signal.WAITING: (Metric("llamacpp:requests_deferred", "b11549"),),
}
_CACHED, _READ = "llamacpp:prompt_tokens_cached_total", "llamacpp:prompt_tokens_total"
PAGE = metrics.page(
    "/metrics",
    MetricsTable(
        counts={
            Counted.PROMPT_TOKENS: (Metric(_READ, "b11549, without cached ones", plus=_CACHED),),
            Counted.PROMPT_TOKENS_CACHED: (Metric(_CACHED, "b11549"),),
            Counted.GENERATION_TOKENS: (Metric("llamacpp:tokens_predicted_total", "b11549"),),
            Counted.DRAFTED_TOKENS: (Metric("llamacpp:spec_decode_num_draft_tokens_total", "b11549"),),
            Counted.ACCEPTED_TOKENS: (Metric("llamacpp:spec_decode_num_accepted_tokens_total", "b11549"),),
        }
    ),
    [_METRICS],
)


class LlamaCpp(OpenAICompatible):
    """llama.cpp's server."""

    name: ClassVar[str] = "llamacpp"
    checked: ClassVar[str] = "llama.cpp b11549 in xllamacpp 2026.10.11549 (run)"
    first_token: ClassVar[float | None] = LONG_FIRST_TOKEN
    shortens: ClassVar[bool] = False
    launch_options: ClassVar[type[LaunchOptions] | None] = LlamaCppLaunch
    operations: ClassVar[frozenset[Operation]] = NATIVE - LACKS
    adapter_operations: ClassVar[frozenset[Operation]] = adapters.OPERATIONS

    def call(self, request: Request, model: str) -> Call:
        """Return the request, for a stream where possible; the relay assembles it if the client wants a whole answer.

        llama.cpp notices that the client of a whole answer has left only in a second in which it sends nothing to
        anyone: within 1.2 s alone, never while it is busy, as measured; of a stream within 0.05 s (b11549).
        """
        if request.operation is Operation.TOKENIZE:
            return Call("/tokenize", _tokenized(request.body), native=True)
        request = edited(request)
        if request.stream or request.operation not in _GATHERED or b'"logprobs"' in request.body:
            # The server refuses to stream log probabilities together with tools.
            return super().call(request, model)
        asked = msgspec.structs.replace(request, body=rewrite.streamed(request.body), stream=True)
        return super().call(asked, model)

    def page(self, name: str, model: str) -> Call | None:
        return page(name, model)

    def ignores(self, request: Request) -> bool:
        return ignored(request) or super().ignores(request)

    def reply(self, request: Request, model: str, headers: Headers, body: bytes) -> Reply | Failure:
        translate = _TRANSLATIONS.get(request.operation)
        try:
            if translate is not None:
                return Reply(translate(body))
            if request.operation is Operation.COMPLETIONS and answers.MARK in body:
                body = answers.of_completions(body, {})
        except (ValueError, RecursionError) as error:
            return garbled("the engine's reply is not the JSON object expected", body, error)
        found = super().reply(request, model, headers, body)
        if isinstance(found, Reply) and forced.is_forced(request) and forced.talked(request, found.body):
            return forced.failure()
        return found

    def decoder(self, request: Request, model: str) -> StreamDecoder:
        if forced.is_forced(request):
            return forced.ForcedStream(super().decoder(request, model), request.operation)
        if request.operation is Operation.COMPLETIONS and b'"logprobs"' in request.body:
            return answers.TextStream(self, request)
        return super().decoder(request, model)

    def health(self) -> Call:
        return Call("/health", method="GET")

    def health_of(self, status: int, body: bytes) -> Health:
        if status == 200:
            return Health.READY
        loading = status == 503 and _error(body).type == "unavailable_error"
        return Health.LOADING if loading else Health.DOWN

    def failure(self, status: int, headers: Headers, body: bytes) -> Failure:
        failure = super().failure(status, headers, body)
        error = _error(body)
        kind = _KINDS.get(error.type)
        # Some of the client's mistakes have status 500 and the unspecific type `server_error`.
        if error.type == "server_error" and _TOO_LARGE.match(error.message):
            kind = Kind.CONTEXT
        elif error.type == "server_error" and _NO_TOKEN.match(error.message):
            return dataclasses.replace(
                failure, kind=Kind.REJECTED, message="one of the tokens is none of the model's"
            )
        elif error.type == "server_error" and _UNFIT.match(error.message):
            return dataclasses.replace(failure, kind=Kind.REJECTED, message=failure.detail)
        elif error.type == "server_error" and _UNREAD.match(error.message):
            return dataclasses.replace(failure, engine_lives=True, message=_UNREADABLE)
        if kind is None or kind is failure.kind:
            return failure
        return dataclasses.replace(failure, kind=kind, message=_MESSAGES[kind])

    def models_of(self, body: bytes) -> tuple[ModelCard, ...]:
        return cards.openai(body, ("meta", "n_ctx"))

    def signal_calls(self) -> tuple[Call, ...]:
        return tuple(Call(path, method="GET") for path in ("/metrics", "/slots", adapters.PATH))

    def signals_of(self, answers: Sequence[bytes | None]) -> Signals:
        page, slots, listed = answers
        return {
            **from_metrics(page, _METRICS),
            Signal.PREFIX_HITS: _prefix_hits(page),
            **_slot_signals(slots),
            Signal.LORAS: adapters.signal(listed),
        }

    def metrics(self) -> MetricsPage | None:
        return PAGE

    def adapters(self) -> Call:
        return Call(adapters.PATH, method="GET")

    def choice(self, listed: bytes | None, path: str, launched: bool) -> Mapping[str, bytes]:
        found = None if listed is None else adapters.number(listed, path)
        return adapters.chosen(found, keeps_prompts=not launched)

    def crash_reason(self, log: Sequence[str]) -> str | None:
        lines = [_PREFIX.sub("", line) for line in log]
        for pattern, words in _CRASHES:
            for line in lines:
                found = pattern.search(line)
                if found:
                    return _clearly(words.format(*found.groups()), lines)
        errors = (found for line in log if (found := _PREFIX.match(line)) and found["level"] == "E")
        return next((found.string[found.end() :].strip() for found in errors), None)

    def log_level(self, line: str) -> int:
        """Return the severity of a line, as a level of `logging`."""
        found = _PREFIX.match(line)
        if _KNOWN.search(line):
            return logging.DEBUG
        return _LEVELS[found["level"]] if found else logging.INFO


_GATHERED = (
    Operation.CHAT,
    Operation.COMPLETIONS,
    Operation.RESPONSES,
    Operation.MESSAGES,
    Operation.INFILL,
)
"""Operations that are always requested as streams."""


def _tokenized(body: bytes) -> bytes:
    """Return a tokenize request in llama.cpp's form. Raise RequestError for messages, which it cannot tokenize."""
    asked = _to_tokenize.decode(body)
    if asked.prompt is None:
        raise RequestError(
            Failure(Kind.UNSUPPORTED, "llama.cpp gives the tokens of a 'prompt' only", param="messages")
        )
    # The canonical form is vLLM's, which adds special tokens by default; llama.cpp does not.
    return msgspec.json.encode(
        {
            "content": asked.prompt,
            "add_special": asked.add_special_tokens is not False,
            "with_pieces": bool(asked.return_token_strs),
        }
    )


def _counted(body: bytes) -> bytes:
    """Return the tokens in the canonical form."""
    found = _tokens.decode(body).tokens
    said: dict[str, Any] = {
        "count": len(found),
        "tokens": [token.id if isinstance(token, _Piece) else token for token in found],
    }
    if found and isinstance(found[0], _Piece):
        said["token_strs"] = [_piece(token.piece) for token in found if isinstance(token, _Piece)]
    return msgspec.json.encode(said)


def _piece(piece: str | list[int]) -> str:
    """Return the text of a token."""
    return piece if isinstance(piece, str) else bytes(byte & 0xFF for byte in piece).decode(errors="replace")


def _detokenized(body: bytes) -> bytes:
    """Return the text of tokens in the canonical form."""
    return msgspec.json.encode({"prompt": _text.decode(body).content})


_TRANSLATIONS = {Operation.TOKENIZE: _counted, Operation.DETOKENIZE: _detokenized}


def _missing(source: str) -> Reading:
    """Return the reading of a signal that the engine does not report, with the reason."""
    return Reading(Status.MISSING, source=source)


def _prefix_hits(page: bytes | None) -> Reading:
    """Return the fraction of prompt tokens found in the cache; llama.cpp counts those and the computed ones apart."""
    text = (page or b"").decode(errors="replace")
    cached, read = ([value for _, value in samples(text, name)] for name in (_CACHED, _READ))
    if not (cached and read):
        return _missing("no metrics page" if page is None else f"not on its metrics page: {_CACHED}, {_READ}")
    seen = sum(cached) + sum(read)
    return reading(
        Signal.PREFIX_HITS, sum(cached) / seen if seen else 0.0, f"{_CACHED} of {_CACHED} + {_READ}"
    )


def _slot_signals(answer: bytes | None) -> Signals:
    """Return the signals in `/slots`."""
    try:
        slots = _slots.decode(answer or b"")
    except (ValueError, RecursionError):
        words = "no answer at /slots" if answer is None else "cannot read its /slots"
        return {Signal.SLOTS: _missing(words), Signal.KV_USE: _missing(words)}
    room = sum(slot.n_ctx for slot in slots)
    used = sum(slot.n_prompt_tokens for slot in slots if slot.is_processing)
    return {
        Signal.SLOTS: reading(Signal.SLOTS, len(slots), "/slots"),
        Signal.KV_USE: reading(Signal.KV_USE, used / room, "/slots: n_prompt_tokens of n_ctx")
        if room
        else _missing("/slots tells no n_ctx"),
    }


_KINDS = {
    "exceed_context_size_error": Kind.CONTEXT,
    "unavailable_error": Kind.LOADING,
    "not_supported_error": Kind.UNSUPPORTED,
}
_MESSAGES = {
    Kind.CONTEXT: "the prompt is longer than the model's context",
    Kind.LOADING: "the engine is loading its model",
    Kind.UNSUPPORTED: "the engine does not offer this operation",
}
_TOO_LARGE = re.compile(r"input \(\d+ tokens\) is too large to process")
_NO_TOKEN = re.compile(r"vector::_M_range_check")
_UNFIT = re.compile(
    r"Failed to parse (?:tools|messages|grammar)|image input is not supported|audio input is not"
)
_UNREAD = re.compile(r"The model produced output that does not match the expected \S+ format")
_UNREADABLE = "the model's answer does not have the form that its chat template tells the engine to expect"
_LEVELS = {"E": logging.ERROR, "W": logging.WARNING, "I": logging.INFO, "D": logging.DEBUG}
_PREFIX = re.compile(r"^\d+(\.\d+){3} (?P<level>[DIWE]) ")
# Lines whose content is reported elsewhere: by the answer to the request, or as the reason of the crash.
_KNOWN = re.compile(
    r"^llamacpp_runner: | E .*(send_error: |error loading model|failed to load (model|lora)|lora adapter: "
    r"|chat template|jinja|trying to fit params|gguf_init_from_|failed to create.context|exiting due to"
    r"|common_chat_templates_init)"
)
_CRASHES = (
    (re.compile(r"^llamacpp_runner: (.+)"), "{0}"),
    (re.compile(r"couldn't bind HTTP server socket"), "its port was taken by another program"),
    (re.compile(r"gguf_init_from_\w+: (.+)"), "{0}"),
    (re.compile(r"error loading model: (?:error loading model \w+: )?(.+)"), "{0}"),
    (re.compile(r"(GGML_ASSERT\(.+\) failed)"), "llama.cpp gave up: {0}"),
    (re.compile(r"(unable to allocate .+|failed to allocate .+|CUDA error: .+|out of memory.*)"), "{0}"),
    (re.compile(r"failed to apply lora adapter: (.+)"), "cannot apply a LoRA adapter: {0}"),
    (re.compile(r"common_chat_templates_init: error: (.+)"), "the chat template is not valid: {0}"),
    (re.compile(r"^error: (.+)"), "{0}"),  # llama-server, of its arguments
)
_PATH = re.compile(r"failed to load model,? '(.+)'")


def _clearly(reason: str, lines: list[str]) -> str:
    """Return the reason with the file that it concerns and advice, if the log names the file."""
    path = next((found[1] for line in lines if (found := _PATH.search(line))), None)
    if path is None or path in reason:
        return reason
    advice = "; download it again" if "corrupted or incomplete" in reason else ""
    return f"cannot load {path}: {reason}{advice}"
