"""What the store knows of files and batches, on both databases: pages, limits, leases, and who comes too late."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from gateway.batches import shelf
from gateway.batches.records import STATUSES, BatchRecord, FileRecord, outputs_of
from gateway.config.data import Data
from gateway.store.store import Store

CHAT = "/v1/chat/completions"


def file(name: str, owner: str = "a", purpose: str = "batch", expires: int | None = None) -> FileRecord:
    return FileRecord(name, owner, purpose, f"{name}.jsonl", 100, 1000, expires)


def batch(name: str, owner: str = "a", input_file: str = "f1", **more: Any) -> BatchRecord:
    return BatchRecord(name, owner, CHAT, input_file, more.pop("status", "validating"), 1000, 87_400, **more)


async def test_files_have_pages_owners_and_an_end(data: Data) -> None:
    store = Store.open(data)

    def filled(connection: Any) -> None:
        for number in range(1, 6):
            shelf.add_file(connection, file(f"f{number}", expires=2000 if number == 2 else None))
        assert shelf.add_upload(connection, file("g1", "b", "user_data"), 100, 9) is None
        assert shelf.add_upload(connection, file("g2", "b"), 199, 9) is shelf.Full.BYTES
        assert shelf.add_upload(connection, file("g2", "b"), 999, 1) is shelf.Full.COUNT

    await store.write(filled)

    def looked(connection: Any) -> None:
        def page(*how: Any) -> list[str]:
            return [each.id for each in shelf.list_files(connection, *how) or ()]

        assert page("a", None, None, 3, True) == ["f5", "f4", "f3"]
        assert page("a", None, "f3", 3, True) == ["f2", "f1"]
        assert page("a", "batch", "f3", 3, False) == ["f4", "f5"]
        assert page("b", "batch", None, 3, True) == []
        assert shelf.list_files(connection, "b", None, "f3", 3, True) is None
        assert shelf.find_file(connection, "a", "f1") == file("f1")
        assert shelf.find_file(connection, "b", "f1") is None
        assert (shelf.stored(connection, "a"), shelf.stored(connection, "c")) == ((5, 500), (0, 0))

    await store.read(looked)
    assert await store.write(
        lambda connection: shelf.add_batch(connection, batch("batch_1", input_file="f2"), 1)
    )
    assert await store.write(lambda connection: shelf.remove_file(connection, "a", "f2")) == "batch_1"
    assert await store.write(lambda connection: shelf.remove_expired(connection, 2000)) == []
    me: dict[str, Any] = {"id": "batch_1", "me": "host:1"}
    await store.write(lambda connection: shelf.claim(connection, batch("batch_1"), "host:1", 1030))
    await store.write(lambda connection: shelf.end(connection, outputs=(), status="completed", **me))
    assert await store.write(lambda connection: shelf.remove_expired(connection, 1999)) == []
    assert await store.write(lambda connection: shelf.remove_expired(connection, 2000)) == ["f2"]
    output, errors = outputs_of("batch_2")
    assert await store.write(lambda connection: shelf.add_batch(connection, batch("batch_2"), 1))
    known = ["f1", "gone", output, errors, outputs_of("batch_1")[0]]
    unknown = await store.read(lambda connection: shelf.unknown_files(connection, known))
    assert unknown == {"gone", outputs_of("batch_1")[0]}
    await store.close()


async def test_a_batch_is_worked_on_by_one(data: Data) -> None:
    store = Store.open(data)
    new = batch("batch_1", metadata=b'{"a":"b"}')
    assert await store.write(lambda connection: shelf.add_batch(connection, new, 1))
    assert not await store.write(lambda connection: shelf.add_batch(connection, batch("batch_2"), 1))
    assert await store.write(lambda connection: shelf.add_batch(connection, batch("batch_3", "b"), 1))

    async def free(now: int, host: str) -> list[str]:
        found = await store.read(lambda connection: shelf.claimable(connection, now, host, 9))
        return [each.id for each in found]

    seen = (await store.read(lambda connection: shelf.claimable(connection, 1000, "one:", 9)))[0]
    assert seen == new
    mine = await store.write(lambda connection: shelf.claim(connection, seen, "one:7", 1030))
    assert mine is not None
    assert (mine.lease_owner, mine.lease_until) == ("one:7", 1030)
    assert await store.write(lambda connection: shelf.claim(connection, seen, "two:7", 1030)) is None, (
        "too late"
    )
    assert await free(1010, "two:") == ["batch_3"]
    assert await free(1010, "one:") == ["batch_1", "batch_3"], "its lock says whether that process lives"
    assert await free(1031, "two:") == ["batch_1", "batch_3"]
    taken = await store.write(lambda connection: shelf.claim(connection, mine, "two:7", 1061))
    assert taken is not None
    assert (
        await store.write(lambda connection: shelf.change(connection, "batch_1", "one:7", completed=5))
        is None
    )
    assert not await store.write(
        lambda connection: shelf.end(connection, "batch_1", "one:7", [file("lost")], status="completed")
    )
    changed = await store.write(lambda connection: shelf.change(connection, "batch_1", "two:7", completed=5))
    assert changed is not None and changed.completed == 5
    assert await store.write(lambda connection: shelf.cancel(connection, "b", "batch_1", 1040)) is None
    cancelled = await store.write(lambda connection: shelf.cancel(connection, "a", "batch_1", 1040))
    assert cancelled is not None
    assert (cancelled.status, cancelled.cancelling, cancelled.lease_owner) == ("cancelling", 1040, "two:7")
    output = file("file-1-output", purpose="batch_output")
    assert await store.write(
        lambda connection: shelf.end(
            connection, "batch_1", "two:7", [output], status="cancelled", cancelled=1041
        )
    )
    assert await store.read(lambda connection: shelf.find_file(connection, "a", "file-1-output")) == output
    assert await store.read(lambda connection: shelf.find_file(connection, "a", "lost")) is None
    counts = await store.read(shelf.counts)
    assert counts == dict.fromkeys(STATUSES, 0) | {"cancelled": 1, "validating": 1}
    listed = await store.read(lambda connection: shelf.list_batches(connection, "a", None, 5))
    assert [each.id for each in listed or ()] == ["batch_1"]
    await store.close()


async def test_a_text_with_the_character_0_finds_nothing(data: Data) -> None:
    """PostgreSQL cannot hold one: what a client asks for is not there, and the store still works."""
    store = Store.open(data)
    found = await store.read(lambda connection: shelf.find_file(connection, "a", "\0"))
    listed = await store.read(lambda connection: shelf.list_files(connection, "a", "\0", None, 3, True))
    after = await store.read(lambda connection: shelf.list_batches(connection, "a", "x\0", 3))
    assert (found, listed, after) == (None, [], None)
    assert await store.write(lambda connection: shelf.unknown_files(connection, ["f\0", "g"])) == {"f\0", "g"}
    await store.close()


async def test_a_file_is_either_read_by_a_new_batch_or_deleted(data: Data) -> None:
    store = Store.open(data)

    def begun(connection: Any, number: int) -> bool:
        if shelf.find_file(connection, "a", f"f{number}", hold=True) is None:
            return False
        return shelf.add_batch(connection, batch(f"batch_{number}", input_file=f"f{number}"), 100)

    for number in range(15):
        await store.write(lambda connection, number=number: shelf.add_file(connection, file(f"f{number}")))  # type: ignore[misc]
        is_read, reader = await asyncio.gather(
            store.write(lambda connection, number=number: begun(connection, number)),  # type: ignore[misc]
            store.write(lambda connection, number=number: shelf.remove_file(connection, "a", f"f{number}")),  # type: ignore[misc]
        )
        assert (reader is not None) == is_read
    await store.close()


async def test_who_adds_at_the_same_moment_stays_within_the_limits_too(data: Data) -> None:
    store = Store.open(data)
    await store.write(lambda connection: shelf.add_file(connection, file("f1")))

    def uploaded(connection: Any, number: int) -> bool:
        return shelf.add_upload(connection, file(f"g{number}", "b"), 10_000, 3) is None

    def begun(connection: Any, number: int) -> bool:
        return shelf.add_batch(connection, batch(f"batch_{number}"), 3)

    for add in (uploaded, begun):
        added = await asyncio.gather(*(store.write(partial(add, number=number)) for number in range(20)))
        assert sum(added) == 3
    await store.close()
