"""The dashboard of one backend: whether it is well, what it is sent, and what its engine tells of itself."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import dashboard, units

from docker.grafana.engine import load, work
from docker.grafana.page import Row, instance, page, variable
from docker.grafana.panels import RED, STATES, YELLOW, lines, number, places, states
from docker.grafana.queries import FAULTY, Scope

ONE: Final = Scope("backend")


def backend() -> dashboard.Dashboard:
    """Return the dashboard."""
    return page(
        "gateway-backend",
        "Whether one engine is well, what the gateway sends there, and what the engine tells of itself.",
        [
            instance(),
            variable("backend", "gateway_backend_up", "Backend", several=False, of='{instance=~"$instance"}'),
        ],
        [_now(), _work(), load(), work(), _trouble()],
    )


def _now() -> Row:
    return (
        "$backend now",
        [
            number(
                "State",
                "Its state; of several gateways' views the worst.",
                "none",
                ONE.state("gateway_backend_state", "state", [*STATES], ""),
                words=STATES,
            ),
            number(
                "Requests there",
                "Requests at the engine now.",
                units.Short,
                ONE.total("gateway_requests_in_flight"),
            ),
            number(
                "Attempts",
                "Attempts at the backend that ended, each second.",
                units.RequestsPerSecond,
                ONE.rate("gateway_attempts_total"),
            ),
            number(
                "Failed attempts",
                "The share of them that failed. A request that then succeeds elsewhere is no failure for its client.",
                units.PercentUnit,
                ONE.share("gateway_attempts_total", "", FAULTY),
                [(0.01, YELLOW), (0.1, RED)],
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
                "KV cache",
                "How much of its KV cache is in use, as the engine tells. Near 100 % it has no room for more requests.",
                units.PercentUnit,
                ONE.total("gateway_backend_kv_cache_usage_ratio", of="max"),
                [(0.8, YELLOW), (0.95, RED)],
            ),
            number(
                "Waiting there",
                "Requests in the engine's own queue, as it tells; also those that came past the gateway.",
                units.Short,
                ONE.total("gateway_backend_requests_waiting", of="max"),
                [(1, YELLOW), (50, RED)],
            ),
        ],
    )


def _work() -> Row:
    first, gap = "gateway_time_to_first_token_seconds", "gateway_time_between_tokens_seconds"
    return (
        "What the gateway sends there",
        [
            lines(
                "Requests by model",
                "Requests that ended there, by model.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_requests_total", "model"), "{{model}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Tokens",
                "Tokens of prompts (in) and of answers (out), each second.",
                "tok/s",
                (ONE.rate("gateway_tokens_total", "direction"), "{{direction}}"),
                wide=6,
            ),
            lines(
                "First token",
                "From a request to the first content of its stream. The dashed line is what 95 % are to stay below.",
                units.Seconds,
                (ONE.quantile(0.5, first), "p50"),
                (ONE.quantile(0.95, first), "p95"),
                objective="gateway:objective:first_token_seconds",
                wide=6,
            ),
            lines(
                "Between tokens",
                "Between two pieces of a stream: longer as more requests share the engine.",
                units.Seconds,
                (ONE.quantile(0.5, gap), "p50"),
                (ONE.quantile(0.95, gap), "p95"),
                steps=[(0.1, YELLOW)],
                wide=6,
            ),
            lines(
                "Slots",
                "How many requests it may have at once, and how many of its slots are taken, if the gateway limits it.",
                units.Short,
                (ONE.total("gateway_slots_taken"), "taken"),
                (ONE.total("gateway_slots"), "slots"),
                wide=12,
            ),
            lines(
                "Bytes",
                "Bytes of requests sent there, and of the bodies of answers received.",
                units.BytesPerSecondIEC,
                (ONE.rate("gateway_bytes_total", "direction"), "{{direction}}"),
                wide=12,
            ),
        ],
    )


def _trouble() -> Row:
    return (
        "What goes wrong there",
        [
            states(
                "State",
                "In which state it was, at each gateway. flawed: it is up, but does not tell its models.",
                (
                    ONE.state("gateway_backend_state", "state", [*STATES], "instance"),
                    "{{instance}}",
                ),
                places(STATES),
                wide=12,
            ),
            lines(
                "Attempts by result",
                "How attempts end. docs/metrics.md explains the kinds of failure.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_attempts_total", "result"), "{{result}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Failovers",
                "Requests that another backend took over, by what had happened here.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_failovers_total", "reason"), "{{reason}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Its breaker",
                "How often it has opened, let a trial pass or closed since the gateway began. A flat line is quiet.",
                units.Short,
                (ONE.total("gateway_breaker_transitions_total", "state"), "{{state}}"),
                wide=6,
            ),
            lines(
                "Restarts",
                "How often an engine that the gateway launches has died and was started again since the gateway began.",
                units.Short,
                (ONE.total("gateway_backend_restarts_total"), "restarts"),
                wide=6,
            ),
            lines(
                "Connections",
                "Open connections to it.",
                units.Short,
                (ONE.total("gateway_upstream_connections", "state"), "{{state}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Orders",
                "The factor on its weight that an operator has given it, 1 without one, and whether it is drained.",
                units.Short,
                (ONE.total("gateway_backend_weight", of="max"), "weight"),
                (ONE.total("gateway_backend_drained", of="max"), "drained"),
                wide=6,
            ),
        ],
    )
