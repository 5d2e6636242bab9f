"""Engines on demand on GPUs that a test makes up: two of 24 GiB, read as a driver would tell them; real processes.

Rules:
- An engine takes its memory from the start of its process to the end, on the GPUs that it was given.
- What the GPUs hold is looked at all the time, from outside, and is never more than there is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from random import Random

import pytest

from gateway.machine.gpu import Gpu, GpuUser
from gateway.residency.decide import PATIENCE
from gateway.residency.state import EngineState
from tests.faults.clients import until
from tests.fleet.playing import Toy
from tests.fleet.test_on_demand import ask, becomes, pid_of
from tests.processes import alive
from tests.serving import Served, serving

GIB = 1 << 30
TOTAL = 24 * GIB
NUMBERS = (0, 1)
SIZES = {"a": 5, "b": 8, "c": 10, "d": 12, "e": 16, "f": 20}
SECONDS = 10.0
"""How long clients ask at random, at least."""
CLIENTS = 12


class StandIn:
    """Two GPUs, and the engines that use them."""

    def __init__(self) -> None:
        self.toys: dict[Toy, int] = {}
        """What each engine really takes of each of its GPUs, in GiB."""
        self.told: tuple[int, ...] = NUMBERS
        """The GPUs of which the driver tells."""

    def users(self, number: int) -> tuple[GpuUser, ...]:
        """Return who uses one of them."""
        found = [(toy.gpus, gib) for toy, gib in self.toys.items()]
        return tuple(
            GpuUser(told[0], gib * GIB)
            for told, gib in found
            if told is not None and number in told[1] and alive(told[0])
        )

    def used(self, number: int) -> int:
        return sum(user.memory or 0 for user in self.users(number))

    def read(self) -> tuple[Gpu, ...]:
        """Return them as a driver tells them."""
        return tuple(
            Gpu(f"nvidia{number}", "a GPU", None, sum(user.memory or 0 for user in users), TOTAL, users=users)
            for number in self.told
            for users in [self.users(number)]
        )


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    """Have the gateway see these GPUs, and look at them often."""
    made = StandIn()
    monkeypatch.setattr("gateway.machine.machine.gpu_sources", lambda: (("the stand-in", made),))
    monkeypatch.setattr("gateway.machine.machine.INTERVAL", 0.1)
    return made


def config(folder: Path, gpus: StandIn, sizes: dict[str, int], **real: int) -> str:
    """Return the config of engines that say that they need so many GiB; `real` is what they take where that differs."""
    lines = ['server: {listen: "127.0.0.1:0"}\nbackends:\n']
    for name, gib in sizes.items():
        toy = Toy(folder, name)
        gpus.toys[toy] = real.get(name, gib)
        lines.append(toy.section(f"start: on_demand, gpus: auto, memory: {{gpu: {gib}GiB}}, max_wait: 60s"))
    return "".join(lines)


@contextlib.asynccontextmanager
async def watched(gpus: StandIn) -> AsyncIterator[list[tuple[int, ...]]]:
    """Look at the GPUs all the time until the block ends. Yield what they held, in GiB."""
    seen: list[tuple[int, ...]] = []

    async def watch() -> None:
        while True:
            seen.append(tuple(gpus.used(number) // GIB for number in NUMBERS))
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        await asyncio.wait([watching])


async def client(
    served: Served, names: Sequence[str], rng: Random, ends: Counter[int], enough: Callable[[], bool]
) -> None:
    """Ask for one model after the other until that was enough."""
    while not enough():
        answer = await ask(served, rng.choice(names))
        assert answer.status == 200, answer
        ends[answer.status] += 1
        await asyncio.sleep(rng.uniform(0, 0.2))


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_random_requests_for_more_than_the_gpus_hold_all_succeed_and_never_overfill_one(
    tmp_path: Path, gpus: StandIn
) -> None:
    text = config(tmp_path, gpus, SIZES)
    async with serving(tmp_path, text) as served, watched(gpus) as seen:
        loop = asyncio.get_running_loop()
        ends: Counter[int] = Counter()
        began = loop.time()
        stops = partial(served.metric, "gateway_engine_stops_total", reason="room")

        def enough() -> bool:
            # Both are in use, more than one of those that go together runs on one, and every engine had its turn.
            return (
                loop.time() > began + SECONDS
                and all(max(each[number] for each in seen) >= 20 for number in NUMBERS)
                and max(map(sum, seen)) > 28
                and stops() > 0
                and all(toy.starts for toy in gpus.toys)
            )

        clients = [client(served, [*SIZES], Random(number), ends, enough) for number in range(CLIENTS)]
        await asyncio.gather(*clients)
        passed = loop.time() - began
        assert ends[200] > CLIENTS
        assert max(max(each) for each in seen) <= TOTAL // GIB
        # Each stays for a second at least, and at most four of the six fit at a time (5 + 16, and 8 + 12).
        assert stops() <= 4 * passed


@pytest.mark.timeout(60)
async def test_an_engine_that_takes_more_of_a_gpu_than_it_says_is_believed(
    tmp_path: Path, gpus: StandIn
) -> None:
    """Three say that they need 5 GiB. One takes 20: the others go to the other GPU, wherever that one runs."""
    text = config(tmp_path, gpus, {"liar": 5, "b": 10, "c": 10}, liar=20)
    async with serving(tmp_path, text) as served:
        liar = pid_of(await ask(served, "liar"))
        need = partial(served.metric, "gateway_engine_memory_need_bytes", backend="liar")
        await until(lambda: need() >= 20 * GIB, "it is measured")
        async with watched(gpus) as seen:
            pid_of(await ask(served, "b"))
            pid_of(await ask(served, "c"))
            assert alive(liar)
        assert max(max(each) for each in seen) <= TOTAL // GIB
        assert seen[-1] == (20, 20)


@pytest.mark.timeout(60)
async def test_what_fits_on_no_gpu_is_refused_at_once(tmp_path: Path, gpus: StandIn) -> None:
    async with serving(tmp_path, config(tmp_path, gpus, {"a": 30})) as served:
        async with asyncio.timeout(PATIENCE):
            answer = await ask(served, "a")
        assert (answer.status, answer.error["code"]) == (503, "model_not_started")
        assert "it needs 30.0 GiB of memory of nvidia0" in answer.error["message"]


@pytest.mark.timeout(60)
async def test_engines_that_always_run_are_each_given_a_gpu_of_their_own(
    tmp_path: Path, gpus: StandIn
) -> None:
    text = config(tmp_path, gpus, {"a": 16, "b": 16}).replace("start: on_demand", "start: always")
    async with serving(tmp_path, text) as served, watched(gpus) as seen:
        for name in "ab":
            pid_of(await ask(served, name))
        await until(lambda: seen[-1] == (16, 16), "both have their memory")
        assert max(max(each) for each in seen) == 16


@pytest.mark.timeout(60)
async def test_a_driver_that_stops_answering_neither_stops_serving_nor_gives_memory_away(
    tmp_path: Path, gpus: StandIn
) -> None:
    """Two fill both GPUs, and requests run there. A third one waits for one of them, as it would anyway."""
    text = config(tmp_path, gpus, {"a": 20, "b": 20, "c": 20})
    async with serving(tmp_path, text) as served, watched(gpus) as seen:
        machine = served.gateway.machine
        assert machine is not None
        for name in "ab":
            pid_of(await ask(served, name))
        slow = [ask(served, name, "slow") for name in "ab"]
        in_flight = [served.gateway.pool.backends[name] for name in "ab"]
        await until(lambda: all(each.in_flight for each in in_flight), "both are asked")
        gpus.told = ()
        await machine.look()
        assert machine.gpus() == ()
        pid_of(await ask(served, "a"))
        waits = ask(served, "c")
        await asyncio.sleep(1.5)
        assert not waits.done()
        for toy in gpus.toys:
            toy.set("go")
        for answer in await asyncio.gather(*slow, waits):
            pid_of(answer)
        assert max(max(each) for each in seen) <= TOTAL // GIB


@pytest.mark.timeout(60)
async def test_a_gpu_that_vanishes_gets_no_further_engine(tmp_path: Path, gpus: StandIn) -> None:
    text = config(tmp_path, gpus, {"a": 16, "b": 5})
    async with serving(tmp_path, text) as served:
        machine = served.gateway.machine
        assert machine is not None
        pid_of(await ask(served, "a"))
        toys = {toy.name: toy for toy in gpus.toys}
        taken = toys["a"].gpus
        assert taken is not None
        [number] = taken[1]
        gpus.told = (number,)
        await until(lambda: [gpu.id for gpu in machine.gpus()] == [f"nvidia{number}"], "one is told")
        pid_of(await ask(served, "b"))
        found = toys["b"].gpus
        assert found is not None and found[1] == (number,)


@pytest.mark.timeout(120)
async def test_one_whose_gpus_were_chosen_is_taken_over_on_them_by_the_next_gateway(
    tmp_path: Path, gpus: StandIn
) -> None:
    adopt = f'"127.0.0.1:0", data: {tmp_path}/data, engines: {{adopt: 60s}}'
    text = config(tmp_path, gpus, {"a": 10, "b": 10}).replace('"127.0.0.1:0"', adopt)
    one, other = gpus.toys
    async with serving(tmp_path, text) as served:
        first = pid_of(await ask(served, "a"))
        assert one.gpus is not None
        [number] = one.gpus[1]
        residence = served.gateway.pool.backends["a"].residence
        assert residence is not None and residence.load_seconds > 0
        took = residence.load_seconds
    assert alive(first)
    try:
        async with serving(tmp_path, text) as served:
            await becomes(served, "a", EngineState.READY)
            need = partial(served.metric, "gateway_engine_memory_need_bytes", backend="a")
            await until(lambda: need(device=f"nvidia{number}") == 10 * GIB, "its memory is counted there")
            assert need(device=f"nvidia{1 - number}") == 0
            residence = served.gateway.pool.backends["a"].residence
            assert residence is not None and residence.load_seconds == took, "it is as dear to load as it was"
            await ask(served, "b")
            assert other.gpus is not None and other.gpus[1] == (1 - number,), "the emptiest is the other one"
            assert (pid_of(await ask(served, "a")), one.starts) == (first, 1)
    finally:
        for toy in gpus.toys:
            if toy.gpus is not None and alive(toy.gpus[0]):
                os.kill(toy.gpus[0], signal.SIGKILL)
                await until(lambda pid=toy.gpus[0]: not alive(pid), "it has ended")  # type: ignore[misc]
