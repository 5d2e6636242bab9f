"""The rows of a backend's dashboard that say what its engine tells of itself, under the same names for all engines.

Rules:
- The engine measures from when a request has reached it; the difference to the gateway's own numbers is the way there,
  and waits at the gateway.
"""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units

from docker.grafana.page import Row
from docker.grafana.panels import GREEN, GREY, RED, YELLOW, lines, states
from docker.grafana.queries import Scope

ONE: Final = Scope("backend")


def load() -> Row:
    """Return the row of what the engine is busy with."""
    return (
        "What the engine tells of its load",
        [
            lines(
                "Its requests",
                "Requests that it computes and that wait in its own queue, beside those that the gateway has there. "
                "What it has more than the gateway came another way.",
                units.Short,
                (ONE.total("gateway_backend_requests_running"), "running"),
                (ONE.total("gateway_backend_requests_waiting"), "waiting"),
                (ONE.total("gateway_backend_slots"), "slots"),
                (ONE.total("gateway_requests_in_flight"), "from the gateway"),
            ),
            lines(
                "Its caches",
                "The share of its KV cache in use, and the share of prompts' tokens that it found in its prefix cache "
                "since it began. The dashed line is where the alert begins.",
                units.PercentUnit,
                (ONE.total("gateway_backend_kv_cache_usage_ratio", of="max"), "KV cache in use"),
                (
                    ONE.total("gateway_backend_signal", "", 'signal="prefix_hits"', of="max"),
                    "found in the prefix cache",
                ),
                objective="gateway:objective:kv_use_ratio",
                top=1,
            ),
            states(
                "Signals",
                "How far each of its reports can be trusted, over time.",
                (
                    ONE.state(
                        "gateway_backend_signal_status",
                        "status",
                        ("ok", "missing", "stale", "suspect"),
                        "signal",
                    ),
                    "{{signal}}",
                ),
                {"1": ("ok", GREEN), "2": ("missing", GREY), "3": ("stale", YELLOW), "4": ("suspect", RED)},
            ),
        ],
    )


def work() -> Row:
    """Return the row of what the engine has done, and how fast."""
    first, gap = "gateway_backend_time_to_first_token_seconds", "gateway_backend_time_between_tokens_seconds"
    return (
        "What the engine measures of its work",
        [
            lines(
                "First token, within the engine",
                "From a request's arrival there to its first token, beside what clients of the gateway waited.",
                units.Seconds,
                (ONE.quantile(0.5, first), "p50"),
                (ONE.quantile(0.95, first), "p95"),
                (ONE.quantile(0.95, "gateway_time_to_first_token_seconds"), "p95 at the gateway"),
                wide=6,
            ),
            lines(
                "Between tokens, within the engine",
                "From one token to the next, and the mean of it for each request.",
                units.Seconds,
                (ONE.quantile(0.5, gap), "p50"),
                (ONE.quantile(0.95, gap), "p95"),
                (
                    ONE.quantile(0.95, "gateway_backend_time_per_output_token_seconds"),
                    "p95 of requests' means",
                ),
                wide=6,
            ),
            lines(
                "Queue and whole requests, within the engine",
                "How long requests wait there before they are computed, and how long they take in all.",
                units.Seconds,
                (ONE.quantile(0.95, "gateway_backend_queue_time_seconds"), "queue, p95"),
                (ONE.quantile(0.95, "gateway_backend_request_duration_seconds"), "whole, p95"),
                wide=6,
            ),
            lines(
                "Ends",
                "How requests end there: by themselves, at their limit, because the client left, or in an error.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_backend_requests_finished_total", "reason"), "{{reason}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Its tokens",
                "Tokens of prompts, those of them that came from a cache, and tokens of answers; also of requests "
                "that came past the gateway.",
                "tok/s",
                (ONE.rate("gateway_backend_prompt_tokens_total"), "prompts"),
                (ONE.rate("gateway_backend_prompt_tokens_cached_total"), "of them cached"),
                (ONE.rate("gateway_backend_generation_tokens_total"), "answers"),
            ),
            lines(
                "Speculation",
                "Tokens that it guessed ahead, and those of them that the model accepted. Few accepted ones cost more "
                "than they bring.",
                "tok/s",
                (ONE.rate("gateway_backend_drafted_tokens_total"), "guessed"),
                (ONE.rate("gateway_backend_accepted_tokens_total"), "accepted"),
            ),
            lines(
                "Put back for want of memory",
                "Running requests that it put back and begins anew later: its KV cache is too small for its load.",
                units.RequestsPerSecond,
                (ONE.rate("gateway_backend_preemptions_total"), "put back"),
                steps=[(0.1, RED)],
            ),
        ],
    )
