"""From two looks at a gateway's metrics to what happened in between: rates, shares, percentiles.

Rules:
- Pure functions of what was read; when it was read is part of it.
- Nothing is made up: without a request there is no share and no percentile, only None.
- Tokens of answers that still run count as they come: the gateway's counter has them only at the end of an answer.
- A counter that has gone down means that another gateway answers: nothing can be said across that.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import NamedTuple

REQUESTS = "gateway_requests_total"
TOKENS = "gateway_tokens_total"
IN_FLIGHT = "gateway_requests_in_flight"
QUEUED = "gateway_requests_queued"
FIRST_TOKEN = "gateway_time_to_first_token_seconds_bucket"
WANTED = frozenset({REQUESTS, TOKENS, IN_FLIGHT, QUEUED, FIRST_TOKEN})
"""The metrics that are read where nobody says which."""

FAULTS = frozenset({"upstream_error", "timeout", "overloaded", "internal_error"})
"""The outcomes that are neither the client's doing nor an operator's."""

_SAMPLE = re.compile(r"([a-z_]+)\{(.*)\} (\S+)")
_LABEL = re.compile(r'([a-z_]+)="((?:[^"\\]|\\.)*)"')
_ESCAPES = {"\\\\": "\\", '\\"': '"', "\\n": "\n"}


class Sample(NamedTuple):
    """One number of a metrics page."""

    labels: Mapping[str, str]
    value: float


Page = Mapping[str, Sequence[Sample]]


class Look(NamedTuple):
    """What was read at one time, in seconds: the metrics, and the tokens so far of running requests by target."""

    at: float
    page: Page
    running: Mapping[tuple[str, str], int]


class Traffic(NamedTuple):
    """What happened between two looks, for all or for one model or backend."""

    requests: float
    """Finished requests a second."""
    faults: float | None
    """The share of them that failed without the client's doing, 0 to 1; None where none has finished."""
    tokens_in: float
    """Tokens of prompts a second."""
    tokens_out: float
    """Tokens of answers a second."""
    p50: float | None
    """Seconds to the first token: half of the streams had it by then. None where no stream began; infinity where it is
    beyond the largest bucket."""
    p95: float | None


def read(text: str, wanted: Iterable[str] = WANTED) -> Page:
    """Return the numbers of a metrics page in Prometheus' text format that are wanted, by their names there."""
    found: dict[str, list[Sample]] = {name: [] for name in wanted}
    for line in text.splitlines():
        if not line.startswith("gateway_") or line[: line.find("{")] not in found:
            continue
        match = _SAMPLE.fullmatch(line)
        if match:
            labels = {name: _unescaped(value) for name, value in _LABEL.findall(match[2])}
            found[match[1]].append(Sample(labels, float(match[3])))
    return found


def restarted(old: Look, new: Look) -> bool:
    """Tell whether another gateway has answered in between: some counter has gone down."""
    for name in (REQUESTS, TOKENS, FIRST_TOKEN):
        before = {_key(sample): sample.value for sample in old.page.get(name, ())}
        after = {_key(sample): sample.value for sample in new.page.get(name, ())}
        if any(after.get(key, 0.0) < value for key, value in before.items()):
            return True
    return False


def traffic(old: Look, new: Look, label: str = "", value: str = "") -> Traffic | None:
    """Return what happened between two looks, where a label has a value if one is given; None if no time has passed."""
    seconds = new.at - old.at
    if seconds <= 0:
        return None

    def grown(name: str, **labels: str) -> float:
        wanted = labels | ({label: value} if label else {})
        return total(new.page, name, wanted) - total(old.page, name, wanted)

    count = grown(REQUESTS)
    faults = sum(grown(REQUESTS, outcome=outcome) for outcome in FAULTS)
    out = grown(TOKENS, direction="out") + _tokens(new, label, value) - _tokens(old, label, value)
    first = _difference(buckets(old.page, label, value), buckets(new.page, label, value))
    return Traffic(
        requests=count / seconds,
        faults=faults / count if count > 0 else None,
        tokens_in=grown(TOKENS, direction="in") / seconds,
        # The counter corrects at the end of an answer what was counted of it piece by piece, and may take back some.
        tokens_out=max(0.0, out) / seconds,
        p50=percentile(first, 0.5),
        p95=percentile(first, 0.95),
    )


def total(page: Page, name: str, labels: Mapping[str, str]) -> float:
    """Return the sum of the samples of a metric that have these labels."""
    return sum(
        sample.value
        for sample in page.get(name, ())
        if all(sample.labels.get(label) == value for label, value in labels.items())
    )


def buckets(page: Page, label: str = "", value: str = "") -> dict[float, float]:
    """Return the buckets of the time to the first token: upper bound to how many were within it."""
    found: dict[float, float] = {}
    for sample in page.get(FIRST_TOKEN, ()):
        if not label or sample.labels.get(label) == value:
            bound = float(sample.labels["le"])
            found[bound] = found.get(bound, 0.0) + sample.value
    return found


def percentile(within: Mapping[float, float], share: float) -> float | None:
    """Return the value that a share of the observations is within, interpolated in its bucket as Prometheus does.

    None without observations; infinity if it is in the bucket that has no bound.
    """
    counts = sorted(within.items())
    if not counts or counts[-1][1] <= 0:
        return None
    rank = share * counts[-1][1]
    lower, before = 0.0, 0.0
    for bound, count in counts:
        if count >= rank:
            if bound == inf or count == before:
                return bound
            return lower + (bound - lower) * (rank - before) / (count - before)
        lower, before = bound, count
    return inf


def faults_so_far(page: Page) -> tuple[float, float]:
    """Return how many requests have finished since the gateway began, and how many of them failed."""
    failed = sum(total(page, REQUESTS, {"outcome": outcome}) for outcome in FAULTS)
    return total(page, REQUESTS, {}), failed


def _tokens(look: Look, label: str, value: str) -> int:
    return sum(
        tokens
        for (model, backend), tokens in look.running.items()
        if not label or {"model": model, "backend": backend}[label] == value
    )


def _difference(old: Mapping[float, float], new: Mapping[float, float]) -> dict[float, float]:
    return {bound: count - old.get(bound, 0.0) for bound, count in new.items()}


def _key(sample: Sample) -> tuple[tuple[str, str], ...]:
    return tuple(sorted(sample.labels.items()))


def _unescaped(value: str) -> str:
    if "\\" not in value:
        return value
    return re.sub(r'\\[\\"n]', lambda match: _ESCAPES[match[0]], value)


def names(page: Page, label: str) -> Iterable[str]:
    """Return the values of a label that anything was counted for, in their order; not `-`, which stands for unknown."""
    found = {sample.labels[label] for sample in page.get(REQUESTS, ()) if label in sample.labels}
    return sorted(found - {"-"})
