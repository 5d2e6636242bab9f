"""The simulated fleet: it computes what it says, the same again from the same seed, and prompts find their caches."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from typing import get_args

import pytest

from bench import overload
from bench.simulated import CACHE, SLOTS, Engine, Job, Session, VirtualLoop, World
from bench.simulation import Fleet, main, measure
from gateway.config.balance import Policy
from gateway.fleet.lease import pick
from gateway.telemetry.metrics import Metrics


def send(engine: Engine, job: Job, ended: list[Job]) -> None:
    job.done = ended.append
    job.lease = pick([engine.target], None, 0.0)
    engine.send(job)


def test_time_passes_as_the_engine_says() -> None:
    loop, world = VirtualLoop(), World(1)
    engine, ended = Engine("a", loop, Metrics("")), list[Job]()
    session = Session(1, 1, world)
    jobs = [Job(session, [(1, 1000), (2 + number, 500)], 100, 0.0) for number in range(SLOTS + 1)]
    for job in jobs:
        send(engine, job, ended)
    assert engine.target.in_flight == SLOTS + 1
    while len(ended) < len(jobs):
        loop._run_once()  # type: ignore[attr-defined]
    loop.close()
    assert jobs[0].first == pytest.approx(0.15)
    assert jobs[1].first == pytest.approx(0.2), "the common start was in the cache"
    assert jobs[-1].first > jobs[0].first + 100 * 0.02, "it waited for a slot"
    assert engine.target.in_flight == 0
    assert (engine.cached_tokens, engine.prompt_tokens) == (1000 * SLOTS, 1500 * (SLOTS + 1))


def test_a_cache_forgets_what_was_not_used_for_longest() -> None:
    loop, ended = VirtualLoop(), list[Job]()
    engine, session = Engine("a", loop, Metrics("")), Session(1, 1, World(1))
    half = CACHE // 2
    for number in (1, 2, 1, 3, 1, 2):
        send(engine, Job(session, [(number, half)], 1, 0.0), ended)
    loop.close()
    assert engine.cached_tokens == 2 * half, (
        "the third and the fifth; the second was forgotten for the fourth"
    )


async def test_virtual_time_is_not_real_time() -> None:
    loop = VirtualLoop()
    assert loop.time() == 0.0
    await asyncio.to_thread(loop.run_until_complete, asyncio.sleep(1e6))
    assert loop.time() == pytest.approx(1e6)
    loop.close()


@pytest.mark.parametrize("policy", get_args(Policy))
def test_every_policy_serves_every_request(policy: str) -> None:
    fleet = Fleet(policy, 4, 300, 1)
    fleet.run()
    assert sum(engine.served for engine in fleet.engines.values()) == 300
    assert 0 < len(fleet.first_tokens) <= 300
    assert all(seconds >= 0 for seconds in fleet.first_tokens)


def test_affinity_finds_caches_and_answers_sooner_and_the_seed_decides() -> None:
    found = {policy: measure(policy, 8, 2000, 1) for policy in ("round_robin", "prefix", "session")}
    for policy in ("prefix", "session"):
        assert found[policy].hits > found["round_robin"].hits + 0.1
        assert found[policy].p50 < found["round_robin"].p50
        assert found[policy].spread < 1.6
    again = dataclasses.replace(measure("prefix", 8, 2000, 1), microseconds=found["prefix"].microseconds)
    assert again == found["prefix"]
    assert measure("prefix", 8, 2000, 2).p50 != again.p50


def test_a_queue_of_its_own_keeps_the_goodput_under_overload() -> None:
    """Ten times what two engines can serve: without the queue nearly everything comes too late."""
    most = overload.capacity(2, 30, 1)
    without, within = (overload.measure(2, 10, most, admission, (30, 1)) for admission in (False, True))
    assert within.good >= 0.9 * most > 0
    assert without.good < 0.5 * most
    assert within.p99 < 2 * overload.DEADLINE < without.p99
    assert within.fairness > 0.9 > without.fairness
    assert within.at_once > 0.9


def test_fair_shares_are_those_of_max_min() -> None:
    asked = Counter({"a": 2, "b": 10, "c": 100})
    assert overload.max_min(asked, 20) == {"a": 2, "b": 9, "c": 9}
    assert overload.jain([1, 1, 1]) == 1
    assert overload.jain([1, 0, 0]) == pytest.approx(1 / 3)


def test_the_command_prints_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["--engines", "3", "--requests", "60", "--overload", "0", "--policies", "random", "prefix"]) == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["`random`", "`prefix`"]
