"""The requests that run now, as an operator sees them: listed, summed up, and cancelled by id.

Rules:
- It costs the requests nothing: what is shown is what is known of them anyway, and nothing is written down for it.
- However many run, the event loop turns after every `SLICE` of them.
- A listing has at most `MOST` rows, the oldest requests first, and says how many there are.
- What one process answers is plain JSON, so that several answers can be merged.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import AsyncIterator, Iterable
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

from gateway.errors import GatewayError, Own
from gateway.request import Exchange, Register
from gateway.telemetry.timeline import HOPS

SLICE: Final = 250
"""Requests that are looked at in one turn of the loop."""
MOST: Final = 1000
"""Most rows of one listing."""
USUAL: Final = 100
"""Rows of a listing where nobody says how many."""

Row = dict[str, Any]


class Wanted(NamedTuple):
    """Which requests are listed: at most `limit`, those of a key, a model and a backend where these are given."""

    limit: int = USUAL
    key: str | None = None
    model: str | None = None
    backend: str | None = None

    def fits(self, exchange: Exchange) -> bool:
        """Tell whether a request is one of them."""
        return (
            (self.model is None or exchange.model == self.model)
            and (self.backend is None or exchange.backend == self.backend)
            and (self.key is None or _key(exchange) == self.key)
        )


async def listing(register: Register, wanted: Wanted) -> dict[str, Any]:
    """Return the requests that are wanted of those that run: `total` and the oldest rows."""
    found: list[tuple[int, int, Exchange]] = []
    total = 0
    async for exchanges in _slices(register):
        fitting = [exchange for exchange in exchanges if wanted.fits(exchange)]
        total += len(fitting)
        # The second number decides between requests of the same nanosecond, which are not compared themselves.
        aged = [(exchange.timeline.began, id(exchange), exchange) for exchange in fitting]
        found = heapq.nsmallest(wanted.limit, [*found, *aged])
    rows: list[Row] = []
    for number, (_, _, exchange) in enumerate(found, 1):
        if not exchange.over:
            rows.append(_row(exchange, perf_counter_ns()))
        if not number % SLICE:
            await asyncio.sleep(0)
    return {"total": total, "requests": rows}


def merged(listings: Iterable[dict[str, Any]], limit: int) -> dict[str, Any]:
    """Return the listings of several processes as one of at most `limit` rows."""
    told = list(listings)
    rows = heapq.merge(*(each["requests"] for each in told), key=lambda row: -row["age"])
    total = sum(each["total"] for each in told)
    return {"total": total, "requests": [row for row, _ in zip(rows, range(limit), strict=False)]}


async def summary(register: Register) -> dict[str, Any]:
    """Return how many requests are in each phase, and how many there are, with what they have got, for each target."""
    phases = dict.fromkeys(HOPS, 0)
    targets: dict[tuple[str, str], list[int]] = {}
    async for exchanges in _slices(register):
        for exchange in exchanges:
            phases[HOPS[exchange.timeline.hop]] += 1
            sums = targets.setdefault((exchange.model, exchange.backend), [0, 0])
            sums[0] += 1
            sums[1] += _tokens(exchange)
    return {
        "phases": {phase: count for phase, count in phases.items() if count},
        "targets": [[*where, *sums] for where, sums in targets.items()],
    }


def summed(summaries: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Return the summaries of several processes as one."""
    phases: dict[str, int] = {}
    targets: dict[tuple[str, str], list[int]] = {}
    for each in summaries:
        for phase, count in each["phases"].items():
            phases[phase] = phases.get(phase, 0) + count
        for model, backend, requests, tokens in each["targets"]:
            sums = targets.setdefault((model, backend), [0, 0])
            sums[0] += requests
            sums[1] += tokens
    return {"phases": phases, "targets": [[*where, *sums] for where, sums in sorted(targets.items())]}


def cancel(register: Register, id: str) -> int:
    """End every running request with this id, and tell its client that an operator did. Return how many there were.

    More than one has the same id where clients say so themselves.
    """
    wanted = id.encode()
    found = [exchange for exchange in register.running if exchange.id == wanted and _is_shown(exchange)]
    for exchange in found:
        exchange.interrupt(
            GatewayError(Own.CANCELLED, "an operator of the gateway has cancelled this request", final=True)
        )
    return len(found)


async def _slices(register: Register) -> AsyncIterator[list[Exchange]]:
    """Yield the requests that run, some at a time; the loop turns in between, so each is looked at as it is then."""
    everything = list(register.running)
    for start in range(0, len(everything), SLICE):
        if start:
            await asyncio.sleep(0)
        yield [each for each in everything[start : start + SLICE] if _is_shown(each)]


def _is_shown(exchange: Exchange) -> bool:
    """Tell whether a request runs and is for an engine: what operators ask for is no operation of one."""
    return not exchange.over and getattr(exchange, "operation", None) is not None


def _row(exchange: Exchange, now: int) -> Row:
    """Return a request as it is at `now`, in nanoseconds of the timeline's clock."""
    request = getattr(exchange, "request", None)
    timeline = exchange.timeline
    return {
        "id": exchange.name,
        "key": _key(exchange),
        "model": exchange.model,
        "backend": exchange.backend,
        "operation": exchange.operation.value,
        "phase": HOPS[timeline.hop],
        "age": round((now - timeline.began) / 1e9, 3),
        "attempts": exchange.attempts,
        "tokens": _tokens(exchange),
        "stream": None if request is None else request.stream,
    }


def _key(exchange: Exchange) -> str | None:
    """Return the name of the key behind a request; None while that is not known."""
    caller = getattr(exchange, "caller", None)
    return None if caller is None else caller.name


def _tokens(exchange: Exchange) -> int:
    return 0 if exchange.attempt is None else exchange.attempt.tokens.output
