"""What the journeys of all requests share.

Rules:
- One event loop, one writer: nothing here is locked.
- What a request claims of a queue is found out when it has to wait, and not before.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from time import perf_counter_ns
from typing import Final

from backends.base import Headers, Operation
from gateway.admission.gate import Gate, Place
from gateway.admission.tickets import Claim
from gateway.admission.waiting import Patience, Waiting, enter_now
from gateway.dispatch import loading
from gateway.dispatch.candidates import Candidates
from gateway.dispatch.quarantine import Quarantine
from gateway.dispatch.retry import Budget
from gateway.dispatch.shadow import Shadows
from gateway.errors import GatewayError
from gateway.fleet.lease import Target
from gateway.fleet.pool import Pool
from gateway.priority import CLASSES
from gateway.request import Exchange
from gateway.telemetry.accounting import Accounting
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.timeline import LOAD, QUEUE
from gateway.wire.clocks import SECOND

_GENERATE: Final = frozenset(
    (
        *(Operation.CHAT, Operation.COMPLETIONS, Operation.INFILL, Operation.RESPONSES, Operation.MESSAGES),
        *(Operation.OLLAMA_CHAT, Operation.OLLAMA_GENERATE, Operation.GEMINI_GENERATE),
        *(Operation.TRANSCRIPTIONS, Operation.TRANSLATIONS),
    )
)
"""The operations whose answers are made of tokens."""
_UNBOUNDED: Final = 1e9
"""Tokens of an answer whose length the client does not limit."""
_MS: Final = 1_000_000


class Shared:
    """The backends, the counters, and what limits or refuses requests."""

    def __init__(self, pool: Pool, metrics: Metrics, accounting: Accounting, budget: Budget) -> None:
        """Start with nothing in quarantine."""
        self.pool: Pool = pool
        self.metrics: Metrics = metrics
        self.accounting: Accounting = accounting
        self.budget: Budget = budget
        self.quarantine: Quarantine = Quarantine()
        self.rng: Random = Random()
        """Spreads the times at which those come again who were refused."""
        self.shadows: Shadows = Shadows(metrics)

    async def fetched(self, exchange: Exchange, candidates: Candidates, until: float) -> bool:
        """Wait until an adapter is loaded, at most until `until` (loop time). Return False if none has to be.

        A backend that cannot load it is no candidate any more. Raises GatewayError where it takes too long.
        """
        unloaded = candidates.unloaded()
        if not unloaded:
            return False
        exchange.timeline.mark(LOAD)
        failed = await self.pool.adapters.fetch(unloaded, until)
        if failed is not None:
            candidates.refuse(failed[0], failed[1])
        return True

    async def warm(self, exchange: Exchange, targets: list[Target], until: float, last: float) -> None:
        """Wait while the backends of these targets are loading, as `Pool.warm` does, and tell the client if it may be.

        Raises GatewayError as that does.
        """
        shown = loading.shown(exchange, targets) if exchange.plan.show_loading else None
        if shown is None:
            await self.pool.warm(targets, until, last)
            return
        try:
            await self.pool.warm(targets, until, last, shown.waits_for)
            shown.ready()
        finally:
            shown.over()

    async def queue(self, exchange: Exchange, gates: Sequence[Gate], until: float) -> Place:
        """Wait for a slot of one of the gates until `until` (loop time), and take it; return its place.

        Raises:
            GatewayError: The queues are full, none is free in time, or none would be.
        """
        exchange.timeline.mark(QUEUE)
        claim = _claim(exchange)
        place = enter_now(gates, claim)
        if place is not None:
            return place
        model, priority = exchange.plan.model, CLASSES[claim.level]
        try:
            waiting = Waiting(gates, claim, _patience(exchange, until), self.rng)
        except GatewayError as error:
            self.metrics.queues.refused.cell(model, priority, _reason(error)).value += 1
            raise
        queued = self.metrics.queues.waiting.cell(model, priority)
        queued.value += 1
        exchange.standing = waiting
        exchange.queue_position = exchange.queue_position or waiting.outlook.position
        try:
            return await waiting.place(until)
        except GatewayError as error:
            self.metrics.queues.refused.cell(model, priority, _reason(error)).value += 1
            error.add_headers(waited(exchange))
            raise
        finally:
            exchange.standing = None
            queued.value -= 1
            spent = perf_counter_ns() - exchange.timeline.since
            self.metrics.queues.wait.cell(model).observe(spent / SECOND)


def waited(exchange: Exchange, headers: Headers = ()) -> Headers:
    """Return headers with those that say, if a request waited for a slot, where it stood at first and how long."""
    if not exchange.queue_position:
        return headers
    timeline = exchange.timeline
    spent = timeline.spent[QUEUE]
    if timeline.hop == QUEUE:
        spent += perf_counter_ns() - timeline.since
    return (
        *headers,
        (b"x-gateway-queue-position", b"%d" % exchange.queue_position),
        (b"x-gateway-queue-wait", b"%d" % (spent // _MS)),
    )


def _reason(error: GatewayError) -> str:
    """Return why a request got no slot, as the metrics name it."""
    return error.code.removeprefix("queue_")


def _claim(exchange: Exchange) -> Claim:
    """Return what a request claims of a queue."""
    asked = exchange.asked
    claim = Claim(asked.caller.name, float(asked.caller.weight), asked.priority)
    claim.prompt = float(asked.prompt_tokens)
    if exchange.request.operation in _GENERATE:
        most = asked.max_tokens
        claim.most = _UNBOUNDED if most is None or most <= 0 else float(min(most, 1 << 30))
    return claim


def _patience(exchange: Exchange, until: float) -> Patience:
    """Return by when a request needs a slot, and by when it has to be over."""
    now, clock = exchange.way.loop.time(), perf_counter_ns()
    end = now + (exchange.deadline - clock) / SECOND
    patience = exchange.asked.patience
    if patience is not None:
        leaves = now + (exchange.timeline.received - clock) / SECOND + patience
        if not exchange.request.stream:
            end = min(end, leaves)
        elif exchange.beating is None:
            until = min(until, leaves)
    return Patience(until, end)
