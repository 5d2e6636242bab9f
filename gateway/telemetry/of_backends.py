"""The metrics of backends: whether they can be used, and what their engines tell of themselves.

Rules:
- What all workers see of a backend is the same thing seen several times; it is never summed.
"""

from __future__ import annotations

from gateway.telemetry.registry import Families


class BackendMetrics:
    """What is known of each backend, whoever asks it for something."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Backends")
        self.up = add.gauge(
            "gateway_backend_up",
            "1 if the backend can take requests.",
            ("backend", "engine"),
            across="largest",
        )
        self.state = add.gauge(
            "gateway_backend_state",
            "1 for the state that the backend is in, 0 for the others. `flawed`: it is up and does not tell its "
            "models.",
            ("backend", "engine", "state"),
            across="largest",
        )
        self.drained = add.gauge(
            "gateway_backend_drained",
            "1 if an operator has drained the backend; `gateway_backend_up` is 0 then.",
            ("backend",),
            across="largest",
        )
        self.weight = add.gauge(
            "gateway_backend_weight",
            "An operator's factor on the backend's weight; 1 if there is none.",
            ("backend",),
            across="largest",
        )
        self.restarts = add.counter(
            "gateway_backend_restarts",
            "How often a launched engine died and was started again.",
            ("backend", "engine"),
        )
        self.breaker = add.counter(
            "gateway_breaker_transitions",
            "How often a backend's breaker became `open`, let a trial pass (`half_open`) or `closed`.",
            ("backend", "state"),
        )
        self.signal = add.gauge(
            "gateway_backend_signal",
            "What the engine reports of its load; absent while the report cannot be trusted.",
            ("backend", "signal"),
            across="master",
        )
        self.signal_status = add.gauge(
            "gateway_backend_signal_status",
            "1 for the status a signal has now, 0 for the others.",
            ("backend", "signal", "status"),
            across="master",
        )
        self.connections = add.gauge(
            "gateway_upstream_connections",
            "Open connections to a backend, `busy` or `idle`.",
            ("backend", "state"),
        )
