"""The metrics of LoRA adapters: which engines have which, and what loading and unloading them comes to.

Rules:
- `model` is the adapter's name, which the config declares.
- Each worker process tells what it has done and knows itself; what one knows to be loaded is loaded.
"""

from __future__ import annotations

from typing import Final

from gateway.telemetry.registry import Families

LOAD_BUCKETS: Final = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0, 300.0)
"""Seconds that loading an adapter takes: a small one from the page cache, to one that waits for requests to end."""


class AdapterMetrics:
    """What becomes of the adapters that the config declares."""

    def __init__(self, families: Families) -> None:
        add = families.topic("LoRA adapters")
        self.loaded = add.gauge(
            "gateway_adapter_loaded",
            "1 while the engine has the adapter, as far as is known.",
            ("model", "backend"),
            across="largest",
        )
        self.loads = add.counter(
            "gateway_adapter_loads",
            "How often an adapter was to be loaded, by result: `loaded`, `there` (the engine had it already, or has it "
            "from its start on) or `failed`.",
            ("model", "backend", "result"),
        )
        self.load = add.histogram(
            "gateway_adapter_load_duration_seconds",
            "How long the engine took to load an adapter, where it did.",
            ("backend",),
            LOAD_BUCKETS,
        )
        self.unloads = add.counter(
            "gateway_adapter_unloads",
            "How often an adapter was unloaded, by reason: to make `room` for another, or `replaced`, since the config "
            "has another path under its name.",
            ("model", "backend", "reason"),
        )
