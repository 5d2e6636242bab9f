"""The trace that a request belongs to, in W3C's Trace Context: read, begun here, and passed on to engines.

Rules:
- One implementation reads `traceparent`. A header that is not exactly what the standard says counts as none, and the
  `tracestate` beside it as well.
- Who began a trace decides whether it is recorded. A trace that begins here is recorded or not by its id, so that all
  processes with the same share agree.
- While a request runs only ids and times are kept. What becomes of them is decided when it has ended
  (`gateway.telemetry.spans`).
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Mapping
from os import urandom
from time import perf_counter_ns
from typing import Final, Protocol

from backends.base import Usage
from gateway.telemetry.attempt import Counted

_HEX: Final = frozenset(b"0123456789abcdef")
_LENGTH: Final = 55
"""Bytes of a `traceparent` of version 00. Later versions may have more behind a hyphen."""
_NO_TRACE: Final = b"0" * 32
_NO_SPAN: Final = b"0" * 16
_EVERY: Final = 1 << 64


class Context:
    """What a `traceparent` says: the trace, the caller's span in it, and whether the caller records it."""

    __slots__ = ("is_sampled", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, span_id: bytes, is_sampled: bool) -> None:
        """Take the ids as hex digits."""
        self.trace_id: bytes = trace_id
        self.span_id: bytes = span_id
        self.is_sampled: bool = is_sampled


def read(header: bytes) -> Context | None:
    """Return what a `traceparent` says; None where it is no valid one."""
    if len(header) < _LENGTH or header[2:3] != b"-" or header[35:36] != b"-" or header[52:53] != b"-":
        return None
    version, trace_id, span_id, flags = header[:2], header[3:35], header[36:52], header[53:55]
    if not _HEX.issuperset(version + trace_id + span_id + flags) or version == b"ff":
        return None
    if len(header) > _LENGTH and (version == b"00" or header[55:56] != b"-"):
        return None
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:
        return None
    return Context(trace_id, span_id, int(flags, 16) & 1 == 1)


def _line(trace_id: bytes, span_id: bytes, is_sampled: bool) -> bytes:
    """Return the header line that makes a span the parent of what the receiver does."""
    return b"traceparent: 00-%b-%b-%b\r\n" % (trace_id, span_id, b"01" if is_sampled else b"00")


class Noted(Counted, Protocol):
    """An attempt that is over, with what is noted of it for a trace."""

    @property
    def leg(self) -> Leg | None: ...


class Leg:
    """One attempt of a request that is recorded.

    `began`, `ended` and `led` are nanoseconds of the timeline's clock; `led` is when an attempt beside another one
    began to go on alone, 0 if it never did. `own` is its journal until then; None for the usual attempt, whose hops are
    those of the request. `sent_at` and `first_token_at` are on the same clock, 0 where that did not happen; `status`
    is 0 where the engine did not answer. These, `backend`, `result`, `failure` and `usage` are known once it has ended.
    """

    __slots__ = (
        "backend",
        "began",
        "ended",
        "engine",
        "failure",
        "first_token_at",
        "led",
        "lines",
        "model",
        "own",
        "result",
        "sent_at",
        "span_id",
        "status",
        "url",
        "usage",
    )

    def __init__(self, trace_id: bytes, state: bytes, began: int) -> None:
        """Begin an attempt. `lines` are the header lines that its engine gets, `state` those of `tracestate`."""
        self.span_id: bytes = hexlify(urandom(8))
        self.lines: bytes = _line(trace_id, self.span_id, True) + state
        self.began: int = began
        self.ended: int = 0
        self.led: int = 0
        self.own: list[int] | None = None
        self.backend: str = ""
        self.engine: str = ""
        self.url: str = ""
        self.model: str = ""
        """The backend's own name for the model."""
        self.result: str = ""
        self.failure: str = ""
        """Why it failed, in words that may be logged."""
        self.status: int = 0
        self.sent_at: int = 0
        self.first_token_at: int = 0
        self.usage: Usage | None = None

    def end(self, backend: str, attempt: Noted) -> None:
        """Note how the attempt ended."""
        failure = attempt.failure
        self.ended = perf_counter_ns()
        self.backend, self.result, self.status = backend, attempt.result, attempt.status
        self.failure = "" if failure is None else failure.logged
        self.sent_at, self.first_token_at = attempt.sent_at, attempt.first_token_at
        self.usage = attempt.tokens


class Trace:
    """The trace of one request, from its head to its end.

    `span_id` is the request's own span, `parent` the caller's (empty where the trace begins here); both are hex digits.
    """

    __slots__ = ("_state", "is_sampled", "legs", "parent", "span_id", "trace_id")

    def __init__(self, trace_id: bytes, parent: bytes, span_id: bytes, is_sampled: bool) -> None:
        self.trace_id: bytes = trace_id
        self.parent: bytes = parent
        self.span_id: bytes = span_id
        self.is_sampled: bool = is_sampled
        self.legs: list[Leg] = []
        """The attempts, in the order in which they began."""
        self._state: bytes = b""

    def passed_on(self, lines: bytes) -> bytes:
        """Return the header lines of the trace that are sent with this request, instead of the client's own `lines`.

        What the client's trace does not record is passed on as it came.
        """
        if self.parent:
            self._state = lines[lines.find(b"\r\n") + 2 :] if lines.startswith(b"traceparent") else lines
            if not self.is_sampled:
                return lines
        return _line(self.trace_id, self.span_id, self.is_sampled) + self._state

    def begin_leg(self) -> Leg:
        """Begin another attempt, of a trace that is recorded."""
        leg = Leg(self.trace_id, self._state, perf_counter_ns())
        self.legs.append(leg)
        return leg


class Sampler:
    """Begins the trace of each request, and decides whether it is recorded."""

    __slots__ = ("_bound",)

    def __init__(self, share: float) -> None:
        """Record this share of the traces that begin here, from 0 to 1."""
        self._bound: int = round(share * _EVERY)

    def begin(self, headers: Mapping[bytes, bytes]) -> Trace:
        """Return the trace of a request with these headers: the caller's, or a new one."""
        context = read(headers.get(b"traceparent", b""))
        if context is not None:
            return Trace(context.trace_id, context.span_id, hexlify(urandom(8)), context.is_sampled)
        fresh = hexlify(urandom(24))
        return Trace(fresh[:32], b"", fresh[32:], int(fresh[16:32], 16) < self._bound)
