"""The tables of the store, as the newest migration leaves them.

Rules:
- A change here is a new file below `migrations/versions/` too; a test compares the two, on SQLite and on PostgreSQL.
- Times are whole seconds since the epoch. `owner` is the name of the key that something belongs to, empty where the
  gateway has no keys. JSON is kept as bytes: nothing of it is searched for.
- Only types that both databases have.
"""

from __future__ import annotations

from typing import Final

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, LargeBinary, MetaData, String, Table, Text

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

response_items: Final = Table(
    "response_items",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("response", String(128), primary_key=True, comment="the response that has it in its answer"),
    Index(None, "owner", "response"),
)

background: Final = Table(
    "background",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("id", String(128), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("streamed", Boolean, nullable=False, comment="whether its events are kept, too"),
    Column("previous", String(128), nullable=True, comment="the response that this one continues"),
    Column("input", LargeBinary, nullable=False, comment="its own input items, as a JSON array"),
    Column("response", LargeBinary, nullable=False, comment="the response, as it is told now"),
    Column("by", String(128), nullable=False, comment="the process that makes it"),
    Column("lease_until", BigInteger, nullable=False, comment="until when that process is known to be there"),
    Column("changed", BigInteger, nullable=False, comment="when it began, or ended"),
    Index(None, "by"),
)

response_events: Final = Table(
    "response_events",
    METADATA,
    Column("owner", String(64), primary_key=True),
    Column("response", String(128), primary_key=True),
    Column("number", BigInteger, primary_key=True, comment="the number of the first event in it"),
    Column("data", LargeBinary, nullable=False),
    Column("at", BigInteger, nullable=False, comment="when they came"),
    Index(None, "at"),
)

NUMBER: Final = BigInteger().with_variant(Integer, "sqlite")
"""The type of a number that the database gives: SQLite gives one only to its own kind of integer."""

files: Final = Table(
    "files",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True, comment="the order in which they came"),
    Column("id", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=True),
    Index(None, "id", unique=True),
    Index(None, "owner", "number"),
    Index(None, "expires"),
)

engine_memory: Final = Table(
    "engine_memory",
    METADATA,
    Column("machine", String(255), primary_key=True, comment="empty where one machine has the database"),
    Column("backend", String(128), primary_key=True),
    Column("device", String(64), primary_key=True, comment="`ram`, or a GPU"),
    Column("bytes", BigInteger, nullable=False),
    Column("launch", String(64), nullable=False, comment="a hash of what its process is started with"),
)

batches: Final = Table(
    "batches",
    METADATA,
    Column("number", NUMBER, primary_key=True, autoincrement=True, comment="the order in which they came"),
    Column("id", String(64), nullable=False),
    Column("owner", String(64), nullable=False),
    Column("endpoint", String(64), nullable=False),
    Column("input_file", String(64), nullable=False),
    Column("status", String(16), nullable=False),
    Column("created", BigInteger, nullable=False),
    Column("expires", BigInteger, nullable=False),
    Column("in_progress", BigInteger, nullable=True),
    Column("finalizing", BigInteger, nullable=True),
    Column("completed_at", BigInteger, nullable=True),
    Column("failed_at", BigInteger, nullable=True),
    Column("expired", BigInteger, nullable=True),
    Column("cancelling", BigInteger, nullable=True),
    Column("cancelled", BigInteger, nullable=True),
    Column("model", Text, nullable=True),
    Column("metadata", LargeBinary, nullable=True, comment="the client's own, as a JSON object"),
    Column("errors", LargeBinary, nullable=True, comment="mistakes of the input, as OpenAI's JSON"),
    Column("output_file", String(64), nullable=True),
    Column("error_file", String(64), nullable=True),
    Column("output_seconds", BigInteger, nullable=True, comment="after how many its files expire"),
    Column("total", BigInteger, nullable=False),
    Column("last_line", BigInteger, nullable=False, comment="the number of the last request's line"),
    Column("completed", BigInteger, nullable=False),
    Column("failed", BigInteger, nullable=False),
    Column("lease_owner", String(128), nullable=True, comment="the process that works on it"),
    Column("lease_until", BigInteger, nullable=False, comment="when another one may take it"),
    Column("usage", LargeBinary, nullable=True, comment="tokens of the answers, as OpenAI's JSON"),
    Index(None, "id", unique=True),
    Index(None, "owner", "number"),
    Index(None, "status", "number"),
    Index(None, "input_file"),
)
