"""Health probes: whether a backend is ready, loading or down, and which models it serves.

Rules:
- One task per backend, for as long as it is in the config. It only notes what it finds; requests never wait for it.
- Probes come quickly while a backend is coming up and seldom once it is ready. A little chance keeps the probes of many
  backends apart.
- A change of state is one log line.
- A probe that is answered too late is no sign of an outage while content of answers comes.
- An engine that sleeps has not failed: it says so itself, and is believed at once.
- Whatever an adapter raises, the probes go on. A backend whose probes fail so counts as down, like one that does not
  answer: nobody knows how it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from random import Random

from backends.base import Call, Failure, Health, Kind
from backends.facts.versions import parsed, told
from gateway.fleet.backend import Backend
from gateway.fleet.listing import Listing
from gateway.fleet.pool import Pool
from gateway.fleet.residence import stops
from gateway.wire.ask import ask
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

TIMEOUT = 2.0
"""Seconds a probe may take."""
LONG_TIMEOUT = 10.0
"""The same for an engine that computes on the CPUs which its answer needs too."""
LATELY = 30.0
"""Seconds for which content of an answer proves that the engine lives, though it does not answer its probe in time."""
QUICK = 0.1
"""Seconds between the first probes of a backend that is coming up."""
SLOW = 2.0
"""Seconds between probes of a backend that is not ready for long: the pause grows up to this."""
STEADY = 10.0
"""Seconds between probes of a backend that is ready."""
AGAIN = 1.0
"""Seconds between probes of a ready backend whose last probe failed."""
DOWN_AFTER = 3
"""Failed probes in a row until a ready backend counts as down: one lost probe is no outage."""


class Watch:
    """The probes of one backend."""

    def __init__(self, backend: Backend, pool: Pool, on_models: Callable[[], None], rng: Random) -> None:
        """Watch nothing yet. `on_models` is called when the backend has told other models than before."""
        self._backend = backend
        self._pool = pool
        self._on_models = on_models
        self._rng = rng
        self._failed = 0
        self._bugs: set[type[Exception]] = set()
        """The kinds of exceptions that an adapter has raised; the first of each kind is logged."""
        self._listing = Listing(backend)
        self._told_ready = False
        self._sleepless = False
        """Whether the engine has no probe for its sleep, as it stands."""

    def name_models(self, names: tuple[str, ...] | None) -> None:
        """Take the backend to serve the models of these names, as the config says; None: ask the engine, at once."""
        self._listing.name(names)
        self._backend.woken.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        woken = self._backend.woken
        pause = QUICK
        while True:
            upstream = self._backend.upstream
            if upstream is not None:
                await self.probe(upstream)
            if self._backend.health is Health.READY and not self._backend.flawed:
                wait = AGAIN if self._failed else STEADY * self._rng.uniform(0.8, 1.2)
                pause = QUICK
            else:
                wait = pause
                pause = min(SLOW, pause * 1.5)
            try:
                async with asyncio.timeout(wait):
                    await woken.wait()
                woken.clear()
                pause = QUICK
            except TimeoutError:
                pass

    async def probe(self, upstream: Upstream) -> None:
        """Ask the engine once for its health, and for its models if it is ready, and note what it says."""
        try:
            await self._probe(upstream)
        except Exception as error:  # noqa: BLE001 (an adapter may come from elsewhere)
            self._tell_bug("its health probe", error)
            if upstream is self._backend.upstream:
                self._note(Health.DOWN, f"its health probe failed, which is a bug ({type(error).__name__})")

    def _tell_bug(self, what: str, error: Exception) -> None:
        if type(error) not in self._bugs:
            self._bugs.add(type(error))
            log.error("backend '%s': %s failed, which is a bug", self._backend.name, what, exc_info=error)

    def lost(self) -> None:
        """Take the backend to be down, because nobody watches it for a while."""
        if self._backend.note(Health.DOWN, "its health probes failed, which is a bug"):
            self._pool.announce()

    async def _probe(self, upstream: Upstream) -> None:
        backend = self._backend
        answer = await self._ask_health(upstream)
        if upstream is not backend.upstream or stops(backend.residence):
            return
        if isinstance(answer, Failure):
            if answer.kind is Kind.TIMEOUT and backend.health is Health.READY and self._has_spoken():
                return
            if answer.kind is Kind.CONNECT:
                backend.refused()
            why = f" ({answer.facts})" if answer.facts else ""
            health, reason = Health.DOWN, f"{answer.message} at {upstream.url}{why}"
            if backend.health is Health.LOADING and self._may_load_still(answer):
                health = Health.LOADING
        else:
            health = Health(backend.engine.health_of(*answer))
            reason = f"its health check answered {answer[0]}"
            if health is Health.LOADING and backend.health is Health.LOADING:
                self._failed = 0
        if health is Health.READY and not self._sleepless and await self._sleeps(upstream):
            health, reason = Health.ASLEEP, "it sleeps until it is woken"
        if upstream is not backend.upstream:
            return
        if health is Health.READY and not await self._ask_models(upstream):
            return
        await self._ask_version(upstream, health)
        self._note(health, reason)

    async def _ask_version(self, upstream: Upstream, health: Health) -> None:
        """Learn the version of an engine that is ready, where the config has something depend on it."""
        backend = self._backend
        if health is not Health.READY or not backend.native.wants_version:
            backend.know_version(None)
        elif backend.version is None:
            answer = await ask(upstream, Call(backend.engine.version_path, method="GET"), TIMEOUT)
            if upstream is backend.upstream and not isinstance(answer, Failure) and answer[0] == 200:
                backend.know_version(parsed(told(answer[1])))

    def _has_spoken(self) -> bool:
        """Tell whether content has come from the backend lately, which a busy engine still sends."""
        backend = self._backend
        return backend.answering > 0 or backend.heard_at > asyncio.get_running_loop().time() - LATELY

    def _may_load_still(self, failure: Failure) -> bool:
        """Tell whether a backend that does not answer while it is loading may still be so."""
        if self._backend.launched or failure.kind is Kind.TIMEOUT:
            # An engine may not even listen before it has loaded; the launcher knows whether its process lives.
            return True
        self._failed += 1
        return self._failed < DOWN_AFTER

    async def _sleeps(self, upstream: Upstream) -> bool:
        """Return whether an engine that is ready says that it sleeps."""
        engine = self._backend.engine
        call = engine.sleeping()
        if call is None:
            return False
        answer = await ask(upstream, call, TIMEOUT)
        if isinstance(answer, Failure):
            return False
        self._sleepless = answer[0] == 404
        return answer[0] == 200 and engine.sleeps(answer[1])

    def _note(self, health: Health, reason: str) -> None:
        """Note the result of a probe."""
        backend = self._backend
        residence = backend.residence
        if health is Health.READY and residence is not None and residence.held:
            health, reason = Health.LOADING, residence.held
            if not residence.answers:
                residence.answers = True
                self._pool.announce()
        if health is not Health.READY:
            self._sleepless = False
        if health in (Health.READY, Health.ASLEEP):
            self._failed = 0
        elif backend.health is Health.READY:
            self._failed += 1
            if self._failed < DOWN_AFTER:
                return
        news = backend.note(health, reason)
        if health is Health.DOWN:
            self._failed = 0
            self._listing.distrust()
        if news and health is Health.DOWN:
            log.warning("backend '%s' is down: %s", backend.name, reason)
        elif news and health is Health.ASLEEP:
            log.info("backend '%s' is asleep", backend.name)
        elif backend.ready and (news or not self._told_ready):
            models = ", ".join(card.id for card in backend.models or ()) or "no models told"
            log.info("backend '%s' is ready (%s)", backend.name, models)
            news = True
        self._told_ready = backend.ready
        if news:
            self._pool.announce()

    async def _ask_health(self, upstream: Upstream) -> tuple[int, bytes] | Failure:
        """Return the engine's answer to its probe, or to a second one that says it is well."""
        engine = self._backend.engine
        timeout = TIMEOUT if engine.first_token is None else LONG_TIMEOUT
        answer = await ask(upstream, engine.health(), timeout)
        again = None if isinstance(answer, Failure) else engine.health_again(answer[0])
        if again is not None:
            second = await ask(upstream, again, timeout)
            if not isinstance(second, Failure) and second[0] == 200:
                return second
        return answer

    async def ask_models(self) -> None:
        """Ask an engine that is ready for its models, between two probes; not one whose models the config names."""
        backend = self._backend
        upstream = backend.upstream
        if upstream is None or backend.health is not Health.READY or self._listing.is_named:
            return
        try:
            if await self._ask_models(upstream):
                self._pool.announce()
        except Exception as error:  # noqa: BLE001 (an adapter may come from elsewhere)
            self._tell_bug("reading its models", error)

    async def _ask_models(self, upstream: Upstream) -> bool:
        """Ask the engine for its models and note them. Return False where it has gone meanwhile."""
        backend = self._backend
        answer = await ask(upstream, backend.engine.models(), TIMEOUT)
        if upstream is not backend.upstream or stops(backend.residence):
            return False
        if self._listing.take(answer, upstream, asyncio.get_running_loop().time()):
            self._on_models()
        return True
