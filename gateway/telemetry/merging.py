"""The numbers of several processes made one.

Rules:
- Counts and histograms are summed. A gauge says itself what becomes of it (`gateway.telemetry.registry.Across`).
- What a process counted stays counted when it has ended; what it stood at does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, cast

from gateway.telemetry.families import EXEMPLARS, Dump, Entry, Exemplars
from gateway.telemetry.page import CELLS
from gateway.telemetry.registry import Across


def merge(dumps: Iterable[Dump], across: Mapping[str, Across]) -> Dump:
    """Return the dumps of several processes as one. `across` tells what becomes of the gauges of each name."""
    total: dict[tuple[str, str, tuple[str, ...]], Any] = {}
    for dump in dumps:
        for kind, name, labels, value in dump:
            key = (kind, name, tuple(labels))
            known: Any = total.get(key)
            if known is None:
                total[key] = value
            elif kind == EXEMPLARS:
                total[key] = _latest([*known, *cast(Exemplars, value)])
            elif isinstance(known, list) and isinstance(value, list):
                total[key] = [a + b for a, b in zip(known, value, strict=True)]
            elif isinstance(known, float | int) and isinstance(value, float | int):
                total[key] = max(known, value) if across.get(name) == "largest" else known + value
    return [(*key, value) for key, value in total.items()]


def _latest(exemplars: Exemplars) -> Exemplars:
    """Return the last exemplar of each bucket."""
    found = {exemplar[0]: exemplar for exemplar in sorted(exemplars, key=lambda each: each[3])}
    return [*found.values()]


def in_parts(entries: Iterable[Entry]) -> Iterator[Dump]:
    """Yield the entries of a dump in parts of a size that takes little time to make, send and read."""
    left = iter(entries)
    while part := [*islice(left, CELLS)]:
        yield part


def lasting(dump: Dump) -> Dump:
    """Return the part of a dump that stays true when its process has ended: counts, not states."""
    return [entry for entry in dump if entry[0] != "gauge"]


def of_master(dump: Dump, across: Mapping[str, Across]) -> Dump:
    """Return the part of the master's dump that counts beside those of its workers."""
    return [entry for entry in dump if entry[0] != "gauge" or across[entry[1]] == "master"]
