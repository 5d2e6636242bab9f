"""From a finished request to its spans: one for the request, below it one for each attempt, and one for each hop.

Rules:
- Pure: what was noted while the request ran becomes spans when it has ended, all at once.
- Hops that belong to an attempt are below it, the others below the request. The hops of an attempt fill it, and those
  of a request with one attempt fill the request, so durations add up.
- A span is never longer than the one above it.
"""

from __future__ import annotations

from binascii import hexlify
from collections.abc import Iterator
from os import urandom
from time import perf_counter_ns, time_ns
from typing import Final, NamedTuple

from backends.base import Operation
from gateway.request import Exchange
from gateway.telemetry import conventions
from gateway.telemetry.conventions import Attributes
from gateway.telemetry.timeline import CONNECT, HOPS, STREAM
from gateway.telemetry.trace import Leg, Trace

_NOTHING: Final[Attributes] = {}
_OWN: Final = range(CONNECT, STREAM + 1)
"""The hops of an attempt."""


class Span(NamedTuple):
    """One span: ids in hex, times in nanoseconds since 1970. `kind` is `server`, `client` or `internal`."""

    name: str
    kind: str
    span_id: str
    parent: str
    start: int
    end: int
    attributes: Attributes
    fault: str | None = None
    """Why it is marked as an error; None if it is not."""


class Ended(NamedTuple):
    """What is kept of a request that has ended until its spans are made. It holds nothing of the request itself."""

    trace: Trace
    operation: Operation
    path: str
    attributes: Attributes
    fault: str | None
    journal: list[int]
    end: int
    epoch: int
    """What the clock of the timeline lacks of the time since 1970, in nanoseconds."""


class Hop(NamedTuple):
    """A request was in this hop from `start` to `end`, in nanoseconds of the timeline's clock."""

    number: int
    start: int
    end: int


def ended(exchange: Exchange, trace: Trace, path: str, scheme: str) -> Ended:
    """Return what is to be kept of a request that has ended, whose journal was kept."""
    timeline = exchange.timeline
    return Ended(
        trace,
        exchange.operation,
        path,
        conventions.request(exchange, path, scheme),
        (exchange.code or exchange.outcome) if conventions.is_fault(exchange) else None,
        timeline.journal or [],
        timeline.since,
        time_ns() - perf_counter_ns(),
    )


def spans(request: Ended) -> Iterator[Span]:
    """Yield the spans of a request, each after the one above it."""
    trace, epoch = request.trace, request.epoch
    own = trace.span_id.decode()
    hops = list(_hops(request.journal, request.end))
    start = hops[0].start if hops else request.end
    yield Span(
        conventions.request_name(request.path),
        "server",
        own,
        trace.parent.decode(),
        start + epoch,
        request.end + epoch,
        request.attributes,
        request.fault,
    )
    switch = max([leg.led for leg in trace.legs if leg.own is not None], default=0)
    left = [part for hop in hops for part in _split(hop, switch)]
    for number, leg in enumerate(trace.legs):
        begin, until = _window(leg, switch)
        mine = [hop for hop in left if hop.number in _OWN and begin <= hop.start < until]
        left = [hop for hop in left if hop not in mine]
        yield from _attempt(request, leg, number, [*_beside(leg), *mine])
    yield from (_hop(hop, own, epoch) for hop in left)


def _split(hop: Hop, switch: int) -> Iterator[Hop]:
    """Yield a hop, in two parts where another attempt took over in the midst of it."""
    if hop.start < switch < hop.end:
        yield hop._replace(end=switch)
        yield hop._replace(start=switch)
    else:
        yield hop


def _window(leg: Leg, switch: int) -> tuple[int, int]:
    """Return from when until when the hops of the request were those of an attempt."""
    until = leg.ended + 1 if leg.ended else 1 << 63
    if leg.own is not None:
        return (leg.led, until) if leg.led else (0, 0)
    return leg.began, min(until, switch) if leg.began < switch else until


def _beside(leg: Leg) -> Iterator[Hop]:
    """Yield the hops of an attempt from the time when it ran beside another one."""
    if leg.own is not None:
        yield from (hop for hop in _hops(leg.own, leg.led or leg.ended) if hop.number in _OWN)


def _attempt(request: Ended, leg: Leg, number: int, hops: list[Hop]) -> Iterator[Span]:
    """Yield the span of an attempt, then those of its hops. Without any, it ended before anything was sent."""
    epoch, own = request.epoch, leg.span_id.decode()
    start = hops[0].start if hops else leg.began
    end = hops[-1].end if hops else max(leg.began, min(leg.ended, request.end))
    yield Span(
        conventions.attempt_name(request.operation, leg),
        "client",
        own,
        request.trace.span_id.decode(),
        start + epoch,
        end + epoch,
        conventions.attempt(request.operation, leg, number),
        leg.failure or None,
    )
    yield from (_hop(hop, own, epoch) for hop in hops)


def _hop(hop: Hop, parent: str, epoch: int) -> Span:
    name = HOPS[hop.number]
    fresh = hexlify(urandom(8)).decode()
    return Span(name, "internal", fresh, parent, hop.start + epoch, hop.end + epoch, _NOTHING)


def _hops(journal: list[int], end: int) -> Iterator[Hop]:
    """Yield the hops of a journal that closes at `end`, without those that took no time."""
    starts = [*journal[3::2], end]
    for number, start, until in zip(journal[::2], journal[1::2], starts, strict=True):
        if until > start:
            yield Hop(number, start, until)
