"""Responses in the background, in the store: who makes them, how far they are, and the events of their streams.

Rules:
- A response is here until it has ended well; then it is one of `gateway.store.responses`. What failed or was cancelled
  stays here.
- Who makes one says so again and again: until `lease_until` it counts as being made. One whose time is over was lost
  with the process that made it.
- What has ended is changed by nobody: whoever ends it first decides how.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from gateway.store.process import is_gone
from gateway.store.tables import background as table
from gateway.store.tables import response_events as events_table

OPEN: Final = ("queued", "in_progress")
"""The states of a response that has not ended."""
PAGE: Final = 256
"""Most rows of events that are read at once."""


class Row(NamedTuple):
    """One response in the background."""

    id: str
    status: str
    streamed: bool
    lease_until: int
    by: str
    """The process that makes it."""
    previous: str
    input: bytes
    response: bytes

    def is_lost(self, now: int) -> bool:
        """Tell whether the process that made it is gone."""
        return self.status in OPEN and (self.lease_until < now or is_gone(self.by))


def begin(connection: sa.Connection, owner: str, row: Row, most: int, now: int) -> bool:
    """Add a response. Return False where this owner has `most` of them that have not ended."""
    having = (table.c.owner == owner, table.c.status.in_(OPEN), table.c.lease_until >= now)
    count = connection.execute(sa.select(sa.func.count()).select_from(table).where(*having)).scalar_one()
    if count >= most:
        return False
    values = {**row._asdict(), "previous": row.previous or None, "owner": owner, "changed": now}
    connection.execute(sa.insert(table).values(**values))
    return True


def find(connection: sa.Connection, owner: str, name: str) -> Row | None:
    """Return a response; None where this owner has none of this id in the background."""
    columns = [table.c[field] for field in Row._fields]
    row = connection.execute(sa.select(*columns).where(table.c.owner == owner, table.c.id == name)).first()
    return None if row is None else Row(*row)._replace(previous=row.previous or "")


def end(connection: sa.Connection, owner: str, name: str, status: str, response: bytes, now: int) -> bool:
    """Note how a response has ended, that stays here. Return False where it had ended before."""
    changed = sa.update(table).where(_open(owner, name))
    return bool(connection.execute(changed.values(status=status, response=response, changed=now)).rowcount)


def leave(connection: sa.Connection, owner: str, name: str) -> bool:
    """Remove a response that has ended well. Return False where it had ended in another way before."""
    return bool(connection.execute(sa.delete(table).where(_open(owner, name))).rowcount)


def remove(connection: sa.Connection, owner: str, name: str) -> bool:
    """Remove a response with its events. Return whether there was one."""
    connection.execute(
        sa.delete(events_table).where(events_table.c.owner == owner, events_table.c.response == name)
    )
    return bool(
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name)).rowcount
    )


def renew(connection: sa.Connection, by: str, until: int) -> None:
    """Note that a process makes its responses still."""
    connection.execute(
        sa.update(table).where(table.c.by == by, table.c.status.in_(OPEN)).values(lease_until=until)
    )


def start(connection: sa.Connection, owner: str, name: str, response: bytes) -> None:
    """Note that a response is being answered."""
    connection.execute(
        sa.update(table).where(_open(owner, name)).values(status="in_progress", response=response)
    )


def open_of(connection: sa.Connection, by: str) -> set[tuple[str, str]]:
    """Return owner and id of those that a process makes and that have not ended."""
    of = (table.c.by == by, table.c.status.in_(OPEN))
    rows = connection.execute(sa.select(table.c.owner, table.c.id).where(*of))
    return {(row.owner, row.id) for row in rows}


def add_events(
    connection: sa.Connection, owner: str, name: str, first: int, events: Sequence[bytes], now: int
) -> None:
    """Add events of a stream, the number of the first of which is `first`."""
    values = {"owner": owner, "response": name, "number": first, "data": b"".join(events), "at": now}
    connection.execute(sa.insert(events_table).values(**values))


def events(connection: sa.Connection, owner: str, name: str, first: int) -> list[tuple[int, bytes]]:
    """Return the pieces of a stream with the events from `first` on, each with the number of its first event."""
    of = (events_table.c.owner == owner, events_table.c.response == name)
    begin = sa.select(sa.func.max(events_table.c.number)).where(*of, events_table.c.number <= first)
    start = connection.execute(begin).scalar_one_or_none()
    rows = connection.execute(
        sa.select(events_table.c.number, events_table.c.data)
        .where(*of, events_table.c.number >= (start or 0))
        .order_by(events_table.c.number)
        .limit(PAGE)
    )
    return [(row.number, row.data) for row in rows]


def clean(connection: sa.Connection, ended_before: int, events_before: int) -> None:
    """Remove what ended long ago, and events that nobody will ask for any more."""
    connection.execute(sa.delete(events_table).where(events_table.c.at < events_before))
    connection.execute(
        sa.delete(table).where(table.c.changed < ended_before, table.c.lease_until < ended_before)
    )


def _open(owner: str, name: str) -> sa.ColumnElement[bool]:
    return sa.and_(table.c.owner == owner, table.c.id == name, table.c.status.in_(OPEN))
