"""The metrics of decisions: where requests go, and what is made of them beside their attempts.

Rules:
- Nothing here is counted in the metrics of requests a second time.
"""

from __future__ import annotations

from gateway.telemetry.buckets import RATIO
from gateway.telemetry.registry import Families


class RouteMetrics:
    """Rules, affinity, hedges, shadows and canaries."""

    def __init__(self, families: Families) -> None:
        add = families.topic("Routes")
        self.decisions = add.counter(
            "gateway_route_decisions",
            "Requests by the rule of the config that said where they go (`-`: none did), why (`name`, `rule`, `warm`, "
            "`loading`, `cold`, `weighted`, `failover`, `home`, `overflow`, `canary`, `incumbent`), and the model they "
            "went to.",
            ("rule", "reason", "model"),
        )
        self.affinity = add.counter(
            "gateway_affinity",
            "Choices by prefix or session: `hit`, where it was before; `miss`, it was nowhere before; `moved`, where "
            "it was could not be used or had too much to do.",
            ("model", "outcome"),
        )
        self.hedges = add.counter(
            "gateway_hedges",
            "Second attempts beside a slow first one: `won` (it went on), `lost` (the first one did), `failed`, "
            "`cancelled` (the request ended before either answered).",
            ("model", "result"),
        )
        self.shadows = add.counter(
            "gateway_shadow",
            "Copies of requests that another model was to answer to nobody: `ok`, `failed`, `busy` (something would "
            "have had to wait), `skipped` (too many at once), `cancelled` (the client left, or the gateway stopped).",
            ("route", "result"),
        )
        self.shadow_compared = add.counter(
            "gateway_shadow_compared",
            "Answers to copies against their originals: whether the `outcome` (complete or not), the `finish` reason "
            "and the `text` are the `same` or `different`.",
            ("route", "aspect", "result"),
        )
        self.shadow_tokens = add.histogram(
            "gateway_shadow_tokens_ratio",
            "Tokens of the answer to a copy, for each token of the original's.",
            ("route",),
            RATIO,
        )
        self.shadow_first_token = add.histogram(
            "gateway_shadow_first_token_ratio",
            "Time to the first token of a copy, as a multiple of the original's.",
            ("route",),
            RATIO,
        )
        self.canary_share = add.gauge(
            "gateway_canary_share",
            "The share of a route's requests that its canary gets now, from 0 to 1; of several workers the largest.",
            ("route",),
            across="largest",
        )
        self.canary_rollbacks = add.counter(
            "gateway_canary_rollbacks",
            "How often a canary was out of bounds and went back to zero.",
            ("route",),
        )
