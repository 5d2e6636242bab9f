"""Shadows: copies of requests that another model answers to nobody, to see how it would do.

Rules:
- A copy costs its client nothing: it is sent after the original, its failures are nobody's, and it counts in no metric
  of requests and attempts, only in those of shadows.
- It waits for nothing and stands in no queue: where no slot is free, or requests wait in the engine, there is no copy.
  It is tried once.
- How many there are at once, and how many bytes they hold, is bounded. A stop of the gateway ends them.
- What it shows of its backend is counted by the breaker, as of any request: the backend is the same. That an engine
  dies of it is held against further copies of the request, never against the request itself.
- When both answers are complete they are compared (`gateway.dispatch.likeness`). An answer that its client left ends
  the copy.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter_ns
from typing import Final

import msgspec

from backends.base import Usage
from backends.dialect.parameters import Parameters
from gateway.admission.gate import Gate
from gateway.dispatch.blame import Blame, fell_silent, fingerprint
from gateway.dispatch.candidates import pick_quiet
from gateway.dispatch.likeness import Difference, Told, compare, said
from gateway.dispatch.quarantine import Quarantine
from gateway.errors import CLIENT_GONE, CLIENT_SLOW, GatewayError, Own
from gateway.fleet.lease import Lease, Target
from gateway.request import Exchange, FinishedSink, Register
from gateway.routing.catalog import Plan
from gateway.telemetry.cells import NONE, Histogram, TargetMetrics, Value
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import ROUTE
from gateway.wire.clocks import SECOND, Clocks
from gateway.wire.relay import Attempt
from gateway.wire.tee import Kept, Nowhere, Tee

log = logging.getLogger("gateway.shadow")

MOST: Final = 64
"""Copies at once, in one process."""
MOST_BYTES: Final = 64 << 20
"""Bytes that they hold at once: of requests, and of answers that are to be compared."""
KEPT: Final = 256 << 10
"""Bytes of an answer that are kept to be compared; the texts of longer ones are not."""


class Shadows:
    """Every copy under way."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics: Metrics = metrics
        self._bytes: int = 0
        self._copies: set[Copy] = set()
        self._stopped: bool = False
        self.register: Register = Register()
        """The copies, apart from the requests of clients."""
        self.quarantine: Quarantine = Quarantine()
        """The requests of whose copies engines died."""
        nothing = Histogram(())
        self.aside: TargetMetrics = TargetMetrics(
            (NONE, NONE, NONE), Value(), nothing, (Value(), Value()), (Value(), Value())
        )
        """The cells that attempts write to instead of those of their target."""

    @property
    def running(self) -> int:
        """The copies that are under way."""
        return len(self._copies)

    def send(self, exchange: Exchange, plan: Plan, route: str) -> None:
        """Have `plan` answer a copy of a request too, in the name of a route. Call it before the request is dispatched.

        The copy begins in the next turn of the event loop.
        """
        size = len(exchange.request.body) + 2 * KEPT
        if self._stopped or len(self._copies) >= MOST or self._bytes + size > MOST_BYTES:
            self.count(route, "skipped")
            return
        self._bytes += size
        copy = Copy(self, exchange, plan, route)
        self._copies.add(copy)
        exchange.way.loop.call_soon(copy.begin)

    def over(self, copy: Copy, size: int) -> bool:
        """Take note that both a copy and its original have ended. Return False if that is known."""
        if copy not in self._copies:
            return False
        self._copies.remove(copy)
        self._bytes -= size + 2 * KEPT
        return True

    def stop(self) -> None:
        """End every copy, because the gateway stops. There are no more."""
        self._stopped = True
        for copy in tuple(self._copies):
            copy.cancel()

    def count(self, route: str, result: str) -> None:
        """Count a copy by what became of it."""
        self._metrics.routes.shadows.cell(route, result).value += 1

    def differ(self, route: str, difference: Difference) -> None:
        """Count how the answer to a copy differs."""
        metrics = self._metrics
        aspects = ("outcome", difference.outcome), ("finish", difference.finish), ("text", difference.text)
        for aspect, same in aspects:
            if same is not None:
                metrics.routes.shadow_compared.cell(route, aspect, "same" if same else "different").value += 1
        if difference.tokens is not None:
            metrics.routes.shadow_tokens.cell(route).observe(difference.tokens)
        if difference.first_token is not None:
            metrics.routes.shadow_first_token.cell(route).observe(difference.first_token)


