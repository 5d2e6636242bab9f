"""Ten times the load that an engine can bear, in virtual time: what is served, what is refused, and how soon."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from random import Random

import pytest

from gateway.admission import waiting
from gateway.admission.gate import Gate
from gateway.admission.tickets import Claim
from gateway.errors import GatewayError
from gateway.priority import NUMBERS
from tests.admission.virtual import clock, run

SLOTS = 8
SERVICE = 1.0
"""Seconds of a request on average."""
SECONDS = 60.0
PATIENCE = 12.0
"""Seconds after which the answer is of no use any more."""
QUEUE = 5.0
"""Seconds that a request may wait."""


@dataclass
class Outcome:
    """What became of all requests."""

    in_time: list[tuple[str, float]] = field(default_factory=list)
    """Key, and seconds of service, of those that were answered in time, before requests ceased to come."""
    late: int = 0
    refused: dict[str, list[float]] = field(default_factory=dict)
    """After how many seconds they were refused, by code."""
    running: int = 0
    most: int = 0
    waits: list[tuple[float, float]] = field(default_factory=list)
    """What was estimated when they came, and how long those waited that were let in."""

    @property
    def goodput(self) -> float:
        """The share of all slot-seconds that went into answers in time."""
        return sum(seconds for _, seconds in self.in_time) / (SLOTS * SECONDS)

    def soon(self, within: float) -> float:
        """Return the share of all refusals that came within so many seconds."""
        all_of_them = [seconds for times in self.refused.values() for seconds in times]
        return sum(seconds <= within for seconds in all_of_them) / len(all_of_them)


class Load:
    """Clients who come at random, ten times as many as can be served."""

    def __init__(self, gate: Gate, seed: int) -> None:
        self.gate = gate
        self.rng = Random(seed)
        self.outcome = Outcome()
        self.end = 0.0

    async def one(self, key: str, priority: str) -> None:
        began, out = clock(), self.outcome
        service = self.rng.expovariate(1 / SERVICE)
        claim = Claim(key, 1.0, NUMBERS[priority])
        claim.prompt = 100.0 * service
        place = waiting.enter_now([self.gate], claim)
        try:
            if place is None:
                patience = waiting.Patience(began + QUEUE, began + PATIENCE)
                waits = waiting.Waiting([self.gate], claim, patience, self.rng)
                place = await waits.place(began + QUEUE)
                out.waits.append((waits.outlook.seconds, clock() - began))
        except GatewayError as error:
            assert dict(error.headers())[b"retry-after"].isdigit()  # noqa: PT017
            out.refused.setdefault(error.code, []).append(clock() - began)
            return
        out.running += 1
        out.most = max(out.most, out.running)
        try:
            await asyncio.sleep(service)
        finally:
            out.running -= 1
            place.settle(100.0 * service)
            self.gate.leave()
        if clock() - began > PATIENCE:
            out.late += 1
        elif clock() <= self.end:
            out.in_time.append((key, service))

    async def all(self, rate: float, keys: dict[str, float], priorities: dict[str, str]) -> Outcome:
        """Let requests come at this rate, of these keys in these shares, and return what became of them."""
        tasks = set()
        self.end = clock() + SECONDS
        while clock() < self.end:
            key = self.rng.choices(list(keys), list(keys.values()))[0]
            task = asyncio.create_task(self.one(key, priorities.get(key, "normal")))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if self.rng.random() < 0.05:
                asyncio.get_running_loop().call_later(self.rng.uniform(0, 4), task.cancel)
            await asyncio.sleep(self.rng.expovariate(rate))
        await asyncio.gather(*tasks, return_exceptions=True)
        assert self.gate.idle
        return self.outcome


def overload(
    factor: float, keys: dict[str, float], seed: int = 1, queue: int = 128, **priorities: str
) -> Outcome:
    async def play() -> Outcome:
        load = Load(Gate(SLOTS, queue, clock=clock), seed)
        return await load.all(factor * SLOTS / SERVICE, keys, priorities)

    return run(play())


@pytest.mark.parametrize("queue", [16, 128])
@pytest.mark.parametrize("seed", [1, 2])
def test_ten_times_the_load_keeps_the_goodput_and_refuses_at_once(seed: int, queue: int) -> None:
    out = overload(10, {"a": 1.0}, seed, queue)
    assert out.most == SLOTS
    assert out.goodput >= 0.9
    assert out.soon(0.05) >= 0.97
    assert out.late <= 0.03 * len(out.in_time)


def test_a_load_that_can_be_borne_is_refused_nothing() -> None:
    out = overload(0.7, {"a": 1.0, "b": 2.0})
    assert not out.refused and not out.late


def test_the_estimate_is_close_to_the_wait() -> None:
    out = overload(10, {"a": 1.0})
    known = [(estimate, wait) for estimate, wait in out.waits if estimate > 1.0]
    assert len(known) > 300
    wrong = sorted(abs(wait - estimate) / estimate for estimate, wait in known)
    assert wrong[len(wrong) // 2] < 0.25
    assert sum(wait for _, wait in known) / sum(estimate for estimate, _ in known) == pytest.approx(
        1.0, abs=0.2
    )


def test_under_overload_keys_get_equal_shares_though_one_asks_fifty_times_as_often() -> None:
    out = overload(10, {"flood": 50.0, "a": 5.0, "b": 5.0, "c": 5.0})
    shares: dict[str, float] = {}
    for key, seconds in out.in_time:
        shares[key] = shares.get(key, 0.0) + seconds
    values = list(shares.values())
    assert len(values) == 4
    assert sum(values) ** 2 / (4 * sum(value * value for value in values)) >= 0.95
    assert out.goodput >= 0.9


def test_under_overload_a_better_class_is_served_and_the_worse_one_takes_what_is_left() -> None:
    out = overload(10, {"people": 4.0, "jobs": 60.0}, people="high", jobs="batch")
    people = sum(seconds for key, seconds in out.in_time if key == "people")
    came = 10 * SLOTS * SECONDS * 4 / 64
    assert people >= 0.8 * came, "they came to five eighths of the slots, and went first"
    assert out.goodput >= 0.9
