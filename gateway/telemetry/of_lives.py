"""The metrics of launched engines' lives: where each is, how long it takes to start, and why it was stopped.

Rules:
- Only the process that launches tells them.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry.registry import Families

LOAD_BUCKETS: Final = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
"""Seconds that starting an engine takes: a small model in the page cache, to a large one from a network disk."""


class LifeMetrics:
    """What becomes of the engines that the gateway launches."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Launched engines")
        self.state = add.gauge(
            "gateway_engine_state",
            "1 for the state that the launched engine is in, 0 for the others.",
            ("backend", "state"),
            across="master",
        )
        self.waiting = add.gauge(
            "gateway_engine_requests_waiting",
            "Requests that wait until the engine has started.",
            ("backend",),
            across="master",
        )
        self.load = add.histogram(
            "gateway_engine_load_duration_seconds",
            "From the start of an engine's process, or the call that wakes it, until it can take requests. "
            "What was taken over from another gateway is not in it.",
            ("backend",),
            LOAD_BUCKETS,
        )
        self.loads = add.counter(
            "gateway_engine_loads",
            "Starts of the engine that are over, by result: `ready`, `failed`, or `cancelled` before it was ready; "
            "`adopted` where it was taken over from the gateway before and costs no start.",
            ("backend", "result"),
        )
        self.stops = add.counter(
            "gateway_engine_stops",
            "How often the engine was stopped or put to sleep, by reason: `idle`, to make `room` for another, "
            "`unwanted` since nobody waited for its start any more, `unloaded` by a client, or `ordered` by an "
            "operator.",
            ("backend", "reason"),
        )
        self.need = add.gauge(
            "gateway_engine_memory_need_bytes",
            "What the engine is taken to need of each device while it runs: `ram`, or a GPU.",
            ("backend", "device"),
            across="master",
        )
        self.budget = add.gauge(
            "gateway_engine_memory_budget_bytes",
            "What launched engines may take of each device together, as of now.",
            ("device",),
            across="master",
        )

    def over(self, backend: str, result: str, seconds: float) -> None:
        """Count the end of a start that took so many seconds."""
        self.loads.cell(backend, result).value += 1
        if result == "ready":
            self.load.cell(backend).observe(seconds)
