"""The scenarios: one function for each, from running subjects to figures.

Rules:
- Subjects take turns, window by window, so that a busy minute of the machine affects all of them; a figure is the
  median of its windows.
- Between two windows the upstream must be quiet again, so that what a slow subject left does not slow the next one.
- A figure that could not be measured is None. Errors are always counted and never left out.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from statistics import median

from bench import accounting, load, probe
from bench.load import Load, Question, Tally
from bench.subjects import Collected, Spoken, Subject

Figures = dict[str, float | None]

JSON_CONNECTIONS = 32
ENOUGH = 2000
"""Requests over which the objects they leave are counted."""
PIECES = 50
GAP_MS = 20


@dataclass(frozen=True)
class Plan:
    """How much of everything."""

    rounds: int = 3
    seconds: float = 5.0
    warm: float = 1.0
    streams: int = 400
    open_streams: int = 2000
    models: int = 1000
    keys: int = 10_000


QUICK = Plan(rounds=1, seconds=1.0, warm=0.3, streams=60, open_streams=100, models=100, keys=1000)


@dataclass
class Result:
    """One scenario's figures by subject."""

    figures: dict[str, Figures] = field(default_factory=dict)
    errors: dict[str, dict[str, int]] = field(default_factory=dict)


Figure = Callable[[Tally], float | None]

JSON_FIGURES: Mapping[str, Figure] = {
    "cpu_us_per_request": lambda tally: _each(tally.cpu, tally.requests),
    "requests_per_second": lambda tally: _rate(tally.requests, tally.seconds),
    "latency_p50_ms": lambda tally: _ms(tally.latency, 0.50),
    "latency_p99_ms": lambda tally: _ms(tally.latency, 0.99),
}
STREAM_FIGURES: Mapping[str, Figure] = {
    "cpu_us_per_chunk": lambda tally: _each(tally.cpu, tally.events),
    "chunks_per_second": lambda tally: _rate(tally.events, tally.seconds),
    "ttft_p50_ms": lambda tally: _ms(tally.first, 0.50),
    "ttft_p99_ms": lambda tally: _ms(tally.first, 0.99),
    "gap_p99_ms": lambda tally: _ms(tally.gaps, 0.99),
}
BURST_FIGURES: Mapping[str, Figure] = {
    "ttft_p50_ms": lambda tally: _ms(tally.first, 0.50),
    "ttft_p99_ms": lambda tally: _ms(tally.first, 0.99),
}


async def json_requests(subjects: Sequence[Subject], plan: Plan, upstream: int, size: int = 200) -> Result:
    """Measure plain requests on 32 connections, with a prompt of `size` bytes."""

    async def window(subject: Subject) -> Tally:
        return await load.closed_loop(
            subject.question(size=size),
            JSON_CONNECTIONS,
            seconds=plan.seconds,
            warm=plan.warm,
            pid=subject.pid,
        )

    return await _rounds(subjects, plan.rounds, upstream, window, JSON_FIGURES)


async def streams(subjects: Sequence[Subject], plan: Plan, upstream: int) -> Result:
    """Measure many streams at once, started evenly over the length of one stream (one second)."""
    asked = [subject.question(stream=True, tokens=PIECES, gap_ms=GAP_MS) for subject in subjects]
    return await _streaming(subjects, asked, plan, upstream)


async def dialects(subjects: Sequence[Spoken], plan: Plan, upstream: int) -> Result:
    """Measure streams as above, each subject in its dialect."""
    asked = [subject.spoken(tokens=PIECES, gap_ms=GAP_MS) for subject in subjects]
    return await _streaming(subjects, asked, plan, upstream)


async def _streaming(
    subjects: Sequence[Subject], asked: Sequence[Question], plan: Plan, upstream: int
) -> Result:
    """Measure streams: each subject is asked its own question."""
    questions = {subject.name: question for subject, question in zip(subjects, asked, strict=True)}

    async def window(subject: Subject) -> Tally:
        return await load.closed_loop(
            questions[subject.name],
            plan.streams,
            seconds=plan.seconds,
            warm=plan.warm,
            pid=subject.pid,
            spread=PIECES * GAP_MS / 1000,
        )

    return await _rounds(subjects, plan.rounds, upstream, window, STREAM_FIGURES)


