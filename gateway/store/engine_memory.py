"""What launched engines were measured to take of each memory, in the store: read at the start, written now and then.

Rules:
- A measurement belongs to a machine, to a backend's name and to what its process was started with; `launch` is a hash
  of that. A database that one machine has to itself (SQLite) tells none apart: the name of a container changes with
  each start, its data does not.
- A machine that has measured nothing of a backend itself takes what another one has, and writes over nobody's.
- Gateways on one machine that share a database and have backends of the same name write over each other: the last one
  counts.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import Final

import sqlalchemy as sa

from gateway.store.store import Store
from gateway.store.tables import engine_memory as table
from gateway.store.taken import Taken

_LONGEST: Final = 255
"""Characters of a machine's name that are kept."""


class EngineMemory:
    """The measurements in one store."""

    def __init__(self, store: Store, machine: str | None = None) -> None:
        """Read nothing yet. `machine` is the name of this one; None: its host name."""
        self._store = store
        name = socket.gethostname() if machine is None else machine
        self._machine = name[:_LONGEST] if store.shared else ""

    async def read(self) -> dict[str, Taken]:
        """Return what each backend's engine took. Raises StoreError."""
        return await self._store.read(lambda connection: _read(connection, self._machine))

    async def write(self, taken: Mapping[str, Taken]) -> None:
        """Keep what these backends' engines took, in the place of what was kept of them. Raises StoreError."""
        await self._store.write(lambda connection: _write(connection, self._machine, taken))


def _read(connection: sa.Connection, machine: str) -> dict[str, Taken]:
    found: dict[tuple[str, str], Taken] = {}
    order = (table.c.machine, table.c.backend, table.c.device)
    for row in connection.execute(sa.select(table).order_by(*order)):
        before = found.setdefault((row.machine, row.backend), Taken(row.launch, {}))
        before.amounts[row.device] = row.bytes
    others = {backend: taken for (where, backend), taken in found.items() if where != machine}
    return others | {backend: taken for (where, backend), taken in found.items() if where == machine}


def _write(connection: sa.Connection, machine: str, taken: Mapping[str, Taken]) -> None:
    for backend, (launch, amounts) in taken.items():
        own = (table.c.machine == machine) & (table.c.backend == backend)
        connection.execute(sa.delete(table).where(own))
        rows = [
            {"machine": machine, "backend": backend, "device": device, "bytes": amount, "launch": launch}
            for device, amount in amounts.items()
        ]
        if rows:
            connection.execute(sa.insert(table), rows)
