"""The journey of one request: wait for a place, try one backend after the other, account for it once.

Rules:
- Everything a request holds is let go in a `finally`: its place, the lease, the upstream connection, the way back.
- Attempts come one after the other, only until the client has received content, all inside one deadline, and beyond
  the first only out of a budget that all requests share.
- Each request is counted exactly once, with what became of it: `outcome` is one of `errors.OUTCOMES`.
"""

from __future__ import annotations

import asyncio
import logging

from backends.base import Failure, Health, Kind, Request
from gateway.admission.gate import Gate
from gateway.auth import Caller
from gateway.dispatch.retry import Budget, may_retry
from gateway.errors import ROWS, GatewayError, Own
from gateway.fleet.lease import Lease, Target, pick
from gateway.fleet.pool import Pool
from gateway.routing.catalog import Plan
from gateway.telemetry.metrics import NONE, Metrics
from gateway.wire.clocks import Clocks
from gateway.wire.downstream import Downstream
from gateway.wire.heartbeat import Heartbeat
from gateway.wire.relay import Attempt

log = logging.getLogger("gateway.dispatch.dispatcher")

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds until a backend that said it was loading is asked once more; it doubles each time."""


class Record:
    """What is known of one request, for the metrics."""

    __slots__ = ("backend", "id", "model", "operation", "outcome", "received", "waited")

    def __init__(self, id: str, operation: str) -> None:
        self.id = id
        self.operation = operation
        self.received = 0.0
        """The loop time at which the request was complete."""
        self.model = NONE
        self.backend = NONE
        self.outcome = "ok"
        self.waited = 0.0
        """Seconds spent waiting for something that is not the gateway's own work."""


