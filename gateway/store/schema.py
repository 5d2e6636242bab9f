"""Bring the tables of a database to what this version of the gateway knows.

Rules:
- One process at a time: SQLite's writers exclude each other, and PostgreSQL has an advisory lock for it. Who comes
  second finds the work done.
- All changes are one transaction: they are made wholly or not at all.
- A database of a newer gateway is refused, not guessed at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from gateway.store.failure import StoreError

MIGRATIONS: Final = Path(__file__).parent / "migrations"
_LOCK: Final = 0x11A7E
"""The number of PostgreSQL's lock, the same in every version of the gateway."""


def migrate(connection: sa.Connection) -> None:
    """Make and change tables as the migrations say, in the transaction of `connection`. Raises StoreError.

    The transaction must exclude other writers already, where the database has no lock for that.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    script = ScriptDirectory.from_config(config)
    known = {revision.revision for revision in script.walk_revisions()}
    found = set(MigrationContext.configure(connection).get_current_heads())
    if not found <= known:
        raise StoreError(
            f"its database is of a newer version of the gateway (tables of {', '.join(sorted(found - known))}): "
            "run that version, or restore a copy from before"
        )
    if found != set(script.get_heads()):
        command.upgrade(config, "head")
