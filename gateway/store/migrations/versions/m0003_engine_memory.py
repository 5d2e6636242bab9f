"""The table of what launched engines were measured to take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "engine_memory",
        sa.Column("backend", sa.String(128), nullable=False),
        sa.Column("device", sa.String(64), nullable=False, comment="`ram`, or a GPU"),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column(
            "launch", sa.String(64), nullable=False, comment="a hash of what its process is started with"
        ),
        sa.PrimaryKeyConstraint("backend", "device", name="pk_engine_memory"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("engine_memory")