class Dispatcher:
    """Carries requests out on the backends of a pool."""

    def __init__(self, pool: Pool, metrics: Metrics, budget: Budget) -> None:
        self.pool = pool
        self.metrics = metrics
        self.budget = budget

    def ready(self) -> bool:
        """Some backend is known to be ready."""
        return any(backend.health is Health.READY for backend in self.pool.backends.values())

    async def run(
        self,
        request: Request,
        plan: Plan,
        caller: Caller,
        downstream: Downstream,
        record: Record,
        extra: bytes,
    ) -> None:
        """Answer `request` on `downstream`. `extra` holds header lines for the engine, beside the request's id.

        Raises GatewayError when no attempt succeeded and the client has received no content. After a failure in the
        middle of an answer it returns: the client was told in the stream.
        """
        record.model = plan.model
        journey = _Journey(self, request, plan, caller, downstream, record, extra)
        heartbeat = None
        if plan.heartbeat and request.stream:
            heartbeat = Heartbeat(downstream, plan.heartbeat, ((b"x-request-id", record.id.encode()),))
            journey.heartbeat = heartbeat
        gate = plan.gate
        self.budget.active += 1
        try:
            if gate is None:
                await journey.go()
                return
            if not gate.try_enter():
                await self.wait_at(gate, plan, record, downstream.loop)
            try:
                await journey.go()
            finally:
                gate.leave()
        finally:
            self.budget.active -= 1
            if heartbeat is not None:
                heartbeat.stop()

    async def wait_at(self, gate: Gate, plan: Plan, record: Record, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for a place; afterwards it is held. Raises GatewayError when it does not come in time."""
        before = loop.time()
        queued = self.metrics.queued.cell(plan.model)
        queued.value += 1
        try:
            await gate.enter(min(record.received + plan.total, before + plan.queue))
        finally:
            queued.value -= 1
            record.waited += loop.time() - before


class _Journey:
    """The attempts of one request."""

    __slots__ = (
        "_asked_to_wait",
        "_deadline",
        "_dispatcher",
        "_downstream",
        "_extra",
        "_failure",
        "_groups",
        "_loop",
        "_number",
        "_plan",
        "_record",
        "_request",
        "_retrying",
        "_tried",
        "_warm_until",
        "heartbeat",
    )

    def __init__(
        self,
        dispatcher: Dispatcher,
        request: Request,
        plan: Plan,
        caller: Caller,
        downstream: Downstream,
        record: Record,
        extra: bytes,
    ) -> None:
        self._dispatcher = dispatcher
        self._request = request
        self._plan = plan
        self._groups = [
            group for group in plan.candidates.get(request.operation, ()) if group.allowed(caller)
        ]
        self._downstream = downstream
        self._record = record
        self._extra = extra
        self._loop = downstream.loop
        self._deadline = record.received + plan.total
        self._tried: list[Target] = []
        self._number = 0
        self._failure: Failure | None = None
        self._retrying = False
        self._warm_until = 0.0
        self._asked_to_wait = 0
        self.heartbeat: Heartbeat | None = None

    async def go(self) -> None:
        """Attempt after attempt, until one succeeds, reaches the client, or no further one makes sense."""
        try:
            while True:
                lease, model = self._choose() or await self._wait_and_choose()
                attempt = self._attempt(lease.target, model)
                try:
                    failure = await self._in_turn(lease.target, attempt)
                finally:
                    now = self._loop.time()
                    lease.close(attempt.failure, attempt.complete, now)
                    self._account(lease.target, attempt, now)
                if failure is None:
                    return
                self._report(lease.target, failure)
                if attempt.committed:
                    self._record.outcome = GatewayError.of(failure).outcome
                    return
                self._failure = failure
                self._require_another(lease.target, failure, now)
                if failure.kind is Kind.LOADING:
                    await self._let_load(now)
        finally:
            if self._retrying:
                self._dispatcher.budget.give_back()

    async def _in_turn(self, target: Target, attempt: Attempt) -> Failure | None:
        """Run the attempt, after others where the engine cannot take all at once. Raises GatewayError when its turn
        does not come."""
        gate = target.backend.gate
        if gate is None:
            return await attempt.run()
        if not gate.try_enter():
            await self._dispatcher.wait_at(gate, self._plan, self._record, self._loop)
        try:
            return await attempt.run()
        finally:
            gate.leave()

    def _choose(self, last_resort: bool = False) -> tuple[Lease, str] | None:
        now = self._loop.time()
        for group in self._groups:
            lease = pick(group.targets, group.balancer, now, self._tried, last_resort)
            if lease is not None:
                return lease, group.model
        return None

    async def _wait_and_choose(self) -> tuple[Lease, str]:
        """Nothing is ready: wait for what is loading, then take what there is. Raises GatewayError."""
        if not self._groups:
            # Another model stands in for this one here, which the key may not use.
            message = f"no backend of the model {self._plan.model!r} can do '{self._request.operation}'"
            raise GatewayError(Kind.UNSUPPORTED, message, param="model")
        if self._failure is None or self._failure.kind is Kind.LOADING:
            before = self._loop.time()
            try:
                await self._dispatcher.pool.warm(self._targets(), self._patience(before))
            finally:
                self._record.waited += self._loop.time() - before
        found = self._choose() or self._choose(last_resort=True)
        if found is not None:
            return found
        if self._failure is not None:
            raise GatewayError.of(self._failure)
        message = f"no backend of the model {self._plan.model!r} is up"
        raise GatewayError(Own.NO_BACKEND, message, retry_after=5)

    async def _let_load(self, now: float) -> None:
        """A backend may say that it loads though its probe says that it is ready: it is asked ever more seldom then."""
        self._asked_to_wait += 1
        if not any(target.backend.usable and target not in self._tried for target in self._targets()):
            pause = min(
                LONGEST_PAUSE, FIRST_PAUSE * 2**self._asked_to_wait, max(0.0, self._patience(now) - now)
            )
            await asyncio.sleep(pause)
            self._record.waited += pause

    def _targets(self) -> list[Target]:
        """Every place that may serve the request."""
        return [target for group in self._groups for target in group.targets]

    def _patience(self, now: float) -> float:
        """Until when to wait for models that load: once in all, however often a backend says that it is not ready."""
        if not self._warm_until:
            self._warm_until = min(self._deadline, now + self._plan.queue)
        return self._warm_until

    def _attempt(self, target: Target, model: str) -> Attempt:
        backend = target.backend
        assert backend.upstream is not None
        self._number += 1
        self._tried.append(target)
        self._record.backend = backend.name
        headers = (
            (b"x-request-id", self._record.id.encode()),
            (b"x-gateway-backend", backend.label),
            (b"x-gateway-model", model.encode()),
            (b"x-gateway-attempts", b"%d" % self._number),
        )
        clocks = target.clocks
        extra = self._extra
        if backend.engine.request_ids:
            extra = b"x-request-id: " + self._record.id.encode() + b"\r\n" + extra
        return Attempt(
            backend.upstream,
            backend.engine,
            self._request,
            target.model,
            self._downstream,
            Clocks(
                clocks.connect,
                clocks.send,
                clocks.first_byte,
                clocks.first_token,
                clocks.idle,
                self._deadline,
                clocks.answer,
            ),
            target.metrics,
            headers,
            extra,
            self.heartbeat,
        )

    def _require_another(self, target: Target, failure: Failure, now: float) -> None:
        """Return if there may be another attempt after `failure`; raise it as a GatewayError if not."""
        if failure.kind is Kind.LOADING and now < self._patience(now):
            # It answers, only not yet: that was no attempt, and it may be waited for.
            target.backend.note(Health.LOADING, "its model is loading")
            self._tried.remove(target)
            self._number -= 1
            return
        if not may_retry(failure, self._number, self._plan.attempts, self._deadline - now):
            raise GatewayError.of(failure)
        if not self._retrying:
            self._retrying = self._dispatcher.budget.take()
            if not self._retrying:
                raise GatewayError.of(failure)

    def _account(self, target: Target, attempt: Attempt, now: float) -> None:
        """Write down what one attempt cost and brought."""
        served, record = target.metrics, self._record
        record.waited += attempt.connect_seconds
        if attempt.first_token_at:
            served.first_token.observe(attempt.first_token_at - record.received)
        if attempt.sent_at:
            served.overhead.observe(max(0.0, attempt.sent_at - record.received - record.waited))
            record.waited += now - attempt.sent_at
        tokens = attempt.tokens
        served.input_tokens.value += tokens.input
        served.output_tokens.value += tokens.output
        self._dispatcher.metrics.attempts.cell(target.backend.name, attempt.result).value += 1

    def _report(self, target: Target, failure: Failure) -> None:
        """Tell the operator what a client is told only in part. A client's own mistake is no news, and quotes it."""
        if ROWS[failure.kind].outcome == "client_error":
            return
        if failure.kind is Kind.LOADING and self._asked_to_wait:
            return
        detail = f" ({failure.detail})" if failure.detail and failure.detail != failure.message else ""
        log.warning(
            "backend '%s': %s%s [%s, %s, request %s]",
            target.backend.name,
            failure.message,
            detail[:300],
            failure.kind,
            failure.phase or "-",
            self._record.id,
        )
