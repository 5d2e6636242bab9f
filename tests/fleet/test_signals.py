"""Signals: what a book of them says after any history, and how engines are asked.

Rules:
- The book is pure: time is a number here, and nobody waits for it.
- Engines are fake ones behind real sockets; a question is put by the test, not by the clock.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends import registry
from backends.base import Health, Reading, Signal, Signals, Status
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from gateway.fleet.backend import Backend, BusyPeriods
from gateway.fleet.breaker import Breaker
from gateway.fleet.load import FRESH, INTERVAL
from gateway.fleet.pool import Pool
from gateway.fleet.signals import Book, Poll
from gateway.telemetry.metrics import Metrics
from gateway.wire.upstream import Upstream
from tests.serving import idle, serving
from tests.toy_engine import ROW, Orchard, page

NONE: BusyPeriods = frozenset()
BUSY: BusyPeriods = frozenset({(1, 7)})
LOST = "GET /metrics answered 404"
GONE = Reading(Status.MISSING, source="not on its metrics page")


def ok(value: float) -> Reading:
    return Reading(Status.OK, value, source="x_running")


def running(value: float) -> Signals:
    return {Signal.RUNNING: ok(value)}


def status(book: Book, now: float, signal: Signal = Signal.RUNNING) -> Status:
    return book.shown(now)[signal].status


def told(book: Book, now: float) -> list[tuple[int, str]]:
    return list(book.news(now))


def test_what_was_told_is_shown_with_its_age() -> None:
    book = Book()
    book.take({Signal.LORAS: Reading(Status.OK, 2, ("a", "b"), "x_loras")}, None, NONE, 100)
    shown = book.shown(104)[Signal.LORAS]
    assert (shown.status, shown.value, shown.names, shown.source, shown.age) == (
        Status.OK, 2, ("a", "b"), "x_loras", 4,
    )  # fmt: skip


def test_a_value_that_is_not_told_again_gets_old_and_is_kept() -> None:
    book = Book()
    book.take(running(3), None, NONE, 0)
    for second in (INTERVAL, 2 * INTERVAL):
        book.take({Signal.RUNNING: GONE}, LOST, NONE, second)
    assert status(book, FRESH) is Status.OK
    shown = book.shown(FRESH + 1)[Signal.RUNNING]
    assert (shown.status, shown.value, shown.age) == (Status.STALE, 3, FRESH + 1)
    book.take(running(4), None, NONE, FRESH + 2)
    assert status(book, FRESH + 2) is Status.OK


def test_a_value_the_engine_stops_telling_is_missing_at_once() -> None:
    book = Book()
    book.take(running(3), None, NONE, 0)
    book.take({Signal.RUNNING: GONE}, None, NONE, 5)
    shown = book.shown(5)[Signal.RUNNING]
    assert (shown.status, shown.value, shown.age) == (Status.MISSING, None, None)
    assert shown.source == "not on its metrics page"


def test_what_was_never_told_is_missing_for_the_reason_there_is() -> None:
    book = Book()
    book.take({Signal.RUNNING: GONE}, LOST, NONE, 0)
    assert book.shown(0)[Signal.RUNNING].source == LOST
    assert status(book, 1000) is Status.MISSING
    book.take({Signal.RUNNING: GONE}, "another reason", NONE, 5)
    assert book.shown(5)[Signal.RUNNING].source == "another reason"


def test_a_number_that_is_none_is_suspect_and_not_shown() -> None:
    book = Book()
    book.take({Signal.RUNNING: Reading(Status.SUSPECT, math.nan, source="x")}, None, NONE, 0)
    shown = book.shown(0)[Signal.RUNNING]
    assert (shown.status, shown.value) == (Status.SUSPECT, None)


def test_idle_while_our_requests_run_is_suspect_the_second_time() -> None:
    book = Book()
    book.take(running(0), None, BUSY, 0)
    assert status(book, 0) is Status.OK
    book.take(running(0), None, BUSY, 5)
    assert status(book, 5) is Status.SUSPECT
    book.take(running(0), None, NONE, 10)
    assert status(book, 10) is Status.SUSPECT, "silence is no proof"
    book.take(running(1), None, BUSY, 15)
    assert status(book, 15) is Status.OK


@pytest.mark.parametrize(
    ("first", "second"),
    [(BUSY, NONE), (NONE, BUSY), (BUSY, frozenset({(1, 8)})), (BUSY, frozenset({(2, 7)}))],
    ids=["idle since", "idle before", "idle between", "another process"],
)
def test_idle_is_believed_unless_our_requests_ran_all_the_time(
    first: BusyPeriods, second: BusyPeriods
) -> None:
    book = Book()
    book.take(running(0), None, first, 0)
    book.take(running(0), None, second, 5)
    assert status(book, 5) is Status.OK


def test_idle_is_believed_where_the_engine_says_that_our_requests_wait() -> None:
    book = Book()
    for second in range(4):
        book.take({**running(0), Signal.WAITING: ok(1)}, None, BUSY, second)
    assert status(book, 4) is Status.OK


def test_a_renamed_metric_is_one_warning_and_its_return_one_line() -> None:
    book = Book()
    book.take(running(1), None, NONE, 0)
    assert told(book, 0) == []
    for second in (5, 10, 15):
        book.take({Signal.RUNNING: GONE}, None, NONE, second)
        expected = [(logging.WARNING, "signal running is missing: not on its metrics page")]
        assert told(book, second) == (expected if second == 5 else [])
    book.take(running(1), None, NONE, 20)
    assert told(book, 20) == [(logging.INFO, "signal running is ok")]
    assert told(book, 21) == []


def test_one_reason_for_many_signals_is_one_line() -> None:
    book = Book()
    book.take({Signal.RUNNING: GONE, Signal.WAITING: GONE}, LOST, NONE, 0)
    assert told(book, 0) == [(logging.WARNING, f"signals running, waiting are missing: {LOST}")]


def test_a_feature_that_is_off_is_no_warning() -> None:
    book = Book()
    book.take({Signal.LORAS: GONE}, None, NONE, 0)
    assert told(book, 0) == [(logging.INFO, "signal loras is missing: not on its metrics page")]
    book.take({Signal.LORAS: ok(1)}, None, NONE, 1)
    book.take({Signal.LORAS: GONE}, None, NONE, 2)
    told(book, 1)
    assert [level for level, _ in told(book, 2)] == [], "it was reported, and nobody heard that it was back"


def test_a_value_that_gets_old_says_why() -> None:
    book = Book()
    book.take(running(1), None, NONE, 0)
    book.take({Signal.RUNNING: GONE}, LOST, NONE, 10)
    assert told(book, 10) == []
    assert told(book, FRESH + 1) == [(logging.WARNING, f"signal running is stale: {LOST}")]


READINGS = st.one_of(
    st.builds(ok, st.sampled_from([0.0, 1.0, 5.0])),
    st.just(GONE),
    st.builds(lambda v: Reading(Status.SUSPECT, v, source="x"), st.sampled_from([math.nan, -1.0])),
)
STEPS = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(Signal), READINGS, max_size=3),
        st.sampled_from([None, LOST]),
        st.frozensets(st.tuples(st.integers(0, 1), st.integers(0, 1)), max_size=2),
        st.floats(0, 30),
    ),
    max_size=12,
)


@given(STEPS)
def test_any_history_shows_nothing_that_was_not_told(
    steps: list[tuple[dict[Signal, Reading], str | None, BusyPeriods, float]],
) -> None:
    book, now = Book(), 0.0
    last: dict[Signal, tuple[float, float]] = {}
    for readings, lost, busy, wait in steps:
        now += wait
        book.take(readings, lost, busy, now)
        for signal, reading in readings.items():
            if reading.status is Status.OK and reading.value is not None:
                last[signal] = reading.value, now
        for signal, shown in book.shown(now).items():
            assert shown.source, "there is always a source or a reason"
            assert shown.value is None or math.isfinite(shown.value)
            assert (shown.status is Status.MISSING) == (shown.age is None)
            if shown.status in (Status.OK, Status.STALE):
                value, at = last[signal]
                assert (shown.value, shown.age) == (value, now - at)
                assert (shown.status is Status.OK) == (now - at <= FRESH)
            if signal is Signal.RUNNING and shown.status is Status.SUSPECT and shown.value == 0:
                assert len([1 for _, _, ours, _ in steps if ours]) >= 2


@given(STEPS)
def test_any_history_reports_each_change_once(
    steps: list[tuple[dict[Signal, Reading], str | None, BusyPeriods, float]],
) -> None:
    book, now = Book(), 0.0
    bad: set[Signal] = set()
    for readings, lost, busy, wait in steps:
        now += wait
        book.take(readings, lost, busy, now)
        lines = [text for _, text in book.news(now)]
        is_bad = {signal for signal, shown in book.shown(now).items() if shown.status is not Status.OK}
        for signal in Signal:
            named = sum(signal.value in text.split(":")[0].replace(",", "").split() for text in lines)
            assert named == (signal in is_bad ^ bad)
        assert list(book.news(now)) == []
        bad = is_bad


def metrics_page(body: bytes | None, **match: int) -> Rule:
    reply = Reply(status=404) if body is None else Reply(status=200, body=body)
    return Rule(match=Match(path="/metrics", **match), reply=reply)


class Asked:
    """One backend and its poll, with a clock and busy periods of the test's own."""

    def __init__(self, url: str, metrics_at: str | None = None) -> None:
        metrics = Metrics("0")
        self.backend = Backend("a", Orchard(), metrics, Breaker(Random(1)))
        self.backend.locate(url)
        self.backend.note(Health.READY)
        self.now = 0.0
        self.busy: BusyPeriods = NONE
        where = None if metrics_at is None else Upstream(metrics_at)
        self.poll = Poll(self.backend, Pool(), where, self._busy, Random(1), lambda: self.now)

    async def _busy(self, backend: Backend) -> BusyPeriods:
        return self.busy

    async def shown(self) -> Mapping[Signal, tuple[Status, float | None]]:
        """Ask, and give status and value of each signal."""
        await self.poll.ask()
        return {name: (facts.status, facts.value) for name, facts in self.poll.book.shown(self.now).items()}


