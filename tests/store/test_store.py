"""The store: what is written is there, what fails is told in plain words, and nothing waits that should not."""

from __future__ import annotations

import asyncio
import logging
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from gateway.config.data import Data
from gateway.errors import ROWS, Own
from gateway.store import store as module
from gateway.store.failure import StoreError
from gateway.store.store import DATABASE, Store
from gateway.store.tables import responses
from tests.store.postgres import Server


def row(name: str, owner: str = "ann", used: int = 1) -> dict[str, Any]:
    return {"owner": owner, "id": name, "used": used, "input": b"[]", "response": b"{}"}


def insert(*rows: dict[str, Any]) -> module.Work[None]:
    def work(connection: sa.Connection) -> None:
        connection.execute(sa.insert(responses), list(rows))

    return work


def ids(connection: sa.Connection) -> list[str]:
    return list(connection.scalars(sa.select(responses.c.id).order_by(responses.c.id)))


async def test_what_is_written_is_there_and_stays(data: Data) -> None:
    store = Store.open(data)
    caller = threading.get_ident()
    await store.write(insert(row("a"), row("b")))
    assert await store.read(ids) == ["a", "b"]
    assert await store.read(lambda _: threading.get_ident()) != caller
    await store.close()
    with pytest.raises(StoreError, match="it is closed"):
        await store.read(ids)
    again = Store.open(data)
    assert await again.read(ids) == ["a", "b"]
    await again.close()


async def test_a_write_is_done_wholly_or_not_at_all(data: Data) -> None:
    store = Store.open(data)

    def half(connection: sa.Connection) -> None:
        insert(row("a"))(connection)
        raise LookupError("changed its mind")

    with pytest.raises(LookupError):
        await store.write(half)
    with pytest.raises(IntegrityError):
        await store.write(insert(row("b"), row("b")))
    assert await store.read(ids) == []
    await store.close()


async def test_a_reading_function_changes_nothing(data: Data) -> None:
    store = Store.open(data)
    await store.read(insert(row("a")))
    assert await store.read(ids) == []
    await store.close()


async def test_writers_of_several_stores_do_not_lose_each_others_work(data: Data) -> None:
    """Two stores stand for two processes: each counts up what it read, a hundred times at once."""
    stores = [Store.open(data), Store.open(data)]
    await stores[0].write(insert(row("n", used=0)))

    def up(connection: sa.Connection) -> None:
        query = sa.select(responses.c.used)
        if connection.dialect.name == "postgresql":
            query = query.with_for_update()
        count = connection.scalar(query)
        assert isinstance(count, int)
        connection.execute(sa.update(responses).values(used=count + 1))

    await asyncio.gather(*(store.write(up) for store in stores for _ in range(50)))
    assert await stores[0].read(lambda connection: connection.scalar(sa.select(responses.c.used))) == 100
    for store in stores:
        await store.close()


async def test_the_folder_is_for_its_user_alone(tmp_path: Path) -> None:
    data = Data(folder=str(tmp_path / "deep" / "data"))
    store = Store.open(data)
    await store.write(insert(row("a")))
    uploads = store.folder("uploads")
    assert uploads == Path(data.folder) / "files" / "uploads" == store.folder("uploads")
    for place in (Path(data.folder), Path(data.folder) / "files", uploads):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    for file in Path(data.folder).glob(f"{DATABASE}*"):  # noqa: ASYNC240 (a test has time)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    await store.close()


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_database_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / DATABASE
    file.write_bytes(content)
    with pytest.raises(StoreError, match=rf"the store {file} cannot be used: its database is damaged"):
        Store.open(Data(folder=str(tmp_path)))
    assert file.read_bytes() == content


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        StoreError, match=r"the folder /.*/file/data of the store cannot be used: Not a directory"
    ):
        Store.open(Data(folder=str(tmp_path / "file" / "data")))


