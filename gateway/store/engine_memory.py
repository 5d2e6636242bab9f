"""What launched engines were measured to take of each memory, in the store: read at the start, written now and then.

Rules:
- A measurement belongs to a backend's name and to what its process was started with; `launch` is a hash of that.
- Gateways that share a database and have backends of the same name write over each other: the last one counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from gateway.store.store import Store
from gateway.store.tables import engine_memory as table
from gateway.store.taken import Taken


class EngineMemory:
    """The measurements in one store."""

    def __init__(self, store: Store) -> None:
        """Read nothing yet."""
        self._store = store

    async def read(self) -> dict[str, Taken]:
        """Return what each backend's engine took. Raises StoreError."""
        return await self._store.read(_read)

    async def write(self, taken: Mapping[str, Taken]) -> None:
        """Keep what these backends' engines took, in the place of what was kept of them. Raises StoreError."""
        await self._store.write(lambda connection: _write(connection, taken))


def _read(connection: sa.Connection) -> dict[str, Taken]:
    found: dict[str, Taken] = {}
    for row in connection.execute(sa.select(table).order_by(table.c.backend, table.c.device)):
        before = found.setdefault(row.backend, Taken(row.launch, {}))
        before.amounts[row.device] = row.bytes
    return found


def _write(connection: sa.Connection, taken: Mapping[str, Taken]) -> None:
    for backend, (launch, amounts) in taken.items():
        connection.execute(sa.delete(table).where(table.c.backend == backend))
        rows = [
            {"backend": backend, "device": device, "bytes": amount, "launch": launch}
            for device, amount in amounts.items()
        ]
        if rows:
            connection.execute(sa.insert(table), rows)
