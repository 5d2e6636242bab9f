"""The backends as live things: their state, their load, and the leases under which requests use them.

Rules:
- Choosing a backend and counting the request on it is one plain call (`pick`); it returns a `Lease`, closed once.
- A backend that is known to be down, or whose breaker is open, is left out while another is up. As a last resort it is
  tried all the same: a probe can be wrong, and an error from the engine says more than one from the gateway.
- A backend that comes back, after it was down or its breaker was open, starts slowly: its weight grows from a tenth to
  all of it. One that crashes again and again, or has to fill its caches first, costs few requests.
- One event loop, one writer. `change` wakes whoever waits for a backend to become ready.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from backends.base import Engine, Failure, Health, Kind, ModelCard
from gateway.balance.basic import Balancer
from gateway.errors import ROWS, GatewayError, Own
from gateway.fleet.breaker import Breaker
from gateway.telemetry.cells import TargetMetrics, Value
from gateway.telemetry.metrics import Metrics
from gateway.wire.clocks import Clocks
from gateway.wire.upstream import Upstream

COOL = 5.0
"""Seconds an overloaded backend is left alone where it does not say how long."""
COOLEST = 60.0
"""The longest rest it may ask for, in seconds."""
SLOW_START = 30.0
"""Seconds until a backend that came back has its whole weight."""
COLDEST = 0.1
"""The part of its weight it begins with."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What last went wrong at a backend, in one line, and when: seconds since the epoch."""

    message: str
    time: float


