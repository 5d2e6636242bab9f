"""The metrics of engines, as these measure themselves: the same names whatever an engine calls them.

Rules:
- What an engine does not tell, or not lately, is not there, and is never 0 instead.
- Counters begin anew when the engine does, and buckets are the engine's own.
- Only the process that asks the engines shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from backends.base import Signal
from backends.metrics import Counted, Measured, Timing
from gateway.telemetry.cells import Histogram
from gateway.telemetry.registry import Families

_OF: Final = ("backend", "engine")

LOAD: Final[Mapping[Signal, tuple[str, str]]] = {
    Signal.RUNNING: ("requests_running", "Requests that the engine computes, whoever sent them."),
    Signal.WAITING: ("requests_waiting", "Requests that the engine has accepted and not yet begun."),
    Signal.SLOTS: ("slots", "The most requests that the engine computes at once."),
    Signal.KV_USE: ("kv_cache_usage_ratio", "How much of the engine's KV cache is in use, from 0 to 1."),
}
"""Signals that are shown under a name of their own, for as long as they are believed."""
COUNTS: Final[Mapping[Counted, str]] = {
    Counted.PROMPT_TOKENS: "Tokens of prompts, those taken from a cache included.",
    Counted.PROMPT_TOKENS_CACHED: "Tokens of prompts that were taken from a cache.",
    Counted.GENERATION_TOKENS: "Tokens of answers.",
    Counted.DRAFTED_TOKENS: "Tokens that the engine guessed ahead (speculative decoding).",
    Counted.ACCEPTED_TOKENS: "Tokens guessed ahead that the model accepted.",
    Counted.PREEMPTIONS: "How often the engine put a running request back for want of memory.",
}
TIMINGS: Final[Mapping[Timing, str]] = {
    Timing.FIRST_TOKEN: "From a request's arrival at the engine to its first token.",
    Timing.BETWEEN_TOKENS: "From one token, or several at once, to the next, within the engine.",
    Timing.PER_TOKEN: "The mean time between the tokens of one request, within the engine.",
    Timing.REQUEST: "From a request's arrival at the engine to its last token.",
    Timing.QUEUE: "How long a request waited within the engine.",
}


class EngineMetrics:
    """What each backend's engine measures, as the gateway was told last."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Engines")
        self._load = {
            signal: add.gauge(f"gateway_backend_{name}", meaning, _OF, across="master")
            for signal, (name, meaning) in LOAD.items()
        }
        self._counts = {
            count: add.counter(f"gateway_backend_{count}", meaning, _OF, sparse=False)
            for count, meaning in COUNTS.items()
        }
        self._finished = add.counter(
            "gateway_backend_requests_finished",
            "Requests that ended at the engine, by how.",
            (*_OF, "reason"),
            sparse=False,
        )
        self._timings = {
            timing: add.histogram_of_others(f"gateway_backend_{timing}", meaning, _OF)
            for timing, meaning in TIMINGS.items()
        }

    def clear(self) -> None:
        """Show nothing."""
        for family in (*self._load.values(), *self._counts.values(), self._finished):
            family.cells.clear()
        for timing in self._timings.values():
            timing.cells.clear()

    def show(
        self, backend: str, engine: str, load: Mapping[Signal, float], measured: Measured | None
    ) -> None:
        """Show what is believed now of a backend's engine; nothing of it may be shown yet."""
        for signal, family in self._load.items():
            if signal in load:
                family.cell(backend, engine).value = load[signal]
        if measured is None:
            return
        for count, value in measured.counts.items():
            self._counts[count].cell(backend, engine).value = value
        for finish, value in measured.finished.items():
            self._finished.cell(backend, engine, finish).value = value
        for timing, buckets in measured.timings.items():
            cell = self._timings[timing].cells[backend, engine] = Histogram(buckets.bounds)
            cell.counts, cell.sum = [round(count) for count in buckets.counts], buckets.sum
