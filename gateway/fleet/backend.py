"""One running engine as the gateway sees it: where it is, how it is, how much runs there.

Rules:
- A backend lives by its name. It outlives the config that named it: a reload changes its settings in place, and its
  connections, breaker, gate and counters stay.
- Requests under way keep the connections they began with: a new location is for those that come later.
- A backend that comes back, after it was down or its breaker was open, starts slowly: its weight grows from a tenth to
  all of it. One that crashes again and again, or has to fill its caches first, costs few requests.
- What an operator has ordered (`gateway.fleet.orders`) holds whatever probes find. A drained backend is not usable, not
  ready and not coming, so nobody waits for it; requests that wait for one of its slots go elsewhere at once.
- One event loop, one writer.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from backends.base import Engine, Health, ModelCard, Operation
from backends.facts.versions import Version
from backends.surfaces.limits import Limit, Native
from gateway.admission.gate import UNLIMITED, Gate
from gateway.fleet.breaker import Breaker, State
from gateway.fleet.evidence import Evidence
from gateway.fleet.known import Death, Listed, Trouble
from gateway.fleet.load import Load, Slots
from gateway.fleet.orders import Orders
from gateway.fleet.residence import Residence
from gateway.telemetry.cells import Value
from gateway.telemetry.metrics import Metrics
from gateway.wire.quota import Quota
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

SLOW_START = 30.0
"""Seconds until a backend that came back has its whole weight."""
SLOW_START_FLOOR = 0.1
"""The share of its weight it begins with."""
ENGINE_QUEUE = 1000
"""Requests that may wait for one backend whose engine takes only so many at once."""
UNCHECKED = "not checked yet"
"""The reason of a backend's state before its first probe."""

BusyPeriods = frozenset[tuple[int, int]]
"""Busy periods of the gateway at a backend: process id, and the number of that process's busy period. One that two
looks find lasted from the first to the second."""


_READY: Final = Health.READY
_generations: Final = itertools.count(1)
"""No two engines of this process, nor two lives of one, have the same."""


NO_VERSION: Final[Version | None] = None  # of an engine that has not told it


