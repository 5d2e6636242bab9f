"""What the answers of a batch took, in tokens."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the column."""
    comment = "tokens of the answers, as OpenAI's JSON"
    op.add_column("batches", sa.Column("usage", sa.LargeBinary, nullable=True, comment=comment))


def downgrade() -> None:
    """Drop the column."""
    op.drop_column("batches", "usage")
