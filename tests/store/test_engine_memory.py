"""What engines were measured to take, in both databases."""

from __future__ import annotations

import pytest

from gateway.config.data import Data
from gateway.residency.memory import RAM
from gateway.store.engine_memory import EngineMemory
from gateway.store.failure import StoreError
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
