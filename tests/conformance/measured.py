"""What each engine tells of the metrics that have one name for all, and on which page of a real engine that was seen.

Rules:
- What is seen is found by reading the recorded page, at each run; nothing here says that it is.
- A page that was written from source shows nothing: it is not listed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from backends import registry
from backends.base import Engine, Signal
from backends.facts.metrics import measured
from backends.framing.prometheus import Sieve
from backends.metrics import Counted, Measured, Timing

FOLDER = Path(__file__).resolve().parents[1] / "recordings"
PAGES: Mapping[str, tuple[str, ...]] = {
    "llamacpp": ("metrics",),
    "lmdeploy": ("metrics", "metrics_served"),
    "sglang": ("metrics",),
    "tgi": ("metrics", "metrics_fresh"),
    "triton": ("metrics",),
    "vllm": ("metrics", "metrics_served"),
}
"""The recorded pages of each engine, or of its server with a scripted model."""
FINISHED = "requests_finished"


@dataclass(frozen=True, slots=True)
class Told:
    """One metric as one engine tells it: under which of its own names, and whether a recorded page shows it."""

    metric: str
    names: tuple[tuple[str, str], ...]
    """Each with the versions that use it."""
    seen: bool


def engines() -> Iterator[Engine]:
    """Yield the engines that have a metrics page."""
    for name in registry.ENGINES:
        engine = registry.create(name)
        if engine.metrics() is not None:
            yield engine


def signals(name: str) -> set[Signal]:
    """Return the signals that an engine can tell; the check `signals` holds it to them."""
    engine = registry.create(name)
    return set(engine.signals_of([None] * len(engine.signal_calls())))


@cache
def body(engine: str, recording: str) -> bytes:
    """Return a recorded page."""
    text = (FOLDER / engine / f"{recording}.http").read_bytes().replace(b"\r\n", b"\n")
    answer = text.partition(b"=====\n")[2] or text
    return answer.partition(b"\n\n")[2]


def kept(engine: Engine, page: bytes) -> bytes:
    """Return the lines of a page that are read."""
    wanted = engine.metrics()
    assert wanted is not None
    sieve = Sieve(wanted.names)
    sieve.feed(page)
    return sieve.close()


def of_page(engine: Engine, recording: str) -> Measured:
    """Return what a recorded page tells."""
    wanted = engine.metrics()
    assert wanted is not None
    return measured(kept(engine, body(engine.name, recording)), wanted.table)


def told(engine: Engine) -> Iterator[Told]:
    """Yield what an engine tells."""
    wanted = engine.metrics()
    assert wanted is not None
    table, pages = wanted.table, [of_page(engine, page) for page in PAGES.get(engine.name, ())]
    for count in Counted:
        if count in table.counts:
            names = tuple(
                (_written(metric.name, metric.plus), metric.versions) for metric in table.counts[count]
            )
            yield Told(f"{count}_total", names, any(count in page.counts for page in pages))
    if table.finished:
        names = tuple((counter.name, counter.versions) for counter in table.finished)
        yield Told(f"{FINISHED}_total", names, any(page.finished for page in pages))
    for timing in Timing:
        if timing in table.timings:
            names = tuple((metric.name, metric.versions) for metric in table.timings[timing])
            yield Told(timing, names, any(timing in page.timings for page in pages))


def _written(name: str, plus: str | None) -> str:
    return name if plus is None else f"{name} + {plus}"
