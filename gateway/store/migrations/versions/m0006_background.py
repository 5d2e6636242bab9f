"""The tables of responses that are made in the background, and of the events of their streams."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "background",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("status", sa.String(16), nullable=False),
        sa.Column("streamed", sa.Boolean, nullable=False, comment="whether its events are kept, too"),
        sa.Column("previous", sa.String(128), nullable=True, comment="the response that this one continues"),
        sa.Column("input", sa.LargeBinary, nullable=False, comment="its own input items, as a JSON array"),
        sa.Column("response", sa.LargeBinary, nullable=False, comment="the response, as it is told now"),
        sa.Column("by", sa.String(128), nullable=False, comment="the process that makes it"),
        sa.Column(
            "lease_until",
            sa.BigInteger,
            nullable=False,
            comment="until when that process is known to be there",
        ),
        sa.Column("changed", sa.BigInteger, nullable=False, comment="when it began, or ended"),
        sa.PrimaryKeyConstraint("owner", "id", name="pk_background"),
    )
    op.create_index("ix_background_by", "background", ["by"])
    op.create_table(
        "response_events",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("response", sa.String(128), nullable=False),
        sa.Column("number", sa.BigInteger, nullable=False, comment="the number of the first event in it"),
        sa.Column("data", sa.LargeBinary, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False, comment="when they came"),
        sa.PrimaryKeyConstraint("owner", "response", "number", name="pk_response_events"),
    )
    op.create_index("ix_response_events_at", "response_events", ["at"])


def downgrade() -> None:
    """Drop the tables."""
    op.drop_table("response_events")
    op.drop_table("background")
