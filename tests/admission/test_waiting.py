"""Waiting at one gate or several: what is told, what is refused, what is charged, and that nothing is ever lost."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.base import Usage
from gateway.admission.gate import Gate, Place
from gateway.admission.tickets import Claim
from gateway.admission.waiting import Patience, Waiting, enter_now
from gateway.dispatch.charges import charged
from gateway.errors import GatewayError
from tests.admission.virtual import clock, enter, run


def claim(key: str = "k", level: int = 1, tokens: float = 10.0) -> Claim:
    found = Claim(key, 1.0, level)
    found.prompt = tokens
    return found


def full(slots: int = 1, queue: int = 10) -> Gate:
    gate = Gate(slots, queue, clock=clock)
    while gate.try_enter():
        pass
    return gate


def wait(gate: Gate, what: Claim | None = None, patience: Patience | None = None) -> Waiting:
    return Waiting([gate], what or claim(), patience or Patience(clock() + 60.0), Random(1))


async def paced(gate: Gate, seconds: float, count: int = 20) -> None:
    """Let requests enter one by one, so many seconds apart, while others wait."""
    tasks = [asyncio.create_task(wait(gate).place(clock() + 1e6)) for _ in range(count)]
    for task in tasks:
        await asyncio.sleep(seconds)
        gate.leave()
        (await task).settle(10.0)


def test_it_is_said_where_a_request_stands_and_how_long_it_will_take() -> None:
    async def play() -> None:
        gate = full(queue=40)
        first, second = wait(gate), wait(gate, claim(level=0))
        assert (first.words(), second.words()) == ("2 of 2", "1 of 2"), "nothing was measured"
        for each in (first, second):
            each._turn.withdraw()
        await paced(gate, 2.0)
        waiting = [wait(gate) for _ in range(3)]
        assert waiting[2].words() == "3 of 3, about 6 s"
        assert waiting[2].outlook.position == 3

    run(play())


@pytest.mark.parametrize(
    ("until", "end", "refused"),
    [(7.0, None, False), (5.0, None, True), (60.0, 9.0, False), (60.0, 7.0, True)],
)
def test_who_would_come_too_late_is_refused_at_once(until: float, end: float | None, refused: bool) -> None:
    """The third in the queue needs six seconds, and two more for its answer: that is how long others take."""

    async def play() -> None:
        gate = full(queue=40)
        await paced(gate, 2.0)
        _ = [wait(gate) for _ in range(2)]
        patience = Patience(clock() + until, None if end is None else clock() + end)
        if not refused:
            assert wait(gate, None, patience).outlook.position == 3
            return
        with pytest.raises(GatewayError) as caught:
            wait(gate, None, patience)
        assert caught.value.code == "queue_deadline" and caught.value.status == 503
        assert "3 of 3, about 6 s" in caught.value.message
        assert dict(caught.value.headers())[b"retry-after"] in (b"1", b"2")
        assert gate.waiting == 2, "it left the queue again"

    run(play())


def test_a_refusal_says_when_to_come_again_and_chance_spreads_it() -> None:
    async def play() -> set[int]:
        gate = full(queue=10)
        await paced(gate, 4.0, 10)
        waiting = [wait(gate) for _ in range(10)]
        assert len(waiting) == 10
        found = set()
        for seed in range(30):
            with pytest.raises(GatewayError) as caught:
                Waiting([gate], claim(), Patience(clock() + 600.0), Random(seed))
            assert caught.value.code == "queue_full"
            assert "10 requests wait, and it takes about 44 s" in caught.value.message
            found.add(int(dict(caught.value.headers())[b"retry-after"]))
        return found

    found = run(play())
    assert min(found) >= 44 and max(found) <= 55 and len(found) > 5


def test_a_request_at_several_gates_takes_one_slot_and_leaves_the_other_queues() -> None:
    async def play() -> None:
        gates = [full(), full(), full()]
        task = asyncio.create_task(enter(gates, clock() + 9.0))
        await asyncio.sleep(0)
        assert [gate.waiting for gate in gates] == [1, 1, 1]
        gates[2].leave()
        assert [gate.waiting for gate in gates] == [0, 0, 0], "at once, before it has woken up"
        gates[0].leave()
        place = await task
        assert place.gate is gates[2]
        assert [gate.has_room for gate in gates] == [True, False, False]

    run(play())


def test_a_request_that_lost_its_place_at_one_gate_waits_at_the_others() -> None:
    async def play() -> None:
        small, large = full(queue=1), full(queue=5)
        task = asyncio.create_task(enter([small, large], clock() + 9.0, claim("jobs", 3)))
        await asyncio.sleep(0)
        wait(small, claim("people", 0))
        assert (small.waiting, large.waiting) == (1, 1)
        wait(large, claim("people", 0))
        large.leave()
        large.leave()
        assert (await task).gate is large

    run(play())


@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 12), st.booleans())
def test_whatever_happens_everybody_ends_and_every_slot_comes_back(
    seed: int, slots: int, queue: int, several: bool
) -> None:
    """Requests of all keys and classes that come, leave, run and are refused, while the gates are resized."""

    async def play() -> None:
        rng = Random(seed)
        gates = [Gate(slots, queue, 2.0, clock) for _ in range(2 if several else 1)]
        running = [0] * len(gates)
        most = [slots] * len(gates)
        ended = 0

        async def one() -> None:
            nonlocal ended
            what = claim(rng.choice("abc"), rng.randrange(4), rng.uniform(1, 500))
            place: Place | None = enter_now(gates, what)
            try:
                if place is None:
                    now = clock()
                    patience = Patience(now + 5.0, now + rng.choice([4.0, 50.0]))
                    place = await Waiting(gates, what, patience, rng).place(now + 5.0)
            except GatewayError as error:
                assert error.status == 503  # noqa: PT017
                return
            finally:
                ended += 1
            index = gates.index(place.gate)
            running[index] += 1
            assert running[index] <= most[index], "never more than there are slots"
            try:
                await asyncio.sleep(rng.expovariate(2.0))
            finally:
                running[index] -= 1
                place.settle(rng.uniform(0, 500))
                place.gate.leave()

        tasks = []
        for _ in range(60):
            tasks.append(asyncio.create_task(one()))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            if rng.random() < 0.5:
                await asyncio.sleep(rng.uniform(0, 0.5))
            if rng.random() < 0.3:
                rng.choice(tasks).cancel()
            if rng.random() < 0.1:
                index = rng.randrange(len(gates))
                size = rng.randint(1, 5)
                gates[index].resize(size, rng.randint(0, 12), rng.choice([0.5, 2.0]))
                most[index] = max(size, running[index], most[index])
        await asyncio.gather(*tasks, return_exceptions=True)
        started = sum(not task.cancelled() for task in tasks)
        assert ended >= started
        assert [gate.idle for gate in gates] == [True] * len(gates)
        for gate in gates:
            for account in gate._queue._accounts.values():
                assert not account.size and not account.charged

    run(play())


@dataclass
class Tried:
    """An attempt that is over, as far as charges look at it."""

    tokens: Usage
    sent_at: int
    first_token_at: int = 0
    result: str = "ok"


def admitted() -> Place:
    """Return a place whose request has entered, and was charged with 99 tokens."""
    gate = Gate(1, 1, clock=lambda: 0.0)
    place = Place(claim(tokens=99.0), gate)
    gate._queue.join(place, 0.0)
    assert gate._queue.first(0.0) is place
    return place


def had(place: Place) -> float:
    """Return the tokens that the key of a place has had in its class."""
    assert place.flow is not None
    return place.flow.account.had[place.claim.level]


@pytest.mark.parametrize(
    ("attempts", "slot", "model"),
    [
        ([Tried(Usage(7, 5), 1)], 12.0, 12.0),
        ([Tried(Usage(7, 5), 1), Tried(Usage(0, 3), 1)], 12.0, 15.0),
        ([Tried(Usage(), 1)], 99.0, 99.0),
        ([Tried(Usage(), 0)], 0.0, 0.0),
        ([None], 0.0, 0.0),
        ([Tried(Usage(), 1), Tried(Usage(4, 4), 1)], 99.0, 8.0),
    ],
    ids=["counted", "two attempts", "uncounted: the estimate", "never sent", "none", "one of two counted"],
)
def test_a_request_is_charged_with_what_its_attempts_took(
    attempts: list[Tried | None], slot: float, model: float
) -> None:
    places = [admitted() for _ in range(2)]
    assert [had(place) for place in places] == [99.0, 99.0]
    charges = charged(None, places[0])
    charges.take(places[1], backend=True)
    for attempt in attempts:
        charges.attempted(attempt)
    charges.over()
    charges.over()
    assert (had(places[1]), had(places[0])) == (slot, model)
