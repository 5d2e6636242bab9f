"""The table of the items that responses have answered, by which a later request refers to them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Make the table."""
    op.create_table(
        "response_items",
        sa.Column("owner", sa.String(64), nullable=False),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column(
            "response", sa.String(128), nullable=False, comment="the response that has it in its answer"
        ),
        sa.PrimaryKeyConstraint("owner", "id", "response", name="pk_response_items"),
    )
    op.create_index("ix_response_items_owner_response", "response_items", ["owner", "response"])


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("response_items")