async def test_an_engine_is_asked_and_an_older_name_will_do() -> None:
    async with FakeEngine(rules=[metrics_page(page(active=2, waiting=1, kv="0.25"))]) as engine:
        assert await Asked(engine.url).shown() == {
            Signal.RUNNING: (Status.OK, 2),
            Signal.WAITING: (Status.OK, 1),
            Signal.KV_USE: (Status.OK, 0.25),
            Signal.LORAS: (Status.MISSING, None),
        }


async def test_metrics_can_be_elsewhere() -> None:
    async with FakeEngine() as engine, FakeEngine(rules=[metrics_page(page(running=5))]) as other:
        shown = await Asked(engine.url, other.url).shown()
        assert shown[Signal.RUNNING] == (Status.OK, 5)
        assert not [exchange for exchange in engine.journal.exchanges if exchange.path == "/metrics"]


async def test_a_page_that_goes_away_ages_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    rules = [
        metrics_page(page(running=1), times=1),
        metrics_page(None, times=2),
        metrics_page(page(running=2)),
    ]
    caplog.set_level(logging.INFO, "gateway.fleet")
    async with FakeEngine(rules=rules) as engine:
        asked = Asked(engine.url)
        assert (await asked.shown())[Signal.RUNNING] == (Status.OK, 1)
        asked.now = 10
        assert (await asked.shown())[Signal.RUNNING] == (Status.OK, 1)
        asked.now = 20
        assert (await asked.shown())[Signal.RUNNING] == (Status.STALE, 1)
        asked.now = 25
        assert (await asked.shown())[Signal.RUNNING] == (Status.OK, 2)
    said = [record.getMessage() for record in caplog.records if " running " in record.getMessage()]
    assert said == [
        "backend 'a': signal running is stale: GET /metrics answered 404",
        "backend 'a': signal running is ok",
    ]


