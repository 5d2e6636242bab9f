"""Every metric of the gateway, and the only importer of prometheus_client.

Rules:
- A request updates plain numbers in cells that were looked up once: updating one of Prometheus' own objects costs about
  a microsecond, twenty times as much, and a stream makes many updates. Those serve for the process' own numbers only.
- Label values come from the config and from closed sets, never from a client's input.
- A published metric keeps its name. docs/metrics.md lists all of them, and a test compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.telemetry.cells import Histogram, TargetMetrics, Value
from gateway.telemetry.families import AnyFamily, Dump, Family
from gateway.telemetry.page import CELLS, pieces_of

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_DURATION = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_TOKEN_GAP = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_RATIO = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 1.05, 1.1, 1.25, 1.5, 2, 4, 10)
_OVERHEAD = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5)


SIGNAL, SIGNAL_STATUS = "gateway_backend_signal", "gateway_backend_signal_status"
"""Gauges that only one of several worker processes sets."""

CONFIG_SUCCESS = "gateway_config_last_reload_success"
"""A gauge that only the process sets that reads the config."""

_LARGEST = frozenset(
    {
        "gateway_backend_up",
        "gateway_backend_drained",
        "gateway_backend_weight",
        "gateway_build_info",
        "gateway_canary_share",
        "gateway_config_info",
    }
)
"""Gauges that all worker processes set for the same thing. The largest is exported, since a sum would mean nothing."""


class Metrics:
    """All metric families, and the text that exports them."""

    def __init__(self, version: str) -> None:
        where = ("model", "backend")
        self.requests = _counter(
            "gateway_requests", "Requests finished, by what became of them.", (*where, "operation", "outcome")
        )
        self.attempts = _counter(
            "gateway_attempts",
            "Tries at a backend; result is ok, cancelled or the kind of failure.",
            ("backend", "result"),
        )
        self.refused = _counter(
            "gateway_refused",
            "Requests refused before they had been read, and so before any model was known, by reason.",
            ("reason",),
        )
        self.tokens = _counter(
            "gateway_tokens",
            "Tokens as the engines counted them, or one for each piece of a stream that was cut.",
            (*where, "direction"),
        )
        self.in_flight = _gauge(
            "gateway_requests_in_flight", "Requests at a backend now.", where, sparse=True
        )
        self._add_queues()
        self.duration = _histogram(
            "gateway_request_duration_seconds",
            "From the request's last byte to the answer's last byte.",
            where,
            _DURATION,
        )
        self.first_token = _histogram(
            "gateway_time_to_first_token_seconds",
            "From the request's last byte to the first content of a stream.",
            where,
            _DURATION,
        )
        self.token_gap = _histogram(
            "gateway_time_between_tokens_seconds", "Between pieces of content in a stream.", where, _TOKEN_GAP
        )
        self.overhead = _histogram(
            "gateway_overhead_seconds",
            "The gateway's own share: from the request's last byte until it was sent on, without waiting for a slot, "
            "a model or a connection.",
            where,
            _OVERHEAD,
        )
        self._add_backends()
        self._add_routes()
        self._add_config(version)
        self.families: list[AnyFamily] = [value for value in vars(self).values() if isinstance(value, Family)]
        self._targets: dict[tuple[str, str], TargetMetrics] = {}
        self._looks: list[Callable[[], None]] = []
        self._process = CollectorRegistry(auto_describe=False)
        for standard in (ProcessCollector, PlatformCollector, GCCollector):
            standard(registry=self._process)

    def _add_queues(self) -> None:
        """Create the families that describe those who wait for a slot."""
        self.queued = _gauge(
            "gateway_requests_queued",
            "Requests waiting for a slot, by the class of priority that they came with.",
            ("model", "priority"),
            sparse=True,
        )
        self.queue_wait = _histogram(
            "gateway_queue_wait_seconds",
            "How long requests waited that got no slot at once, whether they got one or not.",
            ("model",),
            _DURATION,
        )
        self.queue_refused = _counter(
            "gateway_queue_refused",
            "Requests that got no slot: the queue was full, others displaced them, they would have been too late, or "
            "they waited too long.",
            ("model", "priority", "reason"),
        )

    def _add_config(self, version: str) -> None:
        """Create the families that describe the program, of this version, and its config."""
        self.build = _gauge(
            "gateway_build_info", "Always 1; the label says which version runs.", ("version",)
        )
        self.build.cell(version).value = 1
        self.config_reloads = _counter(
            "gateway_config_reloads", "Attempts to reload the config, by what became of them.", ("result",)
        )
        self.config_success = _gauge(
            CONFIG_SUCCESS, "1 if the last attempt to load the config succeeded.", ()
        )
        self.config_info = _gauge(
            "gateway_config_info",
            "Always 1; the label says which version of the config is in force.",
            ("version",),
        )

    def set_config(self, version: str) -> None:
        """Show which version of the config is in force."""
        self.config_info.cells.clear()
        self.config_info.cell(version).value = 1

    def _add_backends(self) -> None:
        """Create the families that describe backends rather than requests."""
        self.affinity = _counter(
            "gateway_affinity",
            "Choices of a backend by prefix or session: hit (where it was before), miss (it was nowhere before), moved "
            "(where it was before could not be used, or had too much to do).",
            ("model", "outcome"),
        )
        self.failovers = _counter(
            "gateway_failovers",
            "Requests that went on to another backend after a failure at this one, by kind of failure.",
            ("backend", "reason"),
        )
        self.backend_up = _gauge(
            "gateway_backend_up", "1 if the backend can take requests.", ("backend", "engine")
        )
        self.backend_drained = _gauge(
            "gateway_backend_drained", "1 if an operator has drained the backend.", ("backend",)
        )
        self.backend_weight = _gauge(
            "gateway_backend_weight", "An operator's factor on the backend's weight; 1 if none.", ("backend",)
        )
        self.backend_restarts = _counter(
            "gateway_backend_restarts",
            "Times a launched engine died and was started again.",
            ("backend", "engine"),
        )
        self.breaker_changes = _counter(
            "gateway_breaker_transitions",
            "Times a backend's breaker opened, let a trial pass (half_open) or closed.",
            ("backend", "state"),
        )
        self.signal = _gauge(
            SIGNAL, "What an engine told of its load; only while that is believed.", ("backend", "signal")
        )
        self.signal_status = _gauge(
            SIGNAL_STATUS,
            "1 for the status a signal has now: ok, missing, stale or suspect.",
            ("backend", "signal", "status"),
        )
        self.connections = _gauge(
            "gateway_upstream_connections", "Open connections to a backend.", ("backend", "state")
        )

    def _add_routes(self) -> None:
        """Create the families that describe what is made of requests beside their attempts."""
        self.hedges = _counter(
            "gateway_hedges",
            "Second attempts beside a slow first one; result is won, lost, failed or cancelled.",
            ("model", "result"),
        )
        self.shadows = _counter(
            "gateway_shadow",
            "Copies of requests that another model was to answer to nobody; result is ok, failed, busy, skipped or "
            "cancelled.",
            ("route", "result"),
        )
        self.shadow_compared = _counter(
            "gateway_shadow_compared",
            "Answers to copies that are the same as the original in an aspect (outcome, finish, text), or different.",
            ("route", "aspect", "result"),
        )
        self.shadow_tokens = _histogram(
            "gateway_shadow_tokens_ratio",
            "Tokens of the answer to a copy for each token of the original's.",
            ("route",),
            _RATIO,
        )
        self.shadow_first_token = _histogram(
            "gateway_shadow_first_token_ratio",
            "Time to the first token of a copy, as a multiple of the original's.",
            ("route",),
            _RATIO,
        )
        self.canary_share = _gauge(
            "gateway_canary_share", "The share of a route's requests that its canary gets now.", ("route",)
        )
        self.canary_rollbacks = _counter(
            "gateway_canary_rollbacks", "Times a canary was out of bounds and went back to zero.", ("route",)
        )
        self.decisions = _counter(
            "gateway_route_decisions",
            "Requests by the rule that said where they go (`-`: none did), why, and the model they went to.",
            ("rule", "reason", "model"),
        )

    def target(self, model: str, backend: str) -> TargetMetrics:
        """Return the cells of one model at one backend, creating them on the first call."""
        found = self._targets.get((model, backend))
        if found is None:
            found = self._targets[model, backend] = TargetMetrics(
                self.in_flight.cell(model, backend),
                self.duration.cell(model, backend),
                self.first_token.cell(model, backend),
                self.token_gap.cell(model, backend),
                self.overhead.cell(model, backend),
                self.tokens.cell(model, backend, "in"),
                self.tokens.cell(model, backend, "out"),
            )
        return found

    def forget_backend(self, name: str) -> None:
        """Stop exporting everything about a backend that was removed from the config and serves no request any more."""
        for family in self.families:
            family.forget_all("backend", name)
        for key in [key for key in self._targets if key[1] == name]:
            del self._targets[key]

    def before_scrape(self, look: Callable[[], None]) -> None:
        """Call `look` before each scrape, to set gauges that are not updated at every change."""
        self._looks.append(look)

    def dump(self) -> Dump:
        """Return the cells of all families as plain values, for another process."""
        for look in self._looks:
            look()
        return [entry for family in self.families for entry in family.dump()]

    def pieces(self) -> Iterator[str]:
        """Yield the metrics page in Prometheus' text format, in pieces."""
        for look in self._looks:
            look()
        for family in self.families:
            yield from pieces_of(family)
        yield generate_latest(self._process).decode()

    def pieces_of(self, dump: Dump) -> Iterator[str]:
        """Yield the metrics page with the numbers of a dump, and without those of this process, in pieces."""
        others = Metrics("")
        others.build.forget("")
        families = {family.name: family for family in others.families}
        for number, (_, name, labels, value) in enumerate(dump, 1):
            families[name].take(tuple(labels), value)
            if not number % CELLS:
                yield ""
        for family in others.families:
            yield from pieces_of(family)


