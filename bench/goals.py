"""The goals for the gateway's own cost, and whether a run meets them. Ratios are always within one run.

Rules:
- A goal is a row: what, which figure, which limit. A figure that the run does not have leaves the verdict open.
- The limits hold on a quiet machine, with an interpreter built with profile-guided optimisation. Two of them depend on
  whether the gateway's hot modules are compiled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.dialects import DIALECTS, PASSED
from bench.scenarios import Figures

Scenarios = Mapping[str, Mapping[str, Figures]]
"""Scenario, subject, figure."""

GATEWAY = "gateway"
PROXY = "HAProxy"
ROUTER = "vllm-router"
COLLECTED = "gateway, eager collector"
SPOKEN = "gateway, {}"
"""The gateway asked in a dialect, by the dialect's name."""
NO_OBJECTS = 0.05
"""Objects per request that count as none: the metrics page that is read for the count, and probes, leave a few."""


@dataclass(frozen=True)
class Goal:
    """One goal: `figure` must be at most `limit`, or at least if `at_least` is true."""

    what: str
    figure: float | None
    limit: float
    unit: str
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the figure is within the limit; None without a figure."""
        if self.figure is None:
            return None
        return self.figure >= self.limit if self.at_least else self.figure <= self.limit


def goals(scenarios: Scenarios, *, compiled: bool = False) -> list[Goal]:
    """Return every goal with this run's figure. `compiled`: the gateway's hot modules were compiled in this run."""

    def of(scenario: str, subject: str, figure: str) -> float | None:
        return scenarios.get(scenario, {}).get(subject, {}).get(figure)

    def to(other: str, scenario: str, figure: str) -> float | None:
        return _ratio(of(scenario, GATEWAY, figure), of(scenario, other, figure))

    request = of("json", GATEWAY, "cpu_us_per_request")
    many = of("scale", "gateway, large config", "cpu_us_per_request")
    two = of("workers", "gateway, 2 workers", "requests_per_second")
    return [
        Goal(
            f"CPU per JSON request, to {ROUTER}",
            to(ROUTER, "json", "cpu_us_per_request"),
            0.65 if compiled else 1.1,
            "×",
        ),
        Goal(
            f"CPU per streamed chunk, to {PROXY}",
            to(PROXY, "streams", "cpu_us_per_chunk"),
            1.25 if compiled else 1.6,
            "×",
        ),
        Goal(
            f"time to first token, p50, streams that start over one second, to {PROXY}",
            to(PROXY, "streams", "ttft_p50_ms"),
            1.5,
            "×",
        ),
        Goal(
            f"time to first token, p50, streams that start at once, to {PROXY}",
            to(PROXY, "burst", "ttft_p50_ms"),
            3,
            "×",
        ),
        *(
            Goal(
                f"CPU per chunk of a stream in the dialect {name}, to {PASSED}, which passes",
                _ratio(
                    of("dialects", SPOKEN.format(name), "cpu_us_per_chunk"),
                    of("dialects", SPOKEN.format(PASSED), "cpu_us_per_chunk"),
                ),
                1.6,
                "×",
            )
            for name in DIALECTS
            if name != PASSED
        ),
        Goal(
            "left for the collector, per JSON request",
            of("collector", COLLECTED, "objects_per_request"),
            NO_OBJECTS,
            "objects",
        ),
        Goal(
            "left for the collector, per stream",
            of("collector", COLLECTED, "objects_per_stream"),
            NO_OBJECTS,
            "objects",
        ),
        Goal("memory, idle", of("memory", GATEWAY, "idle_mb"), 60, "MB"),
        Goal("memory per open stream", of("memory", GATEWAY, "kb_per_stream"), 16, "kB"),
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
    """Return what a subject adds to the same figure of the upstream alone."""
    through = scenarios.get(scenario, {}).get(subject, {}).get(figure)
    direct = scenarios.get(scenario, {}).get("direct", {}).get(figure)
    if through is None or direct is None:
        return None
    return through - direct


def _ratio(figure: float | None, base: float | None) -> float | None:
    if figure is None or base is None or base <= 0:
        return None
    return figure / base
