"""From an engine's metrics page to its signals: which name stands for what, as data, newest name first.

Rules:
- A name that is not on the page is `missing`, never zero: engines rename their metrics from version to version.
- A value that cannot be right (not a number, negative, a share above one) is `suspect`, never passed on as ok.
- Only the lines asked for are read; a page of a busy engine has thousands. The format is Prometheus' text format 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from backends.base import Reading, Signal, Signals, Status


@dataclass(frozen=True, slots=True)
class Metric:
    """One name under which an engine publishes a signal.

    `labels` must be among a sample's labels. Several samples (one for each model, rank or worker) become one by
    `combine`. `per` names a second metric to divide by, for shares of two counters. `versions` says where it is so.
    """

    name: str
    versions: str
    labels: Mapping[str, str] = field(default_factory=dict)
    combine: Callable[[list[float]], float] = sum
    per: str | None = None


Table = Mapping[Signal, tuple[Metric, ...]]
"""For each signal the names it has or had, the newest first."""

SHARES = frozenset({Signal.KV_USE, Signal.PREFIX_HITS})

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_SAMPLE = re.compile(r"(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?[0-9]+)?[ \t]*\r?")


def from_metrics(page: bytes | None, table: Table) -> Signals:
    """The signals of `table` on a metrics page; None for no page at all."""
    if page is None:
        return {signal: Reading(Status.MISSING, source="no metrics page") for signal in table}
    text = page.decode(errors="replace")
    return {signal: _read(text, signal, names) for signal, names in table.items()}


def told(signal: Signal, value: float, source: str, names: tuple[str, ...] = ()) -> Reading:
    """A reading of a value as it was told: ok, or suspect where it cannot be right."""
    most = 1.0 if signal in SHARES else math.inf
    # A share may be a rounding error above one.
    sound = math.isfinite(value) and 0 <= value <= most + 1e-6
    return Reading(
        Status.OK if sound else Status.SUSPECT, min(value, most) if sound else value, names, source
    )


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Every sample of a metric on a page: its labels and its value."""
    at = text.find(name)
    while at >= 0:
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        if at == 0 or text[at - 1] == "\n":
            found = _SAMPLE.fullmatch(text, at + len(name), end)
            if found is not None:
                yield dict(_LABEL.findall(found["labels"] or "")), _number(found["value"])
        at = text.find(name, end)


def _read(text: str, signal: Signal, names: tuple[Metric, ...]) -> Reading:
    for metric in names:
        value = _value(text, metric)
        if value is not None:
            return told(signal, value, metric.name)
    wanted = ", ".join(metric.name for metric in names)
    return Reading(Status.MISSING, source=f"not on its metrics page: {wanted}")


def _value(text: str, metric: Metric) -> float | None:
    found = [value for labels, value in samples(text, metric.name) if metric.labels.items() <= labels.items()]
    if not found:
        return None
    value = metric.combine(found)
    if metric.per is None:
        return value
    base = sum(value for _, value in samples(text, metric.per))
    return value / base if base else 0.0


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