def test_a_server_that_is_not_there_is_told_without_its_password(tmp_path: Path) -> None:
    data = Data(folder=str(tmp_path), database="postgresql://gw:hush@127.0.0.1:1/name")  # type: ignore[arg-type]
    with pytest.raises(StoreError) as caught:
        Store.open(data)
    assert str(caught.value).startswith(
        "the store 127.0.0.1/name cannot be used: its database cannot be reached"
    )
    assert "hush" not in str(caught.value)


async def test_a_full_disk_is_told_once_and_forgotten_once_there_is_room(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(Data(folder=str(tmp_path)))
    caplog.set_level(logging.WARNING, "gateway.store")

    def pages(count: int) -> module.Work[None]:
        def work(connection: sa.Connection) -> None:
            connection.exec_driver_sql(f"PRAGMA max_page_count={count}")

        return work

    await store.write(pages(10))
    large = {**row("a"), "response": b"x" * 1_000_000}
    for _ in range(2):
        with pytest.raises(StoreError, match="its disk is full") as caught:
            await store.write(insert(large))
        assert caught.value.status == ROWS[Own.STORE].status == 503
        assert str(tmp_path) not in caught.value.message
    await store.write(pages(100_000))
    await store.write(insert(large))
    assert await store.read(ids) == ["a"]
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "the store cannot be used: its disk is full (database or disk is full)",
        "the store can be used again",
    ]
    await store.close()


async def test_a_locked_database_is_waited_for_and_then_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.3)
    store = Store.open(Data(folder=str(tmp_path)))
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    waiting = asyncio.create_task(store.write(insert(row("a"))))
    assert await asyncio.wait_for(store.read(ids), 0.2) == []
    with pytest.raises(StoreError, match="another process keeps it locked"):
        await waiting
    waiting = asyncio.create_task(store.write(insert(row("b"))))
    await asyncio.sleep(0.05)
    other.execute("COMMIT")
    await waiting
    assert await store.read(ids) == ["b"]
    other.close()
    await store.close()


async def test_too_much_at_once_fails_and_does_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROOM", 3)
    store = Store.open(Data(folder=str(tmp_path)))
    go = threading.Event()
    held = [asyncio.create_task(store.write(lambda _: go.wait(30))) for _ in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(StoreError, match="too much waits"):
        await store.read(ids)
    go.set()
    assert await asyncio.gather(*held) == [True] * 3
    assert await store.read(ids) == []
    await store.close()


async def test_a_server_may_restart(server: Server, tmp_path: Path) -> None:
    data = Data(folder=str(tmp_path), database=server.database())  # type: ignore[arg-type]
    store = Store.open(data)
    await store.write(insert(row("a")))
    server.stop()
    try:
        with pytest.raises(StoreError, match="its database cannot be reached"):
            await store.read(ids)
    finally:
        server.start()
    assert await store.read(ids) == ["a"]
    await store.close()


@pytest.mark.slow
def test_a_killed_process_loses_nothing_that_was_written(data: Data, tmp_path: Path) -> None:
    written = tmp_path / "written"
    script = f"""
import asyncio, sys
from gateway.config.data import Data
from gateway.config.section import validate
from gateway.store.store import Store
from tests.store.test_store import insert, row

async def main():
    store = Store.open(validate(Data, {data.written()!r}))
    for number in range(100_000):
        await store.write(insert(row(f"{{number:06}}")))
        print(number, flush=True)

asyncio.run(main())
"""
    with written.open("w") as out:
        process = subprocess.Popen([sys.executable, "-c", script], stdout=out, env=os.environ)
        while written.read_text().count("\n") < 50:
            assert process.poll() is None
        process.kill()
        process.wait()
    told = written.read_text().rpartition("\n")[0].count("\n") + 1

    async def found() -> list[str]:
        store = Store.open(data)
        try:
            return await store.read(ids)
        finally:
            await store.close()

    there = asyncio.run(found())
    assert there[:told] == [f"{number:06}" for number in range(told)] and len(there) - told in (0, 1)
