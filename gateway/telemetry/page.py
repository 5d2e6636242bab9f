"""The metrics page in Prometheus' text format or as OpenMetrics: family by family, in pieces that take little time.

Rules:
- A piece is at most `CELLS` cells. Whoever sends the page lets the event loop turn between two pieces.
- A cell that was never used is not shown, nor a family without any other; one that was shown once always is.
- Labels stand in alphabetical order, as in the pages of prometheus_client.
- The two formats differ in a counter's title, in exemplars, which OpenMetrics alone has, and in its last line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from math import inf

from gateway.telemetry.cells import Histogram, Value
from gateway.telemetry.families import AnyFamily

CELLS = 40
"""Cells of one piece; a histogram is about twenty lines."""
_LEAST = 64 << 10
"""Bytes of text that are sent in one go."""


def pieces_of(family: AnyFamily, openmetrics: bool = False) -> Iterator[str]:
    """Yield the text of a family in pieces, an empty one where only unused cells were passed."""
    name = family.name + ("_total" if family.kind == "counter" else "")
    titled = family.name if openmetrics else name
    title = [f"# HELP {titled} {family.help}\n# TYPE {titled} {family.kind}\n"]
    lines: list[str] = []
    cells: dict[tuple[str, ...], Value | Histogram] = {**family.cells}
    for number, (labels, cell) in enumerate(cells.items(), 1):
        if cell.is_shown(family.sparse):
            lines += title
            title.clear()
            pairs = sorted(zip(family.labels, labels, strict=True))
            if isinstance(cell, Value):
                lines.append(f"{name}{{{','.join(map(_pair, pairs))}}} {_number(cell.value)}\n")
            else:
                lines.append(_histogram(name, pairs, cell, openmetrics))
        if not number % CELLS:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def _histogram(name: str, pairs: list[tuple[str, str]], cell: Histogram, openmetrics: bool) -> str:
    before = "".join(_pair(pair) + "," for pair in pairs if pair[0] < "le")
    after = "".join("," + _pair(pair) for pair in pairs if pair[0] > "le")
    exemplars = cell.exemplars if openmetrics else {}
    lines = [
        f'{name}_bucket{{{before}le="{bound}"{after}}} {count}.0{_exemplar(exemplars.get(bucket))}\n'
        for bucket, (bound, count) in enumerate(cell.buckets())
    ]
    labels = ",".join(map(_pair, pairs))
    lines.append(
        f"{name}_count{{{labels}}} {sum(cell.counts)}.0\n{name}_sum{{{labels}}} {_number(cell.sum)}\n"
    )
    return "".join(lines)


def _exemplar(exemplar: tuple[float, str, float] | None) -> str:
    if exemplar is None:
        return ""
    value, trace_id, when = exemplar
    return f' # {{trace_id="{trace_id}"}} {value!r} {when:.3f}'


def _pair(pair: tuple[str, str]) -> str:
    value = pair[1]
    if "\\" in value or '"' in value or "\n" in value:
        value = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{pair[0]}="{value}"'


def _number(value: float) -> str:
    return "+Inf" if value == inf else repr(float(value))


class Pages:
    """Makes pages for whoever asks, one at a time however many ask.

    A page is never older than the question: those who ask while one is being made share the next one.
    """

    def __init__(self, page: Callable[[], Awaitable[Iterable[str]]]) -> None:
        """Make pages of the pieces that `page` returns."""
        self._make = page
        self._turn = asyncio.Lock()
        self._begun = 0
        self._number = 0
        """The number of the last page that was finished."""
        self._asking = 0
        self._last: tuple[bytes, ...] = ()

    async def page(self) -> tuple[bytes, ...]:
        """Return a page in parts that are to be sent one by one."""
        asked = self._begun
        self._asking += 1
        try:
            async with self._turn:
                if self._number <= asked:
                    self._begun += 1
                    number = self._begun
                    self._last = await self._made()
                    self._number = number
                return self._last
        finally:
            self._asking -= 1
            if not self._asking:
                self._last = ()

    async def _made(self) -> tuple[bytes, ...]:
        parts: list[bytes] = []
        texts: list[str] = []
        size = 0
        for text in await self._make():
            texts.append(text)
            size += len(text)
            if size >= _LEAST:
                parts.append("".join(texts).encode())
                texts.clear()
                size = 0
            await asyncio.sleep(0)
        return (*parts, "".join(texts).encode())
