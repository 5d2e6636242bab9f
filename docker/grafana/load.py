"""The rows of the overview that say what the load is made of: tokens, queues, backends and routes."""

from __future__ import annotations

from typing import Final

from grafana_foundation_sdk.models import units

from docker.grafana.page import Row
from docker.grafana.panels import STATES, lines, places, states
from docker.grafana.queries import FAULTY, Scope

ALL: Final = Scope("model")
NAMED: Final = 'model!="-"'
"""What belongs to a model, and not to a backend alone."""


def tokens() -> Row:
    """Return the row of what the engines work, and for whom."""
    tokens, detail = "gateway_tokens_total", "gateway_tokens_detail_total"
    return (
        "Tokens and keys: the work, and whose it is",
        [
            lines(
                "Generated tokens by model",
                "Tokens of answers, as the engines counted them.",
                "tok/s",
                (ALL.rate(tokens, "model", 'direction="out"'), "{{model}}"),
                stacked=True,
            ),
            lines(
                "Tokens of prompts by model",
                "Tokens of prompts, as the engines counted them; those found in a prefix cache too.",
                "tok/s",
                (ALL.rate(tokens, "model", 'direction="in"'), "{{model}}"),
                stacked=True,
            ),
            lines(
                "Of these tokens",
                "cached ones of prompts cost the engines little; reasoning ones of answers reach no reader; drafted "
                "ones were guessed, and accepted ones guessed right. Only what engines tell.",
                "tok/s",
                (ALL.rate(detail, "detail"), "{{detail}}"),
            ),
            lines(
                "Requests by key",
                "Who asks, by the names of the keys in the config; anyone is an open gateway.",
                units.RequestsPerSecond,
                (Scope().rate("gateway_key_requests_total", "key"), "{{key}}"),
                (Scope().rate("gateway_key_refusals_total", "key"), "{{key}}, refused"),
                wide=12,
            ),
            lines(
                "Tokens by key",
                "Who has the engines work: tokens of prompts and of answers together.",
                "tok/s",
                (Scope().rate("gateway_key_tokens_total", "key"), "{{key}}"),
                stacked=True,
                wide=12,
            ),
        ],
    )


def queues() -> Row:
    """Return the row of who waits for a slot."""
    taken = ALL.total("gateway_slots_taken", "model", NAMED)
    slots = ALL.total("gateway_slots", "model", NAMED)
    return (
        "Queues: who waits for a slot",
        [
            lines(
                "Waiting, by priority",
                "Requests in the gateway's queues, by the class that they came with.",
                units.Short,
                (ALL.total("gateway_requests_queued", "priority"), "{{priority}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Slots taken",
                "The share of each limited model's slots that is taken. At 100 % requests wait.",
                units.PercentUnit,
                (f"{taken} / ({slots} > 0)", "{{model}}"),
                top=1,
                wide=6,
            ),
            lines(
                "Wait, p95 by model",
                "Of the requests that had to wait, one of twenty waits longer. The dashed line is the objective.",
                units.Seconds,
                (ALL.quantile(0.95, "gateway_queue_wait_seconds", "model"), "{{model}}"),
                objective="gateway:objective:queue_wait_seconds",
                wide=6,
            ),
            lines(
                "Got no slot",
                "Requests that were refused: the queue was full, others displaced them, or they would have been late.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_queue_refused_total", "reason"), "{{reason}}"),
                stacked=True,
                wide=6,
            ),
        ],
    )


