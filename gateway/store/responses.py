"""The responses in the store: kept, found again, continued, and deleted when they are old.

Rules:
- A response belongs to one key. For every other there is none of its id.
- The age of a response counts from when it was made or continued last, so a conversation ends as a whole.
- What is read at once is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import sqlalchemy as sa

from gateway.store.tables import response_items as items_table
from gateway.store.tables import responses as table

MOST: Final = 2000
"""Most responses in one conversation."""
BATCH: Final = 500
"""Most rows that one statement names."""


class Kept(NamedTuple):
    """One response."""

    id: str
    previous: str
    """The response that it continues; empty if it continues none."""
    input: bytes
    """Its own input items, as a JSON array."""
    response: bytes


class Missing(LookupError):
    """There is no response of this id, or none any more."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class TooLong(Exception):
    """A conversation has more in it than may be read at once."""


def save(
    connection: sa.Connection,
    owner: str,
    kept: Kept,
    before: Sequence[str],
    now: int,
    items: Sequence[str] = (),
) -> None:
    """Keep a response, and count those `before` it as used now. One with the same id is replaced.

    `items` are the ids of what it has answered.
    """
    delete(connection, owner, kept.id)
    values = {**kept._asdict(), "previous": kept.previous or None, "owner": owner, "used": now}
    connection.execute(sa.insert(table).values(**values))
    rows = [{"owner": owner, "id": item, "response": kept.id} for item in dict.fromkeys(items)]
    if rows:
        connection.execute(sa.insert(items_table), rows)
    for ids in _batches(before):
        old = sa.update(table).where(table.c.owner == owner, table.c.id.in_(ids))
        connection.execute(old.values(used=now))


def find(connection: sa.Connection, owner: str, name: str) -> Kept:
    """Return a response. Raises Missing."""
    columns = (table.c.id, table.c.previous, table.c.input, table.c.response)
    row = connection.execute(sa.select(*columns).where(table.c.owner == owner, table.c.id == name)).first()
    if row is None:
        raise Missing(name)
    return Kept(row.id, row.previous or "", row.input, row.response)


def holders(connection: sa.Connection, owner: str, items: Sequence[str], most: int) -> dict[str, bytes]:
    """Return, by the ids of items, responses that have answered them.

    Raises Missing, which names the first item that none has, and TooLong where they have more than `most` bytes
    together.
    """
    found: dict[str, str] = {}
    for ids in _batches(items):
        where = (items_table.c.owner == owner, items_table.c.id.in_(ids))
        for row in connection.execute(sa.select(items_table.c.id, items_table.c.response).where(*where)):
            found[row.id] = row.response
    kept: dict[str, bytes] = {}
    for item in items:
        if item not in found:
            raise Missing(item)
        name = found[item]
        if name not in kept:
            kept[name] = find(connection, owner, name).response
            if sum(map(len, kept.values())) > most:
                raise TooLong
    return {item: kept[found[item]] for item in items}


def chain(connection: sa.Connection, owner: str, name: str, most: int) -> list[Kept]:
    """Return a response behind all that it continues, the oldest first. Raises Missing.

    Raises TooLong where they have more than `most` bytes together, or are more than `MOST`.
    """
    found: list[Kept] = []
    size = 0
    while name:
        kept = find(connection, owner, name)
        found.append(kept)
        size += len(kept.input) + len(kept.response)
        if size > most or len(found) > MOST:
            raise TooLong
        name = kept.previous
    return found[::-1]


def delete(connection: sa.Connection, owner: str, name: str) -> bool:
    """Delete a response. Return whether there was one."""
    of = (items_table.c.owner == owner, items_table.c.response == name)
    connection.execute(sa.delete(items_table).where(*of))
    return bool(
        connection.execute(sa.delete(table).where(table.c.owner == owner, table.c.id == name)).rowcount
    )


def expire(connection: sa.Connection, before: int) -> int:
    """Delete some of the responses that were used last before a time. Return how many."""
    old = sa.select(table.c.owner, table.c.id).where(table.c.used < before).limit(BATCH)
    rows = connection.execute(old).all()
    for row in rows:
        # Named by its whole key: both databases then find it at once.
        key = sa.and_(table.c.owner == row.owner, table.c.id == row.id, table.c.used < before)
        if connection.execute(sa.delete(table).where(key)).rowcount:
            of = (items_table.c.owner == row.owner, items_table.c.response == row.id)
            connection.execute(sa.delete(items_table).where(*of))
    return len(rows)


def _batches(names: Sequence[str]) -> Iterator[Sequence[str]]:
    return (names[start : start + BATCH] for start in range(0, len(names), BATCH))
