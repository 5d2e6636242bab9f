"""The rows of files and batches in the store: every statement about them. Each function runs in a thread of the store.

Rules:
- What belongs to another key is not found. The functions of the runner, which serves all keys, ask for no owner.
- A batch changes by statements that name what must still be so: its status, or who holds its lease. Who comes too late
  changes nothing, and is told so.
- What an owner has is counted and added to by one transaction at a time. SQLite has no other way to write; PostgreSQL
  holds a lock for each owner (`pg_advisory_xact_lock`), which ends with the transaction.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa

from gateway.batches.records import OPEN, STATUSES, BatchRecord, FileRecord, outputs_of
from gateway.store.tables import batches, files

_FILE: Final = [column for column in files.columns if column.name != "number"]
_BATCH: Final = [column for column in batches.columns if column.name != "number"]


def _file_of(row: Any) -> FileRecord:
    return FileRecord(**row._mapping)


def _batch_of(row: Any) -> BatchRecord:
    return BatchRecord(**row._mapping)


# files


class Full(enum.Enum):
    """Why an owner may have no further file."""

    BYTES = "bytes"
    COUNT = "count"


def add_upload(connection: sa.Connection, record: FileRecord, most: int, count: int) -> Full | None:
    """Keep a file. Return why, and keep nothing, where its owner would have more than `most` bytes or `count` files."""
    _hold(connection, record.owner)
    had, size = stored(connection, record.owner)
    if had >= count:
        return Full.COUNT
    if size + record.bytes > most:
        return Full.BYTES
    add_file(connection, record)
    return None


def _hold(connection: sa.Connection, owner: str) -> None:
    """Wait until nobody else adds to what an owner has, and keep others from it until this transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(sa.func.hashtextextended(owner, 0))))


def add_file(connection: sa.Connection, record: FileRecord) -> None:
    """Keep a file, however many its owner has."""
    values = {name: getattr(record, name) for name in record.__slots__}
    connection.execute(sa.insert(files).values(values))


def stored(connection: sa.Connection, owner: str) -> tuple[int, int]:
    """Return how many files an owner has, and their bytes."""
    total = sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(files.c.bytes), 0))
    count, size = connection.execute(total.where(files.c.owner == owner)).one()
    return int(count), int(size)


def find_file(connection: sa.Connection, owner: str, id: str, hold: bool = False) -> FileRecord | None:
    """Return a file of an owner; None where there is none. `hold`: nobody else holds it until this transaction ends."""
    found = sa.select(*_FILE).where(files.c.id == id, files.c.owner == owner)
    row = connection.execute(found.with_for_update() if hold else found).one_or_none()
    return None if row is None else _file_of(row)


def list_files(
    connection: sa.Connection,
    owner: str,
    purpose: str | None,
    after: str | None,
    limit: int,
    newest_first: bool,
) -> list[FileRecord] | None:
    """Return so many files of an owner, those after one of them; None where that one is not there."""
    found = sa.select(*_FILE).where(files.c.owner == owner)
    if purpose is not None:
        found = found.where(files.c.purpose == purpose)
    place = _after(connection, files, owner, after, newest_first)
    if place is None:
        return None
    order = files.c.number.desc() if newest_first else files.c.number
    return [_file_of(row) for row in connection.execute(found.where(place).order_by(order).limit(limit))]


def _after(connection: sa.Connection, table: sa.Table, owner: str, after: str | None, falling: bool) -> Any:
    """Return the condition for what comes after a row; None where that row is not there."""
    if after is None:
        return sa.true()
    number = connection.execute(
        sa.select(table.c.number).where(table.c.id == after, table.c.owner == owner)
    ).scalar_one_or_none()
    if number is None:
        return None
    return table.c.number < number if falling else table.c.number > number


def using(connection: sa.Connection, id: str) -> str | None:
    """Return the id of a batch that reads a file, or will; None where none does."""
    found = sa.select(batches.c.id).where(batches.c.input_file == id, batches.c.status.in_(OPEN)).limit(1)
    return connection.execute(found).scalar_one_or_none()


def remove_file(connection: sa.Connection, owner: str, id: str) -> str | None:
    """Forget a file, unless a batch reads it: then return the id of that batch."""
    find_file(connection, owner, id, hold=True)
    reader = using(connection, id)
    if reader is None:
        connection.execute(sa.delete(files).where(files.c.id == id, files.c.owner == owner))
    return reader


def remove_expired(connection: sa.Connection, now: int) -> list[str]:
    """Forget the files whose time is over, but for those that a batch reads. Return their ids."""
    read = sa.select(batches.c.input_file).where(batches.c.status.in_(OPEN))
    old = sa.select(files.c.id).where(files.c.expires <= now, files.c.id.not_in(read)).limit(1000)
    found = list(connection.execute(old).scalars())
    if found:
        connection.execute(sa.delete(files).where(files.c.id.in_(found)))
    return found


