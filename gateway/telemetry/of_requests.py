"""The metrics of requests and of their attempts.

Rules:
- A finished request and a finished attempt are counted once, by `gateway.telemetry.accounting`.
"""

from __future__ import annotations

from gateway.telemetry.buckets import DURATION, OVERHEAD, TOKEN_GAP
from gateway.telemetry.registry import Families


class RequestMetrics:
    """What clients asked for, how it went, and how long it took."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Requests")
        where = ("model", "backend")
        self.finished = add.counter(
            "gateway_requests", "Finished requests, by what became of them.", (*where, "operation", "outcome")
        )
        self.refused = add.counter(
            "gateway_refused",
            "Requests refused before they had been read: bad HTTP, too large, too slow.",
            ("reason",),
        )
        self.attempts = add.counter(
            "gateway_attempts",
            "Attempts at a backend: `ok`, `cancelled` or the kind of failure.",
            ("backend", "result"),
        )
        self.failovers = add.counter(
            "gateway_failovers",
            "Requests that went on to another backend after this one failed them; reason is the kind of failure.",
            ("backend", "reason"),
        )
        self.tokens = add.counter(
            "gateway_tokens",
            "Tokens of prompts (in) and of answers (out), as the engines counted them.",
            (*where, "direction"),
        )
        self.in_flight = add.gauge(
            "gateway_requests_in_flight", "Requests at a backend now.", where, sparse=True
        )
        self.duration = add.histogram(
            "gateway_request_duration_seconds",
            "From the request's last byte to the answer's last byte.",
            where,
            DURATION,
        )
        self.first_token = add.histogram(
            "gateway_time_to_first_token_seconds",
            "From the request's last byte to the first content of a stream.",
            where,
            DURATION,
        )
        self.token_gap = add.histogram(
            "gateway_time_between_tokens_seconds", "Between pieces of content of a stream.", where, TOKEN_GAP
        )
        self.overhead = add.histogram(
            "gateway_overhead_seconds",
            "The gateway's own share, without the wait for a slot, a model or a connection.",
            where,
            OVERHEAD,
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
        self.wait = add.histogram(
            "gateway_queue_wait_seconds",
            "How long requests waited that got no slot at once, whether they got one or not.",
            ("model",),
            DURATION,
        )
        self.refused = add.counter(
            "gateway_queue_refused", "Requests that got no slot.", ("model", "priority", "reason")
        )
