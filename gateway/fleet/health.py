"""Health probes: whether a backend is ready, loading or down, and which models it serves.

Rules:
- One task per backend, for as long as it is in the config. It only notes what it finds; requests never wait for it.
- Probes come quickly while a backend is coming up and seldom once it is ready. A little chance keeps the probes of many
  backends apart.
- A change of state is one log line.
- Whatever an adapter raises, the probes go on. A backend whose probes fail so counts as down, like one that does not
  answer: nobody knows how it is.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from random import Random

from backends.base import Failure, Health, Kind, ModelCard
from backends.facts.units import MODEL_NAME
from gateway.fleet.backend import Backend
from gateway.fleet.pool import Pool
from gateway.wire.ask import ask
from gateway.wire.upstream import Upstream

log = logging.getLogger("gateway.fleet")

TIMEOUT = 2.0
"""Seconds a probe may take."""
QUICK = 0.1
"""Seconds between the first probes of a backend that is coming up."""
SLOW = 2.0
"""Seconds between probes of a backend that is not ready for long: the pause grows up to this."""
STEADY = 10.0
"""Seconds between probes of a backend that is ready."""
NAME = re.compile(MODEL_NAME)
"""What the name of a model an engine lists must look like to be offered, as in the config."""
MOST_MODELS = 1000
"""Models of one backend that are offered at most."""
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
        self._named = backend.models
        """The models the config names; the engine only adds what it knows of them."""

    def name_models(self, names: tuple[str, ...] | None) -> None:
        """Take the backend to serve the models of these names, as the config says; None: ask the engine.

        What the engine said before stays until it is asked again, which is at once.
        """
        self._named = None if names is None else tuple(map(ModelCard, names))
        if self._named is not None:
            known = {card.id: card for card in self._backend.models or ()}
            self._backend.models = tuple(known.get(card.id, card) for card in self._named)
        self._backend.woken.set()

    async def run(self) -> None:
        """Probe until cancelled."""
        woken = self._backend.woken
        pause = QUICK
        while True:
            upstream = self._backend.upstream
            if upstream is not None:
                await self.probe(upstream)
            if self._backend.health is Health.READY:
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
        if upstream is not backend.upstream:
            return
        if isinstance(answer, Failure):
            if answer.kind is Kind.CONNECT:
                backend.refused()
            why = f" ({answer.detail})" if answer.detail else ""
            health, reason = Health.DOWN, f"{answer.message} at {upstream.url}{why}"
            if backend.health is Health.LOADING:
                # A launched engine may not even listen before it has loaded.
                health = Health.LOADING
        else:
            health = Health(backend.engine.health_of(*answer))
            reason = f"its health check answered {answer[0]}"
        if health is Health.READY and not await self._ask_models(upstream):
            return
        self._note(health, reason)

    def _note(self, health: Health, reason: str) -> None:
        """Note the result of a probe."""
        backend = self._backend
        if health is Health.READY:
            self._failed = 0
        elif backend.health is Health.READY:
            self._failed += 1
            if self._failed < DOWN_AFTER:
                return
            self._failed = 0
        if backend.note(health, reason):
            self._tell(health, reason)
            self._pool.announce()

    async def _ask_health(self, upstream: Upstream) -> tuple[int, bytes] | Failure:
        """Return the engine's answer to its probe, or to a second one that says it is well."""
        engine = self._backend.engine
        answer = await ask(upstream, engine.health(), TIMEOUT)
        again = None if isinstance(answer, Failure) else engine.health_again(answer[0])
        if again is not None:
            second = await ask(upstream, again, TIMEOUT)
            if not isinstance(second, Failure) and second[0] == 200:
                return second
        return answer

    async def _ask_models(self, upstream: Upstream) -> bool:
        """Ask the engine for its models and note them. Return False where it cannot be asked any more."""
        backend = self._backend
        answer = await ask(upstream, backend.engine.models(), TIMEOUT)
        if upstream is not backend.upstream or (isinstance(answer, Failure) and self._named is None):
            return False
        told = {card.id: card for card in self._read(answer)}
        models = tuple(told.values())
        if self._named is not None:
            models = tuple(told.get(card.id, card) for card in self._named)
        if models != backend.models:
            backend.models = models
            self._on_models()
        return True

    def _read(self, answer: tuple[int, bytes] | Failure) -> tuple[ModelCard, ...]:
        if isinstance(answer, Failure) or answer[0] != 200:
            return ()
        try:
            cards = self._backend.engine.models_of(answer[1])
            # Names become labels, header values and lines on the terminal: an engine may not make up just any.
            return tuple(card for card in cards[:MOST_MODELS] if NAME.fullmatch(card.id))
        except ValueError as error:
            log.warning("backend '%s': %s", self._backend.name, error)
            return ()
        except Exception as error:  # noqa: BLE001 (as above)
            self._tell_bug("models_of of its adapter", error)
            return ()

    def _tell(self, health: Health, reason: str) -> None:
        if health is Health.READY:
            models = ", ".join(card.id for card in self._backend.models or ()) or "no models told"
            log.info("backend '%s' is ready (%s)", self._backend.name, models)
        elif health is Health.DOWN:
            log.warning("backend '%s' is down: %s", self._backend.name, reason)
