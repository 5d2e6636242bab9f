"""What engines measure of themselves: asked for with their signals, shown under our names while it is fresh."""

from __future__ import annotations

import threading
from pathlib import Path
from random import Random

import pytest

from backends import registry
from backends.base import Signal
from backends.facts import metrics as facts
from backends.framing.prometheus import Sieve
from backends.metrics import Buckets, Counted, Measured, MetricsTable, Timing
from gateway.config import file as config
from gateway.fake.engine import FakeEngine
from gateway.fake.script import Match, Reply, Rule
from gateway.fleet import signals
from gateway.fleet.fleet import Fleet
from gateway.fleet.load import FRESH
from gateway.telemetry.merging import merge, of_master
from gateway.telemetry.metrics import Metrics
from tests.serving import serving
from tests.toy_engine import GROVE, ROW

PAGE = b"""\
# HELP orchard_prompts Tokens.
# TYPE orchard_prompts counter
orchard_prompts{rank="0"} 0
orchard_picked{how="ripe"} 2
orchard_picked{how="blown down"} 3
orchard_seconds_bucket{le="0.5"} 1
orchard_seconds_bucket{le="+Inf"} 4
orchard_seconds_sum 7.5
orchard_seconds_count 4
orchard_running 3
orchard_kv 7
orchard_weather{sky="blue"} 1
"""
SHOWN = """\
gateway_backend_requests_running{backend="a",engine="grove"} 3.0
gateway_backend_prompt_tokens_total{backend="a",engine="grove"} 0.0
gateway_backend_requests_finished_total{backend="a",engine="grove",reason="stop"} 2.0
gateway_backend_requests_finished_total{backend="a",engine="grove",reason="unknown"} 3.0
gateway_backend_time_to_first_token_seconds_bucket{backend="a",engine="grove",le="0.5"} 1.0
gateway_backend_time_to_first_token_seconds_bucket{backend="a",engine="grove",le="+Inf"} 4.0
gateway_backend_time_to_first_token_seconds_count{backend="a",engine="grove"} 4.0
gateway_backend_time_to_first_token_seconds_sum{backend="a",engine="grove"} 7.5
"""
_OLD = tuple(f"gateway_backend_{name}" for name in ("signal", "state", "up", "drained", "weight"))


@pytest.fixture(autouse=True)
def _engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.ENGINES, "grove", GROVE)
    monkeypatch.setitem(registry.ENGINES, "orchard", ROW)


def metrics_page(body: bytes | None, **match: int) -> Rule:
    reply = Reply(status=404) if body is None else Reply(status=200, body=body)
    return Rule(match=Match(path="/metrics", **match), reply=reply)


def shown(page: str) -> str:
    """Return the lines of a page that tell what engines measure."""
    lines = [line for line in page.splitlines(keepends=True) if line.startswith("gateway_backend_")]
    return "".join(line for line in lines if not line.startswith(_OLD))


class Timed:
    """A fleet whose clock stands still unless the test moves it, and which asks only when told to."""

    def __init__(self, folder: Path, backends: str) -> None:
        self.now = 0.0
        self.metrics = Metrics("9")
        self.fleet = Fleet(self.metrics, Random(1), lambda: None, clock=lambda: self.now)
        self._file = folder / "gateway.yaml"
        self.apply(backends)

    def apply(self, backends: str) -> None:
        self._file.write_text(f'server: {{listen: "127.0.0.1:0"}}\nbackends: {backends}\n')
        self.fleet.apply(config.load(self._file))

    async def ask(self) -> str:
        """Ask the engine, and return what is shown then."""
        await self.fleet.poll("a").ask()
        return self.shown()

    def shown(self) -> str:
        return shown("".join(self.metrics.pieces()))


async def test_the_page_shows_it_under_the_names_of_the_gateway(tmp_path: Path) -> None:
    """What is not on the engine's page, or cannot be right, is not on the gateway's."""
    async with FakeEngine(rules=[metrics_page(PAGE)]) as engine:
        text = f'backends: {{a: {{engine: grove, url: "{engine.url}"}}}}'
        async with serving(tmp_path, text) as served:
            await served.gateway.fleet.poll("a").ask()
            assert shown((await served.get("/metrics")).body.decode()) == SHOWN


async def test_one_answer_tells_signals_and_measures(tmp_path: Path) -> None:
    async with FakeEngine(rules=[metrics_page(PAGE)]) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        await timed.ask()
        assert timed.fleet.poll("a").book.shown(0)[Signal.RUNNING].value == 3
        assert len(engine.journal.exchanges) == 1