async def bursts(subjects: Sequence[Subject], plan: Plan, upstream: int) -> Result:
    """Measure as many streams as above, all asked for at the same moment; the upstream answers at once."""

    async def window(subject: Subject) -> Tally:
        question = subject.question(stream=True, tokens=5, gap_ms=GAP_MS)
        return await load.burst(question, plan.streams, times=3)

    return await _rounds(subjects, plan.rounds, upstream, window, BURST_FIGURES)


async def collector(subject: Collected, plan: Plan, upstream: int) -> Result:
    """Measure how many objects a request leaves for the garbage collector, from the gateway's own counters.

    Every answer is read to its end: a client that leaves makes the gateway raise, and exceptions refer to themselves.
    """
    questions = {
        "objects_per_request": (subject.question(), JSON_CONNECTIONS),
        "objects_per_stream": (subject.question(stream=True, tokens=PIECES, gap_ms=1), plan.streams),
    }
    result = Result({subject.name: {}}, {subject.name: {}})
    with subject.awake():
        for figure, (question, connections) in questions.items():
            await load.burst(question, connections, times=1)
            await quiet(upstream)
            before = await subject.counted()
            tally = await load.burst(question, connections, times=ceil(ENOUGH / connections))
            await quiet(upstream)
            after = await subject.counted()
            requests = after.requests - before.requests
            result.figures[subject.name][figure] = (
                (after.objects - before.objects) / requests if requests else None
            )
            result.errors[subject.name] |= tally.errors
    return result


async def memory(subjects: Sequence[Subject], plan: Plan, upstream: int) -> Result:
    """Measure resident memory right after the start, and what each of many open streams adds. For fresh processes."""
    result = Result()
    for subject in subjects:
        with subject.awake():
            idle = accounting.usage(subject.pid).rss
            held, errors = await _open_streams(subject, plan.open_streams)
            await quiet(upstream)
        result.figures[subject.name] = {
            "idle_mb": idle / 1e6,
            "kb_per_stream": None if held is None else (held - idle) / plan.open_streams / 1e3,
        }
        result.errors[subject.name] = dict(errors)
    return result


async def _open_streams(
    subject: Subject, count: int, patience: float = 30.0
) -> tuple[int | None, Counter[str]]:
    """Return the resident bytes while `count` streams are open; None if they never all were."""
    opened = Load(subject.question(stream=True, tokens=10_000, gap_ms=500), count)
    opened.loops = False
    try:
        await opened.connect()
        opened.start(spread=count / 1000)
        for _ in range(int(patience * 10)):
            waiting = sum(not client.first for client in opened.clients)
            if not waiting or opened.tally.errors:
                break
            await asyncio.sleep(0.1)
        if waiting:
            return None, opened.tally.errors or Counter({"no answer": waiting})
        # Two pieces more on each, so that every buffer has been used.
        await asyncio.sleep(1.2)
        return accounting.usage(subject.pid).rss, opened.tally.errors
    except OSError as error:
        return None, Counter({f"no connection ({error.strerror})": 1})
    finally:
        await opened.stop()


async def _rounds(
    subjects: Sequence[Subject],
    rounds: int,
    upstream: int,
    window: Callable[[Subject], Awaitable[Tally]],
    figures: Mapping[str, Figure],
) -> Result:
    tallies: dict[str, list[Tally]] = {subject.name: [] for subject in subjects}
    for _ in range(rounds):
        for subject in subjects:
            try:
                with subject.awake():
                    tally = await window(subject)
                    # Not after it: one that is stopped cannot close what it still has open at the upstream.
                    await quiet(upstream)
            except OSError as error:
                tally = Tally(errors=Counter({f"no connection ({error.strerror})": 1}))
            tallies[subject.name].append(tally)
    result = Result()
    for name, some in tallies.items():
        result.figures[name] = {
            key: _median(figure(tally) for tally in some) for key, figure in figures.items()
        }
        result.errors[name] = dict(sum((tally.errors for tally in some), Counter()))
    return result


async def quiet(upstream: int, patience: float = 15.0) -> None:
    """Wait until the upstream has no open stream, at most `patience` seconds."""
    for _ in range(int(patience * 20)):
        if not (await probe.counts(upstream))["streams"]:
            return
        await asyncio.sleep(0.05)


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None


def _each(seconds: float, count: int) -> float | None:
    """Return microseconds for each; None for what used no CPU of its own."""
    return seconds / count * 1e6 if count and seconds else None


def _rate(count: int, seconds: float) -> float | None:
    return count / seconds if seconds else None


def _ms(values: Sequence[float], share: float) -> float | None:
    found = load.quantile(values, share)
    return None if found is None else found * 1e3