class _Aside:
    """A target whose metrics are not those of clients' requests."""

    def __init__(self, target: Target, metrics: TargetMetrics) -> None:
        self.backend = target.backend
        self.model: str = target.model
        self.clocks: Clocks = target.clocks
        self.metrics: TargetMetrics = metrics
        self.parameters: Parameters | None = target.parameters


class Copy:
    """A copy of one request, from before the original is dispatched until both have ended and were compared."""

    __slots__ = (
        "_answer",
        "_attempt",
        "_exchange",
        "_gate",
        "_kept",
        "_lease",
        "_original",
        "_plan",
        "_result",
        "_route",
        "_shadows",
        "_sink",
        "_size",
        "_told",
        "_usage",
    )

    def __init__(self, shadows: Shadows, original: Exchange, plan: Plan, route: str) -> None:
        """Listen to the answer of `original`, which goes to its client as it would."""
        self._shadows: Shadows = shadows
        self._plan: Plan = plan
        self._route: str = route
        self._size: int = len(original.request.body)
        self._kept: Kept = Kept(KEPT)
        self._answer: Kept = Kept(KEPT)
        self._told: Told | None = None
        """What is known of the original's answer; None while it is under way."""
        self._result: str = ""
        """What became of the copy; empty while it is under way."""
        self._usage: Usage | None = None
        self._gate: Gate | None = None
        self._lease: Lease | None = None
        self._attempt: Attempt | None = None
        self._original: Exchange | None = original
        self._sink: FinishedSink = original.sink
        way = original.way
        original.way = Tee(way, self._kept)
        original.sink = self
        exchange = Exchange(Nowhere(way.loop, self._answer), perf_counter_ns(), shadows.register, self)
        exchange.id = original.id
        exchange.headers = original.headers
        exchange.trace = original.trace
        exchange.caller = original.caller
        exchange.surface = original.surface
        exchange.operation = original.operation
        exchange.asked = original.asked
        exchange.request = msgspec.structs.replace(original.request, model=plan.model)
        exchange.plan = plan
        exchange.model = plan.model
        exchange.work = self
        self._exchange: Exchange = exchange

    def begin(self) -> None:
        """Send the copy if it has to wait for nothing."""
        exchange = self._exchange
        if exchange.over:
            return
        exchange.timeline.mark(ROUTE)
        exchange.deadline = exchange.timeline.received + round(self._plan.total * SECOND)
        now = exchange.way.loop.time()
        quarantine = self._shadows.quarantine
        if quarantine.deaths and quarantine.refusal(fingerprint(exchange), now) is not None:
            self._end("skipped")
            return
        lease = self._chosen(now)
        if lease is None:
            self._end("busy")
            return
        self._lease = lease
        try:
            attempt = self._attempt = Attempt(exchange, _Aside(lease.target, self._shadows.aside), self, ())
            self._send(attempt)
        except Exception as error:  # noqa: BLE001 (a bug of an adapter ends the copy alone)
            self._end("failed", error)

    def cancel(self) -> None:
        """End the copy, because nobody will compare its answer."""
        if not self._exchange.over:
            self._exchange.interrupt(GatewayError(Own.DRAINING, "the copy is not needed any more"))

    def interrupt(self, error: Exception) -> None:
        """Stop the copy. See `gateway.request.Work`."""
        task, self._exchange.task = self._exchange.task, None
        if task is not None:
            task.cancel()
        self._end("cancelled", error)

    def _chosen(self, now: float) -> Lease | None:
        """Return a lease on a backend of the model where nothing waits; None if there is none."""
        groups = self._plan.candidates.get(self._exchange.request.operation)
        gate = self._plan.gate
        if not groups or (gate is not None and not gate.try_enter()):
            return None
        self._gate = gate
        return pick_quiet(groups[0].targets, now)

    def _send(self, attempt: Attempt) -> None:
        if not attempt.begin():
            self._exchange.task = self._exchange.way.loop.create_task(self._connected(attempt))

    async def _connected(self, attempt: Attempt) -> None:
        try:
            await attempt.connect()
        except Exception as error:  # noqa: BLE001 (as above)
            self._end("failed", error)
        else:
            if not self._exchange.over and self._exchange.task is asyncio.current_task():
                self._exchange.task = None

    # gateway.wire.relay.Listener

    def answer_began(self) -> None:
        """Take note of the first content of the copy's answer."""
        if self._lease is not None:
            self._lease.heard(self._exchange.way.loop.time())

    def attempt_over(self, attempt: Attempt) -> None:
        """End the copy, or send it once more if its connection was closed before the engine read it."""
        if attempt.stale:
            attempt.renew()
            self._send(attempt)
            return
        self._usage = attempt.tokens
        failure, lease = attempt.failure, self._lease
        if lease is None:
            return
        now = self._exchange.way.loop.time()
        self._lease = self._attempt = None
        lease.close(now, fell_silent(failure))
        if failure is not None:
            blame = Blame(self._exchange, self._shadows.quarantine)
            blame.failed(lease, failure, attempt.sent_at, now)
            lease.trouble(failure, now)
            blame.close(now)
            log.debug(
                "route '%s': the copy of request %s: %s", self._route, self._exchange.name, failure.logged
            )
        elif attempt.complete:
            lease.succeeded(now)
        self._end("ok" if attempt.complete else "failed", attempt.crash)

    def _end(self, result: str, error: Exception | None = None) -> None:
        """Release everything the copy holds, and end it."""
        exchange = self._exchange
        if exchange.over:
            return
        if self._attempt is not None:
            self._attempt.drop()
        if self._lease is not None:
            self._lease.close(exchange.way.loop.time())
        if self._gate is not None:
            self._gate.leave()
        self._attempt = self._lease = self._gate = None
        self._result = result
        if error is None and result != "ok":
            error = GatewayError(Own.INTERNAL, result)
        exchange.end(error)

    # gateway.request.FinishedSink

    def finished(self, exchange: Exchange) -> None:
        """Take note that the original or the copy has ended; compare them when both have."""
        exchange.sink = self._sink
        if exchange is self._original:
            self._original = None
            self._sink.finished(exchange)
            if exchange.outcome in (CLIENT_GONE, CLIENT_SLOW):
                self.cancel()
            else:
                self._told = _told(exchange, self._kept, exchange.usage)
        else:
            self._shadows.count(self._route, self._result)
            if self._result not in ("ok", "failed"):
                self._kept.forget()
        if self._original is None and self._exchange.over:
            self._compare()

    def _compare(self) -> None:
        """Count how the two answers differ. Nothing is left of the copy then."""
        if not self._shadows.over(self, self._size):
            return
        told, self._told = self._told, None
        if told is not None and self._result in ("ok", "failed"):
            self._shadows.differ(self._route, compare(told, _told(self._exchange, self._answer, self._usage)))


def _told(exchange: Exchange, kept: Kept, usage: Usage | None) -> Told:
    """Return what is known of an answer that has ended."""
    request = exchange.request
    if exchange.outcome != "ok":
        return Told()
    finish, text = said(request, kept.body)
    first_token = exchange.timeline.until_answer / SECOND if request.stream else None
    return Told(True, finish, text, None if usage is None else usage.output, first_token)
