"""Queries of Prometheus, put together from the list of metrics in the code.

Rules:
- A metric that the gateway does not emit, or a label that it does not have, is an error when dashboards are written.
- A dashboard's variables narrow every metric that has their label; nobody has to think of it.
- No traffic is no data: shares are divided by what is above zero, quantiles of nothing (NaN) are dropped by `>= 0`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from gateway.telemetry.metrics import Metrics

FAILED: Final = 'outcome=~"upstream_error|timeout|overloaded|internal_error"'
"""What counts as a failed request, as in `gateway status`."""
FAULTY: Final = 'result!~"ok|cancelled|rejected|context|unsupported"'
"""Which attempts a backend failed: not those that were cancelled, and not where the request was wrong."""
_PARTS: Final = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def _emitted() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for family in Metrics("").families:
        for part in _PARTS[family.kind]:
            found[family.name + part] = frozenset(family.labels)
    return found


EMITTED: Final = _emitted()
"""The labels of each series that the gateway emits, by its name."""


class Unknown(ValueError):
    """A query asks for what the gateway does not emit."""


class Scope:
    """What a dashboard looks at: its variables, each the name of a label."""

    def __init__(self, *variables: str) -> None:
        """Narrow every metric by these variables, and by that of the gateway."""
        self.variables: tuple[str, ...] = variables

    def of(self, name: str, *matchers: str) -> str:
        """Return a selector of a metric, narrowed by the variables whose label it has and by further matchers."""
        if name.startswith(("process_", "python_")):
            labels: frozenset[str] = frozenset()
        elif name in EMITTED:
            labels = EMITTED[name]
        else:
            raise Unknown(f"the gateway does not emit {name}")
        for matcher in matchers:
            _demand(name, labels, re.split("[!=]", matcher)[0])
        mine = [f'{label}=~"${label}"' for label in self.variables if label in labels]
        every = ", ".join(['instance=~"$instance"', *mine, *matchers])
        return f"{name}{{{every}}}"

    def rate(self, name: str, by: str = "", *matchers: str) -> str:
        """Return how often something happens each second, by these labels."""
        return f"sum{self._by(name, by)} (rate({self.of(name, *matchers)}[$__rate_interval]))"

    def share(self, name: str, by: str, part: str) -> str:
        """Return the share of a counter that a matcher picks; 0 where it never counted, nothing without traffic."""
        whole = self.rate(name, by)
        return f"({self.rate(name, by, part)} or {whole} * 0) / ({whole} > 0)"

    def quantile(self, quantile: float, name: str, by: str = "", *matchers: str) -> str:
        """Return a quantile of a histogram, by these labels."""
        buckets = f"{name}_bucket"
        grouped = self._by(buckets, by).replace("(", "(le, ") if by else " by (le)"
        rate = f"rate({self.of(buckets, *matchers)}[$__rate_interval])"
        return f"histogram_quantile({quantile}, sum{grouped} ({rate})) >= 0"

    def mean(self, name: str, by: str = "", *matchers: str) -> str:
        """Return the mean of what a histogram observes, by these labels."""
        return (
            f"{self.rate(name + '_sum', by, *matchers)} / ({self.rate(name + '_count', by, *matchers)} > 0)"
        )

    def for_each(self, name: str, by: str, every: str, *matchers: str) -> str:
        """Return how much of a counter there is, by these labels, for each that another counter counts."""
        return f"{self.rate(name, by, *matchers)} / on () group_left () ({self.rate(every)} > 0)"

    def total(self, name: str, by: str = "", *matchers: str, of: str = "sum") -> str:
        """Return a gauge, summed (or its `max`) by these labels."""
        return f"{of}{self._by(name, by)} ({self.of(name, *matchers)})"

    def state(self, name: str, label: str, values: Sequence[str], by: str) -> str:
        """Return which of its states something is in: the place in `values`, from 1 on, of what its `label` says.

        The metric has a series for each state, of which one is 1. Of several gateways the last state counts.
        """
        each = [self.of(name, f'{label}="{value}"') + f" * {place}" for place, value in enumerate(values, 1)]
        return f"max{self._by(name, by)} ({' or '.join(each)}) > 0"

    def _by(self, name: str, by: str) -> str:
        labels = EMITTED.get(name, frozenset())
        for label in filter(None, (part.strip() for part in by.split(","))):
            _demand(name, labels | {"instance"}, label)
        return f" by ({by})" if by else ""


def _demand(name: str, labels: frozenset[str], label: str) -> None:
    if label not in labels:
        raise Unknown(f"{name} has no label {label}, only {', '.join(sorted(labels))}")
