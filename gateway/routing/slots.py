"""`concurrency: auto`: the slots of a model's gate are those of the engines that serve it, and follow them.

Rules:
- Only backends that can be used count. While none can, all do: whoever waits for a model that is being loaded will not
  be let in all at once.
- Where one of them does not tell how many it has, the gate limits nothing.
- Processes that serve side by side share the slots: each has its part, and at least one.
"""

from __future__ import annotations

from collections.abc import Iterable

from gateway.admission.gate import UNLIMITED, Gate
from gateway.config.admission import Admission
from gateway.fleet.backend import Backend


def slots_of(backends: Iterable[Backend], now: float) -> int | None:
    """Return how many requests these engines compute at once; None where one does not tell. `now`: the loop's time."""
    told = [
        (backend.usable, backend.slots.count(backend.load, now) or backend.engine.parallel)
        for backend in backends
    ]
    counts = [count for usable, count in told if usable] or [count for _, count in told]
    known = [count for count in counts if count is not None]
    return sum(known) if counts and len(known) == len(counts) else None


class Following:
    """The gate of one model, and the backends whose slots it has."""

    __slots__ = ("_backends", "_gate", "_processes", "_settings")

    def __init__(
        self, gate: Gate, settings: Admission, backends: tuple[Backend, ...], processes: int
    ) -> None:
        self._gate = gate
        self._settings = settings
        self._backends = backends
        self._processes = processes

    def follow(self, now: float) -> None:
        """Give the gate the slots that its engines have now. `now` is the loop's time."""
        found = slots_of(self._backends, now)
        slots = UNLIMITED if found is None else max(1, -(-found // self._processes))
        self._gate.resize(slots, self._settings.queue, self._settings.ageing)
