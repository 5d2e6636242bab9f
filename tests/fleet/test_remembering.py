"""What engines took is known after a restart of the gateway, where it has a store, before the first of them starts."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import pytest

from backends.base import LaunchOptions
from backends.facts.residing import fingerprint
from gateway.fleet.keeper import Keeper
from gateway.fleet.needs import Needs
from gateway.fleet.remembering import EVERY, Remembering
from gateway.residency.memory import RAM
from gateway.store.failure import StoreError
from gateway.store.taken import Taken
from tests.faults.clients import until
from tests.fleet.playing import Toy
from tests.fleet.test_needs import launch
from tests.fleet.test_on_demand import ask, head, pid_of
from tests.serving import Served, serving

MIB = 1 << 20
TAKEN = 200


def keeper(served: Served) -> Keeper:
    found = served.gateway.fleet.keeper
    assert found is not None
    return found


def need(served: Served, name: str) -> Mapping[str, float]:
    return keeper(served)._kept[name].needs.amounts() or {}


class Kept:
    """A store that keeps measurements in memory, or fails."""

    def __init__(self) -> None:
        self.taken: dict[str, Taken] = {}
        self.writes = 0
        self.fails = False

    async def read(self) -> dict[str, Taken]:
        if self.fails:
            raise StoreError("its disk is full")
        return dict(self.taken)

    async def write(self, taken: Mapping[str, Taken]) -> None:
        self.writes += 1
        if self.fails:
            raise StoreError("its disk is full")
        self.taken.update(taken)


def remembering(kept: Kept) -> Remembering:
    return Remembering(kept)  # type: ignore[arg-type]  # it does as the real one


async def test_a_gateway_that_is_restarted_knows_it_before_the_first_start(tmp_path: Path) -> None:
    toy = Toy(tmp_path, "a", mib=TAKEN)
    text = head(f"data: {tmp_path / 'data'}") + toy.section()
    async with serving(tmp_path, text) as served:
        reckoned = need(served, "a").get(RAM, 0)
        assert pid_of(await ask(served, "a"))
        await until(lambda: need(served, "a").get(RAM, 0) > TAKEN * MIB, "it was measured", 20)
    assert reckoned < TAKEN * MIB
    async with serving(tmp_path, text) as served:
        await until(lambda: need(served, "a").get(RAM, 0) > TAKEN * MIB, "it is known")
        assert served.metric("gateway_engine_memory_need_bytes", backend="a", device=RAM) > TAKEN * MIB
        assert toy.starts == 1
    changed = text.replace("threads: 1", "threads: 2")
    async with serving(tmp_path, changed) as served:
        await until(lambda: served.gateway.machine is not None and served.gateway.machine.looked.is_set(), "")
        await until(lambda: 0 < need(served, "a").get(RAM, 0) < TAKEN * MIB, "its files say it")


def section(folder: Path, more: str = "") -> LaunchOptions:
    return launch(folder, f"{{model: org/name{more}}}", "vllm")


def test_the_hash_is_of_what_the_process_is_started_with(tmp_path: Path) -> None:
    plain = fingerprint(section(tmp_path))
    assert plain == fingerprint(section(tmp_path, ", start: on_demand, idle: 5m, pull: true"))
    assert plain != fingerprint(section(tmp_path, ", max_model_len: 512"))
    assert plain != fingerprint(section(tmp_path, ", env: {A: b}"))


async def test_it_is_written_at_first_then_seldom_and_when_the_engine_has_stopped(tmp_path: Path) -> None:
    kept = Kept()
    memories = remembering(kept)
    needs = Needs("a", section(tmp_path))

    async def noted(amount: int, now: float, stopped: bool = False) -> int | None:
        needs.take({RAM: amount}, began_at=1.0)
        memories.note([] if stopped else [needs], [needs] if stopped else [], now)
        await asyncio.sleep(0.01)
        return kept.taken["a"].amounts[RAM] if "a" in kept.taken else None

    memories.note([needs], [], 0.0)
    assert await noted(5, 1.0) == 5
    assert await noted(6, 2.0) == 5
    assert await noted(6, 2.0 + EVERY) == 6
    assert await noted(7, 3.0 + EVERY) == 6
    assert await noted(7, 4.0 + EVERY, stopped=True) == 7
    writes = kept.writes
    assert await noted(7, 5.0 + 3 * EVERY) == 7
    assert kept.writes == writes
    needs.take({RAM: 9}, began_at=1.0)
    await memories.end([needs])
    assert kept.taken["a"].amounts == {RAM: 9}


async def test_a_store_that_fails_costs_nothing_else(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept()
    kept.fails = True
    memories = remembering(kept)
    await memories.recall()
    assert "what engines took before is not known: its disk is full" in caplog.text
    needs = Needs("a", section(tmp_path))
    memories.tell(needs)
    needs.take({RAM: 5}, began_at=1.0)
    memories.note([needs], [], 1.0)
    await memories.end([needs])
    kept.fails = False
    await memories.end([needs])
    assert kept.taken == {"a": Taken(needs.fingerprint, {RAM: 5})}


async def test_what_loads_models_by_itself_needs_the_most_it_ever_took(tmp_path: Path) -> None:
    made = Needs("a", launch(tmp_path, "{start: on_demand}", "ollama"))
    await made.reckon(None)
    assert made.amounts() is None
    made.take({RAM: 50 * MIB}, began_at=1.0)
    made.take({RAM: 5000 * MIB}, began_at=1.0)
    made.take({RAM: 50 * MIB}, began_at=2.0)
    assert made.amounts() == {RAM: 5000 * MIB}
    told = Needs("a", launch(tmp_path, "{memory: {ram: 8GiB}}", "ollama"))
    assert told.amounts() == {RAM: 8 << 30}


async def test_what_was_measured_counts_for_the_same_process_only(tmp_path: Path) -> None:
    before = Needs("a", section(tmp_path))
    before.take({RAM: 5}, began_at=1.0)
    same = Needs("a", section(tmp_path, ", idle: 5m"), before)
    same.take({RAM: 4}, began_at=1.0)
    assert same.amounts() == {RAM: 5}
    assert Needs("a", section(tmp_path, ", max_model_len: 512"), before).amounts() is None
