"""What the client of a streamed chat is told while its engine starts, as thoughts of the model: for people who watch.

Rules:
- Only where the model's `show_loading` says so. Like a heartbeat it sends status 200 before the outcome is known, so it
  begins only when the request really waits, and a later failure is told in the stream.
- It is no content: another backend may still be tried, and it counts neither as tokens nor as the first one.
- All of a stream is written by one writer, since its events belong together. So a request that was told of a start is
  said as a chat to whichever engine answers, even if that speaks the client's dialect.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from backends.base import Operation
from backends.surfaces import foreword
from backends.surfaces.codecs import CODECS
from backends.surfaces.translation import Clock, Writer
from gateway.fleet.backend import Backend
from gateway.fleet.lease import Target
from gateway.request import Exchange
from gateway.residency.state import AT_REST, EngineState
from gateway.wire.heartbeat import SOON, Heartbeat

INTERVAL: Final = 3.0
"""Seconds between two signs of progress."""
_CHATS: Final = frozenset(
    (
        *(Operation.CHAT, Operation.MESSAGES, Operation.RESPONSES, Operation.OLLAMA_CHAT),
        Operation.GEMINI_GENERATE,
    ),
)


def shown(exchange: Exchange, targets: Sequence[Target]) -> Loading | None:
    """Return what tells a client of the start it waits for; None where it is not to be told, or cannot be."""
    request = exchange.request
    if not request.stream or request.operation not in _CHATS:
        return None
    codec = CODECS.get(request.operation)
    if codec is None or codec.lines_alone:
        return Loading(exchange)
    able = all(codec.said_as in target.backend.native.of(request) for target in targets)
    return Loading(exchange) if able else None


class Loading:
    """What one request's client is told of a start, until the start is over or the request has ended."""

    def __init__(self, exchange: Exchange) -> None:
        """Tell nothing until it is known what is waited for."""
        self._exchange: Exchange | None = exchange
        self._former = exchange.beating
        exchange.beating = self
        self._backend: Backend | None = None
        self._began = exchange.way.loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._told = False

    def waits_for(self, backend: Backend) -> None:
        """Take note of whose start is waited for. Only starts that are the gateway's own are told of."""
        if backend.residence is None or self._exchange is None:
            return
        another = self._told and backend is not self._backend
        self._backend = backend
        if self._timer is None:
            self._timer = self._exchange.way.loop.call_later(SOON, self._tell)
        elif another:
            self._timer.cancel()
            self._tell(first=True)

    def ready(self) -> None:
        """Tell that the wait is over."""
        if self._told and self._exchange is not None:
            self._say(f"Ready after {_seconds(self._waited)}.\n")

    def over(self) -> None:
        """Tell nothing more. What follows is the model's."""
        exchange = self._exchange
        self._stop()
        if exchange is None:
            return
        exchange.beating = self._former
        if not self._told:
            return
        if exchange.writer is not None:
            exchange.way.write(exchange.writer.end_foreword())
        if self._former is not None and exchange.plan.heartbeat:
            exchange.beating = Heartbeat(exchange, exchange.plan.heartbeat)

    def stop(self) -> None:
        """Tell nothing more, because the request has ended. See `gateway.roles.Beating`."""
        self._stop()
        if self._former is not None:
            self._former.stop()

    def _stop(self) -> None:
        self._exchange = None
        if self._timer is not None:
            self._timer.cancel()

    @property
    def _waited(self) -> float:
        return 0.0 if self._exchange is None else self._exchange.way.loop.time() - self._began

    def _tell(self, first: bool = False) -> None:
        """Tell how it stands, and again after a while."""
        exchange = self._exchange
        if exchange is None:
            return
        if not self._told:
            first = self._told = True
            _begin(exchange)
            if self._former is not None:
                # These words are signs of life themselves, and no comment is to stand among them.
                self._former.stop()
        self._say(self._first_words() if first else self._words())
        self._timer = exchange.way.loop.call_later(INTERVAL, self._tell)

    def _first_words(self) -> str:
        backend = self._backend
        assert backend is not None and backend.residence is not None
        last = backend.residence.load_seconds
        estimate = f"; its last start took {_seconds(last)}" if last else ""
        what = "waits for room" if backend.residence.state in AT_REST else "is being loaded"
        return f"The engine '{backend.name}' {what}{estimate}.\n"

    def _words(self) -> str:
        backend = self._backend
        assert backend is not None and backend.residence is not None
        return f"{_seconds(self._waited)}: {_STATES.get(backend.residence.state, 'waiting for room')}\n"

    def _say(self, words: str) -> None:
        exchange = self._exchange
        assert exchange is not None
        payload = foreword.payload(words, exchange.request.model, int(time.time()))
        writer = exchange.writer
        exchange.way.write(b"data: %b\n\n" % payload if writer is None else writer.event(payload))


_STATES: Final = {
    EngineState.STARTING: "loading",
    EngineState.WARMING: "warming up",
    EngineState.READY: "about to be ready",
    EngineState.DRAINING: "waiting for its last end",
}


def _begin(exchange: Exchange) -> None:
    """Begin a client's stream."""
    exchange.start(exchange.surface.stream_headers)
    exchange.writer = exchange.writer or _writer(exchange)
    if exchange.writer is not None:
        exchange.writer.foreword = True
        exchange.broken = exchange.writer


def _writer(exchange: Exchange) -> Writer | None:
    """Return what writes the stream in the client's dialect; None where that is the canonical one."""
    codec = CODECS.get(exchange.request.operation)
    if codec is None:
        return None
    if not codec.lines_alone:
        exchange.request = msgspec.structs.replace(exchange.request, translate=True)
    return codec.at(Clock(time.time_ns)).writer(exchange.request)


def _seconds(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds >= 1 else "less than a second"
