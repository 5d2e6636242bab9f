"""The dashboard of one model: what its clients get, which backends give it, and what holds it up."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard, units

from docker.grafana.page import Row, instance, page, variable
from docker.grafana.panels import OUTCOMES, RED, YELLOW, lines, number
from docker.grafana.queries import FAILED, Scope

ONE: Final = Scope("model")


def model() -> dashboard.Dashboard:
    """Return the dashboard."""
    return page(
        "gateway-model",
        "What the clients of one model get, from which backends, and what holds it up.",
        [
            instance(),
            variable(
                "model",
                "gateway_requests_total",
                "Model",
                several=False,
                of='{instance=~"$instance", model!="-"}',
            ),
        ],
        [_now(), _clients(), _latency(), _backends(), _queue()],
    )


def _now() -> Row:
    return (
        "$model now",
        [
            number(
                "Requests",
                "Requests for the model that ended, each second.",
                units.RequestsPerSecond,
                ONE.rate("gateway_requests_total"),
            ),
            number(
                "Failed",
                "The share of them that failed: upstream_error, timeout, overloaded or internal_error.",
                units.PercentUnit,
                ONE.share("gateway_requests_total", "", FAILED),
                [(0.01, YELLOW), (0.05, RED)],
            ),
            number(
                "Failed, last hour",
                "The same over an hour, by the recording rule that the alerts look at.",
                units.PercentUnit,
                'model:gateway_requests_failed:ratio_rate1h{model=~"$model"}',
                [(0.01, YELLOW), (0.05, RED)],
            ),
            number(
                "First token, p95",
                "One stream of twenty waits longer than this for its first token.",
                units.Seconds,
                ONE.quantile(0.95, "gateway_time_to_first_token_seconds"),
                [(2, YELLOW), (5, RED)],
            ),
            number(
                "Generated",
                "Tokens of its answers, each second.",
                "tok/s",
                ONE.rate("gateway_tokens_total", "", 'direction="out"'),
            ),
            number(
                "Speed of a stream",
                "Tokens that one stream gets each second: one, divided by the mean time between two of them.",
                "tok/s",
                f"1 / ({ONE.mean('gateway_time_between_tokens_seconds')})",
            ),
            number(
                "At engines",
                "Its requests at engines now.",
                units.Short,
                ONE.total("gateway_requests_in_flight"),
            ),
            number(
                "Waiting",
                "Its requests that wait for a slot.",
                units.Short,
                f"{ONE.total('gateway_requests_queued')} or {ONE.total('gateway_requests_in_flight')} * 0",
                [(1, YELLOW), (50, RED)],
            ),
        ],
    )


def _clients() -> Row:
    tokens = "gateway_tokens_total"
    return (
        "What clients get",
        [
            lines(
                "Requests by outcome",
                "What became of requests. ok is well, client_* is the clients' doing; everything else is a failure.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_requests_total", "outcome"), "{{outcome}}"),
                stacked=True,
                colours=OUTCOMES,
                wide=6,
            ),
            lines(
                "Requests by operation",
                "What is asked of the model.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_requests_total", "operation"), "{{operation}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Tokens",
                "Tokens of prompts (in) and of answers (out), and what the engines tell of them: cached, reasoning, "
                "drafted and accepted ones.",
                "tok/s",
                (ONE.rate(tokens, "direction"), "{{direction}}"),
                (ONE.rate("gateway_tokens_detail_total", "detail"), "of them {{detail}}"),
                wide=6,
            ),
            lines(
                "Clients that left",
                "Requests whose client was gone before their end, by the hop they were in.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_client_aborts_total", "phase"), "{{phase}}"),
                stacked=True,
                wide=6,
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
        "How long they wait",
        [
            lines(
                "First token",
                "From a request to the first content of its stream. The dashed line is what 95 % are to stay below.",
                units.Seconds,
                (ONE.quantile(0.5, first), "p50"),
                (ONE.quantile(0.95, first), "p95"),
                (ONE.quantile(0.99, first), "p99"),
                exemplars=True,
                objective="gateway:objective:first_token_seconds",
                wide=6,
            ),
            lines(
                "Between tokens",
                "Between two pieces of a stream. Above 100 ms people read faster than text comes.",
                units.Seconds,
                (ONE.quantile(0.5, gap), "p50"),
                (ONE.quantile(0.95, gap), "p95"),
                (ONE.quantile(0.99, gap), "p99"),
                steps=[(0.1, YELLOW)],
                wide=6,
            ),
            lines(
                "Whole request",
                "From a request's last byte to its answer's last byte.",
                units.Seconds,
                (ONE.quantile(0.5, total), "p50"),
                (ONE.quantile(0.95, total), "p95"),
                (ONE.quantile(0.99, total), "p99"),
                wide=6,
            ),
            lines(
                "Before the first token, by hop",
                "Where a request is, on average, until its answer begins: queue and load are waits at the gateway, "
                "first_byte and first_token are the engine's, auth and route the gateway's own work.",
                units.Seconds,
                (
                    ONE.for_each(
                        "gateway_hop_seconds_sum", "hop", "gateway_requests_total", 'hop!~"stream|finish"'
                    ),
                    "{{hop}}",
                ),
                stacked=True,
                wide=6,
            ),
        ],
    )


def _backends() -> Row:
    first, gap = "gateway_time_to_first_token_seconds", "gateway_time_between_tokens_seconds"
    return (
        "Which backends give it",
        [
            lines(
                "Requests by backend",
                "Requests that ended, by the backend that had them last. `-` are those that got to none.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_requests_total", "backend"), "{{backend}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "At each backend",
                "Requests for this model at each backend now.",
                units.Short,
                (ONE.total("gateway_requests_in_flight", "backend"), "{{backend}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "First token, p95 by backend",
                "One of twenty waits longer than this, at each backend; one that stands out is unwell or too full.",
                units.Seconds,
                (ONE.quantile(0.95, first, "backend"), "{{backend}}"),
                wide=6,
            ),
            lines(
                "Between tokens, p95 by backend",
                "The same between two pieces of a stream: longer as more requests share a backend.",
                units.Seconds,
                (ONE.quantile(0.95, gap, "backend"), "{{backend}}"),
                wide=6,
            ),
        ],
    )


def _queue() -> Row:
    wait = "gateway_queue_wait_seconds"
    return (
        "What holds it up",
        [
            lines(
                "Slots, and who waits",
                "Its slots and how many are taken, if it is limited, and requests that wait, by their class.",
                units.Short,
                (ONE.total("gateway_slots_taken"), "taken"),
                (ONE.total("gateway_slots"), "slots"),
                (ONE.total("gateway_requests_queued", "priority"), "waiting: {{priority}}"),
                wide=6,
            ),
            lines(
                "Wait for a slot",
                "How long requests waited that got no slot at once.",
                units.Seconds,
                (ONE.quantile(0.5, wait), "p50"),
                (ONE.quantile(0.95, wait), "p95"),
                objective="gateway:objective:queue_wait_seconds",
                wide=6,
            ),
            lines(
                "Got no slot",
                "Requests that were refused, by reason.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_queue_refused_total", "reason"), "{{reason}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Affinity and second attempts",
                "Choices by prefix or session, and attempts that began beside a slow first one.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_affinity_total", "outcome"), "affinity: {{outcome}}"),
                (ONE.rate("gateway_hedges_total", "result"), "second attempt: {{result}}"),
                wide=6,
            ),
        ],
    )
