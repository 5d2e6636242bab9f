"""Read load signals from an engine's metrics page, by a table of the names that its versions use.

Rules:
- A metric that is not on the page is `missing`, never zero: engines rename their metrics from version to version.
- A value that cannot be right (not a number, negative, a fraction above one) is `suspect`, never ok.
- Only the lines of wanted metrics are parsed; the page of a busy engine has thousands. The format is Prometheus' text
  format 0.0.4.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping

from backends.base import Reading, Signal, Signals, Status
from backends.metrics import Metric as Metric  # noqa: PLC0414 (engines import it from here)

Table = Mapping[Signal, tuple[Metric, ...]]
"""For each signal its names, the newest first."""

SHARES = frozenset({Signal.KV_USE, Signal.PREFIX_HITS})

_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\]|\\.)*)"')
_SAMPLE = re.compile(r"(?:\{(?P<labels>.*)\})?[ \t]+(?P<value>\S+)(?:[ \t]+-?[0-9]+)?[ \t]*\r?")


def from_metrics(page: bytes | None, table: Table) -> Signals:
    """Return the signals of `table` from a metrics page; `page` is None if there was none."""
    if page is None:
        return {signal: Reading(Status.MISSING, source="no metrics page") for signal in table}
    text = page.decode(errors="replace")
    return {signal: _read(text, signal, names) for signal, names in table.items()}


def reading(signal: Signal, value: float, source: str, names: tuple[str, ...] = ()) -> Reading:
    """Return the reading of a reported value: ok, or suspect if it cannot be right."""
    most = 1.0 if signal in SHARES else math.inf
    # Rounding may make a fraction slightly larger than one.
    sound = math.isfinite(value) and 0 <= value <= most + 1e-6
    return Reading(
        Status.OK if sound else Status.SUSPECT, min(value, most) if sound else value, names, source
    )


def samples(text: str, name: str) -> Iterator[tuple[dict[str, str], float]]:
    """Yield every sample of a metric on a page: its labels and its value."""
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
    """Return a signal by the first of its names that is on the page."""
    for metric in names:
        value = _value(text, metric)
        if value is not None:
            return reading(signal, value, metric.name)
    wanted = ", ".join(metric.name for metric in names)
    return Reading(Status.MISSING, source=f"not on its metrics page: {wanted}")


def _value(text: str, metric: Metric) -> float | None:
    """Return the value of a metric; None if it is not on the page."""
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
