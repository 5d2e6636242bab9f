"""What is known of an engine's memory: told, measured or reckoned; and the GPUs it may start on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from backends.base import LaunchOptions
from gateway.config.section import validate
from gateway.config.server import Engines
from gateway.fleet.needs import Needs
from gateway.fleet.room import Room
from gateway.machine.gpu import Gpu, GpuUser
from gateway.machine.host import Host
from gateway.machine.machine import Machine
from gateway.machine.processes import Entry
from gateway.residency.memory import ENGINES, RAM
from gateway.telemetry.metrics import Metrics
from tests.config.files import config as read

MODEL = Path(__file__).parents[2] / "models" / "demo.gguf"
GIB = 1 << 30


class Fixed:
    """GPUs as a driver would tell them."""

    def __init__(self, *gpus: Gpu) -> None:
        self.gpus = gpus

    def read(self) -> tuple[Gpu, ...]:
        return self.gpus


async def machine(*gpus: Gpu, ram: int = 64 * GIB, free: int = 48 * GIB) -> Machine:
    """Return a machine that has been looked at."""
    made = Machine(
        dict,
        Metrics("").machine,
        [("GPUs", Fixed(*gpus))],
        lambda: Host(memory_total=ram, memory_available=free),
        dict,
    )
    await made.look()
    return made


def gpu(number: int, total: int = 24 * GIB, used: int = 0) -> Gpu:
    return Gpu(f"nvidia{number}", "a GPU", memory_total=total, memory_used=used)


def launch(folder: Path, text: str, engine: str = "llamacpp") -> LaunchOptions:
    found = read(folder, f"backends:\n  a: {{engine: {engine}, launch: {text}}}\n").backends["a"].launch
    assert found is not None
    return found


async def needs(folder: Path, text: str, on: Machine | None = None, engine: str = "llamacpp") -> Needs:
    made = Needs("a", launch(folder, text, engine))
    await made.reckon(on or await machine())
    return made


async def test_what_nobody_knows_is_none(tmp_path: Path) -> None:
    assert (await needs(tmp_path, "{model: org/name}", engine="vllm")).amounts() is None


async def test_the_files_say_it_before_the_first_start(tmp_path: Path) -> None:
    found = (await needs(tmp_path, f"{{model: {MODEL}, context: 512}}")).amounts()
    assert found is not None
    assert MODEL.stat().st_size < found[RAM] < GIB


async def test_what_was_measured_is_believed_before_the_files(tmp_path: Path) -> None:
    made = await needs(tmp_path, f"{{model: {MODEL}}}")
    made.take({RAM: 5 * GIB}, began_at=1.0)
    made.take({RAM: 3 * GIB}, began_at=1.0)
    assert made.amounts() == {RAM: 5 * GIB}
    made.take({RAM: 2 * GIB}, began_at=2.0)
    assert made.amounts() == {RAM: 5 * GIB}
    made.take({RAM: 2 * GIB}, began_at=3.0)
    assert made.amounts() == {RAM: 2 * GIB}
    assert Needs("a", made._launch, made).amounts() == {RAM: 2 * GIB}


async def test_a_first_life_that_has_taken_little_yet_is_not_believed_before_the_files(
    tmp_path: Path,
) -> None:
    made = await needs(tmp_path, f"{{model: {MODEL}, context: 512}}")
    from_files = made.amounts()
    made.take({RAM: 1 << 20}, began_at=1.0)
    assert made.amounts() == from_files
    made.take({RAM: 2 << 20}, began_at=2.0)
    assert made.amounts() == {RAM: 2 << 20}


async def test_what_was_measured_on_other_gpus_counts_on_those_of_now(tmp_path: Path) -> None:
    """An engine that lies about its memory has run on the first GPU, and is started on the second one."""
    text = "{model: org/name, gpus: auto, memory: {gpu: 5GiB}}"
    made = await needs(tmp_path, text, await machine(gpu(0), gpu(1)), "vllm")
    made.gpus = (0,)
    made.take({RAM: GIB, "nvidia0": 9 * GIB}, began_at=1.0)
    made.gpus = (1,)
    assert made.amounts() == {RAM: GIB, "nvidia1": 9 * GIB}
    assert [place.need for place in made.places()] == [
        {RAM: GIB, "nvidia0": 9 * GIB},
        {RAM: GIB, "nvidia1": 9 * GIB},
    ]


async def test_a_config_that_lies_is_told_once_and_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = await needs(tmp_path, f"{{model: {MODEL}, memory: {{ram: 1GiB}}}}")
    assert made.amounts() == {RAM: GIB}
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            made.take({RAM: 3 * GIB}, began_at=1.0)
    assert made.amounts() == {RAM: 3 * GIB}
    assert [record.getMessage() for record in caplog.records] == [
        "backend 'a' takes 3.0 GiB of ram, not 1.0 GiB as `launch.memory` says"
    ]


@pytest.mark.parametrize(
    ("more", "devices"),
    [
        ("", ["nvidia0"]),
        (", gpus: [2, 3]", ["nvidia2", "nvidia3"]),
        (", tensor_parallel: 2", ["nvidia0", "nvidia1"]),
    ],
)
async def test_what_is_said_of_a_gpu_counts_for_each(tmp_path: Path, more: str, devices: list[str]) -> None:
    made = await needs(
        tmp_path, f"{{model: org/name, memory: {{ram: 2GiB, gpu: 20GiB}}{more}}}", engine="vllm"
    )
    assert made.amounts() == {RAM: 2 * GIB, **dict.fromkeys(devices, 20 * GIB)}


async def test_an_engine_whose_gpus_are_chosen_may_run_on_equal_ones(tmp_path: Path) -> None:
    on = await machine(gpu(0), gpu(1), gpu(2, 48 * GIB))
    text = "{model: org/name, gpus: auto, tensor_parallel: 2, memory: {gpu: 20GiB}}"
    made = await needs(tmp_path, text, on, "vllm")
    assert [place.gpus for place in made.places()] == [(0, 1)]
    one = await needs(tmp_path, text.replace("tensor_parallel: 2, ", ""), on, "vllm")
    assert [place.gpus for place in one.places()] == [(0,), (1,), (2,)]
    one.gpus = (2,)
    assert one.amounts() == {"nvidia2": 20 * GIB}


async def test_what_others_hold_is_not_there_to_give(tmp_path: Path) -> None:
    on = await machine(gpu(0, used=10 * GIB), ram=64 * GIB, free=20 * GIB)
    engines = validate(Engines, {"memory": {"ram": "50%", "gpu": "90%"}, "at_once": 3})
    assert Room(on).budget(engines, {}) == {ENGINES: 3, RAM: 20 * GIB, "nvidia0": 14 * GIB}
    assert Room(await machine(gpu(0))).budget(engines, {})["nvidia0"] == round(0.9 * 24 * GIB)
    assert Room().budget(engines, {}) == {ENGINES: 3}


async def test_what_our_own_engines_hold_is_there() -> None:
    used = Gpu("nvidia0", "a GPU", None, 20 * GIB, 24 * GIB, users=(GpuUser(7, 15 * GIB),))
    table: dict[int, Any] = {7: Entry(1, 4 * GIB, 0.0), 1: Entry(0, 0, 0.0)}
    made = Machine(
        lambda: {"a": 7},
        Metrics("").machine,
        [("GPUs", Fixed(used))],
        lambda: Host(memory_total=64 * GIB, memory_available=10 * GIB),
        lambda: table,
    )
    await made.look()
    assert Room(made).budget(Engines(), {}) == {RAM: 14 * GIB, "nvidia0": 19 * GIB}
    table[7] = Entry(1, 4 * GIB, 0.0, cached=3 * GIB)
    await made.look()
    assert Room(made).budget(Engines(), {})[RAM] == 11 * GIB, "mapped weights are among what is available"


class Ours:
    """One engine on a GPU of 24 GiB, of which the driver tells what a test says."""

    def __init__(self, used: int, *users: GpuUser) -> None:
        self.source = Fixed(Gpu("nvidia0", "a GPU", None, used * GIB, 24 * GIB, users=users))
        self.host = Host(memory_total=64 * GIB, memory_available=10 * GIB)
        table: dict[int, Any] = {7: Entry(1, 4 * GIB, 0.0), 1: Entry(0, 0, 0.0)}
        self.machine = Machine(
            lambda: {"a": 7}, Metrics("").machine, [("GPUs", self.source)], lambda: self.host, lambda: table
        )
        self.room = Room(self.machine)

    async def there(self, gib: int = 15) -> int:
        """Look; return how many GiB all engines may take of the GPU, one that is ready needing so many."""
        await self.machine.look()
        return self.room.budget(Engines(), {"a": {"nvidia0": gib * GIB}})["nvidia0"] // GIB


@pytest.mark.parametrize("users", [(), (GpuUser(7, None),), (GpuUser(4711, 15 * GIB),)])
async def test_memory_of_an_engine_that_the_driver_does_not_tell_counts_once(
    users: tuple[GpuUser, ...],
) -> None:
    """In a container the driver names processes of the host's, or none; where a GPU is divided, it tells no sizes."""
    assert await Ours(20, *users).there() == 19
    assert await Ours(20, GpuUser(7, 12 * GIB)).there() == 16


