"""What the metrics show of a backend as it is at a scrape.

Rules:
- Looked at once for each scrape; nothing is kept up to date in between.
"""

from __future__ import annotations

from gateway.admission.gate import UNLIMITED
from gateway.fleet.backend import Backend
from gateway.fleet.view import BackendState, state_of
from gateway.telemetry.cells import NONE
from gateway.telemetry.metrics import Metrics


def show(backend: Backend, metrics: Metrics) -> None:
    """Set the gauges of a backend's state, connections and slots."""
    name, upstream, gate = backend.name, backend.upstream, backend.gate
    now = state_of(backend)
    for state in BackendState:
        metrics.backends.state.cell(name, backend.engine.name, state).value = float(state is now)
    idle, total = (upstream.idle, upstream.open) if upstream is not None else (0, 0)
    metrics.backends.connections.cell(name, "idle").value = idle
    metrics.backends.connections.cell(name, "busy").value = total - idle
    if gate is not None:
        show_slots(metrics, (NONE, name), gate.slots, gate.held)


def show_slots(metrics: Metrics, names: tuple[str, str], slots: int, held: int) -> None:
    """Set the gauges of the slots of a model or a backend, whose names these are; none where they are not limited."""
    if slots == UNLIMITED:
        metrics.queues.slots.forget(*names)
        metrics.queues.slots_taken.forget(*names)
    else:
        metrics.queues.slots.cell(*names).value = slots
        metrics.queues.slots_taken.cell(*names).value = held
