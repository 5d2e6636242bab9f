"""The dispatcher: starts the journey of each request.

Rules:
- `run` returns at once. If a backend is ready and has an idle connection, the request has been sent by then; otherwise
  it continues in a task of its own.
"""

from __future__ import annotations

from gateway.dispatch.journey import Journey
from gateway.dispatch.shared import Shared
from gateway.request import Exchange


class Dispatcher(Shared):
    """Serves requests with the backends of a pool."""

    def run(self, exchange: Exchange) -> None:
        """Start to serve a request whose plan is known. Raises nothing: an error ends the request."""
        journey = Journey(self, exchange)
        journey.begin()

    def ready(self) -> bool:
        """Tell whether some backend can take requests, as far as is known."""
        return any(backend.ready or backend.startable for backend in self.pool.backends.values())

    def flaws(self) -> str:
        """Return what is wrong with the backends that are up and not ready, in one line; empty if nothing is."""
        flawed = [backend for backend in self.pool.backends.values() if backend.flawed]
        return "; ".join(f"backend '{backend.name}': {backend.listed.flaw}" for backend in flawed)
