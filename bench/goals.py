"""What the gateway promises of its own cost, and whether a run keeps it. Ratios are always within one run.

Rules:
- A goal is a row: what, which figure, which limit. A figure that the run does not have leaves the verdict open.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.scenarios import Figures

Scenarios = Mapping[str, Mapping[str, Figures]]
"""Scenario, subject, figure."""

RUST_ROUTERS = ("vllm-router", "sglang-router")
GATEWAY = "gateway"


@dataclass(frozen=True)
class Goal:
    """One promise."""

    what: str
    figure: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def goals(scenarios: Scenarios) -> list[Goal]:
    """Every goal, with what this run says of it."""

    def of(scenario: str, subject: str, figure: str) -> float | None:
        return scenarios.get(scenario, {}).get(subject, {}).get(figure)

    request = of("json", GATEWAY, "cpu_us_per_request")
    routers = [of("json", name, "cpu_us_per_request") for name in RUST_ROUTERS]
    best_router = min((figure for figure in routers if figure is not None), default=None)
    chunk = of("streams", GATEWAY, "cpu_us_per_chunk")
    many = of("scale", "gateway, large config", "cpu_us_per_request")
    two = of("workers", "gateway, 2 workers", "requests_per_second")
    return [
        Goal("CPU per JSON request", request, 86, "µs"),
        Goal("CPU per JSON request, to the best Rust router", _ratio(request, best_router), 0.8, "×"),
        Goal(
            "CPU per streamed chunk, to HAProxy",
            _ratio(chunk, of("streams", "HAProxy", "cpu_us_per_chunk")),
            1.25,
            "×",
        ),
        Goal(
            "added time to first token, p50, to nginx",
            _ratio(
                added(scenarios, "streams", GATEWAY, "ttft_p50_ms"),
                added(scenarios, "streams", "nginx", "ttft_p50_ms"),
            ),
            2,
            "×",
        ),
        Goal("memory, idle", of("memory", GATEWAY, "idle_mb"), 80, "MB"),
        Goal("memory per open stream", of("memory", GATEWAY, "kb_per_stream"), 24, "kB"),
        Goal(
            "CPU of a 32 kB prompt, to 200 B",
            _ratio(of("prompt", GATEWAY, "cpu_us_per_request"), request),
            1.5,
            "×",
        ),
        Goal(
            "CPU with a large config, to a small one",
            _ratio(many, of("scale", GATEWAY, "cpu_us_per_request")),
            1.05,
            "×",
        ),
        Goal(
            "CPU per request of 2 workers, to 1",
            _ratio(
                of("workers", "gateway, 2 workers", "cpu_us_per_request"),
                of("workers", GATEWAY, "cpu_us_per_request"),
            ),
            1.1,
            "×",
        ),
        Goal(
            "requests per second of 2 workers, to 1",
            _ratio(two, of("workers", GATEWAY, "requests_per_second")),
            1.7,
            "×",
            at_least=True,
        ),
    ]


def added(scenarios: Scenarios, scenario: str, subject: str, figure: str) -> float | None:
    """What a subject adds to the same figure of the upstream alone."""
    through = scenarios.get(scenario, {}).get(subject, {}).get(figure)
    direct = scenarios.get(scenario, {}).get("direct", {}).get(figure)
    if through is None or direct is None:
        return None
    return through - direct


def _ratio(figure: float | None, base: float | None) -> float | None:
    if figure is None or base is None or base <= 0:
        return None
    return figure / base