def _counter(name: str, help: str, labels: tuple[str, ...]) -> Family[Value]:
    return Family("counter", name, help, labels, Value, sparse=True)


def _gauge(name: str, help: str, labels: tuple[str, ...], sparse: bool = False) -> Family[Value]:
    return Family("gauge", name, help, labels, Value, sparse)


def _histogram(name: str, help: str, labels: tuple[str, ...], bounds: tuple[float, ...]) -> Family[Histogram]:
    return Family("histogram", name, help, labels, lambda: Histogram(bounds), sparse=True)


def merge(dumps: Iterable[Dump]) -> Dump:
    """Return the dumps of several processes as one: the sum of each cell, or the largest for gauges in `_LARGEST`."""
    total: dict[tuple[str, str, tuple[str, ...]], float | list[float]] = {}
    for dump in dumps:
        for kind, name, labels, value in dump:
            key = (kind, name, tuple(labels))
            known = total.get(key)
            if known is None:
                total[key] = value
            elif isinstance(known, list) and isinstance(value, list):
                total[key] = [a + b for a, b in zip(known, value, strict=True)]
            elif isinstance(known, float | int) and isinstance(value, float | int):
                total[key] = max(known, value) if name in _LARGEST else known + value
    return [(*key, value) for key, value in total.items()]


def lasting(dump: Dump) -> Dump:
    """Return the part of a dump that stays true when its process has ended: counts, not states."""
    return [entry for entry in dump if entry[0] != "gauge"]
