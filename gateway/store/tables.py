"""The tables of the store, as the newest migration leaves them.

Rules:
- A change here is a new file below `migrations/versions/` too; a test compares the two, on SQLite and on PostgreSQL.
- Times are whole seconds since the epoch. `owner` is the name of the key that something belongs to, empty where the
  gateway has no keys. JSON is kept as bytes: nothing of it is searched for.
- Only types that both databases have.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Column, Index, LargeBinary, MetaData, String, Table

METADATA: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

responses: Final = Table(
    "responses",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("previous", String(128), nullable=True, comment="the response that this one continues"),
    Column("used", BigInteger, nullable=False, comment="when it was made, or continued last"),
    Column("input", LargeBinary, nullable=False, comment="its own input items, as a JSON array"),
    Column("response", LargeBinary, nullable=False, comment="the response, as clients got it"),
    Index(None, "used"),
)
