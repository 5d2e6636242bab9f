"""How a backend follows its launched engine: where that is now, and whether it is expected back.

Rules:
- Every process that serves does this with what the process that launches tells it.
"""

from __future__ import annotations

import asyncio

from backends.base import Health
from gateway.fleet.backend import Backend
from gateway.fleet.location import Location
from gateway.residency.state import AT_REST, EngineState


def take_over(backend: Backend, location: Location) -> None:
    """Have a backend be where its engine is now, or wait for it.

    An engine that has died and is expected back soon counts as loading from that moment on, so requests wait for it.
    """
    residence = backend.residence
    assert residence is not None
    was_held, residence.held = residence.held, location.held
    residence.become(location.state, asyncio.get_running_loop().time())
    residence.halted = location.halted
    residence.load_seconds = location.load_seconds
    if location.failures != residence.failures:
        residence.failures, residence.why = location.failures, location.reason
    where = None if backend.upstream is None else backend.upstream.url
    if location.url is None or location.url != where:
        backend.locate(location.url, location.key)
    backend.woken.set()
    if residence.on_demand and location.state in AT_REST:
        asleep = location.state is EngineState.SLEEPING
        backend.note(Health.ASLEEP if asleep else Health.STOPPED, location.reason)
        if location.state is EngineState.FAILED:
            backend.trouble(location.reason)
    elif location.url is None:
        if location.state in AT_REST:
            backend.start_slowly()
            backend.trouble(location.reason)
        backend.note(Health.LOADING if location.coming else Health.DOWN, location.reason)
    elif location.url != where or was_held != location.held:
        backend.note(Health.LOADING, location.reason)