class Backend:
    """One running engine, as far as the gateway can tell."""

    def __init__(
        self,
        name: str,
        engine: Engine,
        metrics: Metrics,
        breaker: Breaker,
        models: tuple[str, ...] | None = None,
        headers: Mapping[str, str] = MappingProxyType({}),
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`models` are the names it serves where the config says so; None: the engine is asked. `headers` go with
        every request to it. `wall_clock` tells the time of an error."""
        self.name = name
        self.engine = engine
        self._headers = headers
        self.upstream: Upstream | None = None
        self.health: Health | None = None
        self.reason = "not checked yet"
        self.woken = asyncio.Event()
        """Set when a probe should come at once."""
        self.in_flight = 0
        self.warmth = 1.0
        """The part of its weight that it has now, for it may have come back a moment ago."""
        self._back_since: float | None = None
        self.spells = 0
        """How often it went from no request of the gateway to one. While it is busy this numbers the busy time."""
        self.last_error: Trouble | None = None
        self._wall_clock = wall_clock
        self.breaker = breaker
        self.models: tuple[ModelCard, ...] | None = None if models is None else tuple(map(ModelCard, models))
        self.label = name.encode()
        self._up: Value = metrics.backend_up.cell(name, engine.name)

    @property
    def usable(self) -> bool:
        """It is ready, or nobody knows better yet."""
        return self.upstream is not None and self.health in (Health.READY, None)

    @property
    def coming(self) -> bool:
        """It is not ready and is expected to be soon."""
        return self.health is Health.LOADING

    def locate(self, url: str | None, key: str | None = None) -> None:
        """The engine is at `url` from now on, or nowhere. Connections to where it was are closed. `key` is what it asks
        for, if not what the config says."""
        if self.upstream is not None:
            self.upstream.close()
        headers = {**self._headers, "authorization": f"Bearer {key}"} if key else self._headers
        self.upstream = None if url is None else Upstream(url, headers=headers)

    def note(self, health: Health, reason: str = "") -> bool:
        """Take over what a probe or the process said. True if that is news."""
        news = health is not self.health
        if news and self.health is Health.DOWN:
            self.start_slowly()
        if news and health is Health.LOADING:
            self.woken.set()
        self.health, self.reason = health, reason
        if health is Health.DOWN:
            self.trouble(reason)
        self._up.value = 1.0 if health is Health.READY else 0.0
        return news

    def start_slowly(self) -> None:
        """It is back: from the next choice on its weight grows."""
        self.warmth, self._back_since = COLDEST, None

    def warm_up(self, now: float) -> None:
        """Have the warmth of this moment, the loop's time."""
        if self._back_since is None:
            self._back_since = now
        self.warmth = max(COLDEST, min(1.0, (now - self._back_since) / SLOW_START))

    def trouble(self, message: str) -> None:
        """Something went wrong there, in one line without secrets."""
        self.last_error = Trouble(message, self._wall_clock())


@dataclass(slots=True, eq=False)
class Target:
    """Where a model is served: a backend, and its name for the model."""

    backend: Backend
    model: str
    metrics: TargetMetrics
    clocks: Clocks
    share: int = 1
    """Its weight as the config has it."""

    @property
    def weight(self) -> float:
        return self.share * self.backend.warmth

    @property
    def in_flight(self) -> int:
        return self.backend.in_flight


class Lease:
    """The right to send one request to one backend. Close it exactly once, in a `finally`."""

    __slots__ = ("_open", "_probe", "target")

    def __init__(self, target: Target) -> None:
        self.target = target
        self._open = True
        backend = target.backend
        self._probe = backend.breaker.begin()
        if not backend.in_flight:
            backend.spells += 1
        backend.in_flight += 1
        target.metrics.in_flight.value += 1

    def close(self, failure: Failure | None, complete: bool, now: float) -> None:
        """Give it back with how it went: `complete` where the client got all, else `failure`; neither where it left."""
        assert self._open, "a lease is closed once"
        self._open = False
        backend = self.target.backend
        backend.in_flight -= 1
        self.target.metrics.in_flight.value -= 1
        verdict: bool | None = True if complete else None
        if failure is not None:
            if ROWS[failure.kind].outcome != "client_error":
                backend.trouble(_in_words(failure))
            if failure.kind is Kind.OVERLOADED:
                rest = COOL if failure.retry_after is None else min(failure.retry_after, COOLEST)
                backend.breaker.cool(rest, now)
            elif failure.kind is not Kind.LOADING:
                verdict = not ROWS[failure.kind].counts
        was_open = backend.breaker.open
        backend.breaker.end(self._probe, verdict, now)
        if was_open and not backend.breaker.open:
            backend.start_slowly()


def _in_words(failure: Failure) -> str:
    """A failure in one line. An engine's own text is left out: it may quote a prompt or an answer."""
    facts = failure.detail if failure.kind in (Kind.CONNECT, Kind.RESET) else ""
    if failure.status is not None:
        facts = f"status {failure.status}"
    return f"{failure.message} ({facts})" if facts else failure.message


class Pool:
    """All backends of the gateway."""

    def __init__(self) -> None:
        self.backends: dict[str, Backend] = {}
        self._changed = asyncio.Event()

    def announce(self) -> None:
        """Some backend changed its state: wake who waits for that."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def change(self) -> None:
        """Wait for the next announcement."""
        await self._changed.wait()

    async def warm(self, targets: Sequence[Target], deadline: float) -> None:
        """Wait while all that could serve is still loading. `deadline` is the loop time at which waiting must end.

        Raises GatewayError when it took too long. Backends that are down, not loading, are not waited for: the caller
        will find out what is wrong with them.
        """
        try:
            async with asyncio.timeout_at(deadline):
                while not any(target.backend.usable for target in targets):
                    if not any(target.backend.coming for target in targets):
                        return
                    await self.change()
        except TimeoutError:
            raise GatewayError(
                Own.QUEUE_TIMEOUT, "the model is still loading", code="model_loading", retry_after=5
            ) from None


def pick(
    targets: Sequence[Target],
    balancer: Balancer,
    now: float,
    tried: Container[Target] = (),
    last_resort: bool = False,
) -> Lease | None:
    """A lease on the best target that was not tried yet; None if there is none. `now` is the loop's time.

    With `last_resort` those are taken too that are thought to be down or to need a rest.
    """
    found = [
        target
        for target in targets
        if target not in tried
        and (
            (target.backend.usable and target.backend.breaker.allows(now))
            or (last_resort and target.backend.upstream is not None and not target.backend.coming)
        )
    ]
    if not found:
        return None
    if len(found) == 1:
        return Lease(found[0])
    for target in found:
        if target.backend.warmth < 1.0:
            target.backend.warm_up(now)
    return Lease(found[balancer.choose(found)])