class Backend:
    """One running engine, as far as the gateway can tell."""

    __slots__ = (
        "_back_since",
        "_headers",
        "_key",
        "_metrics",
        "_unreachable",
        "_up",
        "_wall_clock",
        "answering",
        "breaker",
        "busy_period",
        "engine",
        "evidence",
        "gate",
        "generation",
        "health",
        "heard_at",
        "in_flight",
        "label",
        "last_error",
        "listed",
        "load",
        "longest",
        "models",
        "name",
        "native",
        "operations",
        "orders",
        "patient",
        "quota",
        "reason",
        "residence",
        "slots",
        "slow_start",
        "slow_start_weight",
        "suspected_death",
        "upstream",
        "version",
        "woken",
    )

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
        """Start without a location.

        `models` are the names it serves where the config says so; None: the engine is asked. `headers` go with every
        request to it. `wall_clock` tells the time of an error.
        """
        self.name, self.label, self._unreachable, self.version = name, name.encode(), False, NO_VERSION
        self.gate: Gate | None = None
        """Where requests wait that the engine cannot take at once; None where it has a queue of its own."""
        self.residence: Residence | None = None
        """The life of its engine, where the gateway starts and stops it."""
        self.longest: int | None = None
        """How many tokens a request may use, where launch options say so: for engines that do not tell."""
        self.breaker, self.evidence = breaker, Evidence()
        """When to leave it alone; the failures that may be their requests' own."""
        self.heard_at = 0.0
        """The loop's time when content of an answer last came from it (first and last pieces are noted); 0: never."""
        self.answering = 0
        """Requests there whose answer has begun to come."""
        self.suspected_death: Death | None = None
        """The last request that was alone there when its connection broke off, until the backend answers again."""
        self.upstream: Upstream | None = None
        """The connections to its location; None while it has none."""
        self.health: Health | None = None
        """What is known of its state; None before the first probe."""
        self.reason = UNCHECKED
        """Why it is in this state."""
        self.models: tuple[ModelCard, ...] | None = None if models is None else tuple(map(ModelCard, models))
        """The models it serves; None where nobody has told yet."""
        self.listed, self.slots = Listed(), Slots()
        self.quota: Quota | None = None  # how many requests it still takes; only where a rule looks at that
        self.woken = asyncio.Event()
        """Set when a probe should come at once."""
        self._forget_engine()
        self.in_flight = self.patient = 0
        """Leases that are open; those of them whose requests are of the class `background`."""
        self.busy_period = 0
        """How often it went from no request to one. While it is busy this is the number of the busy period."""
        self.orders: Orders = Orders()
        """What an operator has ordered for it; `obey` is called after each change."""
        self.slow_start_weight, self.slow_start = 1.0, SLOW_START
        """The share of its weight that it has now; seconds until it is 1 again after the backend came back."""
        self.last_error: Trouble | None = None
        self._back_since: float | None = None
        self._key: str | None = None
        self._headers, self._metrics, self._wall_clock = headers, metrics, wall_clock
        self._up: Value = metrics.backends.up.cell(name, engine.name)
        self.change_engine(engine)
        self._show()

    @property
    def usable(self) -> bool:
        """Whether it has a location, is not drained, and is ready or not known to be anything else."""
        health = self.health
        return (health is _READY or health is None) and self.upstream is not None and not self.orders.drained

    @property
    def flawed(self) -> bool:
        """Whether nobody can use it, because it does not tell its models and the config does not name them."""
        return bool(self.listed.flaw) and not self.models and not self.listed.targeted

    @property
    def ready(self) -> bool:
        """Whether it can take requests: it is up and not drained, and it is known for what."""
        return self._is_up and self.upstream is not None and not self.orders.drained

    @property
    def _is_up(self) -> bool:
        return self.health is Health.READY and not self.flawed

    @property
    def launched(self) -> bool:
        """Whether the gateway starts its engine itself."""
        return self.residence is not None

    @property
    def asleep(self) -> bool:
        """Whether it answers nothing until somebody wakes it."""
        return self.health is Health.ASLEEP

    @property
    def coming(self) -> bool:
        """Whether it is not ready and is expected to be soon."""
        return self.health is Health.LOADING and not self.orders.drained

    @property
    def startable(self) -> bool:
        """Whether its engine runs for who asks for it: a request that waits for it has to say so."""
        residence = self.residence
        if residence is None or not residence.on_demand or residence.halted or self.orders.drained:
            return False
        return self.health in (Health.STOPPED, Health.LOADING, Health.ASLEEP)

    def busy_periods(self) -> BusyPeriods:
        """Return this process's current busy period at this backend; none while no request runs there."""
        return frozenset({(os.getpid(), self.busy_period)} if self.in_flight else ())

    def change_engine(self, engine: Engine) -> None:
        """Speak to the engine by this adapter from the next request on; the gate gets the adapter's number of slots."""
        self.engine = engine
        self.limit({})
        if engine.parallel is not None and self.gate is not None:
            self._resize_gate(engine.parallel)
        elif engine.parallel is not None:
            self.gate = Gate(engine.parallel, ENGINE_QUEUE)
        elif self.gate is not None:
            self.gate.resize(UNLIMITED, ENGINE_QUEUE)
            self.gate = None

    def limit(self, limits: Mapping[Operation, Limit]) -> None:
        """Ask the engine for the operations that it has itself only as far as `limits` say."""
        self.native: Native = Native(self.engine.operations, limits, self.version)
        self.operations: frozenset[Operation] = self.native.possible

    def know_version(self, version: Version | None) -> None:
        """Take the engine to be of this version; None: it is not known any more."""
        if version != self.version:
            self.version = version
            self.native = self.native.changed(self.engine.operations, version)
            self.operations = self.native.possible

    def obey(self) -> None:
        """Act on its orders, which have changed."""
        if self.gate is not None and self.engine.parallel is not None:
            self._resize_gate(self.engine.parallel)
        self._show()

    def _resize_gate(self, slots: int) -> None:
        """Give the gate so many slots; while the backend is drained as many as anybody wants.

        So those who wait for a slot get one at once, find that the backend takes no requests, and go elsewhere.
        """
        assert self.gate is not None
        self.gate.resize(UNLIMITED if self.orders.drained else slots, ENGINE_QUEUE)

    def _show(self) -> None:
        """Set the metrics that say whether it takes requests, and how many of them."""
        orders = self.orders
        self._up.value = 1.0 if self._is_up and not orders.drained else 0.0
        self._metrics.backends.drained.cell(self.name).value = 1.0 if orders.drained else 0.0
        self._metrics.backends.weight.cell(self.name).value = orders.weight

    def reset_breaker(self) -> None:
        """Close its breaker, end its rest, and hold no failure so far against it."""
        breaker, was_open = self.breaker, self.breaker.open
        breaker.reset()
        self.evidence.clear()
        if was_open:
            self.breaker_closed(breaker)

    def change_headers(self, headers: Mapping[str, str]) -> None:
        """Send these headers with every request from the next one on. Connections stay open."""
        self._headers = headers
        if self.upstream is not None:
            self.upstream.change_headers(self._sent_headers())

    def locate(self, url: str | None, key: str | None = None) -> None:
        """Take the engine to be at `url`, or nowhere, and close every connection to where it was.

        `key` is what the engine asks of its clients, if that is not what the config says.
        """
        if self.upstream is not None:
            self.upstream.close()
        if url is None:
            self._confirm_death()
        self._move(url, key)

    def relocate(self, url: str | None, key: str | None = None) -> None:
        """Take the engine to be at `url`, or nowhere, from the next request on.

        Requests under way finish on their connections to where it was, which are closed one by one as they become idle.
        The new location has to be probed; nothing is held against it.
        """
        if self.upstream is not None:
            self.upstream.retire()
        self._move(url, key)
        self.health, self.reason = None, UNCHECKED
        self._up.value = 0.0
        # Leases that are open report to the breaker they began with.
        self.breaker = self.breaker.anew()
        self.slow_start_weight, self._back_since = 1.0, None
        self.woken.set()

    def retire(self) -> None:
        """Take no new requests: the backend has left the config. Requests under way finish.

        A request that was accepted before, and has waited since, may still use it as its last resort.
        """
        self.health, self.reason = Health.DOWN, "it has left the config"
        self._up.value = 0.0
        if self.upstream is not None:
            self.upstream.retire()

    def note(self, health: Health, reason: str = "") -> bool:
        """Take over what a probe or the process found. Return whether the state has changed."""
        news = health is not self.health
        if news and self.health is Health.DOWN:
            self.start_slowly()
        if health is Health.READY and (news or self._unreachable):
            self._unreachable = False
            self.breaker.halve()
        if news and health is Health.LOADING:
            self.woken.set()
        self.health, self.reason = health, reason
        if news and health in (Health.DOWN, Health.ASLEEP, Health.STOPPED):
            self._forget_engine()
        if health is Health.DOWN:
            self.trouble(reason)
        self._up.value = 1.0 if self._is_up and not self.orders.drained else 0.0
        return news

    def refused(self) -> None:
        """Take note that a connection to it could not be made: probe it at once, unless that is known already."""
        if not self._unreachable:
            self._unreachable = True
            self.generation = next(_generations)
            self.woken.set()
        self._confirm_death()

    def _confirm_death(self) -> None:
        if self.suspected_death is not None:
            self.suspected_death.confirmed = True
            self.suspected_death = None

    def breaker_opened(self, breaker: Breaker, now: float) -> None:
        """Log and count that its breaker has opened, or has opened again after a failed trial."""
        log.warning(
            "backend '%s': its breaker is open for %.0f s, after %s",
            self.name,
            breaker.left(now),
            "a failed trial" if breaker.ejections > 1 else "too many failures",
        )
        self._metrics.backends.breaker.cell(self.name, State.OPEN).value += 1

    def breaker_tries(self) -> None:
        """Log at debug level and count that a trial begins at its half-open breaker."""
        log.debug("backend '%s': a trial begins", self.name)
        self._metrics.backends.breaker.cell(self.name, State.HALF_OPEN).value += 1

    def breaker_closed(self, breaker: Breaker) -> None:
        """Log and count that its breaker has closed; the backend starts slowly."""
        log.info("backend '%s': its breaker is closed again", self.name)
        self._metrics.backends.breaker.cell(self.name, State.CLOSED).value += 1
        if breaker is self.breaker:
            self.start_slowly()

    def start_slowly(self) -> None:
        """Begin a slow start: the weight grows from the next choice on."""
        self.slow_start_weight, self._back_since = SLOW_START_FLOOR, None

    def update_slow_start(self, now: float) -> None:
        """Recompute the slow-start weight for `now`, the loop's time. The first call after `start_slowly` starts it."""
        if self._back_since is None:
            self._back_since = now
        self.slow_start_weight = max(SLOW_START_FLOOR, min(1.0, (now - self._back_since) / self.slow_start))

    def look_at_slow_start(self, now: float) -> None:
        """Recompute the slow-start weight for `now`, but begin none: for a look at what a choice would be."""
        if self._back_since is not None and self.slow_start_weight < 1.0:
            self.update_slow_start(now)

    def trouble(self, message: str) -> None:
        """Keep what went wrong there as its last error: one line without secrets."""
        self.last_error = Trouble(message, self._wall_clock())

    def _move(self, url: str | None, key: str | None) -> None:
        self._key = key
        if self.residence is not None:
            self.residence.answers = False
        self._forget_engine()
        self.slots.told, self.quota = None, self.quota and Quota()
        self.upstream = None if url is None else Upstream(url, headers=self._sent_headers())

    def _forget_engine(self) -> None:
        """Believe nothing of what the engine has told, or has in memory."""
        self.load = Load()
        """What its engine reports of its load, as far as it may be believed now."""
        self.generation = next(_generations)
        """Another number after everything by which the engine may have lost what it had in memory."""

    def _sent_headers(self) -> Mapping[str, str]:
        """Return the headers of every request, with the engine's own key if it has one."""
        return {**self._headers, "authorization": f"Bearer {self._key}"} if self._key else self._headers
