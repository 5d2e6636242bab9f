"""The gate of a model: slots are bounded, the queue is fair and bounded, and no slot is ever lost."""

import asyncio
from collections.abc import Awaitable
from random import Random

import pytest

from gateway.admission.gate import Gate, Place
from gateway.errors import GatewayError
from tests.admission.virtual import enter


def soon() -> float:
    return asyncio.get_running_loop().time() + 5


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_slots_are_bounded_and_come_back() -> None:
    gate = Gate(2, 10)
    assert gate.try_enter() and gate.try_enter()
    assert not gate.try_enter()
    gate.leave()
    assert gate.try_enter()


async def test_who_waits_is_served_in_order_and_nobody_overtakes() -> None:
    gate, order = Gate(1, 10), []
    assert gate.try_enter()

    async def wait(number: int) -> None:
        await enter([gate], soon())
        order.append(number)

    tasks = [asyncio.create_task(wait(number)) for number in range(3)]
    await settle()
    assert gate.waiting == 3
    for served in range(3):
        gate.leave()
        assert not gate.try_enter()
        await settle()
        assert order == list(range(served + 1))
    await asyncio.gather(*tasks)


async def _refused(waiting: Awaitable[Place]) -> str:
    with pytest.raises(GatewayError) as caught:
        await waiting
    assert caught.value.status == 503
    assert (b"retry-after" in dict(caught.value.headers())) is True
    return caught.value.code


async def test_a_full_queue_refuses_at_once() -> None:
    gate = Gate(1, 1)
    assert gate.try_enter()
    first = asyncio.create_task(enter([gate], soon()))
    await settle()
    assert await _refused(enter([gate], soon())) == "queue_full"
    gate.leave()
    await first


async def test_waiting_has_an_end_and_leaves_nothing_behind() -> None:
    gate = Gate(1, 1)
    assert gate.try_enter()
    assert await _refused(enter([gate], asyncio.get_running_loop().time() + 0.01)) == "queue_timeout"
    assert gate.waiting == 0
    gate.leave()
    assert gate.try_enter()


async def test_a_slot_that_is_released_twice_is_a_bug_that_is_seen() -> None:
    gate = Gate(2, 1)
    assert gate.try_enter()
    gate.leave()
    with pytest.raises(AssertionError, match="released once"):
        gate.leave()
    assert gate.held == 0
    assert [gate.try_enter() for _ in range(3)] == [True, True, False]


async def test_whoever_leaves_the_queue_takes_no_slot_along() -> None:
    """Cancel at every moment, also in the one between being given a slot and waking up with it."""
    rng = Random(3)
    gate, running = Gate(3, 50), 0

    async def visit() -> None:
        nonlocal running
        if not gate.try_enter():
            await enter([gate], soon())
        running += 1
        assert running <= 3
        try:
            await asyncio.sleep(0)
        finally:
            running -= 1
            gate.leave()

    for _ in range(200):
        tasks = [asyncio.create_task(visit()) for _ in range(20)]
        for _ in range(rng.randrange(6)):
            await asyncio.sleep(0)
        for task in rng.sample(tasks, 10):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert gate.waiting == 0
    assert [gate.try_enter() for _ in range(4)] == [True, True, True, False]
