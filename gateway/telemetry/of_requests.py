"""The metrics of requests and of their attempts.

Rules:
- A finished request and a finished attempt are counted once, by `gateway.telemetry.accounting`.
"""

from __future__ import annotations

from gateway.telemetry.buckets import DURATION, HOP, OVERHEAD, TOKEN_GAP
from gateway.telemetry.cells import NONE, EndedMetrics, Histogram, TargetMetrics, Value
from gateway.telemetry.families import Family
from gateway.telemetry.registry import Families, Topic
from gateway.telemetry.timeline import HOPS


class RequestMetrics:
    """What clients asked for, how it went, and how long it took."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Requests")
        where = ("model", "backend", "engine")
        self.finished = add.counter(
            "gateway_requests",
            "Finished requests, by what became of them.",
            (*where, "route", "operation", "outcome"),
        )
        self.duration = add.histogram(
            "gateway_request_duration_seconds",
            "From the request's last byte to the answer's last byte.",
            (*where, "route", "outcome"),
            DURATION,
        )
        self.hop = add.histogram(
            "gateway_hop_seconds",
            "How long requests were in each hop. The hops of a request sum to its duration and its hop `receive`.",
            ("hop", *where, "route", "outcome"),
            HOP,
        )
        self.overhead = add.histogram(
            "gateway_overhead_seconds",
            "The gateway's own share, without the wait for a slot, a model or a connection.",
            (*where, "route"),
            OVERHEAD,
        )
        self.first_token = add.histogram(
            "gateway_time_to_first_token_seconds",
            "From the request's last byte to the first content of a stream.",
            (*where, "route"),
            DURATION,
        )
        self.token_gap = add.histogram(
            "gateway_time_between_tokens_seconds", "Between pieces of content of a stream.", where, TOKEN_GAP
        )
        self.in_flight = add.gauge(
            "gateway_requests_in_flight", "Requests at a backend now.", ("model", "backend"), sparse=True
        )
        self._add_volumes(add, where)
        self._add_troubles(add)
        self._targets: dict[tuple[str, str, str], TargetMetrics] = {}
        self._ended: dict[tuple[str, ...], EndedMetrics] = {}

    def _add_volumes(self, add: Topic, where: tuple[str, ...]) -> None:
        """Create the families of tokens and bytes, and of what was done to them."""
        self.tokens = add.counter(
            "gateway_tokens",
            "Tokens of prompts (in) and of answers (out), as the engines counted them.",
            (*where, "direction"),
        )
        self.tokens_detail = add.counter(
            "gateway_tokens_detail",
            "Of those tokens: `cached` and `cache_write` of prompts, `reasoning` of answers; and tokens that were "
            "`drafted` by speculation and `accepted`. Absent where the engine does not tell.",
            (*where, "detail"),
            sparse=False,
        )
        self.bytes = add.counter(
            "gateway_bytes",
            "Bytes of requests sent to backends, with their heads, and of the bodies of answers received.",
            ("model", "backend", "direction"),
        )
        self.translations = add.counter(
            "gateway_translations",
            "Attempts by whether the client's request and the answer were `passed` on in the client's dialect, or "
            "`translated`, and why.",
            ("dialect", "operation", "engine", "way", "reason"),
        )

    def _add_troubles(self, add: Topic) -> None:
        """Create the families of attempts and of what goes wrong."""
        self.attempts = add.counter(
            "gateway_attempts",
            "Attempts at a backend: `ok`, `cancelled` or the kind of failure.",
            ("backend", "engine", "result"),
        )
        self.retries = add.counter(
            "gateway_retries",
            "Further attempts of requests, by the kind of failure before; `stale`: an idle connection was closed just "
            "then, and the engine has not seen the request.",
            ("model", "reason"),
        )
        self.failovers = add.counter(
            "gateway_failovers",
            "Requests that went on to another backend after this one failed them; reason is the kind of failure.",
            ("backend", "reason"),
        )
        self.client_aborts = add.counter(
            "gateway_client_aborts",
            "Requests whose client left or took nothing any more, by the hop that the request was in.",
            ("model", "backend", "phase"),
        )
        self.refused = add.counter(
            "gateway_refused",
            "Requests and connections refused before a request had been read: bad HTTP, too large, too slow, too many.",
            ("reason",),
        )
        self.refusals = add.counter(
            "gateway_refusals",
            "Requests that the gateway itself refused, without an engine's doing, by the code in the client's error.",
            ("reason",),
        )

    def target(self, model: str, backend: str, engine: str = NONE) -> TargetMetrics:
        """Return the cells of one model at one backend, creating them on the first call."""
        names = model, backend, engine
        found = self._targets.get(names)
        if found is None:
            found = self._targets[names] = TargetMetrics(
                names,
                self.in_flight.cell(model, backend),
                self.token_gap.cell(*names),
                (self.tokens.cell(*names, "in"), self.tokens.cell(*names, "out")),
                (self.bytes.cell(model, backend, "sent"), self.bytes.cell(model, backend, "received")),
            )
        return found

    def ended(self, names: tuple[str, ...], of_key: Family[Value]) -> EndedMetrics:
        """Return the cells of requests that are alike in all of these names, creating them on the first call.

        The names are those of the model, the backend, the engine, the rule, the operation, the outcome and the key;
        `of_key` counts requests by the last two.
        """
        found = self._ended.get(names)
        if found is None:
            model, backend, engine, route, operation, outcome, key = names
            found = self._ended[names] = EndedMetrics(
                self.finished.cell(model, backend, engine, route, operation, outcome),
                self.duration.cell(model, backend, engine, route, outcome),
                of_key.cell(key, outcome),
                len(HOPS),
            )
        return found

    def hop_of(self, hop: int, names: tuple[str, ...]) -> Histogram:
        """Return the histogram of one hop of requests that are alike in all of these names."""
        model, backend, engine, route, _, outcome, _ = names
        return self.hop.cell(HOPS[hop], model, backend, engine, route, outcome)

    def forget_backend(self, name: str) -> None:
        """Look up anew what requests update; the families have forgotten this backend."""
        self._ended.clear()
        for names in [names for names in self._targets if names[1] == name]:
            del self._targets[names]


class KeyMetrics:
    """Requests by the names of the config's keys, which are as many as the config says."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Keys")
        self.requests = add.counter(
            "gateway_key_requests",
            "Finished requests by the name of their key; `-`: none was known.",
            ("key", "outcome"),
        )
        self.tokens = add.counter(
            "gateway_key_tokens",
            "Tokens of prompts (in) and of answers (out) by the name of the key.",
            ("key", "direction"),
        )
        self.refusals = add.counter(
            "gateway_key_refusals",
            "Requests that the gateway itself refused, by the name of the key and the code in the client's error.",
            ("key", "reason"),
        )


class QueueMetrics:
    """Those who wait for a slot."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Queues")
        self.waiting = add.gauge(
            "gateway_requests_queued",
            "Requests that wait for a slot, by the class of priority that they came with.",
            ("model", "priority"),
            sparse=True,
        )
        self.slots = add.gauge(
            "gateway_slots",
            "Slots of a model that limits its requests, or of a backend whose engine runs so many at once; the other "
            "label is `-`.",
            ("model", "backend"),
        )
        self.slots_taken = add.gauge(
            "gateway_slots_taken", "How many of `gateway_slots` are taken now.", ("model", "backend")
        )
        self.wait = add.histogram(
            "gateway_queue_wait_seconds",
            "How long requests waited that got no slot at once, whether they got one or not.",
            ("model",),
            DURATION,
        )
        self.refused = add.counter(
            "gateway_queue_refused", "Requests that got no slot.", ("model", "priority", "reason")
        )