def backends() -> Row:
    """Return the row that says which engine is unwell."""
    attempts = "gateway_attempts_total"
    return (
        "Backends: which engine is unwell",
        [
            states(
                "State",
                "In which state each backend was. flawed: it is up, but does not tell its models.",
                (ALL.state("gateway_backend_state", "state", [*STATES], "backend"), "{{backend}}"),
                places(STATES),
            ),
            lines(
                "Requests at engines",
                "How the load is spread.",
                units.Short,
                (ALL.total("gateway_requests_in_flight", "backend"), "{{backend}}"),
                stacked=True,
            ),
            lines(
                "Failed attempts",
                "The share of attempts at each backend that failed. A request that then succeeds elsewhere is no "
                "failure for its client.",
                units.PercentUnit,
                (ALL.share(attempts, "backend", FAULTY), "{{backend}}"),
                top=1,
            ),
            lines(
                "Failed attempts by kind",
                "How attempts fail. docs/metrics.md explains the kinds.",
                units.RequestsPerSecond,
                (ALL.rate(attempts, "result", FAULTY), "{{result}}"),
                stacked=True,
            ),
            lines(
                "Retries and failovers",
                "Further attempts, by the failure before them, and requests that another backend took over, by the one "
                "that had failed them.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_retries_total", "reason"), "retry: {{reason}}"),
                (ALL.rate("gateway_failovers_total", "backend"), "away from {{backend}}"),
            ),
            lines(
                "Openings of breakers, restarts of engines",
                "How often breakers had opened and launched engines had been started again since the gateway began. A "
                "flat line is quiet.",
                units.Short,
                (
                    ALL.total("gateway_breaker_transitions_total", "backend", 'state="open"'),
                    "{{backend}}: breaker",
                ),
                (ALL.total("gateway_backend_restarts_total", "backend"), "{{backend}}: restarts"),
            ),
        ],
    )


def routes() -> Row:
    """Return the row of where requests are sent, and in which dialect."""
    return (
        "Routes and dialects: where requests are sent, and how",
        [
            lines(
                "Decisions",
                "Why requests went to the model they went to: by the name alone, by a rule, or by what a rule's choice "
                "found.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_route_decisions_total", "reason"), "{{reason}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Affinity",
                "Choices by prefix or session: hits reuse what an engine has in its cache.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_affinity_total", "outcome"), "{{outcome}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Second attempts",
                "Attempts that began beside a slow first one. Many that won say that engines are unequal.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_hedges_total", "result"), "{{result}}"),
                stacked=True,
                wide=6,
            ),
            lines(
                "Canaries and shadows",
                "The share of a route that its canary gets, and the share of its shadows' answers that are the same.",
                units.PercentUnit,
                (ALL.total("gateway_canary_share", "route", of="max"), "{{route}}: canary"),
                (
                    Scope().share("gateway_shadow_compared_total", "route, aspect", 'result="same"'),
                    "{{route}}: same {{aspect}}",
                ),
                top=1,
                wide=6,
            ),
            lines(
                "Dialects",
                "Attempts whose request and answer were passed on as they were, and those that had to be translated, "
                "by the client's dialect and why.",
                units.RequestsPerSecond,
                (
                    Scope().rate("gateway_translations_total", "dialect, way, reason"),
                    "{{dialect}} {{way}} {{reason}}",
                ),
                stacked=True,
                wide=12,
            ),
            lines(
                "Bytes",
                "Bytes of requests sent to engines, and of the bodies of answers received.",
                units.BytesPerSecondIEC,
                (ALL.rate("gateway_bytes_total", "direction"), "{{direction}}"),
                wide=12,
            ),
            lines(
                "Requests of batches",
                "Requests of batches that are done, by what became of them, and those that are sent again, by why.",
                units.RequestsPerSecond,
                (ALL.rate("gateway_batch_requests_total", "outcome"), "{{outcome}}"),
                (ALL.rate("gateway_batch_retries_total", "reason"), "again: {{reason}}"),
                wide=12,
            ),
            lines(
                "Open batches",
                "Batches in the store that have not ended, by status.",
                units.Short,
                (
                    ALL.total(
                        "gateway_batches",
                        "status",
                        'status=~"validating|in_progress|finalizing|cancelling"',
                        of="max",
                    ),
                    "{{status}}",
                ),
                wide=12,
            ),
        ],
    )