def unknown_files(connection: sa.Connection, ids: Sequence[str]) -> set[str]:
    """Return which of these ids are neither those of files nor what an open batch writes."""
    known = set(connection.execute(sa.select(files.c.id).where(files.c.id.in_(ids))).scalars())
    opened = connection.execute(sa.select(batches.c.id).where(batches.c.status.in_(OPEN))).scalars()
    return set(ids) - known - {each for batch in opened for each in outputs_of(batch)}


# batches


def add_batch(connection: sa.Connection, record: BatchRecord, most: int) -> bool:
    """Keep a new batch. Return False, and keep nothing, where its owner has `most` open ones already."""
    _hold(connection, record.owner)
    count = sa.select(sa.func.count()).where(batches.c.owner == record.owner, batches.c.status.in_(OPEN))
    if connection.execute(count).scalar_one() >= most:
        return False
    connection.execute(sa.insert(batches).values({name: getattr(record, name) for name in record.__slots__}))
    return True


def find_batch(connection: sa.Connection, owner: str, id: str) -> BatchRecord | None:
    """Return a batch of an owner; None where there is none."""
    row = connection.execute(
        sa.select(*_BATCH).where(batches.c.id == id, batches.c.owner == owner)
    ).one_or_none()
    return None if row is None else _batch_of(row)


def list_batches(
    connection: sa.Connection, owner: str, after: str | None, limit: int
) -> list[BatchRecord] | None:
    """Return so many batches of an owner, newest first, those after one of them; None where that one is not there."""
    place = _after(connection, batches, owner, after, True)
    if place is None:
        return None
    found = (
        sa.select(*_BATCH)
        .where(batches.c.owner == owner, place)
        .order_by(batches.c.number.desc())
        .limit(limit)
    )
    return [_batch_of(row) for row in connection.execute(found)]


def cancel(connection: sa.Connection, owner: str, id: str, now: int) -> BatchRecord | None:
    """Have a batch be cancelled, if it has not ended. Return it as it is then; None where there is none."""
    connection.execute(
        sa.update(batches)
        .where(
            batches.c.id == id, batches.c.owner == owner, batches.c.status.in_(("validating", "in_progress"))
        )
        .values(status="cancelling", cancelling=now)
    )
    return find_batch(connection, owner, id)


def claimable(connection: sa.Connection, now: int, host: str, limit: int) -> list[BatchRecord]:
    """Return open batches that nobody works on, as far as leases tell, or somebody on this host; the oldest first."""
    is_free = sa.or_(
        batches.c.lease_owner.is_(None),
        batches.c.lease_until < now,
        sa.func.substr(batches.c.lease_owner, 1, len(host)) == host,
    )
    found = (
        sa.select(*_BATCH).where(batches.c.status.in_(OPEN), is_free).order_by(batches.c.number).limit(limit)
    )
    return [_batch_of(row) for row in connection.execute(found)]


def claim(connection: sa.Connection, record: BatchRecord, me: str, until: int) -> BatchRecord | None:
    """Take the lease of a batch as it was seen. Return the batch as it is then; None where somebody was faster."""
    is_same = (
        batches.c.lease_owner.is_(None)
        if record.lease_owner is None
        else batches.c.lease_owner == record.lease_owner
    )
    changed = connection.execute(
        sa.update(batches)
        .where(batches.c.id == record.id, batches.c.status.in_(OPEN), is_same)
        .values(lease_owner=me, lease_until=until)
    )
    return find_batch(connection, record.owner, record.id) if changed.rowcount == 1 else None


def change(connection: sa.Connection, id: str, me: str, **values: Any) -> BatchRecord | None:
    """Change a batch whose lease is held by `me`. Return it as it is then; None where the lease is somebody else's."""
    changed = connection.execute(
        sa.update(batches).where(batches.c.id == id, batches.c.lease_owner == me).values(**values)
    )
    if changed.rowcount != 1:
        return None
    return _batch_of(connection.execute(sa.select(*_BATCH).where(batches.c.id == id)).one())


def end(connection: sa.Connection, id: str, me: str, outputs: Sequence[FileRecord], **values: Any) -> bool:
    """End a batch whose lease is held by `me`, and keep the files it has written. Return False as `change` does."""
    if change(connection, id, me, lease_owner=None, lease_until=0, **values) is None:
        return False
    for record in outputs:
        add_file(connection, record)
    return True


def counts(connection: sa.Connection) -> dict[str, int]:
    """Return how many batches have each status."""
    found = connection.execute(sa.select(batches.c.status, sa.func.count()).group_by(batches.c.status))
    return dict.fromkeys(STATUSES, 0) | {str(status): int(count) for status, count in found}
