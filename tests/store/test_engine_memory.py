"""What engines were measured to take, in both databases."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from gateway.config.data import Data
from gateway.residency.memory import RAM
from gateway.store.engine_memory import EngineMemory
from gateway.store.failure import StoreError
from gateway.store.schema import MIGRATIONS
from gateway.store.store import Store
from gateway.store.taken import Taken


async def test_both_databases_keep_it(data: Data) -> None:
    store = Store.open(data)
    memory = EngineMemory(store)
    assert await memory.read() == {}
    await memory.write({"a": Taken("x", {RAM: 5 << 40, "nvidia0": 7}), "b": Taken("y", {RAM: 1})})
    await memory.write({"a": Taken("z", {RAM: 6})})
    assert await memory.read() == {"a": Taken("z", {RAM: 6}), "b": Taken("y", {RAM: 1})}
    await store.close()
    with pytest.raises(StoreError):
        await memory.read()


async def test_machines_that_share_a_database_keep_each_its_own(data: Data) -> None:
    store = Store.open(data)
    one, other, third = (EngineMemory(store, name) for name in ("one", "other", "third"))
    await one.write({"a": Taken("x", {RAM: 1, "nvidia0": 2})})
    await other.write({"a": Taken("x", {RAM: 3}), "b": Taken("y", {RAM: 4})})
    if not store.shared:
        # One machine has it to itself, by whatever name.
        assert await one.read() == {"a": Taken("x", {RAM: 3}), "b": Taken("y", {RAM: 4})}
    else:
        assert await one.read() == {"a": Taken("x", {RAM: 1, "nvidia0": 2}), "b": Taken("y", {RAM: 4})}
        assert await other.read() == {"a": Taken("x", {RAM: 3}), "b": Taken("y", {RAM: 4})}
        await third.write({"b": Taken("z", {RAM: 5})})
        assert (await third.read())["b"] == Taken("z", {RAM: 5})
        assert (await other.read())["b"] == Taken("y", {RAM: 4})
        await one.write({"a": Taken("x", {RAM: 6})})
        assert (await one.read())["a"] == Taken("x", {RAM: 6})
    await store.close()


def test_what_was_kept_before_machines_were_told_apart_stays(tmp_path: Path) -> None:
    data = Data(folder=str(tmp_path))
    Store.open(data).close_now()
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'gateway.db'}")
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.downgrade(config, "0004")
        connection.execute(sa.text("INSERT INTO engine_memory VALUES ('a', 'ram', 7, 'x')"))
    engine.dispose()
    store = Store.open(data)
    assert asyncio.run(EngineMemory(store).read()) == {"a": Taken("x", {RAM: 7})}
    store.close_now()