async def test_a_driver_that_does_not_answer_any_more_gives_nothing_away() -> None:
    ours = Ours(20, GpuUser(7, 15 * GIB))
    assert await ours.there() == 19
    ours.source.gpus, ours.host = (), Host()
    assert await ours.there() == 19
    assert ours.room.budget(Engines(), {})[RAM] == 14 * GIB
    assert ours.room.limits(Engines())["nvidia0"] == round(0.95 * 24 * GIB)
    assert ours.room.gone() == set()


async def test_a_gpu_that_has_vanished_is_not_chosen(tmp_path: Path) -> None:
    on = await machine(gpu(0), gpu(1))
    room = Room(on)
    room.limits(Engines())
    made = await needs(tmp_path, "{model: org/name, gpus: auto, memory: {gpu: 5GiB}}", on, "vllm")
    assert [place.gpus for place in made.places(room.gone())] == [(0,), (1,)]
    on._gpus = (gpu(1),)
    assert room.gone() == {"nvidia0"}
    on._gpus = ()
    assert room.gone() == {"nvidia0"}
    assert [place.gpus for place in made.places(room.gone())] == [(1,)]
    both = await needs(
        tmp_path,
        "{model: org/name, gpus: auto, tensor_parallel: 2, memory: {gpu: 5GiB}}",
        await machine(gpu(0), gpu(1)),
        "vllm",
    )
    assert [place.gpus for place in both.places(room.gone())] == [(0, 1)]


async def test_a_divided_gpu_is_not_chosen_and_one_that_is_found_late_is(tmp_path: Path) -> None:
    text = "{model: org/name, gpus: auto, memory: {gpu: 5GiB}}"
    on = await machine(gpu(0)._replace(divided=True), gpu(1))
    assert [place.gpus for place in (await needs(tmp_path, text, on, "vllm")).places()] == [(1,)]
    late = await needs(tmp_path, text, await machine(), "vllm")
    assert late.places() == ()
    await late.reckon(on)
    assert [place.gpus for place in late.places()] == [(1,)]
