"""A gate whose numbers change while slots are held and requests wait: any history against a simple model of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.admission.gate import UNLIMITED, Gate, Place
from gateway.errors import GatewayError, Own
from tests.admission.virtual import enter


def soon() -> float:
    return asyncio.get_running_loop().time() + 60


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Scene:
    """A gate, and what it should be by now: who holds a slot, and who waits, in order."""

    def __init__(self, slots: int, capacity: int) -> None:
        self.gate = Gate(slots, capacity)
        self.slots = self.most = slots
        self.held = 0
        self.queue: list[asyncio.Task[Place]] = []

    async def come(self) -> None:
        """Let one request come: it enters, waits, or is refused."""
        if self.gate.try_enter():
            self.held += 1
        else:
            self.queue.append(asyncio.create_task(enter([self.gate], soon())))
            await asyncio.sleep(0)
        self.collect()

    async def leave(self) -> None:
        if self.held:
            self.held -= 1
            self.gate.leave()

    async def give_up(self, number: int) -> None:
        """Cancel one that waits, which may have been given its slot in this turn of the loop."""
        if self.queue:
            self.queue[number % len(self.queue)].cancel()

    async def resize(self, slots: int, capacity: int) -> None:
        self.slots, self.most = slots, max(slots, self.most)
        self.gate.resize(slots, capacity)

    def collect(self) -> None:
        """Count who has entered meanwhile."""
        left = []
        for task in self.queue:
            if not task.done():
                left.append(task)
            elif not task.cancelled() and task.exception() is None:
                assert not any(not other.cancelling() for other in left), "who came first enters first"
                self.held += 1
                assert self.held <= self.most
            elif not task.cancelled():
                error = task.exception()
                assert isinstance(error, GatewayError) and error.kind is Own.QUEUE_FULL
        self.queue = left

    async def check(self) -> None:
        """Wait until everything has happened, and compare."""
        await settle()
        self.collect()
        self.most = max(self.slots, self.held)
        assert self.gate.waiting == len(self.queue)
        assert not self.queue or self.held >= self.slots, "nobody waits while a slot is free"
        assert self.gate.idle == (not self.held and not self.queue)


STEP = st.one_of(
    st.just(("come",)),
    st.just(("come",)),
    st.just(("leave",)),
    st.tuples(st.just("give_up"), st.integers(0, 9)),
    st.tuples(st.just("resize"), st.integers(1, 5), st.integers(0, 5)),
    st.just(("check",)),
)


@given(st.integers(1, 4), st.integers(0, 5), st.lists(STEP, max_size=40))
def test_any_history_keeps_the_order_and_loses_no_slot(
    slots: int, capacity: int, steps: Sequence[tuple[str, int]]
) -> None:
    async def play() -> None:
        scene = Scene(slots, capacity)
        for name, *numbers in steps:
            await getattr(scene, name)(*numbers)
        await scene.check()
        # All leave: whoever waits gets a turn, and then every slot is free again.
        while scene.held or scene.queue:
            await scene.leave()
            await scene.check()
        assert [scene.gate.try_enter() for _ in range(scene.slots + 1)] == [True] * scene.slots + [False]

    asyncio.run(play())


async def test_more_slots_let_those_who_wait_in_at_once() -> None:
    gate = Gate(1, 10)
    assert gate.try_enter()
    tasks = [asyncio.create_task(enter([gate], soon())) for _ in range(3)]
    await settle()
    gate.resize(3, 10)
    await settle()
    assert [task.done() for task in tasks] == [True, True, False]
    gate.resize(UNLIMITED, 0)
    await asyncio.wait_for(tasks[2], 5)


async def test_fewer_slots_throw_nobody_out_and_let_nobody_in_until_enough_have_left() -> None:
    gate = Gate(4, 10)
    assert all(gate.try_enter() for _ in range(4))
    waiting = asyncio.create_task(enter([gate], soon()))
    await settle()
    gate.resize(2, 10)
    for _ in range(2):
        gate.leave()
        await settle()
        assert not waiting.done() and not gate.try_enter()
    gate.leave()
    await asyncio.wait_for(waiting, 5)
    assert not gate.try_enter()


async def test_a_shorter_queue_keeps_those_who_wait_and_refuses_who_comes() -> None:
    gate = Gate(1, 3)
    assert gate.try_enter()
    tasks = [asyncio.create_task(enter([gate], soon())) for _ in range(3)]
    await settle()
    gate.resize(1, 1)
    with pytest.raises(GatewayError):
        await enter([gate], soon())
    for task in tasks:
        gate.leave()
        await asyncio.wait_for(task, 5)
