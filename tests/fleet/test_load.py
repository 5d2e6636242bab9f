"""What decisions read of an engine's load: only what is fresh and true, in every process that serves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backends.base import Health, Reading, Signal, Status
from gateway.config import file as config
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from gateway.fleet.backend import Backend
from gateway.fleet.breaker import Breaker
from gateway.fleet.fleet import Fleet
from gateway.fleet.load import FRESH, Load
from gateway.fleet.pool import Pool
from gateway.fleet.signals import Book, Poll, Report
from gateway.link import Link
from gateway.telemetry.metrics import Metrics
from gateway.worker import Worker
from tests.toy_engine import Orchard, page


def everything(load: Load, now: float) -> tuple[object, ...]:
    """Return all that a decision could read."""
    return load.running(now), load.waiting(now), load.slots(now), load.kv_use(now), load.models(now)


UNKNOWN = (None, None, None, None, None)


def test_nothing_is_known_before_anything_was_told() -> None:
    load = Load()
    assert everything(load, 0) == UNKNOWN
    assert load.foreign(0) == 0


def test_each_value_is_believed_until_it_is_too_old() -> None:
    load = Load()
    ages = {"running": (3.0, 0.0), "waiting": (2.0, 4.0), "slots": (8.0, 1.0), "kv_use": (0.5, 0.0)}
    load.take({**ages, "models": (1.0, 0.0)}, ("a",), 0, 100)
    assert everything(load, 100) == (3, 2, 8, 0.5, ("a",))
    assert load.waiting(100 + FRESH - 4) == 2
    assert load.waiting(100 + FRESH - 3.9) is None
    assert everything(load, 100 + FRESH) == (3, None, None, 0.5, ("a",))
    assert everything(load, 100.1 + FRESH) == UNKNOWN


def test_a_value_that_is_told_no_more_is_unknown_at_once() -> None:
    load = Load()
    load.take({"running": (3.0, 0.0), "kv_use": (0.5, 0.0)}, (), 0, 100)
    load.take({"kv_use": (0.6, 0.0)}, (), 0, 101)
    assert (load.running(101), load.kv_use(101)) == (None, 0.6)


def test_requests_of_others_are_those_beyond_our_own() -> None:
    load = Load()
    load.take({"running": (5.0, 0.0), "waiting": (2.0, 0.0)}, (), 4, 100)
    assert load.foreign(100) == 3
    load.take({"running": (2.0, 0.0), "waiting": (0.0, 0.0)}, (), 4, 101)
    assert load.foreign(101) == 0
    load.take({"waiting": (6.0, 0.0)}, (), 4, 102)
    assert load.foreign(102) == 2
    assert load.foreign(102.1 + FRESH) == 0


def test_a_book_reports_what_is_ok_and_nothing_else() -> None:
    book = Book()
    told = {
        Signal.RUNNING: Reading(Status.OK, 2, source="x"),
        Signal.WAITING: Reading(Status.MISSING, source="x"),
        Signal.KV_USE: Reading(Status.SUSPECT, 7, source="x"),
        Signal.MODELS: Reading(Status.OK, 1, ("a",), "x"),
    }
    book.take(told, None, frozenset(), 0)
    assert book.report("b", 4) == Report("b", {"running": (2, 4), "models": (1, 4)}, ("a",))
    assert book.report("b", FRESH + 1) == Report("b", {}, ())


def test_a_zero_that_cannot_be_true_is_not_reported() -> None:
    book, busy = Book(), frozenset({(1, 1)})
    for second in (0, 1):
        book.take({Signal.RUNNING: Reading(Status.OK, 0, source="x")}, None, busy, second)
    assert book.report("b", 1).ages == {}


def backend() -> Backend:
    made = Backend("a", Orchard(), Metrics("0"), Breaker(Random(1)))
    made.locate("http://127.0.0.1:1")
    made.note(Health.READY)
    made.load.take({"running": (5.0, 0.0)}, (), 0, 100)
    return made


@pytest.mark.parametrize("health", [Health.DOWN, Health.ASLEEP])
def test_an_engine_that_went_away_is_not_believed(health: Health) -> None:
    a = backend()
    a.note(Health.READY)
    assert a.load.running(100) == 5
    a.note(health)
    assert a.load.running(100) is None
    assert a.load.foreign(100) == 0


@pytest.mark.parametrize("how", ["locate", "relocate"])
def test_an_engine_at_another_place_is_not_believed(how: str) -> None:
    a = backend()
    getattr(a, how)("http://127.0.0.1:2")
    assert a.load.running(100) is None


def pages(*bodies: bytes | None) -> Iterator[Rule]:
    for body in bodies:
        reply = Reply(status=404) if body is None else Reply(status=200, body=body)
        yield Rule(match=Match(path="/metrics", times=1), reply=reply)


async def test_asking_an_engine_sets_what_decisions_read() -> None:
    rules = list(pages(page(running=3, waiting=2, kv=0.25), None, page(kv=0.5)))
    told: list[Report] = []

    async def busy(backend: Backend) -> frozenset[tuple[int, int]]:
        return frozenset()

    async with FakeEngine(rules=rules) as engine:
        a = Backend("a", Orchard(), Metrics("0"), Breaker(Random(1)))
        a.locate(engine.url)
        a.note(Health.READY)
        a.in_flight = 1
        clock = [0.0]
        poll = Poll(a, Pool(), None, busy, Random(1), lambda: clock[0], told.append)
        now = asyncio.get_running_loop().time
        await poll.ask()
        assert everything(a.load, now()) == (3, 2, None, 0.25, None)
        assert a.load.foreign(now()) == 4
        # A page that cannot be had leaves the values to grow old: 10 s have passed by the test's own clock.
        clock[0] = 10
        await poll.ask()
        assert a.load.running(now()) == 3
        assert a.load.running(now() + FRESH - 9) is None
        clock[0] = 11
        await poll.ask()
        assert everything(a.load, now()) == (None, None, None, 0.5, None)
    assert [report.ages.get("running") for report in told] == [(3, 0), (3, 10), None]


async def test_a_worker_believes_what_the_process_that_asks_tells_it(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text('backends: {a: {engine: vllm, url: "http://127.0.0.1:9"}}')
    fleet = Fleet(Metrics("9"), Random(1), lambda: None, launches=False)
    fleet.apply(config.load(file))
    a = fleet.pool.backends["a"]
    a.in_flight = 2

    async def nothing(kind: str, arguments: dict[str, Any]) -> Any:
        return [kind, arguments]

    near, far = socket.socketpair()
    link = await Link.on(near)
    worker = asyncio.create_task(Worker(await Link.on(far)).run(fleet, Metrics("9"), lambda: None, nothing))
    master = asyncio.create_task(link.listen(lambda message: None))

    report = Report("a", {"running": (7.0, 2.0), "models": (1.0, 2.0)}, ("m",))
    link.tell("load", report=asdict(report))
    link.tell("load", report=asdict(Report("unheard of", {}, ())))
    await link.ask("views")
    now = asyncio.get_running_loop().time()
    assert (a.load.running(now), a.load.models(now), a.load.foreign(now)) == (7, ("m",), 5)
    assert a.load.running(now + FRESH - 2) is None, "it was two seconds old when it came"
    link.tell("load", report=asdict(report.aged(FRESH - 1)))
    await link.ask("views")
    assert a.load.running(now) is None

    far.shutdown(socket.SHUT_RDWR)
    await asyncio.wait_for(asyncio.gather(worker, master), 10)