async def test_what_an_engine_tells_no_longer_is_gone_when_it_is_not_fresh(tmp_path: Path) -> None:
    async with FakeEngine(rules=[metrics_page(PAGE, times=1), metrics_page(None)]) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        assert await timed.ask() == SHOWN
        timed.now = FRESH
        assert await timed.ask() == SHOWN
        timed.now = FRESH + 0.1
        assert timed.shown() == ""


async def test_what_leaves_the_engine_s_page_is_gone_at_once(tmp_path: Path) -> None:
    rest = b"orchard_prompts 1\n"
    async with FakeEngine(rules=[metrics_page(PAGE, times=1), metrics_page(rest)]) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        await timed.ask()
        assert await timed.ask() == 'gateway_backend_prompt_tokens_total{backend="a",engine="grove"} 1.0\n'


async def test_a_counter_that_begins_anew_is_told_as_it_is(tmp_path: Path) -> None:
    rules = [metrics_page(b"orchard_prompts 90\n", times=1), metrics_page(b"orchard_prompts 1\n")]
    async with FakeEngine(rules=rules) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        assert (await timed.ask()).endswith(" 90.0\n")
        assert (await timed.ask()).endswith(" 1.0\n")


async def test_nothing_stays_of_an_engine_that_was_replaced_moved_or_removed(tmp_path: Path) -> None:
    async with FakeEngine(rules=[metrics_page(PAGE)]) as engine:
        here = f'engine: grove, url: "{engine.url}"'
        for after in (
            f'{{a: {{engine: orchard, url: "{engine.url}"}}}}',
            '{b: {engine: openai, url: "http://127.0.0.1:9"}}',
        ):
            timed = Timed(tmp_path, f"{{a: {{{here}}}}}")
            assert await timed.ask() == SHOWN
            timed.apply(after)
            assert "grove" not in timed.shown()
        timed = Timed(tmp_path, f"{{a: {{{here}}}}}")
        await timed.ask()
        timed.apply('{a: {engine: grove, url: "http://127.0.0.1:9"}}')
        assert timed.shown() == ""


def test_the_master_tells_the_workers_with_the_engine_s_own_buckets() -> None:
    measured = Measured(
        {Counted.PREEMPTIONS: 0.0}, {}, {Timing.QUEUE: Buckets((0.25, 1.0, 60.0), (1, 0, 2, 5), 400.5)}
    )
    master, worker = Metrics("9"), Metrics("9")
    master.engines.show("a", "vllm", {Signal.KV_USE: 0.5}, measured)
    told = merge([of_master(master.dump(), master.across), worker.dump()], worker.across)
    as_json = [(kind, name, list(labels), value) for kind, name, labels, value in told]
    page = shown("".join(worker.pieces_of(as_json)))  # type: ignore[arg-type]
    assert page == shown("".join(master.pieces()))
    assert 'gateway_backend_queue_time_seconds_bucket{backend="a",engine="vllm",le="60.0"} 3.0\n' in page
    assert 'gateway_backend_kv_cache_usage_ratio{backend="a",engine="vllm"} 0.5\n' in page
    assert shown("".join(worker.pieces())) == ""


LARGEST_READ = 256 << 10
"""Bytes of one read of asyncio's sockets."""


async def test_a_large_page_is_sifted_as_it_arrives_and_read_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    threads: set[int] = set()
    feed, read = Sieve.feed, facts.measured

    def watched_feed(self: Sieve, data: bytes) -> None:
        fed.append(len(data))
        feed(self, data)

    def watched_read(body: bytes, table: MetricsTable) -> Measured:
        threads.add(threading.get_ident())
        return read(body, table)

    monkeypatch.setattr(Sieve, "feed", watched_feed)
    monkeypatch.setattr(signals, "measured", watched_read)
    noise = b'orchard_weather{sky="%07d"} 1\n' * 100_000
    few, many = noise, noise + b'orchard_prompts{rank="%05d"} 2\n' * 3_000
    async with FakeEngine(rules=[metrics_page(few, times=1), metrics_page(many)]) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        assert await timed.ask() == ""
        assert threads == {threading.get_ident()} and sum(fed) > len(few)
        threads.clear()
        assert (await timed.ask()).endswith(" 6000.0\n")
        assert len(threads) == 1 and threads != {threading.get_ident()}
    assert max(fed) <= LARGEST_READ


async def test_a_page_beyond_the_limits_is_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "PAGE", 1 << 20)
    async with FakeEngine(rules=[metrics_page(PAGE + b"# no\n" * 300_000)]) as engine:
        timed = Timed(tmp_path, f'{{a: {{engine: grove, url: "{engine.url}"}}}}')
        assert await timed.ask() == ""
        assert "too large" in timed.fleet.poll("a").book.shown(0)[Signal.RUNNING].source
