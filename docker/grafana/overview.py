"""The dashboard of the whole gateway: is it well, what does it do, and if it is not well, where.

Rules:
- The first row answers "is it well" in eight numbers; each further row answers one question, from left to right.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard, units

from docker.grafana.load import backends, queues, routes, tokens
from docker.grafana.page import Row, instance, page, variable
from docker.grafana.panels import OUTCOMES, RED, YELLOW, lines, number
from docker.grafana.queries import FAILED, Scope

ALL: Final = Scope("model")


def overview() -> dashboard.Dashboard:
    """Return the dashboard."""
    return page(
        "gateway-overview",
        "Requests, failures, latencies and engines of the gateway, for all models or some of them.",
        [instance(), variable("model", "gateway_requests_total", "Model", of='{instance=~"$instance"}')],
        [_now(), _traffic(), _latency(), backends(), queues(), tokens(), routes()],
    )


def _now() -> Row:
    first = ALL.quantile(0.95, "gateway_time_to_first_token_seconds")
    return (
        "Now",
        [
            number(
                "Requests",
                "Requests that ended, each second.",
                units.RequestsPerSecond,
                ALL.rate("gateway_requests_total"),
            ),
            number(
                "Failed",
                "The share of requests that failed: upstream_error, timeout, overloaded or internal_error. The "
                "objective of the rules is 1 %.",
                units.PercentUnit,
                ALL.share("gateway_requests_total", "", FAILED),
                [(0.01, YELLOW), (0.05, RED)],
            ),
            number(
                "First token, p95",
                "One stream of twenty waits longer than this for its first token. The objective of the rules is 5 s.",
                units.Seconds,
                first,
                [(2, YELLOW), (5, RED)],
            ),
            number(
                "Tokens",
                "Tokens that the engines generated, each second.",
                "tok/s",
                ALL.rate("gateway_tokens_total", "", 'direction="out"'),
            ),
            number(
                "At engines", "Requests at engines now.", units.Short, ALL.total("gateway_requests_in_flight")
            ),
            number(
                "Waiting",
                "Requests that wait for a slot in the gateway's own queue. A few for a moment are well; a number that "
                "stays or grows means too little room.",
                units.Short,
                f"{ALL.total('gateway_requests_queued')} or {ALL.total('gateway_requests_in_flight')} * 0",
                [(1, YELLOW), (50, RED)],
            ),
            number(
                "Backends down",
                "Backends that take no requests, whatever the reason: also those that load, sleep or were drained.",
                units.Short,
                'sum(1 - max by (backend) (gateway_backend_up{instance=~"$instance"}))',
                [(1, RED)],
            ),
            number(
                "Alerts",
                "Alerts that fire now, by Prometheus' rules. docs/operations.md says what to do at each.",
                units.Short,
                'count(ALERTS{alertname=~"Gateway.*", alertstate="firing"}) or count(up{job="gateway"}) * 0',
                [(1, RED)],
            ),
        ],
    )


def _traffic() -> Row:
    return (
        "Traffic: what comes, and what becomes of it",
        [
            lines(
                "Requests by outcome",
                "What became of requests. ok is well, client_* is the clients' doing; everything else is a failure.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_requests_total", "outcome"), "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
            ),
            lines(
                "Requests by model",
                "Which models are asked for. `-` are requests that got as far as no model.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_requests_total", "model"), "{{model}}"),
                stacked=True,
            ),
            lines(
                "Failed, by model",
                "The share of each model's requests that failed; the dashed line is what may fail.",
                units.PercentUnit,
                (ALL.share("gateway_requests_total", "model", FAILED), "{{model}}"),
                objective="gateway:objective:failed_ratio",
                top=1,
            ),
            lines(
                "Refused by the gateway",
                "Requests that the gateway itself refused, by the code that the client got: wrong keys and names, full "
                "queues, broken bodies.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_refusals_total", "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Refused unread",
                "Requests that were refused before they had been read, so that no model was known: bad HTTP, too "
                "large, too slow, or too many connections.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_refused_total", "reason"), "{{reason}}"),
                stacked=True,
            ),
            lines(
                "Clients that left",
                "Requests whose client was gone before their end, by the hop they were in. Many in queue or first_byte "
                "say that people do not wait that long.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_client_aborts_total", "phase"), "{{phase}}"),
                stacked=True,
            ),
        ],
    )


def _latency() -> Row:
    first, gap, total = (
        "gateway_time_to_first_token_seconds",
        "gateway_time_between_tokens_seconds",
        "gateway_request_duration_seconds",
    )
    return (
        "Latency: how long clients wait",
        [
            lines(
                "First token",
                "From a request to the first content of its stream: the middle, one of twenty, one of a hundred. The "
                "dashed line is what 95 % are to stay below.",
                units.Seconds,
                (ALL.quantile(0.5, first), "p50"),
                (ALL.quantile(0.95, first), "p95"),
                (ALL.quantile(0.99, first), "p99"),
                exemplars=True,
                objective="gateway:objective:first_token_seconds",
            ),
            lines(
                "First token, p95 by model",
                "The same for each model, to see which of them is slow.",
                units.Seconds,
                (ALL.quantile(0.95, first, "model"), "{{model}}"),
            ),
            lines(
                "Between tokens",
                "Between two pieces of a stream. Above 100 ms people read faster than text comes.",
                units.Seconds,
                (ALL.quantile(0.5, gap), "p50"),
                (ALL.quantile(0.95, gap), "p95"),
                steps=[(0.1, YELLOW)],
            ),
            lines(
                "Before the first token, by hop",
                "Where a request is, on average, until its answer begins: queue and load are waits at the gateway, "
                "first_byte and first_token are the engine's, auth and route the gateway's own work.",
                units.Seconds,
                (
                    ALL.for_each(
                        "gateway_hop_seconds_sum", "hop", "gateway_requests_total", 'hop!~"stream|finish"'
                    ),
                    "{{hop}}",
                ),
                stacked=True,
            ),
            lines(
                "Whole request",
                "From a request's last byte to its answer's last byte; long answers take long.",
                units.Seconds,
                (ALL.quantile(0.5, total), "p50"),
                (ALL.quantile(0.95, total), "p95"),
            ),
            lines(
                "The gateway's own share",
                "What the gateway itself adds, without waits for slots, models or connections. It should stay below a "
                "few milliseconds; more means that its processor is busy.",
                units.Seconds,
                (ALL.quantile(0.5, "gateway_overhead_seconds"), "p50"),
                (ALL.quantile(0.99, "gateway_overhead_seconds"), "p99"),
                steps=[(0.01, YELLOW)],
            ),
        ],
    )