async def test_nothing_is_reported_of_an_engine_that_still_loads(caplog: pytest.LogCaptureFixture) -> None:
    async with FakeEngine(rules=[metrics_page(None)]) as engine:
        asked = Asked(engine.url)
        asked.backend.note(Health.LOADING)
        assert (await asked.shown())[Signal.RUNNING][0] is Status.MISSING
        assert not caplog.records
        asked.backend.note(Health.READY)
        await asked.shown()
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1


async def test_a_zero_is_doubted_only_where_requests_ran_from_before_to_after() -> None:
    async with FakeEngine(rules=[metrics_page(page(running=0, waiting=0))]) as engine:
        asked = Asked(engine.url)
        asked.busy = BUSY
        assert (await asked.shown())[Signal.RUNNING] == (Status.OK, 0)
        assert (await asked.shown())[Signal.RUNNING] == (Status.SUSPECT, 0)
        assert "reads 0 while" in asked.poll.book.shown(0)[Signal.RUNNING].source


async def test_an_adapter_that_stumbles_ends_nothing() -> None:
    async with FakeEngine(rules=[metrics_page(b"boom")]) as engine:
        asked = Asked(engine.url)
        assert (await asked.shown())[Signal.RUNNING] == (Status.MISSING, None)
        assert asked.poll.book.shown(0)[Signal.RUNNING].source == "its answer cannot be read"


