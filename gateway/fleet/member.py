"""One backend of the fleet with everything that works for it: probes, signals, and its engine's process.

Rules:
- Each of these runs in a task of its own. One that fails is a bug: it is logged and started again, and neither another
  task nor another backend notices.
- A change of settings keeps all that it can: only a new URL or new launch options mean a new location.
- A backend that leaves the config takes no new requests at once. Its requests finish, then its engine stops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from random import Random

from backends import registry
from backends.base import Engine, Health, Signal, Status
from backends.facts.residing import Residing, longest_start
from gateway.config.backend import BackendConfig, Consequence, consequence
from gateway.fleet.backend import Backend, BusyPeriods
from gateway.fleet.breaker import Breaker
from gateway.fleet.follow import take_over
from gateway.fleet.health import Watch
from gateway.fleet.location import Location, OnLocation
from gateway.fleet.pool import Pool
from gateway.fleet.residence import Residence, Wishes, rests
from gateway.fleet.signals import Book, OnReport, Poll
from gateway.fleet.supervise import Supervisor
from gateway.fleet.view import BackendView, backend_view
from gateway.telemetry.metrics import Metrics
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds until a task that failed is started again: the first time, and at most."""
LOOK = 0.25
"""Seconds between two looks at a backend that is to be idle. It must be so twice: a request that has waited in a queue
may be on its way."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What the members of one fleet share."""

    pool: Pool
    metrics: Metrics
    rng: Random
    clock: Callable[[], float]
    """Tells the age of signals."""
    on_models: Callable[[], None]
    """Called when a backend has told other models than before."""
    on_location: OnLocation
    """Called when a launched engine has come or gone."""
    on_report: OnReport | None
    """Called with what an engine has told of its load."""
    busy: Callable[[Backend], Awaitable[BusyPeriods]]
    """Tells the busy periods there are now at a backend, in all processes that serve."""
    launches: bool
    """Whether this process launches engines and asks for their signals."""
    wishes: Wishes
    """Is told what requests want of launched engines."""


