"""Families of cells: one metric name each, with one cell per combination of label values that occurs.

Rules:
- Label values come from the config and from closed sets, never from a client's input.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

from gateway.telemetry.cells import Histogram, Value

Exemplars = list[tuple[int, float, str, float]]
"""Of buckets by their number: a value, the id of its trace, and when it was."""
Entry = tuple[str, str, tuple[str, ...], float | list[float] | Exemplars]
Dump = list[Entry]
"""Cells as plain values: kind of metric, name, label values, and the number, or the sum and counts of a histogram, and
behind these the bounds of one that has its own. For the kind `exemplars` those of the histogram of that name and these
labels."""

EXEMPLARS: Final = "exemplars"

Cell = TypeVar("Cell", Value, Histogram)


class Family(Generic[Cell]):
    """One metric name with its cells, each created when it is first looked up.

    With `sparse`, cells that were never used are not exported: there is one for each model at each backend. `own`: each
    cell is a histogram with bounds of its own.
    """

    def __init__(
        self,
        kind: str,
        name: str,
        help: str,
        labels: tuple[str, ...],
        make: Callable[[], Cell],
        sparse: bool = False,
        own: bool = False,
    ) -> None:
        self.kind, self.name, self.help, self.labels, self.sparse = kind, name, help, labels, sparse
        self.own: bool = own
        self._make: Callable[[], Cell] = make
        self.cells: dict[tuple[str, ...], Cell] = {}

    def cell(self, *labels: str) -> Cell:
        """Return the cell with these label values. Code on the hot path should keep it instead of looking it up."""
        found = self.cells.get(labels)
        if found is None:
            if len(labels) != len(self.labels):
                raise ValueError(f"{self.name} has the labels {', '.join(self.labels)}")
            found = self.cells[labels] = self._make()
        return found

    def forget(self, *labels: str) -> None:
        """Stop exporting one cell, for example that of a backend removed from the config."""
        self.cells.pop(labels, None)

    def forget_all(self, label: str, value: str) -> None:
        """Stop exporting every cell whose label has this value."""
        if label in self.labels:
            at = self.labels.index(label)
            for labels in [labels for labels in self.cells if labels[at] == value]:
                del self.cells[labels]

    def dump(self) -> Iterator[Entry]:
        """Yield the cells that are exported as plain values, for another process."""
        for labels, cell in tuple(self.cells.items()):
            if cell.is_shown(self.sparse):
                yield self.kind, self.name, labels, self._plain(cell)
                if isinstance(cell, Histogram) and cell.exemplars:
                    yield EXEMPLARS, self.name, labels, cell.plain_exemplars()

    def take(self, kind: str, labels: tuple[str, ...], value: Any) -> None:
        """Set a cell to a value from a dump, or the exemplars of one that was set."""
        if kind == EXEMPLARS:
            known = self.cells.get(labels)
            if isinstance(known, Histogram):
                for bucket, observed, trace_id, when in value:
                    known.exemplars[bucket] = (observed, trace_id, when)
            return
        cell = self.cells[labels] = self._make()
        if isinstance(cell, Value) and isinstance(value, float | int):
            cell.value = value
        elif isinstance(cell, Histogram) and isinstance(value, list):
            # There is one bound less than there are buckets.
            end = len(value) // 2 + 1 if self.own else len(value)
            cell.sum, cell.counts = value[0], [int(count) for count in value[1:end]]
            if self.own:
                cell.bounds = tuple(value[end:])

    def _plain(self, cell: Cell) -> float | list[float]:
        if self.own and isinstance(cell, Histogram):
            return [cell.sum, *cell.counts, *cell.bounds]
        return cell.plain()


AnyFamily = Family[Value] | Family[Histogram]