async def test_a_backend_that_is_down_is_not_asked() -> None:
    async with FakeEngine(rules=[metrics_page(page(running=0))]) as engine:
        asked = Asked(engine.url)
        asked.backend.note(Health.DOWN, "gone")
        task = asyncio.create_task(asked.poll.run())
        await asyncio.wait([task], timeout=0.05)
        assert not task.done() and not engine.journal.exchanges
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
def orchard_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "orchard", ROW)


@pytest.mark.usefixtures("orchard_engine")
async def test_the_metrics_page_shows_what_is_believed(tmp_path: Path) -> None:
    rules = [metrics_page(page(running=3, kv="7"))]
    async with FakeEngine(rules=rules) as engine:
        config = f'backends: {{a: {{engine: orchard, url: "{engine.url}"}}}}'
        async with serving(tmp_path, config) as served:
            await served.gateway.fleet.poll("a").ask()
            text = (await served.get("/metrics")).body.decode()
            assert 'gateway_backend_signal{backend="a",signal="running"} 3.0' in text
            assert 'gateway_backend_signal{backend="a",signal="kv_use"}' not in text
            name = "gateway_backend_signal_status"
            assert served.metric(name, signal="kv_use", status="suspect") == 1
            assert served.metric(name, signal="kv_use", status="ok") == 0
            assert served.metric(name, signal="waiting", status="missing") == 1


@pytest.mark.usefixtures("orchard_engine")
async def test_our_own_requests_are_known_by_their_busy_time(tmp_path: Path) -> None:
    slow = Rule(match=Match(path="/v1/chat/completions"), endless=True, gap=0.01)
    rules = [metrics_page(page(running=0, waiting=0)), slow]
    async with FakeEngine(rules=rules) as engine:
        config = f'backends: {{a: {{engine: orchard, url: "{engine.url}"}}}}'
        async with serving(tmp_path, config) as served:
            poll = served.gateway.fleet.poll("a")
            assert served.gateway.fleet.busy_periods("a") == NONE
            reader, writer = await served.connect()
            body = b'{"model":"fake","stream":true,"messages":[{"role":"user","content":"x"}]}'
            head = (
                b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            )
            writer.write(head + b"content-length: %d\r\n\r\n" % len(body) + body)
            try:
                await reader.readuntil(b"data: ")
                for _ in range(2):
                    await poll.ask()
                assert poll.book.shown(0)[Signal.RUNNING].status is Status.SUSPECT
            finally:
                writer.close()
            await idle(served.gateway)
            backend = served.gateway.pool.backends["a"]
            assert (backend.busy_period, served.gateway.fleet.busy_periods("a")) == (1, NONE)
            assert (await served.post("/v1/embeddings", {"model": "fake", "input": "x"})).status == 200
            assert backend.busy_period == 2, "another busy time"
