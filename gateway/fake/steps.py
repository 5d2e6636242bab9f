"""An answer as steps, each "wait this long, then send these bytes", and the ways to insert faults between them.

Rules:
- Everything is pure and lazy: an endless answer is an endless iterator.
- Inserting a fault never changes the bytes of the healthy answer, only what comes between them, and when.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple

from gateway.fake.script import Fault

TURN = 1e-6
"""A wait just long enough for the event loop to send what was written."""
_MERGED = 1 << 16
_ERROR = json.dumps(
    {
        "error": {
            "message": "the fake engine was told to fail",
            "type": "server_error",
            "param": None,
            "code": None,
        }
    }
).encode()


class Step(NamedTuple):
    """One step: wait, send, and perhaps end the connection."""

    after: float
    """Seconds; `math.inf`: nothing further is ever sent."""
    data: bytes = b""
    events: int = 0
    """SSE events that are complete with this step."""
    tokens: int = 0
    raw: bool = False
    """Outside of any transfer coding."""
    drip: float = 0.0
    """From here on: seconds between single bytes."""
    last: str = ""
    """How the connection ends after this step: `close` or `reset` in the middle, `over` as it should, or not at all."""


Spell = Callable[[bytes], bytes]
"""A function that makes an SSE event of a payload."""


def struck(fault: Fault, spell: Spell | None = None, seed: int = 0) -> Iterator[Step]:
    """Yield the steps of one fault. Faults within a stream need `spell`."""
    forever = fault.duration is None
    lasting = math.inf if fault.duration is None else fault.duration
    match fault.do:
        case "close" | "reset":
            yield Step(0, last=fault.do)
        case "hang":
            yield Step(lasting)
        case "drip":
            yield Step(0, drip=fault.every)
        case "garbage":
            yield Step(0, Random(f"{seed} {fault.at}").randbytes(fault.size), raw=True)
        case "raw":
            yield Step(0, fault.data or b"", raw=True)
        case "event" | "error" if spell:
            filler = _ERROR if fault.do == "error" else b'{"filler":"%s"}' % (b"x" * (fault.size - 13))
            yield Step(0, spell(fault.data if fault.data is not None else filler), events=1)
        case "comments":
            told = 0
            while forever or (told + 1) * fault.every <= lasting:
                yield Step(max(fault.every, TURN), b": keep-alive\n\n")
                told += 1
        case _:
            pass


def _ends(faults: Sequence[Fault]) -> bool:
    return any(fault.do in ("end", "error") for fault in faults)


def at_events(steps: Iterable[Step], faults: Sequence[Fault], spell: Spell, seed: int) -> Iterator[Step]:
    """Insert the faults that are placed between events. With negative numbers the steps must have an end."""
    mine = [fault for fault in faults if fault.at.kind == "event"]
    total = 0
    if any(fault.at.number < 0 for fault in mine):
        steps = list(steps)
        total = sum(step.events for step in steps)
    places: dict[int, list[Fault]] = {}
    for fault in mine:
        places.setdefault(fault.at.number + (total if fault.at.number < 0 else 0), []).append(fault)
    number = 0
    for step in steps:
        if step.events:
            here = places.pop(number, ())
            for fault in here:
                yield from struck(fault, spell, seed)
            if _ends(here):
                return
            number += step.events
        yield step
    for fault in places.pop(number, ()):
        yield from struck(fault, spell, seed)


def at_bytes(steps: Iterable[Step], faults: Sequence[Fault], kind: str, seed: int) -> Iterator[Step]:
    """Insert the faults that are placed after a number of bytes."""
    pending = sorted((fault for fault in faults if fault.at.kind == kind), key=lambda fault: fault.at.number)
    sent = 0
    for step in steps:
        rest = step
        while pending and pending[0].at.number < sent + max(1, len(rest.data)):
            fault = pending.pop(0)
            cut = fault.at.number - sent
            if cut:
                yield rest._replace(data=rest.data[:cut], events=0, tokens=0, last="")
                rest = rest._replace(after=0, data=rest.data[cut:])
                sent += cut
            yield from struck(fault, None, seed)
            if fault.do == "end":
                return
        yield rest
        sent += len(rest.data)
    for fault in pending:
        if fault.at.number == sent:
            yield from struck(fault, None, seed)


def coalesced(steps: Iterable[Step], events: int) -> Iterator[Step]:
    """Join each group of `events` events into one step, which is due when its last event is."""
    if events < 2:
        yield from steps
        return
    held: Step | None = None
    for step in steps:
        plain = not (step.raw or step.last or step.drip or math.isinf(step.after)) and bool(step.data)
        if held and plain:
            held = _joined(held, step)
        elif plain:
            held = step
        else:
            yield from (held,) if held else ()
            held = None
            yield step
        if held and held.events >= events:
            yield held
            held = None
    if held:
        yield held


def merged(steps: Iterable[Step]) -> Iterator[Step]:
    """Join steps with no wait between them, to send the same bytes at the same times in fewer writes."""
    held: Step | None = None
    for step in steps:
        if held and not (step.after or held.last or math.isinf(held.after)) and len(held.data) < _MERGED:
            held = _joined(held, step)
        else:
            yield from (held,) if held else ()
            held = step
    if held:
        yield held


def _joined(one: Step, two: Step) -> Step:
    return Step(
        one.after + two.after,
        one.data + two.data,
        one.events + two.events,
        one.tokens + two.tokens,
        last=two.last,
    )


def split(steps: Iterable[Step], size: int) -> Iterator[Step]:
    """Cut the steps into pieces of at most `size` bytes, each sent by itself."""
    for step in steps:
        yield from _cut(step._replace(after=step.after or TURN), size, TURN) if step.data else (step,)


def dripped(steps: Iterable[Step]) -> Iterator[Step]:
    """Cut the steps into single bytes from where one says `drip`."""
    every = 0.0
    for step in steps:
        every = step.drip or every
        late = step._replace(after=step.after + every)
        yield from _cut(late, 1, every) if every and step.data else (step,)


def _cut(step: Step, size: int, every: float) -> Iterator[Step]:
    for start in range(0, len(step.data), size):
        piece = step.data[start : start + size]
        after = step.after if not start else every
        if start + size < len(step.data):
            yield Step(after, piece)
        else:
            yield step._replace(after=after, data=piece)
