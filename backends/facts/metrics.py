"""Read what an engine measures of itself from its metrics page, by a table of the names that its versions use.

Rules:
- Samples are summed over models, ranks and workers. A histogram is summed only where all of them have the same buckets.
- What cannot be right is left out: a counter that is negative or no number, buckets that shrink, a count that is not
  that of the last bucket.
- Only the lines of wanted metrics are parsed. The format is Prometheus' text format 0.0.4.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from backends.facts.signals import Table, samples
from backends.metrics import Buckets, Finish, Measured, Metric, MetricsPage, MetricsTable, Outcomes

_OF_HISTOGRAM = ("_bucket", "_sum", "_count")


def page(
    path: str, table: MetricsTable, signals: Iterable[Table] = (), also: Iterable[str] = ()
) -> MetricsPage:
    """Return the page at `path` of which `table` and `signals` are read, and the samples named in `also`."""
    names = [*also, *(outcomes.name for outcomes in table.finished)]
    for found in (*table.counts.values(), *(found for each in signals for found in each.values())):
        names += _names(found)
    for found in table.timings.values():
        names += [name + end for name in _names(found) for end in _OF_HISTOGRAM]
    return MetricsPage(path, frozenset(name.encode() for name in names), table)


def measured(body: bytes, table: MetricsTable) -> Measured:
    """Return what a metrics page tells of what `table` names."""
    text = body.decode(errors="replace")
    counts = {count: _counted(text, names) for count, names in table.counts.items()}
    timings = {timing: _timed(text, names) for timing, names in table.timings.items()}
    return Measured(
        {count: value for count, value in counts.items() if value is not None},
        _finished(text, table.finished),
        {timing: value for timing, value in timings.items() if value is not None},
    )


def _names(metrics: Sequence[Metric]) -> list[str]:
    return [name for metric in metrics for name in (metric.name, metric.per, metric.plus) if name is not None]


def _counted(text: str, names: tuple[Metric, ...]) -> float | None:
    """Return a counter by the first of its names that is on the page; None if none is, or it cannot be right."""
    for metric in names:
        found = [
            value for labels, value in samples(text, metric.name) if metric.labels.items() <= labels.items()
        ]
        if found and metric.plus is not None:
            more = [value for _, value in samples(text, metric.plus)]
            found = found + more if more else []
        if found:
            return sum(found) if all(map(_sound, found)) else None
    return None


def _finished(text: str, counters: tuple[Outcomes, ...]) -> dict[Finish, float]:
    """Return how many requests ended in which way. A way of which one sample cannot be right is left out."""
    found: dict[Finish, float] = {}
    for counter in counters:
        for labels, value in samples(text, counter.name):
            finish = counter.reasons.get(labels.get(counter.label, ""), counter.other)
            found[finish] = found.get(finish, 0.0) + (value if _sound(value) else math.nan)
    return {finish: value for finish, value in found.items() if _sound(value)}


def _timed(text: str, names: tuple[Metric, ...]) -> Buckets | None:
    """Return a histogram by the first of its names that is on the page; None if none is, or it cannot be right."""
    for metric in names:
        parts = {end: _by_labels(text, metric, end) for end in _OF_HISTOGRAM}
        if parts["_bucket"]:
            return _added(parts["_bucket"], parts["_sum"], parts["_count"])
    return None


_Labels = frozenset[tuple[str, str]]


def _by_labels(text: str, metric: Metric, end: str) -> dict[_Labels, dict[str, float]]:
    """Return the samples of one part of a histogram by their labels without the bucket's bound, and by that bound."""
    found: dict[_Labels, dict[str, float]] = {}
    for labels, value in samples(text, metric.name + end):
        if metric.labels.items() <= labels.items():
            bound = labels.pop("le", "")
            found.setdefault(frozenset(labels.items()), {})[bound] = value
    return found


def _added(
    buckets: dict[_Labels, dict[str, float]],
    sums: dict[_Labels, dict[str, float]],
    totals: dict[_Labels, dict[str, float]],
) -> Buckets | None:
    """Return histograms as one; None where one of them cannot be right or has other buckets than the first."""
    whole: Buckets | None = None
    for labels, cumulative in buckets.items():
        one = _one(cumulative, sums.get(labels, {}).get(""), totals.get(labels, {}).get(""))
        if one is None or (whole is not None and whole.bounds != one.bounds):
            return None
        if whole is None:
            whole = one
            continue
        counts = tuple(a + b for a, b in zip(whole.counts, one.counts, strict=True))
        whole = Buckets(whole.bounds, counts, whole.sum + one.sum)
    return whole


def _one(cumulative: dict[str, float], total: float | None, count: float | None) -> Buckets | None:
    """Return one histogram, whose sum is `total`; None if it cannot be right."""
    try:
        pairs = sorted((float(bound), value) for bound, value in cumulative.items())
    except ValueError:
        return None
    if total is None or not (_sound(total) and all(_sound(value) for _, value in pairs)):
        return None
    bounds, values = [bound for bound, _ in pairs], [value for _, value in pairs]
    if bounds[-1] != math.inf or values != sorted(values) or count not in (None, values[-1]):
        return None
    counts = (after - before for before, after in zip([0.0, *values], values, strict=False))
    return Buckets(tuple(bounds[:-1]), tuple(counts), total)


def _sound(value: float) -> bool:
    return math.isfinite(value) and value >= 0
