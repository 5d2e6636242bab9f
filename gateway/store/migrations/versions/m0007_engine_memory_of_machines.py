"""What launched engines were measured to take, for each machine of those that share a database.

What was kept before belongs to whichever machine wrote it last: to none of them by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_NAMES = ("backend", "device", "bytes", "launch")


def upgrade() -> None:
    """Make the table anew with the machine in its key."""
    machine = sa.Column(
        "machine", sa.String(255), nullable=False, comment="empty where one machine has the database"
    )
    _replace([machine], {"machine": ""}, ("machine", "backend", "device"))


def downgrade() -> None:
    """Make the table as it was. What was kept of several machines is one of theirs."""
    _replace([], {}, ("backend", "device"))


def _replace(more: Sequence[sa.Column[Any]], values: dict[str, str], key: tuple[str, ...]) -> None:
    """Make the table anew with more columns, their values for what is kept, and another key."""
    connection = op.get_bind()
    before = sa.table("engine_memory", *map(sa.column, _NAMES))
    kept = {(row.backend, row.device): row._asdict() for row in connection.execute(sa.select(before))}
    op.drop_table("engine_memory")
    made = op.create_table(
        "engine_memory",
        *more,
        sa.Column("backend", sa.String(128), nullable=False),
        sa.Column("device", sa.String(64), nullable=False, comment="`ram`, or a GPU"),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column(
            "launch", sa.String(64), nullable=False, comment="a hash of what its process is started with"
        ),
        sa.PrimaryKeyConstraint(*key, name="pk_engine_memory"),
    )
    if kept:
        op.bulk_insert(made, [row | values for row in kept.values()])