class Member:
    """One backend of the fleet."""

    def __init__(
        self,
        name: str,
        settings: BackendConfig,
        engine: Engine,
        shared: Shared,
        predecessor: Member | None = None,
    ) -> None:
        """Start nothing yet.

        `engine` is the adapter for `settings`. `predecessor` is the backend that had this name until now: its engine
        must have stopped before another starts.
        """
        self.settings = settings
        self.ended = asyncio.Event()
        """Set when nothing of this member runs any more."""
        self.patience: float | None = None
        """Seconds that requests get to finish where the engine is in somebody's way; None: as long as they take."""
        self._shared, self._predecessor = shared, predecessor
        self._retired = asyncio.Event()
        self.backend = Backend(
            name,
            engine,
            shared.metrics,
            Breaker(shared.rng),
            _models(settings),
            headers_of(settings),
        )
        self.backend.limit(settings.limits)
        self.backend.longest = _longest(settings)
        self.backend.slots.launched = _slots(settings)
        self.watch = Watch(self.backend, shared.pool, shared.on_models, shared.rng)
        self.metrics_at = _metrics_at(settings)
        """Where the engine publishes its metrics, if not where it answers."""
        self.poll: Poll | None = None
        self.supervisor: Supervisor | None = None
        if shared.launches:
            self.poll = Poll(
                self.backend,
                shared.pool,
                self.metrics_at,
                shared.busy,
                shared.rng,
                shared.clock,
                shared.on_report,
            )
        if settings.url is not None:
            self.backend.locate(settings.url)
            return
        self._launch(settings)

    def _launch(self, settings: BackendConfig) -> None:
        """Have an engine that the gateway launches, here or in another process."""
        backend, shared = self.backend, self._shared
        backend.residence = Residence(backend.name, shared.wishes)
        self._reside(settings)
        if backend.residence.on_demand:
            backend.note(Health.STOPPED, "nobody has asked for it yet")
        else:
            backend.note(Health.LOADING, "starting")
        if shared.launches:
            self.supervisor = Supervisor(
                backend,
                settings,
                shared.pool,
                shared.metrics,
                shared.rng,
                shared.on_location,
                self._drained,
            )

    def _reside(self, settings: BackendConfig) -> None:
        """Have requests know when the engine runs, as the config says."""
        residence, launch = self.backend.residence, settings.launch
        if residence is not None and isinstance(launch, Residing):
            residence.on_demand = launch.start == "on_demand"
            residence.max_wait = launch.max_wait
            residence.longest_start = longest_start(launch)
        if self.supervisor is not None:
            self.supervisor.reconsider()

    def fits(self, settings: BackendConfig) -> bool:
        """Tell whether this member can become what `settings` say, or another has to take its place."""
        return consequence(self.settings, settings) is not Consequence.REPLACED

    def change(self, settings: BackendConfig, engine: Engine, patience: float) -> None:
        """Become what `settings` say, which this member must fit.

        `engine` is the adapter for them. `patience` is how many seconds the requests under way get to finish where the
        engine has to be replaced.
        """
        before, self.settings = self.settings, settings
        backend, self.patience = self.backend, patience
        backend.change_engine(engine)
        backend.limit(settings.limits)
        backend.slots.launched = _slots(settings)
        backend.longest = _longest(settings)
        self._reside(settings)
        meaning = consequence(before, settings)
        if meaning is Consequence.MOVED:
            self._leave_location(settings.url)
        elif meaning is Consequence.RELAUNCHED:
            if not rests(backend.residence):
                self._leave_location(None)
                backend.note(Health.LOADING, "its launch options have changed")
            if self.supervisor is not None:
                self.supervisor.relaunch(settings)
        # Only now: requests under way at an old location have the headers they began with.
        backend.change_headers(headers_of(settings))
        models = _models(settings)
        if models != _models(before):
            self.watch.name_models(models)
        if _signals_from(settings) != _signals_from(before):
            self._move_metrics(_metrics_at(settings))
        backend.woken.set()

    def relocate(self, location: Location) -> None:
        """Note that another process has launched the engine, or lost it."""
        if self.settings.launch is None:
            return
        take_over(self.backend, location)

    def retire(self, patience: float | None) -> None:
        """Take no new requests, and end when those that run have finished; after `patience` seconds in any case."""
        self.patience = patience
        self.backend.retire()
        if self.supervisor is not None:
            self.supervisor.retire()
        self._retired.set()

    async def run(self) -> None:
        """Work for the backend until it was retired and its requests have finished, or until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                working = [group.create_task(self._keep("health probes", self._watch))]
                if self.poll is not None:
                    working.append(group.create_task(self._keep("signals", self.poll.run)))
                engine = None
                if self.supervisor is not None:
                    engine = group.create_task(self._keep("process", self._supervise))
                await self._retired.wait()
                for task in working:
                    task.cancel()
                await self._drained()
                if engine is not None:
                    engine.cancel()
        finally:
            self.close()

    def close(self) -> None:
        """Close every connection; nothing works for the backend any more."""
        self.backend.locate(None)
        self._move_metrics(None)
        self.ended.set()

    def view(self, now: float) -> BackendView:
        """Return the backend as an operator sees it at `now`, the event loop's time."""
        process = None if self.supervisor is None else self.supervisor.process
        book = Book() if self.poll is None else self.poll.book
        return backend_view(self.settings, self.backend, process, book, now, self._shared.clock())

    def _move_metrics(self, to: Upstream | None) -> None:
        """Have the engine's metrics be at `to` from now on; None: where it answers."""
        if self.metrics_at is not None:
            self.metrics_at.close()
        self.metrics_at = to
        if self.poll is not None:
            self.poll.move(to)

    def _leave_location(self, url: str | None) -> None:
        """Have the requests under way finish where they are, and all others go to `url`; None: wait for it."""
        self.backend.relocate(url)
        if self.poll is None:
            return
        self.poll.forget()
        for signal in Signal:
            self._shared.metrics.backends.signal.forget(self.backend.name, signal)
            for status in Status:
                self._shared.metrics.backends.signal_status.forget(self.backend.name, signal, status)

    async def _watch(self) -> None:
        try:
            await self.watch.run()
        except Exception:
            self.watch.lost()
            raise

    async def _supervise(self) -> None:
        assert self.supervisor is not None
        if self._predecessor is not None:
            await self._predecessor.ended.wait()
            self._predecessor = None
        await self.supervisor.run()

    async def _keep(self, what: str, run: Callable[[], Awaitable[None]]) -> None:
        """Run until it ends by itself or is cancelled; where it fails, log that and run it again after a while."""
        loop = asyncio.get_running_loop()
        pause = FIRST_PAUSE
        while True:
            began = loop.time()
            try:
                return await run()
            except Exception:
                if loop.time() - began > LONGEST_PAUSE:
                    pause = FIRST_PAUSE
                log.exception(
                    "backend '%s': its %s failed, which is a bug; next start in %g s",
                    self.backend.name,
                    what,
                    pause,
                )
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, 2 * pause)

    async def _drained(self) -> None:
        """Wait until no request runs at the backend, at most as long as `patience` says."""
        was_idle = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self.patience):
                while True:
                    idle = not await self._shared.busy(self.backend)
                    if idle and was_idle:
                        return
                    was_idle = idle
                    await asyncio.sleep(LOOK)


def engine_of(settings: BackendConfig) -> Engine:
    """Return the adapter for a backend.

    Raises:
        OptionsError: It cannot use its options, such as a file that is not there.
    """
    return registry.create(settings.engine, settings.options, settings.launch)


def headers_of(settings: BackendConfig) -> dict[str, str]:
    """Return the headers of every request to a backend."""
    headers = {name.lower(): value.get_secret_value() for name, value in settings.headers.items()}
    if settings.api_key is not None:
        headers["authorization"] = f"Bearer {settings.api_key.get_secret_value()}"
    return headers


def _models(settings: BackendConfig) -> tuple[str, ...] | None:
    """Return the names of the models a backend serves as far as the config knows; None: only the engine does."""
    if settings.models is None and settings.launch is not None:
        return settings.launch.served_names() or None
    return settings.models


def _slots(settings: BackendConfig) -> int | None:
    """Return how many requests a launched engine computes at once, where its options say so."""
    return None if settings.launch is None else settings.launch.slots()


def _longest(settings: BackendConfig) -> int | None:
    """Return how many tokens a request may use, where launch options say so."""
    return None if settings.launch is None else settings.launch.longest()


def _signals_from(settings: BackendConfig) -> tuple[object, ...]:
    """Return what decides where, and with which headers, the engine is asked for its metrics."""
    return settings.metrics_url, headers_of(settings)


def _metrics_at(settings: BackendConfig) -> Upstream | None:
    """Return the connections to where the engine publishes its metrics; None where it answers itself."""
    if settings.metrics_url is None:
        return None
    return Upstream(settings.metrics_url, headers=headers_of(settings))
