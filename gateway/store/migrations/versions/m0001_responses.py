"""The table of stored responses."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision: str | None = None


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "responses",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("previous", sa.String(128), nullable=True, comment="the response that this one continues"),
        sa.Column("used", sa.BigInteger, nullable=False, comment="when it was made, or continued last"),
        sa.Column("input", sa.LargeBinary, nullable=False, comment="its own input items, as a JSON array"),
        sa.Column("response", sa.LargeBinary, nullable=False, comment="the response, as clients got it"),
        sa.PrimaryKeyConstraint("owner", "id", name="pk_responses"),
    )
    op.create_index("ix_responses_used", "responses", ["used"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("responses")
