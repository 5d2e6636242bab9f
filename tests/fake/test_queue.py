"""Slots, the line before them, loading, and an engine that goes away and comes back."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from gateway.fake.engine import FakeEngine
from tests.fake.raw import Wire, ask, chat, connected, request

HOLD = {"faults": [{"at": "event 1", "do": "hang"}]}


async def busy(stack: AsyncExitStack, engine: FakeEngine, count: int) -> list[Wire]:
    """So many clients, one after the other, each with a request under way."""
    wires = []
    for number in range(count):
        wire = await stack.enter_async_context(connected(engine))
        wire.send(request(chat(user=f"client-{number}")))
        await engine.arrived(number + 1)
        wires.append(wire)
    return wires


async def test_more_than_the_slots_wait_in_line_and_come_in_order() -> None:
    async with FakeEngine(slots=2, defaults=HOLD) as engine, AsyncExitStack() as stack:
        wires = await busy(stack, engine, 5)
        assert [exchange.phase for exchange in engine.requests[2:]] == ["queued"] * 3
        assert (engine.journal.totals.running, engine.journal.totals.queued) == (2, 3)
        for number in range(2, 5):
            wires[number - 2].leave()
            await engine.closed(number - 1)
            assert [exchange.phase for exchange in engine.requests[number:]] == (
                ["streaming"] + ["queued"] * (4 - number)
            )


async def test_who_leaves_the_line_frees_no_slot() -> None:
    async with FakeEngine(slots=1, defaults=HOLD) as engine, AsyncExitStack() as stack:
        wires = await busy(stack, engine, 3)
        wires[1].leave()
        (gone,) = await engine.closed(1)
        assert (gone.phase, gone.bytes_sent) == ("queued", 0)
        assert (engine.journal.totals.running, engine.journal.totals.queued) == (1, 1)


async def test_a_full_line_turns_away() -> None:
    async with FakeEngine(slots=1, queue=1, defaults=HOLD) as engine, AsyncExitStack() as stack:
        await busy(stack, engine, 2)
        answer = await ask(engine, chat())
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert set(answer.json()) == {"error"}
        assert engine.journal.totals.refused == 1
        assert (await ask(engine, path="/health", method="GET")).status == 200


async def test_how_it_turns_away() -> None:
    busy_reply = {"status": 429, "headers": {"retry-after": "9"}, "body": {"error": "full"}}
    engine = FakeEngine(slots=1, queue=0, busy=busy_reply, defaults=HOLD)
    async with engine, AsyncExitStack() as stack:
        await busy(stack, engine, 1)
        answer = await ask(engine, chat())
        assert (answer.status, answer.headers["retry-after"], answer.json()) == (429, "9", {"error": "full"})


async def test_more_slots_by_a_new_script_are_lent_at_once() -> None:
    async with FakeEngine(slots=1, defaults=HOLD) as engine, AsyncExitStack() as stack:
        await busy(stack, engine, 3)
        engine.set(slots=3)
        await engine.until(lambda: engine.journal.totals.queued == 0)
        assert engine.journal.totals.running == 3
        assert [exchange.phase for exchange in engine.requests] == ["streaming"] * 3


async def test_a_long_line_of_short_answers() -> None:
    async with FakeEngine(slots=1, rules=[{"match": {"times": 1}, "first_token": 0.05}]) as engine:
        answers = await asyncio.gather(*(ask(engine, chat(stream=False)) for _ in range(400)))
        assert {answer.status for answer in answers} == {200}
        assert engine.journal.totals.finished == 400


@pytest.mark.parametrize("path", ["/health", "/v1/models", "/v1/chat/completions"])
async def test_while_loading_everything_answers_503(path: str) -> None:
    async with FakeEngine(loading=600) as engine:
        answer = await ask(engine, chat(), path)
        assert answer.status == 503
        assert answer.json()["error"]["message"] == "Loading model"
        assert (await ask(engine, path="/_fake/stats", method="GET")).status == 200
        engine.set()
        assert (await ask(engine, chat())).status == 200


async def test_loading_ends() -> None:
    async with FakeEngine(loading=0.01) as engine:
        async with asyncio.timeout(5):
            while (await ask(engine, path="/health", method="GET")).status == 503:
                pass


async def test_while_loading_the_port_may_refuse() -> None:
    async with FakeEngine(loading=600, loading_style="refuse") as engine:
        with pytest.raises(ConnectionRefusedError):
            await ask(engine, path="/health", method="GET")
        engine.set(loading=0.05, loading_style="refuse")
        assert await reachable(engine)


async def test_a_script_may_make_it_load_again() -> None:
    async with FakeEngine() as engine, connected(engine) as wire:
        wire.send(request(chat()))
        await wire.until(b"0\r\n\r\n")
        engine.set(loading=600, loading_style="refuse")
        assert (await wire.rest()).end == "reset"
        with pytest.raises(ConnectionRefusedError):
            await ask(engine, path="/health", method="GET")
        engine.set(loading=0.05, loading_style="refuse")
        assert await reachable(engine)


async def test_the_newest_script_decides_when_loading_ends() -> None:
    async with FakeEngine(loading=600, loading_style="refuse") as engine:
        engine.set(loading=601, loading_style="refuse")
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await ask(engine, path="/health", method="GET")
        engine.set()
        assert await reachable(engine)


async def reachable(engine: FakeEngine) -> bool:
    async with asyncio.timeout(5):
        while True:
            try:
                return (await ask(engine, path="/health", method="GET")).status == 200
            except ConnectionRefusedError:
                await asyncio.sleep(0)


async def test_down_and_up_on_the_same_port() -> None:
    async with FakeEngine(defaults=HOLD) as engine, AsyncExitStack() as stack:
        port = engine.port
        (wire,) = await busy(stack, engine, 1)
        await wire.until(b'"role"')
        for _ in range(3):
            await engine.down()
            with pytest.raises(ConnectionRefusedError):
                await ask(engine, path="/health", method="GET")
            await engine.up()
            assert (await ask(engine, path="/health", method="GET")).status == 200
        assert engine.port == port
        assert (await wire.rest()).end == "reset"
        assert engine.requests[0].outcome == "cut"


async def test_a_stopped_engine_leaves_nothing_behind() -> None:
    before = asyncio.all_tasks()
    engine = FakeEngine(defaults=HOLD, loading_style="refuse")
    await engine.start()
    async with AsyncExitStack() as stack:
        await busy(stack, engine, 3)
        await engine.stop()
        assert engine.journal.totals.open == 0
    assert asyncio.all_tasks() == before
    with pytest.raises(ConnectionRefusedError):
        await ask(engine, path="/health", method="GET")


async def test_stopping_while_still_loading() -> None:
    before = asyncio.all_tasks()
    async with FakeEngine(loading=600, loading_style="refuse"):
        pass
    assert asyncio.all_tasks() == before


async def test_under_uvloop_too() -> None:
    uvloop: Any = pytest.importorskip("uvloop")

    async def both_ends() -> str:
        async with FakeEngine(rules=[{"faults": [{"at": "event 2", "do": "reset"}]}]) as engine:
            cut = await ask(engine, chat())
            await engine.down()
            await engine.up()
            return cut.end + str(len(cut.payloads))

    def run() -> str:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(both_ends())

    assert await asyncio.to_thread(run) == "reset2"
